//! `hpf`, highest priority first (the default).
//!
//! For: programs of different urgency on one device.
//! Hints: priority.
//! Guarantee: a group executes only while no group of a higher priority on its device is ready. Groups of one priority
//! execute together, but take turns where the hardware lets only one background group execute. A group above all ready ones finds
//! its gate open.
//! Not for: dividing a device among equals, or deadlines.

use super::{Decision, GroupView, Policy, Snapshot};
use crate::{
    event::HwShare,
    hint::{Hint, Priority},
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::BTreeMap;

/// Highest priority first. See the module.
#[derive(Clone, Debug)]
pub struct Hpf {
    /// How long a background group executes before the next, where only one may.
    pub turn: Nanos,
    /// Whose turn it is on a device, and since when.
    turns: BTreeMap<DeviceId, (GroupId, Nanos)>,
    /// How long the others stay closed after the top group went idle, if its last gap was shorter than this: a string of
    /// short bursts is not chopped, a long gap is not wasted.
    pub linger: Nanos,
}

impl Default for Hpf {
    fn default() -> Hpf {
        Hpf {
            turn: 50_000_000,
            turns: BTreeMap::new(),
            linger: 200_000,
        }
    }
}

impl Policy for Hpf {
    fn name(&self) -> &'static str {
        "hpf"
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        // The highest priority with work, and the highest one that has none just now but will soon.
        let mut floor = Priority::NO_RUN;
        let mut lingering = (Priority::NO_RUN, 0);
        for group in snapshot.groups {
            if group.ready {
                floor = floor.max(group.priority);
            } else if group.last_gap < self.linger && now < group.since + self.linger {
                lingering = lingering.max((group.priority, group.since + self.linger));
            }
        }
        if lingering.0 > floor {
            floor = lingering.0;
            decision.ask_again(lingering.1);
        }
        for (position, group) in snapshot.groups.iter().enumerate() {
            decision.run(position, group.priority >= floor && group.priority.runs());
            // By what is registered, not by what is ready: changing a share is slow, arrivals are frequent.
            let top = Some(group.priority) >= snapshot.top_registered;
            decision.share(
                position,
                if top {
                    HwShare::Normal
                } else {
                    HwShare::Background
                },
            );
        }
        if snapshot.one_background {
            self.take_turns(now, snapshot, floor, decision);
        }
    }

    fn accepts(&self, hint: &Hint) -> bool {
        matches!(hint, Hint::Priority(_))
    }
}

impl Hpf {
    /// Of the background groups that would execute together, one does. The others are closed, and what they have in
    /// flight runs out with a normal share: two with background shares would starve each other before either reaches
    /// its gate.
    fn take_turns(
        &mut self,
        now: Nanos,
        snapshot: &Snapshot<'_>,
        floor: Priority,
        decision: &mut Decision,
    ) {
        let runs = |group: &&GroupView| {
            let background = Some(group.priority) < snapshot.top_registered;
            background && group.ready && group.priority >= floor && group.priority.runs()
        };
        let ready = || snapshot.groups.iter().filter(runs).map(|group| group.id);
        if ready().count() < 2 {
            return; // nobody to take turns with
        }
        let last = self.turns.get(&snapshot.device).copied();
        let (holder, since) = match last {
            Some((holder, since)) if now < since + self.turn && ready().any(|id| id == holder) => {
                (holder, since)
            }
            // The next after the last holder, around.
            last => {
                let after = last.map(|(holder, _)| holder);
                let next = ready().filter(|id| Some(*id) > after).min();
                match next.or_else(|| ready().min()) {
                    Some(next) => (next, now),
                    None => return,
                }
            }
        };
        self.turns.insert(snapshot.device, (holder, since));
        for (position, group) in snapshot.groups.iter().enumerate() {
            if Some(group.priority) < snapshot.top_registered && group.id != holder {
                decision.run(position, false);
                decision.share(position, HwShare::Normal);
            }
        }
        decision.ask_again(since + self.turn);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    const US: Nanos = 1_000;

    #[track_caller]
    fn check(groups: &[(i32, bool)], expect: &[bool]) {
        assert_eq!(
            testing::decide(&mut Hpf::default(), 1_000_000, &testing::groups(groups)),
            (expect.to_vec(), None)
        );
    }

    #[test]
    fn the_highest_ready_priority_runs() {
        check(&[(100, true), (0, true), (0, false)], &[true, false, false]);
        check(
            &[(100, false), (0, true), (0, true), (-1, true)],
            &[true, true, true, false],
        );
        check(&[(100, false), (0, false)], &[true, true]);
        check(&[(-256, true), (-255, true)], &[false, true]);
        check(&[(-256, true), (-256, false)], &[false, false]);
        check(&[], &[]);
    }

    #[test]
    fn one_background_group_at_a_time_where_the_hardware_starves_two() {
        const MS: Nanos = 1_000_000;
        let mut policy = Hpf::default();
        let mut check = |now, groups: &[(i32, bool)], expect: (&[bool], Option<Nanos>)| {
            let got = testing::decide_on(true, &mut policy, now, &testing::groups(groups));
            assert_eq!((&got.0[..], got.1), expect, "at {} ms", now / MS);
        };
        let busy = [(100, false), (-100, true), (-100, true), (-100, false)];
        check(MS, &busy, (&[true, true, false, false], Some(51 * MS)));
        check(50 * MS, &busy, (&[true, true, false, false], Some(51 * MS)));
        check(
            51 * MS,
            &busy,
            (&[true, false, true, false], Some(101 * MS)),
        );
        check(
            101 * MS,
            &busy,
            (&[true, true, false, false], Some(151 * MS)),
        );
        // Alone it runs on; equals of the top class never take turns; the urgent one stops all.
        check(
            102 * MS,
            &[(100, false), (-100, true), (-100, false)],
            (&[true; 3], None),
        );
        check(103 * MS, &[(0, true), (0, true)], (&[true, true], None));
        check(
            104 * MS,
            &[(100, true), (-100, true), (-100, true)],
            (&[true, false, false], None),
        );
    }

    #[track_caller]
    fn check_linger(now: Nanos, last_gap: Nanos, expect: (bool, Option<Nanos>)) {
        let mut groups = testing::groups(&[(100, false), (0, true)]);
        groups[0].since = 1_000 * US;
        groups[0].last_gap = last_gap;
        let (run, ask_again) = testing::decide(&mut Hpf::default(), now, &groups);
        assert_eq!((run[0], (run[1], ask_again)), (true, expect));
    }

    #[test]
    fn a_string_of_short_bursts_is_not_chopped() {
        check_linger(1_000 * US, 199 * US, (false, Some(1_200 * US)));
        check_linger(1_199 * US, 199 * US, (false, Some(1_200 * US)));
        check_linger(1_200 * US, 199 * US, (true, None));
        check_linger(1_000 * US, 200 * US, (true, None));
        check_linger(1_000 * US, Nanos::MAX, (true, None));
    }
}
