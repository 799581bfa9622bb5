//! `hpf`, highest priority first (the default).
//!
//! For: programs of different urgency on one device.
//! Hints: priority.
//! Guarantee: a group executes only while no group of a higher priority on its device is ready. Groups of one priority
//! execute together. A group above all ready ones finds its gate open.
//! Not for: dividing a device among equals, or deadlines.

use super::{Decision, Policy, Snapshot};
use crate::{
    event::HwShare,
    hint::{Hint, Priority},
    ids::Nanos,
};

/// Highest priority first. See the module.
#[derive(Clone, Debug)]
pub struct Hpf {
    /// How long the others stay closed after the top group went idle, if its last gap was shorter than this: a string of
    /// short bursts is not chopped, a long gap is not wasted.
    pub linger: Nanos,
}

impl Default for Hpf {
    fn default() -> Hpf {
        Hpf { linger: 200_000 }
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
    }

    fn accepts(&self, hint: &Hint) -> bool {
        matches!(hint, Hint::Priority(_))
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
