//! The way from a queue to whoever schedules it, and back.

use xsched_wire::{Attributes, ControlBlock, Share};

/// A control block and its index in the process's segment.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Index.
    pub index: u16,
    /// The block; the segment's mapping lasts as long as the process.
    pub block: &'static ControlBlock,
}

/// From the queue to the scheduler. Off the hot path: called on transitions only.
pub trait Link: Send + Sync {
    /// The state word became ready or idle: ring the doorbell.
    fn changed(&self, slot: Slot);
    /// The application suspended or resumed the queue.
    fn hold(&self, slot: Slot, held: bool);
    /// The level in force changed.
    fn level(&self, slot: Slot, attributes: Attributes);
    /// The queue ends: its gate opens for good, and the scheduler forgets it.
    fn closing(&self, slot: Slot);
    /// Nothing uses the slot any more; another queue may.
    fn released(&self, slot: Slot);
}

/// From the scheduler's agent to the queue.
pub trait Managed: Send + Sync {
    /// To be called every 10 to 100 ms: looks after the hw queue, and, if the driver `may_be_asked`,
    /// turns the queue idle if nothing was submitted since the last call and all has completed. It
    /// may not while a gate of the process is closed: a driver may hold its locks over that.
    fn tend(&self, may_be_asked: bool);
    /// Sets the hardware share, if the level is 3; remembers it otherwise.
    fn apply_share(&self, share: Share);
    /// Whether holding it blocks no other queue of the process.
    fn is_independent(&self) -> bool;
    /// Level in force, highest level, reason.
    fn attributes(&self) -> Attributes;
}

/// Leads nowhere: the queue passes everything through.
#[derive(Debug)]
pub struct NoLink;

impl Link for NoLink {
    fn changed(&self, _: Slot) {}
    fn hold(&self, _: Slot, _: bool) {}
    fn level(&self, _: Slot, _: Attributes) {}
    fn closing(&self, _: Slot) {}
    fn released(&self, _: Slot) {}
}
