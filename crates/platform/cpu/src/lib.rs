//! The CPU as an XPU: a FIFO hw queue run by a pool of worker threads.
//!
//! It behaves like a GPU stream: launching is asynchronous, execution is in order, errors show at
//! synchronization. Lv2 gates are entries of the FIFO; Lv3 is the kernel's scheduling class of the
//! workers ([`class`]). Device name: `cpu:0`.

pub mod class;
mod queue;

pub use queue::{Command, CpuQueue};

/// The one device of this platform: all cores together.
pub const DEVICE: &str = "cpu:0";

/// Name of this platform, as in `--device`.
pub const DEVICE_KIND: &str = "cpu";

/// Why level 3 does not work here, for people; `None`: it does.
pub fn lv3_refusal() -> Option<String> {
    class::probe().err()
}
