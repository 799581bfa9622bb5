//! Time slicing between the processes on one device: round robin in device time, pure.
//!
//! Only kernels need the device. While one process has any, it keeps the device. While several
//! have, each turn ends at a multiple of the process's slice since the turn began, and the next
//! process starts [`SWITCH`] later. A process that runs out of kernels passes the device on at once
//! and free of charge.
//!
//! The owner alone ends its turn, and says at which device time it ended. A process that the
//! operating system wakes late therefore costs nobody device time; one that is dead or stopped is
//! taken from after [`GRACE`].

/// Length of a turn in ns, until something else is set.
pub(crate) const SLICE: u64 = 2_000_000;
/// Device time in ns that a change of turns costs.
pub(crate) const SWITCH: u64 = 200_000;
/// Processes that can be on one device at a time.
pub(crate) const SLOTS: usize = 128;
/// How long in ns an owner may not be heard of while others wait.
pub(crate) const GRACE: u64 = 500_000_000;
/// After this many ns of silence somebody looks whether the owner lives.
const SILENCE: u64 = 20_000_000;

/// One process on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// 0 = the slot is free.
    pub(crate) pid: u64,
    /// Start time of the process, to tell it from a later one with the same id.
    pub(crate) birth: u64,
    /// Device time since which it has a kernel that could run; 0 = it has none.
    pub(crate) since: u64,
    /// Length of its turns in ns.
    pub(crate) slice: u64,
    /// Kernel time in ns that it got.
    pub(crate) served: u64,
    /// Turns that it got.
    pub(crate) turns: u64,
}

/// All that the processes on one device share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) slots: Vec<Slot>,
    pub(crate) owner: Option<usize>,
    /// Device time at which the owner's turn begins.
    pub(crate) from: u64,
    /// Device time up to which the device has been used.
    pub(crate) free: u64,
    /// Clock time at which the owner was last heard of.
    pub(crate) heard: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS],
            owner: None,
            from: 0,
            free: 0,
            heard: 0,
        }
    }
}

impl Table {
    /// Takes a free slot. `None` when all are taken by living processes.
    pub(crate) fn attach(
        &mut self,
        pid: u64,
        birth: u64,
        alive: &mut dyn FnMut(&Slot) -> bool,
    ) -> Option<usize> {
        let free = self.slots.iter().position(|slot| slot.pid == 0);
        let slot = free.or_else(|| {
            let dead = self.slots.iter().position(|slot| !alive(slot))?;
            self.remove(dead);
            Some(dead)
        })?;
        self.slots[slot] = Slot {
            pid,
            birth,
            slice: SLICE,
            ..Slot::default()
        };
        Some(slot)
    }

    /// `me` has a kernel since `since`.
    pub(crate) fn want(&mut self, me: usize, since: u64, now: u64) {
        self.slots[me].since = since.max(1);
        let busy = self
            .owner
            .is_some_and(|owner| owner != me && self.slots[owner].since != 0);
        if !busy {
            self.grant(me, since.max(self.free), now);
        }
    }

    /// `me` has no kernel left; its last one ended at `at`.
    pub(crate) fn idle(
        &mut self,
        me: usize,
        at: u64,
        now: u64,
        alive: &mut dyn FnMut(&Slot) -> bool,
    ) {
        self.slots[me].since = 0;
        if self.owner == Some(me) {
            self.free = self.free.max(at);
            if let Some(next) = self.next(me, alive) {
                self.grant(next, self.free.max(self.slots[next].since), now);
            }
        }
    }

    /// When the turn of the owner `me` must end because others wait, having used the device up to
    /// `used` for good. `None` while nobody else waits.
    pub(crate) fn cut(&self, me: usize, used: u64) -> Option<u64> {
        let others = self
            .slots
            .iter()
            .enumerate()
            .filter(|&(slot, _)| slot != me);
        let waiting = others
            .map(|(_, slot)| slot.since)
            .filter(|&since| since != 0);
        let reached = waiting.min()?.max(used);
        Some(self.boundary(me, reached))
    }

    /// The first possible end of the turn of `me` that is not before `time`.
    pub(crate) fn boundary(&self, me: usize, time: u64) -> u64 {
        let slice = self.slots[me].slice.max(1);
        let turns = time.saturating_sub(self.from).div_ceil(slice).max(1);
        self.from.saturating_add(turns.saturating_mul(slice))
    }

    /// The owner `me` ends its turn at `at`, with work left.
    pub(crate) fn leave(
        &mut self,
        me: usize,
        at: u64,
        now: u64,
        alive: &mut dyn FnMut(&Slot) -> bool,
    ) {
        self.free = self.free.max(at);
        match self.next(me, alive) {
            Some(next) => self.grant(next, self.free + SWITCH, now),
            None => self.grant(me, self.free, now),
        }
    }

    /// The waiting process `me` takes the device if its owner is gone or was not heard of for
    /// [`GRACE`].
    pub(crate) fn rescue(&mut self, me: usize, now: u64, alive: &mut dyn FnMut(&Slot) -> bool) {
        let Some(owner) = self.owner.filter(|&owner| owner != me) else {
            return self.grant(me, self.free.max(self.slots[me].since), now);
        };
        let silence = now.saturating_sub(self.heard);
        if silence < SILENCE {
            return;
        }
        if !alive(&self.slots[owner]) {
            self.remove(owner);
        } else if silence < GRACE {
            return;
        } else {
            // It does not count as waiting until it is heard of again.
            self.slots[owner].since = 0;
        }
        // What the lost owner used of its turn is unknown: the device counts as used until now.
        self.free = self.free.max(now);
        let next = self.next(owner, alive).unwrap_or(me);
        self.grant(next, self.free + SWITCH, now);
    }

