//! Hints: what users tell policies about a program or a queue. Names, ranges and text forms stand here and nowhere else.
//!
//! A value of these types is within its range, whatever way it came: environment, command line, HTTP, scenario file,
//! packet. Times are microseconds, as upstream has them; as text they may carry a unit (`500us`, `5ms`, `1.5s`).
#![forbid(unsafe_code)]

mod bounded;
mod priority;
mod text;

pub use bounded::{Bounded, OutOfRange};
pub use priority::Priority;
pub use text::{from_text, micros_with_unit};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Share of a device in percent.
pub type Utilization = Bounded<0, 100>;
/// Length of a turn, µs.
pub type TimeSlice = Bounded<100, 10_000_000>;
/// From becoming ready to when the work should be done, µs.
pub type Deadline = Bounded<1, 3_600_000_000>;
/// How many groups execute at once.
pub type Concurrency = Bounded<1, 1_024>;
/// Relative claim to a device.
pub type Weight = Bounded<1, 10_000>;
/// The time, ready to idle, that 99 of 100 bursts should keep, µs.
pub type LatencyTarget = Bounded<100, 60_000_000>;

/// A queue may be put off for a while, and then becomes urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Laxity {
    /// For how long after it became ready, µs.
    pub laxity: Bounded<1, 3_600_000_000>,
    /// Its priority until then.
    pub lax: Priority,
    /// Its priority from then on.
    pub critical: Priority,
}

/// One parameter of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Which group goes first.
    Priority(Priority),
    /// Share of the device, percent.
    Utilization(Utilization),
    /// Length of a turn.
    TimeSlice(TimeSlice),
    /// Time to get done in.
    Deadline(Deadline),
    /// How many of the earliest deadlines execute at once on its device; the largest that is stated there counts.
    KDeadline(Concurrency),
    /// Priority that changes with waiting.
    Laxity(Laxity),
    /// Relative claim to the device.
    Weight(Weight),
    /// Latency to keep.
    LatencyTarget(LatencyTarget),
}

/// What a hint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HintKind {
    /// [`Hint::Priority`]
    Priority,
    /// [`Hint::Utilization`]
    Utilization,
    /// [`Hint::TimeSlice`]
    TimeSlice,
    /// [`Hint::Deadline`]
    Deadline,
    /// [`Hint::KDeadline`]
    KDeadline,
    /// [`Hint::Laxity`]
    Laxity,
    /// [`Hint::Weight`]
    Weight,
    /// [`Hint::LatencyTarget`]
    LatencyTarget,
}

impl HintKind {
    /// All of them.
    pub const ALL: [HintKind; 8] = [
        HintKind::Priority,
        HintKind::Utilization,
        HintKind::TimeSlice,
        HintKind::Deadline,
        HintKind::KDeadline,
        HintKind::Laxity,
        HintKind::Weight,
        HintKind::LatencyTarget,
    ];

    /// Its key in requests and scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            HintKind::Priority => "priority",
            HintKind::Utilization => "utilization",
            HintKind::TimeSlice => "timeslice",
            HintKind::Deadline => "deadline",
            HintKind::KDeadline => "kdeadline",
            HintKind::Laxity => "laxity",
            HintKind::Weight => "weight",
            HintKind::LatencyTarget => "latency_target",
        }
    }

    /// What its value may be, for people.
    pub const fn allowed(self) -> &'static str {
        match self {
            HintKind::Priority => {
                "realtime, high, normal, low, idle, or -255 (last) to 255 (first); -256: do not run"
            }
            HintKind::Utilization => "0 to 100 percent",
            HintKind::TimeSlice => "100us to 10s",
            HintKind::Deadline => "1us to 1h",
            HintKind::KDeadline => "1 to 1024",
            HintKind::Laxity => {
                "TIME[:LAX[:CRITICAL]], a time of 1us to 1h and two priorities of -255 to 255"
            }
            HintKind::Weight => "1 to 10000",
            HintKind::LatencyTarget => "100us to 60s",
        }
    }

    /// By its key; a dash counts as an underscore.
    pub fn by_name(name: &str) -> Result<HintKind, HintError> {
        let key = name.replace('-', "_");
        let found = HintKind::ALL.into_iter().find(|kind| kind.name() == key);
        found.ok_or_else(|| HintError::Unknown(name.to_owned()))
    }

    /// Reads a value.
    pub fn parse(self, text: &str) -> Result<Hint, HintError> {
        let trimmed = text.trim();
        let read = match self {
            HintKind::Priority => trimmed.parse().ok().map(Hint::Priority),
            HintKind::Utilization => number(trimmed).map(Hint::Utilization),
            HintKind::TimeSlice => time(trimmed).map(Hint::TimeSlice),
            HintKind::Deadline => time(trimmed).map(Hint::Deadline),
            HintKind::KDeadline => number(trimmed).map(Hint::KDeadline),
            HintKind::Laxity => laxity(trimmed).map(Hint::Laxity),
            HintKind::Weight => number(trimmed).map(Hint::Weight),
            HintKind::LatencyTarget => time(trimmed).map(Hint::LatencyTarget),
        };
        read.ok_or_else(|| HintError::OutOfRange(self, text.to_owned()))
    }
}

impl fmt::Display for HintKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn number<const MIN: u64, const MAX: u64>(text: &str) -> Option<Bounded<MIN, MAX>> {
    Bounded::new(text.parse().ok()?).ok()
}

/// Microseconds, or a number with a unit.
fn time<const MIN: u64, const MAX: u64>(text: &str) -> Option<Bounded<MIN, MAX>> {
    Bounded::new(micros(text)?).ok()
}

