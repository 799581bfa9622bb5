//! Hints: the parameters of policies, and what they can be given to.

use crate::ids::{ProcessId, QueueId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A parameter of a policy, given to a process or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hint {
    /// Which group goes first.
    Priority(Priority),
}

/// What a hint is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every queue of the process that has no priority of its own.
    Process(ProcessId),
    /// One queue, which becomes a task group of its own.
    Queue(QueueId),
}

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
    pub fn new(value: i32) -> Result<Priority, HintError> {
        match i16::try_from(value).map(Priority) {
            Ok(priority) if (Priority::NO_RUN..=Priority::MAX).contains(&priority) => Ok(priority),
            _ => Err(HintError::PriorityOutOfRange(value)),
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
    type Error = HintError;

    fn try_from(value: i32) -> Result<Priority, HintError> {
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
    type Err = HintError;

    fn from_str(text: &str) -> Result<Priority, HintError> {
        let text = text.trim();
        if let Some((_, priority)) = Priority::CLASSES.iter().find(|(name, _)| *name == text) {
            return Ok(*priority);
        }
        match text.parse::<i32>() {
            Ok(value) => Priority::new(value),
            Err(_) => Err(HintError::NotAPriority(text.to_owned())),
        }
    }
}

/// A hint that the caller got wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HintError {
    /// A number outside the range.
    #[error(
        "priority {0} is out of range: use -255 (last) to 255 (first), or -256 for \"do not run\""
    )]
    PriorityOutOfRange(i32),
    /// Neither a number nor the name of a class.
    #[error(
        "\"{0}\" is not a priority: use realtime, high, normal, low, idle, or a number from -255 (last) to 255 (first)"
    )]
    NotAPriority(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<i32, &str>) {
        let result = text.parse::<Priority>().map(Priority::get);
        match expect {
            Ok(value) => assert_eq!(result, Ok(value)),
            Err(part) => {
                let message = result.expect_err("is refused").to_string();
                assert!(message.contains(part), "{message}");
                assert!(
                    message.contains("-255") && message.contains("255 (first)"),
                    "names the range: {message}"
                );
            }
        }
    }

    #[test]
    fn priorities_are_read_from_names_and_numbers() {
        check("realtime", Ok(200));
        check("high", Ok(100));
        check("normal", Ok(0));
        check("low", Ok(-100));
        check("idle", Ok(-200));
        check(" 17 ", Ok(17));
        check("255", Ok(255));
        check("-255", Ok(-255));
        check("-256", Ok(-256));
        check("256", Err("256"));
        check("-257", Err("-257"));
        check("99999", Err("99999"));
        check("-40000", Err("-40000"));
        check("99999999999", Err("99999999999"));
        check("urgent", Err("\"urgent\""));
        check("", Err("\"\""));
    }

    #[test]
    fn a_priority_from_outside_is_checked_too() {
        let hint: Hint = serde_json::from_str(r#"{"priority":200}"#).unwrap();
        assert_eq!(hint, Hint::Priority(Priority::REALTIME));
        assert_eq!(serde_json::to_string(&hint).unwrap(), r#"{"priority":200}"#);
        let error = serde_json::from_str::<Hint>(r#"{"priority":300}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("-255 (last) to 255 (first)"), "{error}");
    }

    #[test]
    fn display_round_trips() {
        for value in -256..=255 {
            let priority = Priority::new(value).unwrap();
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        assert!(!Priority::NO_RUN.runs() && Priority::MIN.runs());
    }
}
