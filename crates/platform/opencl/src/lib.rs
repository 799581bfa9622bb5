//! `libshimopencl.so`: takes over the command queues of an unmodified OpenCL program, by
//! `LD_PRELOAD`.
//!
//! Where a command enters: linking to a loader, or a lookup (`lookup`), gives one of the `hooks`
//! (`extensions`) instead; the hook finds the queue's XQueue (`queues`), passes its admission, and
//! calls the driver (`driver`) itself: same thread, same arguments, same result. How a queue is
//! stopped: `queue`, `gates` (user events and markers), `chain` (which gate is opened when),
//! `keeper` (opens them), `workers` (threads of CPU devices). What the application must not notice: `release`, `user_events`.
//!
//! A guest in somebody else's process: nothing happens before the first command; an internal error
//! switches the shim off for the process. `crates/platform/shim` knows no OpenCL.

#![allow(unreachable_pub, reason = "exported to C, used by no other crate")]

mod api;
mod chain;
mod command_buffers;
mod device;
mod driver;
mod extensions;
mod gates;
mod hooks;
mod keeper;
mod lookup;
mod queue;
mod queues;
mod release;
mod sys;
mod user_events;
mod workers;
