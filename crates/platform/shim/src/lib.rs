//! What any shim needs in a host process, whatever its platform: knows none.
//!
//! `state` says whether the shim acts; `process` keeps what must start afresh in a forked child;
//! `dlsym` is the wrapped lookup, which other shims may wrap as well; `table` finds an object's
//! entry without locks; `loaded` finds a library of the process; `events` remembers which command an
//! event stands behind; `captures` counts streams that are being captured; `after_idle` the first commands of a
//! queue; `words` sleeps on several words at once.

pub mod after_idle;
pub mod captures;
pub mod dlsym;
pub mod events;
pub mod loaded;
pub mod process;
pub mod state;
pub mod table;
pub mod words;