    fn grant(&mut self, next: usize, from: u64, now: u64) {
        self.owner = Some(next);
        self.from = from;
        self.heard = now;
        self.slots[next].turns += 1;
    }

    /// The waiting process after `me` in the order of slots, never `me`. Forgets dead ones.
    fn next(&mut self, me: usize, alive: &mut dyn FnMut(&Slot) -> bool) -> Option<usize> {
        let count = self.slots.len();
        for step in 1..count {
            let slot = (me + step) % count;
            if self.slots[slot].since != 0 {
                if alive(&self.slots[slot]) {
                    return Some(slot);
                }
                self.remove(slot);
            }
        }
        None
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = Slot::default();
        if self.owner == Some(slot) {
            self.owner = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn table(processes: u64) -> Table {
        let mut table = Table::default();
        for pid in 1..=processes {
            table.attach(pid, 0, &mut |_| true).unwrap();
        }
        table
    }

    /// Runs always-busy processes until `end`; returns the kernel time of each.
    fn busy(table: &mut Table, processes: usize, end: u64) -> Vec<u64> {
        let mut served = vec![0; processes];
        for slot in 0..processes {
            table.want(slot, 1, 1);
        }
        while let Some(owner) = table.owner {
            let cut = table.cut(owner, table.from).unwrap_or(end).min(end);
            served[owner] += cut.saturating_sub(table.from);
            if cut >= end {
                break;
            }
            table.leave(owner, cut, cut, &mut |_| true);
        }
        served
    }

    #[test]
    fn the_constants_are_what_the_documentation_says() {
        assert_eq!((SLICE, SWITCH), (2 * MS, MS / 5));
    }

    #[test]
    fn one_process_keeps_the_device() {
        let mut table = table(2);
        table.want(0, 5 * MS, 5 * MS);
        assert_eq!((table.owner, table.from), (Some(0), 5 * MS));
        assert_eq!(table.cut(0, 5 * MS), None);
        table.idle(0, 9 * MS, 9 * MS, &mut |_| true);
        assert_eq!(table.owner, Some(0), "nobody else wants it");
    }

    #[test]
    fn a_turn_ends_at_a_multiple_of_the_slice_after_another_arrived() {
        let mut table = table(2);
        table.want(0, 10 * MS, 10 * MS);
        table.want(1, 15 * MS, 15 * MS);
        assert_eq!(table.cut(0, 10 * MS), Some(16 * MS));
        table.leave(0, 16 * MS, 16 * MS, &mut |_| true);
        assert_eq!((table.owner, table.from), (Some(1), 16 * MS + SWITCH));
        assert_eq!(table.cut(1, table.from), Some(18 * MS + SWITCH));
    }

    #[test]
    fn busy_processes_share_equally_and_lose_the_switches() {
        let served = busy(&mut table(3), 3, 1 + 3 * 100 * (SLICE + SWITCH));
        for time in served {
            assert_eq!(time, 100 * SLICE);
        }
    }

    #[test]
    fn slices_divide_the_device() {
        let mut table = table(2);
        table.slots[0].slice = MS;
        table.slots[1].slice = 3 * MS;
        let served = busy(&mut table, 2, 1 + 100 * (4 * MS + 2 * SWITCH));
        assert_eq!(served, [100 * MS, 300 * MS]);
    }

    #[test]
    fn two_tiny_slices_starve_each_other() {
        let mut table = table(2);
        table.slots[0].slice = 1_000;
        table.slots[1].slice = 1_000;
        let served: u64 = busy(&mut table, 2, 1_000 * MS).iter().sum();
        assert!(served < 10 * MS, "served {served}");
    }

    #[test]
    fn running_out_of_work_passes_the_device_on_at_once() {
        let mut table = table(2);
        table.want(0, MS, MS);
        table.want(1, 2 * MS, 2 * MS);
        table.idle(0, 2 * MS + 5, 3 * MS, &mut |_| true);
        assert_eq!((table.owner, table.from), (Some(1), 2 * MS + 5));
    }

    #[test]
    fn an_idle_owner_is_taken_from_at_once() {
        let mut table = table(2);
        table.want(0, MS, MS);
        table.idle(0, 4 * MS, 4 * MS, &mut |_| true);
        table.want(1, 3 * MS, 5 * MS);
        assert_eq!((table.owner, table.from), (Some(1), 4 * MS));
    }

    #[test]
    fn the_dead_lose_their_turn_and_their_slot() {
        let mut table = table(3);
        for slot in 0..3 {
            table.want(slot, MS, MS);
        }
        let mut alive = |slot: &Slot| slot.pid == 3;
        table.rescue(2, 30 * MS, &mut alive);
        assert_eq!((table.owner, table.from), (Some(2), 30 * MS + SWITCH));
        assert_eq!((table.slots[0].pid, table.slots[1].pid), (0, 0));
        assert_eq!(table.attach(9, 0, &mut alive), Some(0));
    }

    #[test]
    fn a_silent_owner_loses_its_turn_after_the_grace() {
        let mut table = table(2);
        table.want(0, MS, MS);
        table.want(1, MS, MS);
        table.rescue(1, GRACE, &mut |_| true);
        assert_eq!(table.owner, Some(0));
        table.rescue(1, MS + GRACE, &mut |_| true);
        assert_eq!(table.owner, Some(1));
        assert_eq!(table.cut(1, table.from), None, "it waits for nothing");
        table.want(0, 2 * GRACE, 2 * GRACE);
        assert!(table.cut(1, table.from).is_some());
    }
}
