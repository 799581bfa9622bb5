//! Admission: what a command passes before it is forwarded to the driver. The hot path.
//!
//! ```text
//! admit   publish (state word)             idle -> ready? ring the doorbell
//!         gate open and nothing due?       yes: go on
//!         Lv1: gate closed? wait.          a mark due? place it. window full? wait for a mark.
//!         Lv2: a gate due? place it, with a mark. 256 commands in flight, gate closed? wait.
//! driver call
//! Pass dropped: forwarded + 1
//! ```
//! "Due" is one number, `attention`: the next command that the slow path wants to see. Threads
//! that submit to one queue at once agree by compare-and-swap on it who places the mark or gate.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use xsched_wire::{
    Level,
    sync::{AtomicU32, AtomicU64, Ordering},
};

use crate::{
    hw::{HwError, HwQueue},
    link::Slot,
    marks::{Mark, Marks},
    spacing::Interval,
};

/// Commands in flight while the gate is closed, after which admission waits: drivers block at
/// about 1,000 queued commands, with locks held.
pub const BEHIND_GATE: u64 = 256;

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

    /// To be asked before the driver has the command: whether nobody else's is on its way there, so that this
    /// one, when it is over, covers all before it.
    #[inline]
    pub fn covers_all(&self) -> bool {
        self.slot.block.forwarded_count() + 1 == self.number
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
    pub(crate) marks: Marks,
    /// `Level as u32`, or [`PASS_THROUGH`].
    level: AtomicU32,
    threshold: AtomicU32,
    batch: AtomicU32,
    interval: Interval,
    /// The next command number that the slow path wants to see.
    attention: AtomicU64,
    /// Stands behind the last gate that was placed while closed: once it is reached, that gate
    /// holds nothing any more.
    behind_gate: Mutex<Option<Mark>>,
}

impl Admission {
    pub(crate) fn new(slot: Slot, threshold: u32, batch: u32) -> Self {
        Admission {
            slot,
            marks: Marks::default(),
            level: AtomicU32::new(PASS_THROUGH),
            threshold: AtomicU32::new(threshold),
            batch: AtomicU32::new(batch),
            interval: Interval::default(),
            attention: AtomicU64::new(u64::MAX),
            behind_gate: Mutex::new(None),
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

    /// Threshold and batch size.
    pub(crate) fn window(&self) -> (u32, u32) {
        let threshold = self.threshold.load(Ordering::Relaxed);
        (threshold, self.batch.load(Ordering::Relaxed))
    }

    pub(crate) fn set_window(&self, threshold: u32, batch: u32) {
        self.threshold.store(threshold, Ordering::Relaxed);
        self.batch.store(batch, Ordering::Relaxed);
        self.attention.fetch_min(0, Ordering::Relaxed);
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
            self.interval.begins(Instant::now(), published.number - 1);
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

    /// A synchronization has just found everything over up to this command.
    pub(crate) fn drained<Q: HwQueue>(&self, hw: &Q, number: u64) {
        if let Some(level @ (Level::Lv2 | Level::Lv3)) = self.level() {
            self.interval
                .drained(hw.spacing(level), Instant::now(), number);
        }
    }

    #[cold]
    fn attend<Q: HwQueue>(&self, hw: &Q, number: u64) -> Result<(), HwError> {
        match self.level() {
            None => Ok(()),
            Some(Level::Lv1) => self.attend_window(hw, number),
            Some(level) => self.attend_gate(hw, number, level),
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
        if !self.claim(number, number + batch) {
            return Ok(());
        }
        let before = self.slot.block.forwarded_count();
        if before > self.marks.done(self.slot) {
            self.marks.place(hw, self.slot)?;
        }
        // The next `batch` commands come without another look, so they need room, too.
        let room = (before + batch).saturating_sub(threshold);
        if let Some(mark) = self.marks.covering(room, self.slot) {
            self.marks.wait(mark, hw, self.slot);
            // The gate may have closed while this thread waited for room.
            self.slot.block.wait_open();
        }
        Ok(())
    }

    fn attend_gate<Q: HwQueue>(&self, hw: &Q, number: u64, level: Level) -> Result<(), HwError> {
        let spacing = hw.spacing(level);
        let commands = self.interval.commands(spacing);
        let due = self.claim(number, number + u64::from(commands));
        if due {
            let done = self.marks.done(self.slot);
            if self.slot.block.is_open() {
                self.interval.look(spacing, Instant::now(), done);
            }
            if self.slot.block.forwarded_count() > done {
                // Tells how far the device is: progress for the scheduler, and the bound below.
                self.marks.place(hw, self.slot)?;
            }
        }
        if self.slot.block.is_open() {
            return if due {
                hw.gate(self.slot.block)
            } else {
                Ok(())
            };
        }
        self.interval.held();
        let mut behind_gate = self
            .behind_gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let stands = behind_gate.is_some_and(|mark| !self.marks.is_reached(mark, self.slot));
        if due || !stands {
            hw.gate(self.slot.block)?;
            *behind_gate = Some(self.marks.place(hw, self.slot)?);
        }
        drop(behind_gate);
        // Others submit meanwhile: what is done may be more than what was counted before.
        let forwarded = self.slot.block.forwarded_count();
        let in_flight = forwarded.saturating_sub(self.marks.done(self.slot));
        if in_flight >= BEHIND_GATE {
            self.slot.block.wait_open();
        }
        Ok(())
    }
}
