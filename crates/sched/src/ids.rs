//! Names of queues, processes, devices and groups, and the unit of time.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Monotonic time or a span of it, in nanoseconds, from any epoch that the host likes.
pub type Nanos = u64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One XQueue. Chosen by the host and unique for ever (it carries a generation).
    QueueId(u64)
);
id!(
    /// One session of a program with the host: not the operating system's process number.
    ProcessId(u64)
);
id!(
    /// One device, interned by the host.
    DeviceId(u32)
);
id!(
    /// One task group: a dense index, used again only after [`Policy::forget`](crate::Policy::forget) named it.
    GroupId(u32)
);

impl GroupId {
    /// As an index.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}
