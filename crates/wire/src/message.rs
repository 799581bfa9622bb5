//! Messages between an agent and its scheduler, one a packet (`SOCK_SEQPACKET`), in postcard.
//!
//! The first packet is [`Hello`], behind a fixed prefix that any version can read. Registration
//! and hints travel here; events do not (doorbell and dirty bits carry those).

use serde::{Deserialize, Serialize};

use crate::level::Level;
pub use xsched_hint::{Hints, Priority};

/// Largest packet, bytes. A longer one closes the session.
pub const MAX_PACKET: usize = 4096;
/// Longest name or reason, bytes. A longer one is refused.
pub const MAX_TEXT: usize = 256;
/// Fixed start of the first packet; a little-endian `u16` version follows.
pub const HELLO_MAGIC: [u8; 6] = *b"XSCHED";

/// What an agent says first. The memfd of its segment and the eventfd of its doorbell come with
/// it as file descriptors, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What people call the program (`xsched run --name`, else the executable's name).
    pub name: String,
    /// Identifies one `xsched run`: processes of one job share it. 0 = none.
    pub job: u64,
    /// Hints for all queues of the process.
    pub hints: Hints,
}

/// How the hardware's own slicer treats a queue (Lv3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// As the platform has it by default.
    #[default]
    Normal,
    /// Gives way to `Normal` ones.
    Background,
    /// In turn with the others, for so many µs at a time, 200 at least.
    Slice(u32),
}

/// What an agent tells about a new queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// Index of its control block.
    pub slot: u16,
    /// Same string in every process that uses the same device, for instance `cpu:0`.
    pub device: String,
    /// Hints of its own; any makes the queue its own task group.
    pub hints: Hints,
    /// How it can be stopped.
    pub attributes: Attributes,
}

/// The level in force on a queue, and why it is not higher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Level in force.
    pub level: Level,
    /// Highest level that the hw queue supports.
    pub max_level: Level,
    /// The hardware takes slices, but lets [`Share::Background`] queues of two programs starve each other.
    pub one_background: bool,
    /// Why no higher level is in force, if somebody might expect one.
    pub reason: Option<String>,
}

/// Agent to scheduler, after the hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToScheduler {
    /// A queue exists; answered by [`FromScheduler::QueueReady`].
    CreateQueue(QueueInfo),
    /// The queue in this slot is gone.
    DestroyQueue {
        /// Its slot.
        slot: u16,
    },
    /// Hints for one queue or, without a slot, for the process.
    Hint {
        /// The queue, or all.
        slot: Option<u16>,
        /// Those that are set.
        hints: Hints,
    },
    /// The application suspended (true) or resumed its own queue.
    Hold {
        /// The queue.
        slot: u16,
        /// Suspended.
        held: bool,
    },
    /// The queue's level changed.
    Level {
        /// The queue.
        slot: u16,
        /// The level now.
        attributes: Attributes,
    },
}

/// Scheduler to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromScheduler {
    /// The hello was accepted.
    Welcome(Admitted),
    /// The hello was refused; the session ends.
    Refused {
        /// One line for people.
        reason: String,
    },
    /// The gate of this slot is the scheduler's from now on: clear the bypass.
    QueueReady {
        /// The queue.
        slot: u16,
    },
    /// How the hardware is to treat this queue.
    Share {
        /// The queue.
        slot: u16,
        /// The share.
        share: Share,
    },
    /// A hint could not be heeded.
    Notice {
        /// Why, and what to do; one line for people.
        text: String,
    },
}

/// Terms of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Name of the policy in force.
    pub policy: String,
    /// The heartbeat advances at least this often, milliseconds.
    pub heartbeat_ms: u32,
    /// What was changed about the request, one line for people (a priority that was lowered).
    pub notice: Option<String>,
}
