//! What the host tells the engine, and what the engine asks of the host.

use crate::ids::{DeviceId, ProcessId, QueueId};
use serde::{Deserialize, Serialize};
use xsched_hint::{Hint, Hints};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A queue appeared, idle; the state of its gate is unknown, so a [`Action::Gate`] for it follows at once.
    QueueCreated {
        /// Its name, never used before.
        queue: QueueId,
        /// Whose it is.
        process: ProcessId,
        /// Where it executes.
        device: DeviceId,
        /// Hints for its process, as if sent just before; what is left out keeps the process's value, or the default. A
        /// utilization that does not fit on the device (see [`EventError::OverCommitted`]) is left out there.
        hints: Hints,
    },
    /// What is special about the hardware of a device; to be said before its first queue, if at all.
    Device {
        /// Which.
        device: DeviceId,
        /// It has a time slicer that takes slices ([`HwShare::Slice`]), but starves groups of [`HwShare::Background`]
        /// of two processes with work at the same time.
        one_background: bool,
    },
    /// A queue was destroyed.
    QueueGone {
        /// Which.
        queue: QueueId,
    },
    /// A process ended, and its queues with it. Harmless for a process that had none.
    ProcessGone {
        /// Which.
        process: ProcessId,
    },
    /// The queue has work. May repeat.
    Ready {
        /// Which.
        queue: QueueId,
    },
    /// The queue has no work left. May repeat.
    Idle {
        /// Which.
        queue: QueueId,
    },
    /// A parameter of the policy changed.
    Hint {
        /// For whom.
        target: Target,
        /// To what.
        hint: Hint,
    },
    /// The application suspended or resumed its own queue: a held queue's gate is closed whatever the policy says, and
    /// its work does not count. May repeat.
    Hold {
        /// Which.
        queue: QueueId,
        /// Suspended, or resumed.
        held: bool,
    },
    /// The queue's counters moved since the host last looked.
    Progress {
        /// Which.
        queue: QueueId,
    },
    /// The host saw the process stopped (by a signal, by a debugger) or running again. May repeat.
    Stopped {
        /// Which.
        process: ProcessId,
        /// Stopped, or running.
        stopped: bool,
    },
    /// The nice value of a process, -20 to 19, as the host last saw it. May repeat.
    Nice {
        /// Which.
        process: ProcessId,
        /// Lower goes first.
        nice: i8,
    },
    /// The process is, or is no longer, one whose window is active. May repeat.
    Foreground {
        /// Which.
        process: ProcessId,
        /// Its window is active.
        foreground: bool,
    },
    /// The time that [`Engine::next_timer`](crate::Engine::next_timer) named has come.
    Timer,
}

/// What a hint is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every queue of the process that has no hints of its own.
    Process(ProcessId),
    /// One queue, which becomes a task group of its own. It begins with its process's hints.
    Queue(QueueId),
}

/// Something for the host to do. In the actions of one event every close comes before every change of share, and
/// that before every open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open or close a gate. Only changes are named.
    Gate {
        /// Whose.
        queue: QueueId,
        /// Open, or closed.
        open: bool,
    },
    /// Set a hardware share. Only changes are named; a new queue has [`HwShare::Normal`].
    Share {
        /// Whose.
        queue: QueueId,
        /// To what.
        share: HwShare,
    },
}

/// How the hardware's own time slicer (preemption level 3) treats a group beside the others that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HwShare {
    /// As a program that nobody schedules.
    #[default]
    Normal,
    /// As little as the hardware can give while a normal one is busy.
    Background,
    /// In turn with the others, for so many µs at a time: at least 200, or they would starve each other.
    Slice(u32),
}

/// An event that the engine refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// No queue of that name is registered.
    #[error("queue {0} is not registered")]
    UnknownQueue(QueueId),
    /// A queue of that name is registered already.
    #[error("queue {0} is registered already")]
    DuplicateQueue(QueueId),
    /// The process has not registered a queue yet, or is gone.
    #[error("process {0} has not registered a queue")]
    UnknownProcess(ProcessId),
    /// The shares that are stated on a device would be more than all of it.
    #[error("utilization {wanted} does not fit: {left} percent of device {device} are left")]
    OverCommitted {
        /// Where.
        device: DeviceId,
        /// What was asked for, percent.
        wanted: u64,
        /// What could be given, percent.
        left: u64,
    },
}
