//! The contract between processes: control block, messages, environment names, socket paths.
//!
//! Layout and messages, no policy. Everything that a peer wrote is checked by the one function
//! that turns it into a type: [`segment::PeerSegment::open`] for memory, [`packet::recv`] for
//! messages.

pub mod block;
pub mod env;
pub mod level;
pub mod message;
pub mod sync;

#[cfg(not(loom))]
pub mod endpoint;
#[cfg(not(loom))]
pub mod packet;
#[cfg(not(loom))]
pub mod segment;

pub use block::{ControlBlock, State};
pub use level::{Level, LevelChoice};
pub use message::{
    Admitted, Attributes, FromScheduler, Hello, Hints, Priority, QueueInfo, Share, ToScheduler,
};

/// Version of the layout and of the messages. Both sides must have the same one.
pub const VERSION: u16 = 3;
