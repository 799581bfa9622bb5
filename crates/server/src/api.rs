//! The HTTP API's types: what travels as JSON between the daemon and its callers.
//!
//! Times are milliseconds. New fields may be added to answers; callers ignore those they do not
//! know. Requests with unknown fields are refused, since a misspelt field would change nothing.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xsched_sched::{HintError, HintKind, Hints};

/// Paths of the API.
pub mod path {
    /// `GET`: [`Status`](super::Status).
    pub const STATUS: &str = "/v1/status";
    /// `GET`: [`Queues`](super::Queues).
    pub const QUEUES: &str = "/v1/queues";
    /// `POST` [`HintRequest`](super::HintRequest): [`HintAnswer`](super::HintAnswer).
    pub const HINTS: &str = "/v1/hints";
    /// `GET`: [`Policies`](super::Policies).
    pub const POLICIES: &str = "/v1/policies";
    /// `GET` or `PUT` [`Policy`](super::Policy): [`Policy`](super::Policy).
    pub const POLICY: &str = "/v1/policy";
    /// `GET` or `PUT` [`ActiveWindow`](super::ActiveWindow): [`ActiveWindow`](super::ActiveWindow).
    pub const ACTIVE_WINDOW: &str = "/v1/active-window";
}

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Release of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Who owns it, and may change everything.
    pub owner_uid: u32,
    /// Policy in force.
    pub policy: String,
    /// Share of a device that every waiting group is guaranteed; 0 = none.
    pub min_share: f64,
    /// Time since it started.
    pub uptime_ms: f64,
    /// Registered programs.
    pub clients: usize,
    /// Registered queues.
    pub queues: usize,
    /// The socket that programs register at.
    pub socket: PathBuf,
}

/// All registered queues, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queues {
    /// One entry a queue.
    pub queues: Vec<Queue>,
}

/// One queue. Accounts are those of its task group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Its number, never used twice by one daemon.
    pub id: u64,
    /// The program's process.
    pub pid: u32,
    /// The user who runs the program.
    pub uid: u32,
    /// What people call the program.
    pub name: Arc<str>,
    /// The `xsched run` that the program belongs to; 0 = none.
    pub job: u64,
    /// The device that it executes on.
    pub device: Arc<str>,
    /// Task group: queues with the same number are suspended and resumed as one.
    pub group: u32,
    /// −255 … 255, larger is more urgent; −256: do not run.
    pub priority: i32,
    /// All that was said about its group, by name; times in µs.
    pub hints: BTreeMap<String, Value>,
    /// The share of the device that its group is guaranteed while it waits, 0 to 1.
    pub min_share: f64,
    /// Preemption level in force.
    pub level: u8,
    /// Highest level that the queue supports.
    pub max_level: u8,
    /// Why no higher level is in force, if somebody might expect one.
    pub reason: Option<Arc<str>>,
    /// Commands may be unfinished.
    pub ready: bool,
    /// The scheduler lets it execute.
    pub open: bool,
    /// The application suspended it.
    pub held: bool,
    /// It kept others waiting without progress, and no longer does.
    pub stalled: bool,
    /// Its program is stopped, by a signal or a debugger, and keeps nobody waiting.
    pub stopped: bool,
    /// How the hardware's slicer treats it: `normal`, `background` or `{"slice": µs}`.
    pub share: Share,
    /// Time that its group was ready and open.
    pub served_ms: f64,
    /// Time that its group was ready and closed.
    pub waiting_ms: f64,
    /// Times that its group was suspended while ready.
    pub preemptions: u64,
    /// Commands that the application submitted, by its own account.
    pub submitted: u64,
    /// The last completion mark that the device reached, by the application's account.
    pub completed: u32,
}

/// How the hardware's own slicer treats a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Share {
    /// As the platform has it by default.
    #[default]
    Normal,
    /// Gives way to `normal` ones.
    Background,
    /// In turn with the others, for so many µs at a time.
    Slice(u32),
}

/// Hints for exactly one of: a process, a queue, all programs of a name.
///
/// All other fields are hints by name: `priority`, `utilization`, `timeslice`, `deadline`, `kdeadline`, `laxity`,
/// `weight`, `latency_target`. Values are numbers, or text as the command line takes it; bare times are µs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HintRequest {
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The queue, which becomes a task group of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u64>,
    /// The programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The hints.
    #[serde(flatten)]
    pub hints: BTreeMap<String, Value>,
}

/// Hints as they stand in JSON.
pub fn hints(hints: Hints) -> BTreeMap<String, Value> {
    let value = |text: String| text.parse::<i64>().map_or(Value::String(text), Value::from);
    hints
        .iter()
        .map(|hint| (hint.kind().name().to_owned(), value(hint.to_string())))
        .collect()
}

/// Hints from JSON.
pub fn read_hints(map: &BTreeMap<String, Value>) -> Result<Hints, HintError> {
    map.iter()
        .map(|(name, value)| {
            let kind = HintKind::by_name(name)?;
            match value {
                Value::String(text) => kind.parse(text),
                other => kind.parse(&other.to_string()),
            }
        })
        .collect()
}

/// What a hint changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HintAnswer {
    /// Processes that the hint was given to, or whose queue it was given to.
    pub pids: Vec<u32>,
    /// What they were given, by name.
    #[serde(flatten)]
    pub hints: BTreeMap<String, Value>,
}

/// The process whose window is active, for the policy `awf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveWindow {
    /// It and its children count; null: no window is active.
    pub pid: Option<u32>,
}

/// All policies that the daemon has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// One entry a policy.
    pub policies: Vec<PolicyEntry>,
}

/// One of the policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEntry {
    /// Its name.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// The hints that it heeds, by name.
    pub hints: Vec<String>,
    /// It is in force.
    pub active: bool,
}

/// The policy in force, or to be put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name.
    pub name: String,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorInfo,
}

/// An error for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// Stable word for programs, for instance `not_found`.
    pub code: String,
    /// One line for people: what, why, what to do.
    pub message: String,
}
