//! Preemption levels.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What suspending a queue stops (XSched, OSDI 2025, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Level {
    /// Pending commands: the CPU holds them back; a window bounds those in flight.
    Lv1 = 1,
    /// In-flight commands: gates in the hw queue itself.
    Lv2 = 2,
    /// The running command: the hardware's own slicer takes it off.
    Lv3 = 3,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

/// A level that was asked for: one of the three, or the highest that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LevelChoice {
    /// The highest level that the hw queue supports.
    #[default]
    Auto,
    /// This level, or an error.
    Exactly(Level),
}

impl LevelChoice {
    /// The level to use on a queue that supports levels up to `max`; a higher one falls to `max`.
    pub fn within(self, max: Level) -> Level {
        match self {
            LevelChoice::Auto => max,
            LevelChoice::Exactly(level) => level.min(max),
        }
    }
}

impl FromStr for LevelChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(LevelChoice::Auto),
            "1" => Ok(LevelChoice::Exactly(Level::Lv1)),
            "2" => Ok(LevelChoice::Exactly(Level::Lv2)),
            "3" => Ok(LevelChoice::Exactly(Level::Lv3)),
            other => Err(format!("level '{other}' is unknown: use 1, 2, 3 or auto")),
        }
    }
}
