//! `hpf`, highest priority first (the default).
//!
//! For: programs of different urgency on one device.
//! Hints: priority.
//! Guarantee: a group executes only while no group of a higher priority on its device is ready. Up to 16 groups of one
//! priority execute together and more take turns; where the hardware takes slices, those below the highest priority take
//! turns by themselves. A group of the highest priority registered finds its gate open.
//! Not for: dividing a device among equals, or deadlines.

use super::{About, Decision, GroupView, Policy, Snapshot, classes::Classes};
use crate::ids::Nanos;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "hpf",
    summary: "highest priority first",
    hints: &[HintKind::Priority],
    work_conserving: true,
    remembers: false,
    make: || Box::new(Hpf::default()),
};

/// Highest priority first. See the module.
#[derive(Clone, Debug, Default)]
pub struct Hpf {
    classes: Classes,
}

impl Hpf {
    /// One that does not keep the others closed between short bursts: fixed priorities to the letter.
    pub fn to_the_letter() -> Hpf {
        let mut hpf = Hpf::default();
        hpf.classes.linger = 0;
        hpf
    }
}

impl Policy for Hpf {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let priority = |group: &GroupView| group.priority().get();
        self.classes.update(now, snapshot, decision, priority);
        self.classes.apply(now, None, snapshot, decision);
    }

    fn forget(&mut self, group: &GroupView) {
        self.classes.forget(group);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};
    use crate::{
        HwShare::{self, Background, Normal, Slice},
        ids::ProcessId,
    };
    use xsched_hint::{Hint, Priority};

    const US: Nanos = 1_000;
    const MS: Nanos = 1_000 * US;

    #[track_caller]
    fn check(groups: &[(i32, bool)], expect: &[bool]) {
        let mut world = World::new(Hpf::default(), groups);
        assert_eq!(world.decide(MS), (expect.to_vec(), None));
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
    fn one_background_group_at_a_time_where_the_hardware_takes_slices() {
        let groups = [(100, false), (-100, true), (-100, true), (-100, false)];
        let mut world = World::new(Hpf::default(), &groups);
        world.one_background = true;
        let mut check = |now, changes: &[(u32, bool)], expect: (&[bool], Option<Nanos>)| {
            for &(group, ready) in changes {
                world.set_ready(group, ready, now);
            }
            let got = world.decide(now);
            assert_eq!((&got.0[..], got.1), expect, "at {} ms", now / MS);
        };
        check(MS, &[], (&[true, true, false, false], Some(51 * MS)));
        check(50 * MS, &[], (&[true, true, false, false], Some(51 * MS)));
        check(51 * MS, &[], (&[true, false, true, false], Some(101 * MS)));
        // An urgent one does not end its turn.
        check(60 * MS, &[(0, true)], (&[true, false, false, false], None));
        check(
            70 * MS,
            &[(0, false)],
            (&[true, false, true, false], Some(111 * MS)),
        );
        check(111 * MS, &[], (&[true, true, false, false], Some(161 * MS)));
        // Alone it runs on, and an idle one waits behind it; nobody busy, all stand open.
        check(126 * MS, &[(2, false)], (&[true, true, false, false], None));
        check(127 * MS, &[(1, false)], (&[true; 4], None));
        // The urgent one stops all.
        check(
            128 * MS,
            &[(0, true), (1, true), (2, true)],
            (&[true, false, false, false], None),
        );
        // Three have shorter turns, and whoever ends its work passes on at once.
        check(
            129 * MS,
            &[(0, false)],
            (&[true, true, false, false], Some(178 * MS)),
        );
        check(130 * MS, &[(1, false)], (&[true, false, true, false], None));
        check(
            131 * MS,
            &[(1, true), (3, true)],
            (&[true, false, true, false], Some(180 * MS)),
        );
        let third = (&[true, false, false, true][..], Some(217_500 * US));
        check(180 * MS, &[], third);
        check(
            183 * MS,
            &[(1, false), (2, false)],
            (&[true, false, false, true], None),
        );
        // Equals of the top class never take turns.
        let mut world = World::new(Hpf::default(), &[(0, true), (0, true)]);
        world.one_background = true;
        assert_eq!(world.decide(MS), (vec![true, true], None));
    }

    #[test]
    fn background_programs_have_slices_that_cannot_starve_each_other() {
        let groups = [(100, true), (-1, true), (-2, true), (-2, false)];
        let mut world = World::new(Hpf::default(), &groups);
        world.one_background = true;
        let mut check = |now, priorities: &[(u32, i32)], expect: [HwShare; 4]| {
            for &(group, priority) in priorities {
                let priority = Priority::new(priority).unwrap();
                world.change(group, |view| view.hints.set(Hint::Priority(priority)));
            }
            world.decide(now);
            assert_eq!([0, 1, 2, 3].map(|group| world.share(group)), expect);
        };
        check(MS, &[], [Normal, Slice(200), Slice(200), Slice(200)]);
        // One alone in the background has the shortest slice.
        let two = [(1, 100), (2, 100)];
        check(2 * MS, &two, [Normal, Normal, Normal, Background]);
        check(3 * MS, &[(1, 0)], [Normal, Slice(200), Normal, Slice(200)]);
        let one = [(0, 0), (2, 0)];
        check(4 * MS, &one, [Normal, Normal, Normal, Background]);
        // Elsewhere nobody is starved; that a device does so may be known late.
        let mut world = World::new(Hpf::default(), &groups);
        for (one_background, share) in [(false, Background), (true, Slice(200))] {
            world.one_background = one_background;
            world.decide(MS);
            let shares = [0, 1, 2, 3].map(|group| world.share(group));
            assert_eq!(shares, [Normal, share, share, share]);
        }
        // Groups of one program share its slice.
        let mut world = World::new(Hpf::default(), &groups);
        world.one_background = true;
        for group in 1..4 {
            world.change(group, |view| view.process = ProcessId(1));
        }
        world.decide(MS);
        assert_eq!([1, 2, 3].map(|group| world.share(group)), [Background; 3]);
    }

    #[test]
    fn more_than_can_execute_together_take_turns() {
        let mut world = World::new(Hpf::default(), &[(0, true); 20]);
        let (runs, ask) = world.decide(0);
        assert_eq!(
            (runs.iter().filter(|runs| **runs).count(), ask),
            (16, Some(50 * MS))
        );
        let (later, _) = world.decide(50 * MS);
        assert!((16..20).all(|index| !runs[index] && later[index]));
        assert_eq!(later.iter().filter(|runs| **runs).count(), 16);
    }

    #[track_caller]
    fn check_linger(now: Nanos, gap: Nanos, expect: (bool, Option<Nanos>)) {
        let mut world = World::new(Hpf::default(), &[(100, false), (0, true)]);
        world.decide(0);
        let start = 1_000 * US - 10 * US - gap;
        for (at, ready) in [(start - US, true), (start, false), (start + gap, true)] {
            world.set_ready(0, ready, at);
            world.decide(at);
        }
        world.set_ready(0, false, 1_000 * US);
        world.decide(1_000 * US);
        let (run, ask_again) = world.decide(now);
        assert_eq!((run[0], (run[1], ask_again)), (true, expect));
    }

    #[test]
    fn a_string_of_short_bursts_is_not_chopped() {
        check_linger(1_000 * US, 199 * US, (false, Some(1_200 * US)));
        check_linger(1_199 * US, 199 * US, (false, Some(1_200 * US)));
        check_linger(1_200 * US, 199 * US, (true, None));
        check_linger(1_000 * US, 200 * US, (true, None));
    }
}
