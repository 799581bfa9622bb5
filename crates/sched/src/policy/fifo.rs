//! `fifo`, no scheduling.
//!
//! For: comparing with the device's own scheduler through the same path, and switching the effect off at run time.
//! Hints: none, apart from "do not run".
//! Guarantee: every gate is open.
//! Not for: anything urgent.

use super::{About, Decision, GroupView, Policy, Snapshot};
use crate::{event::HwShare, ids::Nanos};

pub(super) const ABOUT: About = About {
    name: "fifo",
    summary: "no scheduling: every gate is open",
    hints: &[],
    work_conserving: true,
    remembers: false,
    make: || Box::new(Fifo),
};

/// No scheduling. See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, _now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        for group in snapshot.changed() {
            decision.run(group.id, group.priority().runs());
            decision.share(group.id, HwShare::Normal);
        }
    }

    fn forget(&mut self, _group: &GroupView) {}
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};

    #[test]
    fn everything_is_open() {
        let mut world = World::new(Fifo, &[(255, true), (0, false), (-255, true), (-256, true)]);
        assert_eq!(world.decide(0), (vec![true, true, true, false], None));
    }
}
