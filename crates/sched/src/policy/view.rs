//! A task group as a policy sees it.

use crate::{
    event::HwShare,
    guard::Times,
    ids::{DeviceId, GroupId, Nanos, ProcessId},
};
use xsched_hint::{Hints, Priority};

/// A task group as a policy sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupView {
    /// Its name.
    pub id: GroupId,
    /// Whose it is.
    pub process: ProcessId,
    /// Where it executes.
    pub device: DeviceId,
    /// It is one queue with hints of its own.
    pub own: bool,
    /// What was said about it.
    pub hints: Hints,
    /// The nice value of its process.
    pub nice: i8,
    /// A window of its process is the active one.
    pub foreground: bool,
    /// It has work, is not held by its application, and neither stalled nor stopped.
    pub ready: bool,
    /// Its gate stands open.
    pub open: bool,
    /// How the hardware treats it.
    pub share: HwShare,
    /// When `ready` last changed.
    pub since: Nanos,
    /// How long it was idle before it was last ready; [`Nanos::MAX`] if that was the first time.
    pub last_gap: Nanos,
    /// How many times it became idle because its work was done.
    pub bursts: u64,
    /// How long the last of those took, ready to idle.
    pub last_burst: Nanos,
    was_ready: bool,
    /// All of its queues with work stalled. Its gate stays open, or nobody would ever see them move again.
    pub(crate) stalled: bool,
    /// It is idle because its work was done, or what is left of that stalled before.
    pub(crate) done: bool,
    served: Nanos,
    waiting: Nanos,
    /// Until when the two above are counted.
    counted: Nanos,
}

impl GroupView {
    pub(crate) fn new(
        id: GroupId,
        process: ProcessId,
        device: DeviceId,
        hints: Hints,
        now: Nanos,
    ) -> GroupView {
        GroupView {
            id,
            process,
            device,
            own: false,
            hints,
            nice: 0,
            foreground: false,
            ready: false,
            open: false,
            share: HwShare::Normal,
            since: now,
            last_gap: Nanos::MAX,
            bursts: 0,
            last_burst: 0,
            was_ready: false,
            stalled: false,
            done: false,
            served: 0,
            waiting: 0,
            counted: now,
        }
    }

    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.hints.priority()
    }

    /// It has work and may run at all.
    pub fn wants(&self) -> bool {
        self.ready && self.priority().runs()
    }

    /// Since when it is ready, if it is.
    pub fn ready_since(&self) -> Option<Nanos> {
        self.ready.then_some(self.since)
    }

    /// How long it was ready and open, up to `now`.
    pub fn served(&self, now: Nanos) -> Nanos {
        self.served
            + if self.ready && self.open {
                now.saturating_sub(self.counted)
            } else {
                0
            }
    }

    /// How long it was ready and closed, up to `now`.
    pub fn waiting(&self, now: Nanos) -> Nanos {
        self.waiting
            + if self.ready && !self.open {
                now.saturating_sub(self.counted)
            } else {
                0
            }
    }

    pub(crate) fn times(&self, now: Nanos) -> Times {
        Times {
            now,
            served: self.served(now),
            waiting: self.waiting(now),
        }
    }

    pub(crate) fn set_ready(&mut self, ready: bool, now: Nanos) {
        self.count(now);
        if ready && self.was_ready {
            self.last_gap = now - self.since;
        }
        if !ready {
            self.bursts += 1;
            self.last_burst = now - self.since;
        }
        self.was_ready |= ready;
        self.done = !ready;
        self.ready = ready;
        self.since = now;
    }

    /// It stopped being ready for another reason than the end of its work: nothing to linger for, nothing measured.
    pub(crate) fn forget_rhythm(&mut self) {
        self.last_gap = Nanos::MAX;
        self.bursts -= 1;
        self.done = false;
    }

    pub(crate) fn set_open(&mut self, open: bool, now: Nanos) {
        self.count(now);
        self.open = open;
    }

    fn count(&mut self, now: Nanos) {
        self.served = self.served(now);
        self.waiting = self.waiting(now);
        self.counted = now;
    }
}
