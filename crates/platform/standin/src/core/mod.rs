//! The stand-in device itself, without a name from any platform's API.

pub(crate) mod channel;
pub(crate) mod engine;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod share;
pub(crate) mod slices;
pub(crate) mod trap;
pub(crate) mod work;
