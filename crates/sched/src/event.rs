//! What the host tells the engine, and what the engine asks of the host.

use crate::{
    hint::{Hint, Target},
    ids::{DeviceId, ProcessId, QueueId},
};
use serde::{Deserialize, Serialize};

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
        /// Hints for its process, as if sent just before; what is left out keeps the process's value, or the default.
        hints: Vec<Hint>,
    },
    /// What the hardware of a device cannot do; to be said before its first queue, if at all.
    Device {
        /// Which.
        device: DeviceId,
        /// Its time slicer starves groups of [`HwShare::Background`] that execute at the same time, so a policy lets
        /// one of them execute at a time.
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
    /// The time that [`Engine::next_timer`](crate::Engine::next_timer) named has come.
    Timer,
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
}

/// An event that the engine refused; nothing has changed. The blame is always the host's.
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
}
