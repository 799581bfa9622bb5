//! `awf`, active window first.
//!
//! For: a desktop, where the program that the user looks at must not stutter.
//! Hints: none, apart from "do not run": who is active is reported by `xsched active-window` (X11).
//! Guarantee: as `hpf` with two classes, the active window's process above all others.
//! Not for: machines without a user in front of them: with no active window all are equal, as under `fifo` but for the 16.

use super::{About, Decision, GroupView, Policy, Snapshot, classes::Classes};
use crate::ids::Nanos;

pub(super) const ABOUT: About = About {
    name: "awf",
    summary: "active window first (X11)",
    hints: &[],
    work_conserving: true,
    remembers: false,
    make: || Box::new(Awf::default()),
};

/// Active window first. See the module.
#[derive(Clone, Debug, Default)]
pub struct Awf {
    classes: Classes,
}

impl Policy for Awf {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let class = |group: &GroupView| i32::from(group.foreground);
        self.classes.update(now, snapshot, decision, class);
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
    fn the_active_window_goes_first() {
        let mut world = World::new(Awf::default(), &[(200, true), (0, true)]);
        world.check(0, &[0, 1], None);
        world.change(1, |view| view.foreground = true);
        world.check(1, &[1], None);
        world.set_ready(1, false, 2);
        world.check(2, &[0], None);
        world.change(1, |view| view.foreground = false);
        world.set_ready(1, true, 3);
        world.check(3, &[0, 1], None);
    }
}
