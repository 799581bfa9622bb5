//! `up`, utilization partition by queue group.
//!
//! For: tenants that paid for a share of a device.
//! Hints: utilization (percent; those who state none divide what is left), timeslice (how long turns are, 20 ms).
//! Guarantee: groups that always have work get the device in proportion to their utilization, within a turn or two at any
//! time; what one does not use is divided among the others in the same proportion.
//! Not for: latency: a group waits for the turns of the others.

use super::{
    About, Decision, GroupView, Policy, Snapshot,
    shares::{Rules, Shares},
};
use crate::ids::Nanos;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "up",
    summary: "utilization partition by queue group",
    hints: &[HintKind::Utilization, HintKind::TimeSlice],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Up::default()),
};

/// How long a turn is where nobody says.
pub(super) const TURN: Nanos = 20_000_000;

/// Hundredths of a percent of the device.
pub(super) fn stated(group: &GroupView) -> Option<u64> {
    group.hints.utilization.map(|percent| percent.get() * 100)
}

/// Utilization partition by queue group. See the module.
pub struct Up(Shares);

impl Default for Up {
    fn default() -> Up {
        Up(Shares::new(Rules {
            claimant: |group| group.id.0.into(),
            stated,
            default: None,
            turn: TURN,
            strict: false,
        }))
    }
}

impl Policy for Up {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        self.0.decide(now, snapshot, decision);
    }

    fn forget(&mut self, group: &GroupView) {
        self.0.forget(group);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};
    use crate::event::HwShare;
    use xsched_hint::Hints;

    const MS: Nanos = 1_000_000;

    fn utilization(percent: &str) -> Hints {
        [HintKind::Utilization.parse(percent).unwrap()]
            .into_iter()
            .collect()
    }

    /// Lets a world run from one question to the next, and gives each group's share in thousandths.
    fn run(world: &mut World<Up>, groups: u32, from: Nanos, to: Nanos) -> Vec<u64> {
        let before: Vec<Nanos> = (0..groups).map(|group| world.served(group, from)).collect();
        let mut now = from;
        while now < to {
            let (_, ask) = world.decide(now);
            now = ask.unwrap_or(to).min(to);
        }
        let share = |group: u32| {
            let served = world.served(group, to) - before[group as usize];
            (served as f64 * 1_000.0 / (to - from) as f64).round() as u64
        };
        (0..groups).map(share).collect()
    }

    #[test]
    fn service_is_in_proportion() {
        let groups = [(utilization("75"), true), (utilization("25"), true)];
        let mut world = World::with_hints(Up::default(), &groups);
        assert_eq!(run(&mut world, 2, 0, 20_000 * MS), [750, 250]);
        // What one leaves the other gets, and later nobody owes anything.
        world.set_ready(0, false, 20_000 * MS);
        assert_eq!(run(&mut world, 2, 20_000 * MS, 30_000 * MS), [0, 1_000]);
        world.set_ready(0, true, 30_000 * MS);
        assert_eq!(run(&mut world, 2, 30_000 * MS, 50_000 * MS), [750, 250]);
        let three = [
            (utilization("50"), true),
            (utilization("30"), true),
            (Hints::default(), true),
        ];
        let mut world = World::with_hints(Up::default(), &three);
        assert_eq!(run(&mut world, 3, 0, 40_000 * MS), [500, 300, 200]);
        let mut none = World::with_hints(Up::default(), &[(Hints::default(), true); 4]);
        assert_eq!(run(&mut none, 4, 0, 40_000 * MS), [250; 4]);
    }

    #[test]
    fn where_the_hardware_slices_it_divides() {
        let groups = [(utilization("60"), true), (utilization("20"), true)];
        let mut world = World::with_hints(Up::default(), &groups);
        world.one_background = true;
        world.check(0, &[0, 1], None);
        assert_eq!(
            (world.share(0), world.share(1)),
            (HwShare::Slice(1_500), HwShare::Slice(500))
        );
        // Too far apart for slices that the lighter one can wait for.
        let groups = [(utilization("96"), true), (utilization("4"), true)];
        let mut world = World::with_hints(Up::default(), &groups);
        world.one_background = true;
        world.check(0, &[0], Some(10 * MS));
        assert_eq!(world.share(1), HwShare::Normal);
    }
}
