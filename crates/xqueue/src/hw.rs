//! What a platform provides for one hw queue (stream, command queue).

use std::time::Duration;

use xsched_wire::{ControlBlock, Level, Share};

use crate::spacing::Spacing;

/// Why a hw queue did not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HwError {
    /// A command of the application failed; reported when it synchronizes.
    #[error("{0}")]
    Command(String),
    /// The platform cannot do this here; the level falls.
    #[error("{0}")]
    Unsupported(String),
}

/// The highest preemption level of a hw queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// That level.
    pub level: Level,
    /// Why not a higher one, for people; `None` at level 3.
    pub reason: Option<String>,
    /// The hardware's slicer starves two background queues of different programs that execute at
    /// the same time.
    pub one_background: bool,
    /// Holding a queue blocks no other of the same process: they share no lock, no channel and no
    /// implicit synchronization.
    pub independent: bool,
}

/// One hw queue: in order, asynchronous.
///
/// Implementations are called from any thread. `mark` and `gate` enqueue; they never wait for
/// the queue. The block outlives the queue: it is part of the process's segment.
pub trait HwQueue: Send + Sync + 'static {
    /// What [`launch`](Self::launch) takes.
    type Command: Send + 'static;

    /// What this queue can do, found out once when it is made.
    fn support(&self) -> Support;

    /// Enqueues a command and returns; a failure while it executes shows at `synchronize`.
    fn launch(&self, command: Self::Command) -> Result<(), HwError>;

    /// Returns when everything enqueued before has completed or failed; the first failure since
    /// the last call is the result.
    fn synchronize(&self) -> Result<(), HwError>;

    /// Whether everything enqueued has completed. Cheap, never waits.
    fn is_drained(&self) -> bool;

    /// Whether it can be known by marks only that everything has completed.
    fn is_told_by_marks(&self) -> bool {
        false
    }

    /// Enqueues a completion mark: when all before it has completed, `block.completed()` becomes
    /// `value`.
    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError>;

    /// Enqueues a gate: what comes after it starts only while `block`'s gate is open (Lv2).
    fn gate(&self, block: &'static ControlBlock) -> Result<(), HwError>;

    /// Tells the hardware's slicer how to treat the queue (Lv3).
    fn set_share(&self, share: Share) -> Result<(), HwError>;

    /// What is wanted between two gates at this level (2 or 3); asked for anew at every gate.
    fn spacing(&self, level: Level) -> Spacing;

    /// Called on the thread that launches submitted commands, before each: platforms on which a
    /// thread has a current device make it the queue's.
    fn enter_thread(&self) {}

    /// Called by the agent every 10 to 100 ms: a chance to see whether what was set still stands.
    fn tend(&self) {}

    /// Whether the queue has failed, so that its marks are never reached. Cheap, never waits.
    fn has_failed(&self) -> bool {
        false
    }

    /// Returns when `mark(value)` was reached, or never will be since the queue failed. A device's
    /// store wakes no futex, so this sleeps in steps that grow from 20 µs to 1 ms; platforms that
    /// can wait better override it.
    fn wait_mark(&self, block: &'static ControlBlock, value: u32) {
        const LONGEST: Duration = Duration::from_millis(1);
        let mut step = Duration::from_micros(20);
        loop {
            let seen = block.completed();
            if reached(seen, value) || (step == LONGEST && self.has_failed()) {
                return;
            }
            block.wait_completed(seen, step);
            step = (step * 2).min(LONGEST);
        }
    }
}

/// Whether a completion word of `seen` means that mark `value` was reached; both wrap at 2³².
pub fn reached(seen: u32, value: u32) -> bool {
    value.wrapping_sub(seen) as i32 <= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_compare_across_the_wrap() {
        for (seen, value, expect) in [
            (5, 5, true),
            (5, 6, false),
            (6, 5, true),
            (u32::MAX, 2, false),
            (2, u32::MAX, true),
        ] {
            assert_eq!(reached(seen, value), expect, "{seen} {value}");
        }
    }
}
