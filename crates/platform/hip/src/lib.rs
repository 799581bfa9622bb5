//! `libshimhip.so`: takes over the command queues of an unmodified HIP program, by `LD_PRELOAD`.
//!
//! Where a launch enters: direct linking (the hooks are exported with the versions that the real
//! runtime gives them, `exports.map`), or a lookup (`lookup`), gives one of the `hooks`; the hook
//! finds the stream's XQueue (`streams`), passes its admission, and calls the runtime (`runtime`)
//! itself: same thread, same arguments, same result. How a stream is stopped: `stream`
//! (marks and gates in the stream), `gates` (the words that gates wait for), `kfd` (compute queues, seen
//! through `ioctl`).
//!
//! A guest in somebody else's process: nothing happens before the first launch; an internal error
//! switches the shim off for the process. Programs that know the shim may call `api`.
//!
//! `libhalhip.so` is the same code with other exports: what programs that make XQueues over their streams
//! by themselves call (`hal`), and no hook. In one process with the shim it is the shim that they call.

#![allow(unreachable_pub, reason = "exported to C, used by no other crate")]

mod api;
mod gates;
mod hal;
mod hooks;
mod kfd;
mod lookup;
mod runtime;
mod stream;
mod streams;
mod sys;
