//! Admission: what a command passes before it is forwarded to the driver. The hot path.
//!
//! ```text
//! admit   publish (state word)             idle -> ready? ring the doorbell
//!         gate open and nothing due?       yes: go on
//!         Lv1: gate closed? wait.          a mark due? place it. window full? wait for a mark.
//!         Lv2: a gate due? place it.       256 commands behind a closed gate? wait.
//! driver call
//! Pass dropped: forwarded + 1
//! ```
//! "Due" is one number, `attention`: the next command that the slow path wants to see. Threads
//! that submit to one queue at once agree by compare-and-swap on it who places the mark or gate.

use xsched_wire::{Level, sync::AtomicU32, sync::AtomicU64, sync::Ordering};

use crate::{
    hw::{HwError, HwQueue, reached},
    link::Slot,
};

/// Commands behind a closed gate, after which admission waits: drivers block at about 1,000
/// queued commands, with locks held.
pub const BEHIND_GATE: u32 = 256;

/// Level word of a queue that nobody schedules.
const PASS_THROUGH: u32 = 0;

/// A command between admission and driver. Drop it when the driver call has returned.
#[derive(Debug)]
#[must_use = "drop it after the driver call"]
pub struct Pass {
    slot: Slot,
    number: u64,
}

impl Pass {
    /// The command's number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Pass {
    #[inline]
    fn drop(&mut self) {
        self.slot.block.forwarded();
    }
}

/// What [`Admission::admit`] found besides the pass.
pub(crate) struct Admitted {
    pub(crate) pass: Pass,
    /// The hw queue refused a mark or a gate: the level must fall.
    pub(crate) refused: Option<HwError>,
}

/// The process's own part of a queue's state. Words are atomics because any thread may submit.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) slot: Slot,
    /// `Level as u32`, or [`PASS_THROUGH`].
    level: AtomicU32,
    threshold: AtomicU32,
    batch: AtomicU32,
    gate_interval: u32,
    /// The next command number that the slow path wants to see.
    attention: AtomicU64,
    /// The last command number that a mark covers.
    marked: AtomicU64,
    /// The last command number that a synchronization covered.
    drained: AtomicU64,
    /// Commands forwarded behind a closed gate.
    behind: AtomicU32,
}

impl Admission {
    pub(crate) fn new(slot: Slot, gate_interval: u32, threshold: u32, batch: u32) -> Self {
        Admission {
            slot,
            level: AtomicU32::new(PASS_THROUGH),
            threshold: AtomicU32::new(threshold),
            batch: AtomicU32::new(batch),
            gate_interval: gate_interval.max(1),
            attention: AtomicU64::new(u64::MAX),
            marked: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            behind: AtomicU32::new(0),
        }
    }

    pub(crate) fn level(&self) -> Option<Level> {
        match self.level.load(Ordering::Relaxed) {
            PASS_THROUGH => None,
            1 => Some(Level::Lv1),
            2 => Some(Level::Lv2),
            _ => Some(Level::Lv3),
        }
    }

    pub(crate) fn set_level(&self, level: Option<Level>) {
        let word = level.map_or(PASS_THROUGH, |level| level as u32);
        self.level.store(word, Ordering::Relaxed);
        let attention = if level.is_some() { 0 } else { u64::MAX };
        self.attention.store(attention, Ordering::Relaxed);
    }

    pub(crate) fn set_window(&self, threshold: u32, batch: u32) {
        self.threshold.store(threshold, Ordering::Relaxed);
        self.batch.store(batch, Ordering::Relaxed);
        self.attention.fetch_min(0, Ordering::Relaxed);
    }

    /// Everything up to `number` has completed.
    pub(crate) fn set_drained(&self, number: u64) {
        self.drained.fetch_max(number, Ordering::Relaxed);
    }

    /// `ring` is called if the queue became ready.
    #[inline]
    pub(crate) fn admit<Q: HwQueue>(&self, hw: &Q, ring: impl FnOnce()) -> Admitted {
        let published = self.slot.block.publish();
        let pass = Pass {
            slot: self.slot,
            number: published.number,
        };
        if published.became_ready {
            ring();
        }
        let due = published.number >= self.attention.load(Ordering::Relaxed);
        let refused = if due || !self.slot.block.is_open() {
            self.attend(hw, published.number).err()
        } else {
            None
        };
        Admitted { pass, refused }
    }

    #[cold]
    fn attend<Q: HwQueue>(&self, hw: &Q, number: u64) -> Result<(), HwError> {
        match self.level() {
            None => Ok(()),
            Some(Level::Lv1) => self.attend_window(hw, number),
            Some(Level::Lv2 | Level::Lv3) => self.attend_gate(hw, number),
        }
    }

    /// Takes the work due at `number`; true for exactly one of the threads that see it due.
    fn claim(&self, number: u64, next: u64) -> bool {
        let seen = self.attention.load(Ordering::Relaxed);
        number >= seen
            && self
                .attention
                .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn attend_window<Q: HwQueue>(&self, hw: &Q, number: u64) -> Result<(), HwError> {
        self.slot.block.wait_open();
        let threshold = u64::from(self.threshold.load(Ordering::Relaxed));
        let batch = u64::from(self.batch.load(Ordering::Relaxed)).min(threshold);
        let before = number - 1;
        if self.claim(number, number + batch) && before > self.marked.load(Ordering::Relaxed) {
            hw.mark(self.slot.block, before as u32)?;
            self.marked.fetch_max(before, Ordering::Relaxed);
        }
        // The next `batch` commands come without another look, so they need room, too.
        if self.in_flight(before) + batch <= threshold {
            return Ok(());
        }
        let room = (before + batch).saturating_sub(threshold);
        if self.marked.load(Ordering::Relaxed) < room {
            // Another thread has claimed that mark, but not placed it yet.
            hw.mark(self.slot.block, before as u32)?;
            self.marked.fetch_max(before, Ordering::Relaxed);
        }
        hw.wait_mark(self.slot.block, room as u32);
        // The gate may have closed while this thread waited for room.
        self.slot.block.wait_open();
        Ok(())
    }

    /// Commands up to `number` that are not known to have completed.
    fn in_flight(&self, number: u64) -> u64 {
        let undrained = number.saturating_sub(self.drained.load(Ordering::Relaxed));
        let completed = self.slot.block.completed();
        if reached(completed, number as u32) {
            return 0;
        }
        undrained.min(u64::from((number as u32).wrapping_sub(completed)))
    }

    fn attend_gate<Q: HwQueue>(&self, hw: &Q, number: u64) -> Result<(), HwError> {
        let open = self.slot.block.is_open();
        let behind = if open {
            self.behind.store(0, Ordering::Relaxed);
            0
        } else {
            self.behind.fetch_add(1, Ordering::Relaxed) + 1
        };
        let due = self.claim(number, number + u64::from(self.gate_interval));
        if due || behind == 1 {
            hw.gate(self.slot.block)?;
        }
        if behind >= BEHIND_GATE {
            self.slot.block.wait_open();
            self.behind.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}
