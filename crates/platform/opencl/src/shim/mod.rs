//! What any shim needs in a host process, whatever its platform: knows no OpenCL.
//!
//! `state` says whether the shim acts; `process` keeps what must start afresh in a forked child;
//! `dlsym` is the wrapped lookup, which other shims may wrap as well; `table` finds an object's
//! entry without locks; `events` remembers which command an event stands behind.

pub(crate) mod dlsym;
pub(crate) mod events;
pub(crate) mod process;
pub(crate) mod state;
pub(crate) mod table;
