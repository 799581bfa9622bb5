//! What the engine knows, for people and programs that ask.

use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos, ProcessId, QueueId},
};
use serde::{Deserialize, Serialize};
use xsched_hint::{Hints, Priority};

/// One task group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name, as long as it lives.
    pub group: GroupId,
    /// Whose it is.
    pub process: ProcessId,
    /// Where it executes.
    pub device: DeviceId,
    /// The queues in it.
    pub queues: Vec<QueueId>,
    /// Its priority.
    pub priority: Priority,
    /// All that was said about it.
    pub hints: Hints,
    /// It has work that its application does not hold back.
    pub ready: bool,
    /// Its gate is open, apart from queues that the application holds.
    pub open: bool,
    /// The application holds all of its queues.
    pub held: bool,
    /// All of its queues with work stalled, and it no longer counts.
    pub stalled: bool,
    /// Its process is stopped.
    pub stopped: bool,
    /// How the hardware treats it.
    pub share: HwShare,
    /// The share of the device that it has, or would have, while it is ready and the policy does not run it.
    pub min_share: f64,
    /// How long it was ready and open, without the time stalled or stopped.
    pub served_ns: Nanos,
    /// How long it was ready and closed.
    pub waiting_ns: Nanos,
    /// How often it was closed while it was ready.
    pub preemptions: u64,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its name.
    pub queue: QueueId,
    /// Whose it is.
    pub process: ProcessId,
    /// Where it executes.
    pub device: DeviceId,
    /// The group that it belongs to.
    pub group: GroupId,
    /// Its group's priority.
    pub priority: Priority,
    /// It has a priority of its own, and so is a group of its own.
    pub own_priority: bool,
    /// It has work.
    pub ready: bool,
    /// Its gate is open.
    pub open: bool,
    /// The application holds it.
    pub held: bool,
    /// It kept others waiting without progress, and no longer makes its group ready.
    pub stalled: bool,
    /// Its process is stopped.
    pub stopped: bool,
    /// How the hardware treats it.
    pub share: HwShare,
    /// How long its group was ready and open.
    pub served_ns: Nanos,
    /// How long its group was ready and closed.
    pub waiting_ns: Nanos,
}