/// A time as text: a number with the unit `us`, `ms`, `s`, `m` or `h`, or a bare number of microseconds.
pub fn micros(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 6] = [
        ("us", 1.0),
        ("µs", 1.0),
        ("ms", 1e3),
        ("s", 1e6),
        ("m", 60e6),
        ("h", 3_600e6),
    ];
    let unit = UNITS
        .iter()
        .find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (value, factor) = unit.unwrap_or((text, 1.0));
    let micros = value.trim().parse::<f64>().ok()? * factor;
    // Beyond 2^53 a number of microseconds is no longer exact, and no range goes there.
    ((0.0..9e15).contains(&micros) && value.trim().starts_with(|c: char| c.is_ascii_digit()))
        .then(|| micros.round() as u64)
}

fn laxity(text: &str) -> Option<Laxity> {
    let mut parts = text.split(':');
    let found = Laxity {
        laxity: time(parts.next()?)?,
        lax: parts
            .next()
            .map_or(Some(Priority::NORMAL), |text| text.parse().ok())?,
        critical: parts
            .next()
            .map_or(Some(Priority::MAX), |text| text.parse().ok())?,
    };
    let runs = found.lax.runs() && found.critical.runs();
    (parts.next().is_none() && runs).then_some(found)
}

impl Hint {
    /// Whether it says that nothing is to run, or that it may again: every policy heeds that.
    pub fn is_about_running(&self) -> bool {
        matches!(self, Hint::Priority(priority) if !priority.runs() || *priority == Priority::NORMAL)
    }

    /// What it is about.
    pub const fn kind(&self) -> HintKind {
        match self {
            Hint::Priority(_) => HintKind::Priority,
            Hint::Utilization(_) => HintKind::Utilization,
            Hint::TimeSlice(_) => HintKind::TimeSlice,
            Hint::Deadline(_) => HintKind::Deadline,
            Hint::KDeadline(_) => HintKind::KDeadline,
            Hint::Laxity(_) => HintKind::Laxity,
            Hint::Weight(_) => HintKind::Weight,
            Hint::LatencyTarget(_) => HintKind::LatencyTarget,
        }
    }
}

/// The value, as [`HintKind::parse`] reads it.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::Priority(priority) => priority.fmt(f),
            Hint::Utilization(value) => value.fmt(f),
            Hint::TimeSlice(value) => value.fmt(f),
            Hint::Deadline(value) => value.fmt(f),
            Hint::KDeadline(value) => value.fmt(f),
            Hint::Laxity(value) => {
                write!(f, "{}:{}:{}", value.laxity, value.lax, value.critical)
            }
            Hint::Weight(value) => value.fmt(f),
            Hint::LatencyTarget(value) => value.fmt(f),
        }
    }
}

/// What is known of a program or a queue; nothing at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hints {
    /// See [`Hint::Priority`].
    pub priority: Option<Priority>,
    /// See [`Hint::Utilization`].
    pub utilization: Option<Utilization>,
    /// See [`Hint::TimeSlice`].
    pub time_slice: Option<TimeSlice>,
    /// See [`Hint::Deadline`].
    pub deadline: Option<Deadline>,
    /// See [`Hint::KDeadline`].
    pub k_deadline: Option<Concurrency>,
    /// See [`Hint::Laxity`].
    pub laxity: Option<Laxity>,
    /// See [`Hint::Weight`].
    pub weight: Option<Weight>,
    /// See [`Hint::LatencyTarget`].
    pub latency_target: Option<LatencyTarget>,
}

impl Hints {
    /// One of them.
    pub fn set(&mut self, hint: Hint) {
        match hint {
            Hint::Priority(value) => self.priority = Some(value),
            Hint::Utilization(value) => self.utilization = Some(value),
            Hint::TimeSlice(value) => self.time_slice = Some(value),
            Hint::Deadline(value) => self.deadline = Some(value),
            Hint::KDeadline(value) => self.k_deadline = Some(value),
            Hint::Laxity(value) => self.laxity = Some(value),
            Hint::Weight(value) => self.weight = Some(value),
            Hint::LatencyTarget(value) => self.latency_target = Some(value),
        }
    }

    /// Those that are known.
    pub fn iter(&self) -> impl Iterator<Item = Hint> + use<> {
        [
            self.priority.map(Hint::Priority),
            self.utilization.map(Hint::Utilization),
            self.time_slice.map(Hint::TimeSlice),
            self.deadline.map(Hint::Deadline),
            self.k_deadline.map(Hint::KDeadline),
            self.laxity.map(Hint::Laxity),
            self.weight.map(Hint::Weight),
            self.latency_target.map(Hint::LatencyTarget),
        ]
        .into_iter()
        .flatten()
    }

    /// Its priority, normal if nobody said.
    pub fn priority(&self) -> Priority {
        self.priority.unwrap_or(Priority::NORMAL)
    }
}

impl FromIterator<Hint> for Hints {
    fn from_iter<I: IntoIterator<Item = Hint>>(hints: I) -> Hints {
        let mut all = Hints::default();
        all.extend(hints);
        all
    }
}

impl Extend<Hint> for Hints {
    fn extend<I: IntoIterator<Item = Hint>>(&mut self, hints: I) {
        hints.into_iter().for_each(|hint| self.set(hint));
    }
}

/// A hint that the caller got wrong; `Display` is one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// There is none of that name.
    #[error("unknown hint \"{0}\": use one of {known}", known = names())]
    Unknown(String),
    /// The value cannot be.
    #[error("{0} \"{1}\" is out of range: use {allowed}", allowed = .0.allowed())]
    OutOfRange(HintKind, String),
}

fn names() -> String {
    HintKind::ALL.map(HintKind::name).join(", ")
}

#[cfg(test)]
mod tests;
