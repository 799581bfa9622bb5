//! Policies: the rule by which groups are chosen. Snapshot in, decision out.
//!
//! To add one: copy `template.rs`, name it in [`POLICIES`]; the conformance suite then runs on it.

mod fifo;
mod hpf;
mod template;

pub use fifo::Fifo;
pub use hpf::Hpf;
pub use template::Turns;

use crate::{
    event::HwShare,
    hint::{Hint, Priority},
    ids::{DeviceId, GroupId, Nanos, ProcessId},
};

/// The rule by which the groups of a device are chosen. It suspends nothing itself: the engine compares its decision
/// with what stands and acts on the differences.
pub trait Policy: Send {
    /// The name by which users choose it.
    fn name(&self) -> &'static str;

    /// Says which groups of one device may run now. Called whenever something changed there, and when the time that it
    /// last asked for has come.
    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision);

    /// Whether the hint has a meaning here. The engine keeps hints in any case, for the next policy.
    fn accepts(&self, hint: &Hint) -> bool {
        let _ = hint;
        false
    }

    /// The group is gone and its name will be used again: drop what is kept about it.
    fn forget(&mut self, group: GroupId) {
        let _ = group;
    }
}

/// Makes a policy with its defaults.
pub type Make = fn() -> Box<dyn Policy>;

/// The policies that users can choose, the default first.
pub const POLICIES: &[(&str, Make)] = &[
    ("hpf", || Box::new(Hpf::default())),
    ("fifo", || Box::new(Fifo)),
    ("turns", || Box::new(Turns::default())),
];

/// The names of [`POLICIES`].
pub fn names() -> impl Iterator<Item = &'static str> {
    POLICIES.iter().map(|(name, _)| *name)
}

/// A policy by its name.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>, UnknownPolicy> {
    match POLICIES.iter().find(|(known, _)| *known == name) {
        Some((_, make)) => Ok(make()),
        None => Err(UnknownPolicy(name.to_owned())),
    }
}

/// There is no policy of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use one of {known}", known = names().collect::<Vec<_>>().join(", "))]
pub struct UnknownPolicy(pub String);

/// One device as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// Which.
    pub device: DeviceId,
    /// At most one group of [`HwShare::Background`] may execute there at a time, or they starve each other.
    pub one_background: bool,
    /// The highest priority that any group registered there has, active or not; none where nobody may run.
    pub top_registered: Option<Priority>,
    /// Its active groups, in no order that means something. A group that has long been idle and may not run is parked:
    /// closed and left out until it has work.
    pub groups: &'a [GroupView],
    /// Positions in `groups` of those that came, or whose work or priority changed, since the last decision. May
    /// repeat. For those that went see [`Policy::forget`]; parking moves positions.
    pub changed: &'a [u32],
}

/// A task group as a policy sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupView {
    /// Its name.
    pub id: GroupId,
    /// Whose it is.
    pub process: ProcessId,
    /// Its priority.
    pub priority: Priority,
    /// It has work, is not held by its application, and neither stalled nor stopped.
    pub ready: bool,
    /// Its gate stands open.
    pub open: bool,
    /// How the hardware treats it.
    pub share: HwShare,
    /// When `ready` last changed.
    pub since: Nanos,
    /// How long it was idle before it was last ready; [`Nanos::MAX`] if that was the first time.
    pub last_gap: Nanos,
    was_ready: bool,
    /// Ready, may run, and the policy does not run it.
    pub(crate) waits: bool,
    /// Held the device without progress. Its gate stays open, or nobody would ever see it move again.
    pub(crate) stalled: bool,
    served: Nanos,
    waiting: Nanos,
    /// Until when the two above are counted.
    counted: Nanos,
}

impl GroupView {
    pub(crate) fn new(
        id: GroupId,
        process: ProcessId,
        priority: Priority,
        now: Nanos,
    ) -> GroupView {
        GroupView {
            id,
            process,
            priority,
            ready: false,
            open: false,
            share: HwShare::Normal,
            since: now,
            last_gap: Nanos::MAX,
            was_ready: false,
            waits: false,
            stalled: false,
            served: 0,
            waiting: 0,
            counted: now,
        }
    }

    /// Since when it is ready, if it is.
    pub fn ready_since(&self) -> Option<Nanos> {
        self.ready.then_some(self.since)
    }

