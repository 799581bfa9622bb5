//! Priorities: who goes first.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Who goes first: -255 (last) to 255 (first), or [`Priority::NO_RUN`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i32", into = "i32")]
pub struct Priority(i16);

impl Priority {
    /// The lowest priority that still runs.
    pub const MIN: Priority = Priority(-255);
    /// The highest priority.
    pub const MAX: Priority = Priority(255);
    /// Do not run at all (-256).
    pub const NO_RUN: Priority = Priority(-256);
    /// The class `realtime`.
    pub const REALTIME: Priority = Priority(200);
    /// The class `high`.
    pub const HIGH: Priority = Priority(100);
    /// The class `normal`, the default.
    pub const NORMAL: Priority = Priority(0);
    /// The class `low`.
    pub const LOW: Priority = Priority(-100);
    /// The class `idle`.
    pub const IDLE: Priority = Priority(-200);

    /// The named classes, highest first.
    pub const CLASSES: [(&'static str, Priority); 5] = [
        ("realtime", Priority::REALTIME),
        ("high", Priority::HIGH),
        ("normal", Priority::NORMAL),
        ("low", Priority::LOW),
        ("idle", Priority::IDLE),
    ];

    /// Checks the range; -256 is [`Priority::NO_RUN`].
    pub fn new(value: i32) -> Result<Priority, NotAPriority> {
        match i16::try_from(value).map(Priority) {
            Ok(priority) if (Priority::NO_RUN..=Priority::MAX).contains(&priority) => Ok(priority),
            _ => Err(NotAPriority),
        }
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0 as i32
    }

    /// Whether a group of this priority may run at all.
    pub fn runs(self) -> bool {
        self != Priority::NO_RUN
    }
}

impl TryFrom<i32> for Priority {
    type Error = NotAPriority;

    fn try_from(value: i32) -> Result<Priority, NotAPriority> {
        Priority::new(value)
    }
}

impl From<Priority> for i32 {
    fn from(priority: Priority) -> i32 {
        priority.get()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Priority {
    type Err = NotAPriority;

    fn from_str(text: &str) -> Result<Priority, NotAPriority> {
        let text = text.trim();
        if let Some((_, priority)) = Priority::CLASSES.iter().find(|(name, _)| *name == text) {
            return Ok(*priority);
        }
        match text.parse::<i32>() {
            Ok(value) => Priority::new(value),
            Err(_) => Err(NotAPriority),
        }
    }
}

/// Neither the name of a class nor a number within the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a priority: use {}", crate::HintKind::Priority.allowed())]
pub struct NotAPriority;
