//! The scheduler: which task groups may execute on which device, decided purely from events and the time passed in.
//!
//! The host (the daemon, the scheduler inside a process, the simulator) feeds [`Event`]s with a time stamp into the
//! [`Engine`] and carries out the [`Action`]s that come back; [`Engine::next_timer`] says when to send
//! [`Event::Timer`]. The same events at the same times give the same actions.
//!
//! ```
//! use xsched_sched::*;
//!
//! let mut engine = Engine::new(Config::default());
//! let mut actions = Vec::new();
//! let create = |queue, process, priority| Event::QueueCreated {
//!     queue: QueueId(queue),
//!     process: ProcessId(process),
//!     device: DeviceId(0),
//!     hints: [Hint::Priority(priority)].into_iter().collect(),
//! };
//! engine.handle(0, create(1, 10, Priority::HIGH), &mut actions)?;
//! engine.handle(0, create(2, 20, Priority::LOW), &mut actions)?;
//! engine.handle(5, Event::Ready { queue: QueueId(2) }, &mut actions)?;
//! actions.clear();
//! engine.handle(9, Event::Ready { queue: QueueId(1) }, &mut actions)?;
//! assert_eq!(actions, [Action::Gate { queue: QueueId(2), open: false }]);
//! # Ok::<(), EventError>(())
//! ```
#![forbid(unsafe_code)]

mod device;
mod engine;
mod event;
mod guard;
mod ids;
pub mod policy;
mod registry;
mod status;
#[cfg(test)]
mod tests;

pub use engine::{Config, Engine};
pub use event::{Action, Event, EventError, HwShare, Target};
pub use ids::{DeviceId, GroupId, Nanos, ProcessId, QueueId};
pub use policy::{Decision, GroupView, Policy, Snapshot, UnknownPolicy};
pub use status::{GroupStatus, QueueStatus};
pub use xsched_hint::{Hint, HintError, HintKind, Hints, Priority};
