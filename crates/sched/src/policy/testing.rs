//! A device with a few groups, for the tests of one policy.

use super::*;
use crate::ids::ProcessId;
use xsched_hint::{Hint, Hints, Priority};

/// Groups on device 0, numbered from 0, each of a process of its own, and a policy that decides about them.
pub(crate) struct World<P> {
    pub(crate) policy: P,
    pub(crate) one_background: bool,
    registry: crate::registry::Registry,
    decision: Decision,
    changed: Vec<GroupId>,
    count: u32,
}

impl<P: Policy> World<P> {
    /// Groups of these priorities, ready from time 0 or not.
    pub(crate) fn new(policy: P, groups: &[(i32, bool)]) -> World<P> {
        let hints = |priority| {
            let priority = Priority::new(priority).unwrap();
            [Hint::Priority(priority)].into_iter().collect()
        };
        let groups: Vec<_> = groups
            .iter()
            .map(|&(priority, ready)| (hints(priority), ready))
            .collect();
        World::with_hints(policy, &groups)
    }

    pub(crate) fn with_hints(policy: P, groups: &[(Hints, bool)]) -> World<P> {
        let mut world = World {
            policy,
            one_background: false,
            registry: Default::default(),
            decision: Decision::default(),
            changed: Vec::new(),
            count: 0,
        };
        for &(hints, ready) in groups {
            let process = ProcessId(world.count.into());
            let id = world.registry.add_group(0, 0, |id| {
                GroupView::new(id, process, DeviceId(0), hints, 0)
            });
            world.decision.add(id);
            world.changed.push(id);
            world.count += 1;
            if ready {
                world.set_ready(id.0, true, 0);
            }
        }
        world
    }

    pub(crate) fn change(&mut self, group: u32, change: impl FnOnce(&mut GroupView)) {
        change(&mut self.registry.group(GroupId(group)).view);
        self.changed.push(GroupId(group));
    }

    pub(crate) fn set_ready(&mut self, group: u32, ready: bool, now: Nanos) {
        self.change(group, |view| view.set_ready(ready, now));
    }

    /// Who runs (is open) from now on, and when to ask again.
    pub(crate) fn decide(&mut self, now: Nanos) -> (Vec<bool>, Option<Nanos>) {
        self.decision.ask_again = None;
        let snapshot = Snapshot {
            device: DeviceId(0),
            one_background: self.one_background,
            changed: &self.changed,
            groups: &self.registry.groups,
        };
        self.policy.decide(now, &snapshot, &mut self.decision);
        self.changed.clear();
        let mut runs = Vec::new();
        for id in (0..self.count).map(GroupId) {
            let open = self.decision.runs(id);
            let view = &mut self.registry.group(id).view;
            if view.open != open {
                view.set_open(open, now);
            }
            runs.push(open);
        }
        self.decision.changed.clear();
        (runs, self.decision.ask_again)
    }

    /// Who of those that are ready runs.
    #[track_caller]
    pub(crate) fn check(&mut self, now: Nanos, expect: &[u32], ask_again: Option<Nanos>) {
        let (runs, ask) = self.decide(now);
        let ready = |id: &u32| self.registry.groups[*id as usize].view.ready;
        let found: Vec<u32> = (0..self.count)
            .filter(|id| runs[*id as usize] && ready(id))
            .collect();
        assert_eq!((&found[..], ask), (expect, ask_again), "at {now}");
    }

    pub(crate) fn served(&self, group: u32, now: Nanos) -> Nanos {
        self.registry.groups[group as usize].view.served(now)
    }

    pub(crate) fn share(&self, group: u32) -> HwShare {
        self.decision.verdict(GroupId(group)).share
    }
}

#[test]
fn every_policy_answers_to_its_name_and_others_are_refused() {
    for about in POLICIES {
        assert_eq!(by_name(about.name).unwrap().name(), about.name);
        assert_eq!(
            by_name(&about.name.to_uppercase()).unwrap().name(),
            about.name
        );
    }
    let error = by_name("best").err().expect("no such policy").to_string();
    assert!(
        error.starts_with("unknown policy \"best\": use one of hpf, fifo, turns, "),
        "{error}"
    );
}
