//! `pup`, utilization partition by process.
//!
//! For: tenants that paid for a share of a device, whatever number of queues they use.
//! Hints: utilization (percent, of the process; those who state none divide what is left), timeslice (20 ms).
//! Guarantee: as `up`, with a process's groups on a device together for one.
//! Not for: latency.

use super::{
    About, Decision, GroupView, Policy, Snapshot,
    shares::{Rules, Shares},
    up::{TURN, stated},
};
use crate::ids::Nanos;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "pup",
    summary: "utilization partition by process",
    hints: &[HintKind::Utilization, HintKind::TimeSlice],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Pup::default()),
};

/// Utilization partition by process. See the module.
pub struct Pup(Shares);

impl Default for Pup {
    fn default() -> Pup {
        Pup(Shares::new(Rules {
            claimant: |group| group.process.0,
            stated,
            default: None,
            turn: TURN,
            strict: false,
        }))
    }
}

impl Policy for Pup {
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
    use crate::ids::ProcessId;
    use xsched_hint::Hints;

    const MS: Nanos = 1_000_000;

    #[test]
    fn the_groups_of_a_process_share_its_turn() {
        let half: Hints = [HintKind::Utilization.parse("50").unwrap()]
            .into_iter()
            .collect();
        let mut world =
            World::with_hints(Pup::default(), &[(half, true), (half, true), (half, true)]);
        // The second group is one of the first's process.
        world.change(1, |view| {
            view.process = ProcessId(0);
            view.own = true;
        });
        world.check(0, &[0, 1], Some(10 * MS));
        world.check(10 * MS, &[2], Some(30 * MS));
        world.check(30 * MS, &[0, 1], Some(50 * MS));
        world.set_ready(0, false, 40 * MS);
        world.check(40 * MS, &[1], Some(50 * MS));
        world.set_ready(1, false, 41 * MS);
        world.check(41 * MS, &[2], None);
    }
}