    /// Since when it is idle, if it is.
    pub fn idle_since(&self) -> Option<Nanos> {
        (!self.ready).then_some(self.since)
    }

    /// How long it was ready and open, up to `now`.
    pub fn served(&self, now: Nanos) -> Nanos {
        self.served
            + if self.ready && self.open {
                now.saturating_sub(self.counted)
            } else {
                0
            }
    }

    /// How long it was ready and closed, up to `now`.
    pub fn waiting(&self, now: Nanos) -> Nanos {
        self.waiting
            + if self.ready && !self.open {
                now.saturating_sub(self.counted)
            } else {
                0
            }
    }

    pub(crate) fn set_ready(&mut self, ready: bool, now: Nanos) {
        self.count(now);
        if ready && self.was_ready {
            self.last_gap = now - self.since;
        }
        self.was_ready |= ready;
        self.ready = ready;
        self.since = now;
    }

    pub(crate) fn set_open(&mut self, open: bool, now: Nanos) {
        self.count(now);
        self.open = open;
    }

    fn count(&mut self, now: Nanos) {
        self.served = self.served(now);
        self.waiting = self.waiting(now);
        self.counted = now;
    }
}

/// What a policy wants, by position in [`Snapshot::groups`]. It starts as the last decision was, with new groups closed,
/// so only differences need to be written.
#[derive(Debug, Default)]
pub struct Decision {
    pub(crate) verdicts: Vec<Verdict>,
    /// Positions whose verdict changed. May repeat.
    pub(crate) changed: Vec<u32>,
    pub(crate) ask_again: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) run: bool,
    pub(crate) share: HwShare,
}

impl Decision {
    /// The group at this position may run (its gate is open, whether it has work or not), or may not.
    pub fn run(&mut self, position: usize, run: bool) {
        if self.verdicts[position].run != run {
            self.verdicts[position].run = run;
            self.changed.push(position as u32);
        }
    }

    /// How the hardware treats the group at this position.
    pub fn share(&mut self, position: usize, share: HwShare) {
        if self.verdicts[position].share != share {
            self.verdicts[position].share = share;
            self.changed.push(position as u32);
        }
    }

    /// Decide again at this time at the latest. To be said in every decision for which it holds; the earliest counts.
    pub fn ask_again(&mut self, at: Nanos) {
        self.ask_again = Some(self.ask_again.map_or(at, |earlier| earlier.min(at)));
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A device with a few groups, for the tests of one policy.

    use super::*;

    /// Decides for groups given as (priority, ready) and gives who runs, and when to ask again.
    pub(crate) fn decide(
        policy: &mut dyn Policy,
        now: Nanos,
        groups: &[GroupView],
    ) -> (Vec<bool>, Option<Nanos>) {
        decide_on(false, policy, now, groups)
    }

    /// The same on a device with or without the limit of one background group.
    pub(crate) fn decide_on(
        one_background: bool,
        policy: &mut dyn Policy,
        now: Nanos,
        groups: &[GroupView],
    ) -> (Vec<bool>, Option<Nanos>) {
        let mut decision = Decision {
            verdicts: vec![Verdict::default(); groups.len()],
            ..Decision::default()
        };
        let top_registered = groups
            .iter()
            .map(|group| group.priority)
            .filter(|priority| priority.runs())
            .max();
        let snapshot = Snapshot {
            device: DeviceId(0),
            one_background,
            top_registered,
            groups,
            changed: &[],
        };
        policy.decide(now, &snapshot, &mut decision);
        (
            decision
                .verdicts
                .iter()
                .map(|verdict| verdict.run)
                .collect(),
            decision.ask_again,
        )
    }

    pub(crate) fn groups(list: &[(i32, bool)]) -> Vec<GroupView> {
        let group = |(index, &(priority, ready)): (usize, &(i32, bool))| {
            let priority = Priority::new(priority).unwrap();
            let mut view =
                GroupView::new(GroupId(index as u32), ProcessId(index as u64), priority, 0);
            view.ready = ready;
            view
        };
        list.iter().enumerate().map(group).collect()
    }

    #[test]
    fn every_policy_answers_to_its_name_and_others_are_refused() {
        for name in names() {
            assert_eq!(by_name(name).unwrap().name(), name);
        }
        let error = by_name("best").err().expect("no such policy").to_string();
        assert_eq!(
            error,
            "unknown policy \"best\": use one of hpf, fifo, turns"
        );
    }
}
