//! XQueue: our handle on one hw queue, which a scheduler can suspend and resume.
//!
//! Reading order: [`hw`] (what a platform provides), [`admission`] (the hot path: what holds a
//! command back), [`spacing`] (how far apart gates stand), `marks` (what is over), [`queue`] (the
//! handle), `launcher` (explicit submission), [`link`] (the way to whoever schedules). No I/O and no
//! scheduler knowledge here; a queue whose link leads nowhere passes everything through.

#![forbid(unsafe_code)]

pub mod admission;
pub mod hw;
mod launcher;
pub mod link;
mod marks;
pub mod queue;
pub mod spacing;

pub use admission::Pass;
pub use hw::{HwError, HwQueue, Support};
pub use launcher::Ticket;
pub use link::{Link, Managed, NoLink, Slot};
pub use queue::{Error, Managing, XQueue};
pub use spacing::Spacing;
pub use xsched_wire::{Level, LevelChoice, env::LaunchConfig};
