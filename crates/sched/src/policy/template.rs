//! `turns`, one group at a time. Small on purpose: copy this file to add a policy.
//!
//! For: programs of one importance that slow each other down when they execute together (caches, memory bandwidth).
//! Hints: none, apart from "do not run".
//! Guarantee: on each device one ready group executes at a time, for a turn of 20 ms if others wait, in the order of
//! their ids; the turn of a group that has no more work ends at once.
//! Not for: anything urgent: a group waits for the turns of all others. The starvation guard's pieces come on top when
//! so many take turns that one waits for long.

use super::{About, Decision, GroupView, Policy, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

pub(super) const ABOUT: About = About {
    name: "turns",
    summary: "one group at a time, in turns",
    hints: &[],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Turns::default()),
};

/// One group at a time. See the module.
#[derive(Clone, Debug)]
pub struct Turns {
    /// How long a turn is.
    pub quantum: Nanos,
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Clone, Debug, Default)]
struct Device {
    ready: BTreeSet<GroupId>,
    /// Whose turn it is or was, and since when.
    turn: Option<(GroupId, Nanos)>,
    standing: Standing,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            quantum: 20_000_000,
            devices: BTreeMap::new(),
        }
    }
}

impl Policy for Turns {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let device = self.devices.entry(snapshot.device).or_default();
        for group in snapshot.changed() {
            decision.run(group.id, false);
            decision.share(group.id, HwShare::Normal);
            if group.wants() {
                device.ready.insert(group.id);
            } else {
                device.ready.remove(&group.id);
                if let Some(oldest) = device.standing.note(group.id) {
                    decision.run(
                        oldest,
                        device.ready.contains(&oldest) && decision.runs(oldest),
                    );
                }
            }
        }
        let last = device.turn;
        let goes_on = last
            .filter(|(holder, start)| now < start + self.quantum && device.ready.contains(holder));
        let turn = goes_on.or_else(|| {
            // The next id after the last one's, else the smallest.
            let after = last.map_or(Bound::Unbounded, |(last, _)| Bound::Excluded(last));
            let next = device.ready.range((after, Bound::Unbounded)).next();
            next.or(device.ready.first()).map(|&next| (next, now))
        });
        if let Some((last, _)) = last
            && device.ready.contains(&last)
        {
            decision.run(last, false);
        }
        if let Some((holder, start)) = turn {
            device.turn = turn;
            decision.run(holder, true);
            if device.ready.len() > 1 {
                decision.ask_again(start + self.quantum);
            }
        }
        // Where nobody has work, whoever comes first finds an open gate.
        device
            .standing
            .apply(snapshot, decision, |_| turn.is_none());
    }

    fn forget(&mut self, group: &GroupView) {
        if let Some(device) = self.devices.get_mut(&group.device) {
            device.ready.remove(&group.id);
            device.turn = device.turn.filter(|(holder, _)| *holder != group.id);
            device.standing.forget(group.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};

    const MS: Nanos = 1_000_000;

    #[test]
    fn ready_groups_take_turns() {
        let mut world = World::new(Turns::default(), &[(0, false); 3]);
        let mut check = |now, changes: &[(u32, bool)], expect: &[bool], ask_again| {
            for &(group, ready) in changes {
                world.set_ready(group, ready, now);
            }
            assert_eq!(world.decide(now), (expect.to_vec(), ask_again), "at {now}");
        };
        check(0, &[], &[true, true, true], None);
        check(MS, &[(1, true)], &[false, true, false], None);
        check(
            2 * MS,
            &[(0, true), (2, true)],
            &[false, true, false],
            Some(21 * MS),
        );
        check(21 * MS, &[], &[false, false, true], Some(41 * MS));
        check(22 * MS, &[(2, false)], &[true, false, false], Some(42 * MS));
        check(23 * MS, &[(2, true)], &[true, false, false], Some(42 * MS));
        check(42 * MS, &[], &[false, true, false], Some(62 * MS));
    }
}
