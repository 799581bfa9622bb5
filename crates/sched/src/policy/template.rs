//! `turns`, one group at a time. Small on purpose: copy this file to add a policy.
//!
//! For: programs of one importance that slow each other down when they execute together (caches, memory bandwidth).
//! Hints: none, apart from "do not run".
//! Guarantee: on each device one ready group executes at a time, for a turn of 20 ms if others wait, in the order of
//! their ids; the turn of a group that has no more work ends at once.
//! Not for: anything urgent: a group waits for the turns of all others. The starvation guard's pieces come on top when
//! so many take turns that one waits for long.

use super::{Decision, GroupView, Policy, Snapshot};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::BTreeMap;

/// One group at a time. See the module.
#[derive(Clone, Debug)]
pub struct Turns {
    /// How long a turn is.
    pub quantum: Nanos,
    /// Whose turn it is on each device, and since when.
    current: BTreeMap<DeviceId, (GroupId, Nanos)>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            quantum: 20_000_000,
            current: BTreeMap::new(),
        }
    }
}

impl Policy for Turns {
    fn name(&self) -> &'static str {
        "turns"
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let wants = |group: &&GroupView| group.ready && group.priority.runs();
        let ready = || snapshot.groups.iter().filter(wants).map(|group| group.id);
        let last = self.current.get(&snapshot.device).copied();
        let turn = match last {
            Some((group, start)) if now < start + self.quantum && ready().any(|id| id == group) => {
                Some((group, start))
            }
            _ => {
                // The next id after the last one's, else the smallest.
                let after = last.and_then(|(last, _)| ready().filter(|id| *id > last).min());
                after.or_else(|| ready().min()).map(|group| (group, now))
            }
        };
        if let Some((group, start)) = turn {
            self.current.insert(snapshot.device, (group, start));
            if ready().any(|id| id != group) {
                decision.ask_again(start + self.quantum);
            }
        }
        for (position, group) in snapshot.groups.iter().enumerate() {
            // Where nobody has work, whoever comes first finds an open gate.
            let may = turn.is_none_or(|(holder, _)| holder == group.id);
            decision.run(position, may && group.priority.runs());
            decision.share(position, HwShare::Normal);
        }
    }

    fn forget(&mut self, group: GroupId) {
        self.current.retain(|_, (holder, _)| *holder != group);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    const MS: Nanos = 1_000_000;

    #[track_caller]
    fn check(
        policy: &mut Turns,
        now: Nanos,
        ready: &[bool],
        expect: &[bool],
        ask_again: Option<Nanos>,
    ) {
        let groups: Vec<_> = ready.iter().map(|&ready| (0, ready)).collect();
        assert_eq!(
            testing::decide(policy, now, &testing::groups(&groups)),
            (expect.to_vec(), ask_again)
        );
    }

    #[test]
    fn ready_groups_take_turns() {
        let policy = &mut Turns::default();
        check(policy, 0, &[false, false, false], &[true, true, true], None);
        check(
            policy,
            MS,
            &[false, true, false],
            &[false, true, false],
            None,
        );
        check(
            policy,
            2 * MS,
            &[true, true, true],
            &[false, true, false],
            Some(21 * MS),
        );
        check(
            policy,
            21 * MS,
            &[true, true, true],
            &[false, false, true],
            Some(41 * MS),
        );
        check(
            policy,
            22 * MS,
            &[true, true, false],
            &[true, false, false],
            Some(42 * MS),
        );
        policy.forget(GroupId(0));
        check(
            policy,
            23 * MS,
            &[true, true, false],
            &[true, false, false],
            Some(43 * MS),
        );
    }
}
