//! Completion marks: which commands are known to be over.
//!
//! A mark is a number that the device stores when everything before it has completed. Marks are
//! numbered and enqueued under one lock, so they are reached in order however many threads submit;
//! each remembers how many commands had been forwarded when it was enqueued, which is what it
//! covers. The lock is taken where a mark is placed or waited for, never on the hot path.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    hw::{HwError, HwQueue, reached},
    link::Slot,
};

/// A mark's number; wraps at 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u32);

#[derive(Debug, Default)]
pub(crate) struct Marks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u32,
    /// Marks not known to be reached, with the number of commands that each covers.
    outstanding: VecDeque<(u32, u64)>,
    /// Commands known to be over.
    done: u64,
}

impl Marks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a mark behind everything forwarded so far.
    pub(crate) fn place<Q: HwQueue>(&self, hw: &Q, slot: Slot) -> Result<Mark, HwError> {
        let mut state = self.state();
        let number = state.last.wrapping_add(1);
        let covers = slot.block.forwarded_count();
        hw.mark(slot.block, number)?;
        state.last = number;
        state.outstanding.push_back((number, covers));
        Ok(Mark(number))
    }

    /// Whether a mark was reached.
    pub(crate) fn is_reached(&self, mark: Mark, slot: Slot) -> bool {
        reached(slot.block.completed(), mark.0)
    }

    /// Waits for a mark.
    pub(crate) fn wait<Q: HwQueue>(&self, mark: Mark, hw: &Q, slot: Slot) {
        hw.wait_mark(slot.block, mark.0);
    }

    /// A synchronization covered this many commands.
    pub(crate) fn drained(&self, commands: u64) {
        let mut state = self.state();
        state.done = state.done.max(commands);
    }

    /// Commands known to be over.
    pub(crate) fn done(&self, slot: Slot) -> u64 {
        self.state().look(slot)
    }

    /// The mark to wait for until `commands` are over; `None`: they are, or no mark covers them.
    pub(crate) fn covering(&self, commands: u64, slot: Slot) -> Option<Mark> {
        let mut state = self.state();
        if state.look(slot) >= commands {
            return None;
        }
        let mark = state
            .outstanding
            .iter()
            .find(|&&(_, covers)| covers >= commands);
        mark.map(|&(number, _)| Mark(number))
    }
}

impl State {
    fn look(&mut self, slot: Slot) -> u64 {
        let completed = slot.block.completed();
        while let Some(&(number, covers)) = self.outstanding.front()
            && reached(completed, number)
        {
            self.done = self.done.max(covers);
            self.outstanding.pop_front();
        }
        self.done
    }
}
