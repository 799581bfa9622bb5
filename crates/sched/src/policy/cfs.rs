//! `cfs`, weighted fair by virtual runtime.
//!
//! For: programs of one importance, or of weights like those of CPU shares, where none is urgent.
//! Hints: weight (1 to 10,000, default 100), timeslice (how long turns are, 20 ms).
//! Guarantee: groups that always have work get the device in proportion to their weights, within a turn or two at any
//! time; what one does not use is divided among the others in the same proportion.
//! Not for: latency: a group waits for the turns of the others (`mlfq` looks after short bursts).

use super::{
    About, Decision, GroupView, Policy, Snapshot,
    shares::{Rules, Shares},
    up::TURN,
};
use crate::ids::Nanos;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "cfs",
    summary: "weighted fair by virtual runtime",
    hints: &[HintKind::Weight, HintKind::TimeSlice],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Cfs::default()),
};

/// The weight of a group for which none was said.
const DEFAULT_WEIGHT: u64 = 100;

/// Weighted fair. See the module.
pub struct Cfs(Shares);

impl Default for Cfs {
    fn default() -> Cfs {
        Cfs(Shares::new(Rules {
            claimant: |group| group.id.0.into(),
            stated: |group| group.hints.weight.map(|weight| weight.get()),
            default: Some(DEFAULT_WEIGHT),
            turn: TURN,
            strict: false,
        }))
    }
}

impl Policy for Cfs {
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

    #[test]
    fn a_heavier_group_has_longer_turns() {
        let heavy: Hints = [HintKind::Weight.parse("300").unwrap()]
            .into_iter()
            .collect();
        let mut world =
            World::with_hints(Cfs::default(), &[(heavy, true), (Hints::default(), true)]);
        world.check(0, &[0], Some(10 * MS));
        // Ten more than the third of the other's ten.
        world.check(10 * MS, &[1], Some(23_333_334));
        world.check(23_333_334, &[0], Some(63_333_336));
        // One with a shorter turn of its own.
        world.change(0, |view| {
            view.hints.set(HintKind::TimeSlice.parse("2ms").unwrap())
        });
        world.check(40 * MS, &[0], Some(54_333_337));
    }
}
