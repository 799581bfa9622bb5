//! `libshimcuda.so`: takes over the command queues of an unmodified CUDA program, by `LD_PRELOAD`.
//!
//! Where a launch enters: a lookup of a driver function (`lookup`: `dlsym`, `cuGetProcAddress`, or
//! direct linking) gives one of the `hooks` instead; the hook finds the stream's XQueue
//! (`streams`), passes its admission, and calls the driver (`driver`) itself: same thread, same
//! arguments, same result. How a stream is stopped: `stream` (marks and gates in the stream),
//! `graphs` (gates inside captured graphs), `segment` (where devices find the gates), `timeslice`
//! (channel groups, seen through `ioctl`). When it may not be: `captures`, and the ends of `contexts`.
//!
//! A guest in somebody else's process: nothing happens before the first launch; an internal error
//! switches the shim off for the process (`state`). Programs that know the shim may call `api`.

#![allow(unreachable_pub, reason = "exported to C, used by no other crate")]

mod api;
mod captures;
mod contexts;
mod driver;
mod events;
mod graphs;
mod hooks;
mod lookup;
mod segment;
mod state;
mod stream;
mod streams;
mod sys;
mod timeslice;
