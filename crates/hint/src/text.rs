//! Values that files and command lines hold as text.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserializer,
    de::{Error, Visitor},
};

use crate::micros;

/// As [`micros`], of a text that ends with its unit.
pub fn micros_with_unit(text: &str) -> Option<u64> {
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    micros(text).filter(|_| has_unit)
}

/// Reads a value that is written as text. Where something else stands, the error says that it should be `expected`.
pub fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Text<F, T> {
        expected: &'static str,
        parse: F,
        value: PhantomData<T>,
    }

    impl<F: FnOnce(&str) -> Result<T, String>, T> Visitor<'_> for Text<F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.parse)(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text {
        expected,
        parse,
        value: PhantomData,
    })
}
