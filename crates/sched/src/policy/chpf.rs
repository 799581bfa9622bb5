//! `chpf`, highest priority first by the processes' nice values.
//!
//! For: programs whose urgency the operating system knows already (`nice`, `renice`, service managers).
//! Hints: none, apart from "do not run": the nice value counts, -20 first, and follows `renice` within a second.
//! Guarantee: as `hpf`, with nice values for priorities.
//! Not for: programs that are started with one nice value throughout, as most are.

use super::{About, Decision, GroupView, Policy, Snapshot, classes::Classes};
use crate::ids::Nanos;

pub(super) const ABOUT: About = About {
    name: "chpf",
    summary: "highest priority first, by the processes' nice values",
    hints: &[],
    work_conserving: true,
    remembers: false,
    make: || Box::new(Chpf::default()),
};

/// Highest priority first by nice values. See the module.
#[derive(Clone, Debug, Default)]
pub struct Chpf {
    classes: Classes,
}

impl Policy for Chpf {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let urgency = |group: &GroupView| -i32::from(group.nice);
        self.classes.update(now, snapshot, decision, urgency);
        self.classes.apply(now, None, snapshot, decision);
    }

    fn forget(&mut self, group: &GroupView) {
        self.classes.forget(group);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};

    #[test]
    fn the_lowest_nice_value_runs() {
        let mut world = World::new(Chpf::default(), &[(200, true), (0, true), (-256, true)]);
        world.check(0, &[0, 1], None);
        world.change(1, |view| view.nice = -5);
        world.check(1, &[1], None);
        world.change(0, |view| view.nice = -20);
        world.change(2, |view| view.nice = -20);
        world.check(2, &[0], None);
    }
}
