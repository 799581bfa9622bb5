//! `spup`, strict utilization partition by process.
//!
//! For: tenants that must not notice whether the others are there: figures that are the same every day.
//! Hints: utilization (percent, of the process; those who state none divide what is left), timeslice (20 ms).
//! Guarantee: as `pup`, but an idle share is not given away: over any time a process gets at most its share of it and one
//! turn. A utilization of 0: nothing, apart from the starvation guard's pieces.
//! Not for: throughput: the device stands idle while work waits.

use super::{
    About, Decision, GroupView, Policy, Snapshot,
    shares::{Rules, Shares},
    up::{TURN, stated},
};
use crate::ids::Nanos;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "spup",
    summary: "strict utilization partition by process: an idle share is not given away",
    hints: &[HintKind::Utilization, HintKind::TimeSlice],
    work_conserving: false,
    remembers: true,
    make: || Box::new(Spup::default()),
};

/// Strict utilization partition by process. See the module.
pub struct Spup(Shares);

impl Default for Spup {
    fn default() -> Spup {
        Spup(Shares::new(Rules {
            claimant: |group| group.process.0,
            stated,
            default: None,
            turn: TURN,
            strict: true,
        }))
    }
}

impl Policy for Spup {
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
    use xsched_hint::Hints;

    const MS: Nanos = 1_000_000;

    fn utilization(percent: &str) -> Hints {
        [HintKind::Utilization.parse(percent).unwrap()]
            .into_iter()
            .collect()
    }

    #[test]
    fn an_idle_share_is_not_given_away() {
        let groups = [
            (utilization("50"), true),
            (utilization("25"), false),
            (utilization("0"), true),
        ];
        let mut world = World::with_hints(Spup::default(), &groups);
        world.check(0, &[0], Some(20 * MS));
        world.check(20 * MS, &[], Some(40 * MS));
        world.check(40 * MS, &[0], Some(60 * MS));
        world.set_ready(1, true, 50 * MS);
        world.check(50 * MS, &[0], Some(60 * MS));
        world.check(60 * MS, &[1], Some(80 * MS));
        world.check(80 * MS, &[0], Some(100 * MS));
        world.check(100 * MS, &[], Some(120 * MS));
        world.check(120 * MS, &[0], Some(140 * MS));
        world.check(140 * MS, &[1], Some(160 * MS));
        // Time that went unused is not saved up.
        world.set_ready(0, false, 141 * MS);
        world.set_ready(1, false, 141 * MS);
        world.check(141 * MS, &[], None);
        world.set_ready(0, true, 900 * MS);
        world.check(900 * MS, &[0], Some(920 * MS));
        world.check(920 * MS, &[], Some(940 * MS));
    }
}
