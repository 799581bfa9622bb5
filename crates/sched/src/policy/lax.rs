//! `lax`, modified least laxity: work that may wait for a while and then may not.
//!
//! For: background work with a latest start, beside interactive work: a frame that can be put off for some milliseconds.
//! Hints: laxity (a time, a lax and a critical priority), priority (of groups without laxity).
//! Guarantee: as `hpf`, where a group has its lax priority until exactly ready + laxity and its critical one from then on.
//! Not for: keeping deadlines under load (`kedf`).

use super::{About, Decision, GroupView, Policy, Snapshot, classes::Classes};
use crate::ids::{DeviceId, GroupId, Nanos};
use std::collections::{BTreeMap, BTreeSet};
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "lax",
    summary: "modified least laxity: a lax priority, after a while a critical one",
    hints: &[HintKind::Laxity, HintKind::Priority],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Lax::default()),
};

/// Modified least laxity. See the module.
#[derive(Clone, Debug)]
pub struct Lax {
    classes: Classes,
    /// When groups become critical, by device.
    switches: BTreeMap<DeviceId, BTreeSet<(Nanos, GroupId)>>,
    /// The same by group.
    due: BTreeMap<GroupId, Nanos>,
}

impl Default for Lax {
    fn default() -> Lax {
        Lax {
            classes: Classes::of_equals(),
            switches: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }
}

/// The priority now, and when it will be another one.
fn priority(group: &GroupView, now: Nanos) -> (i32, Option<Nanos>) {
    let Some(laxity) = group.hints.laxity else {
        return (group.priority().get(), None);
    };
    let Some(ready) = group.ready_since() else {
        return (laxity.lax.get(), None);
    };
    let switch = ready + laxity.laxity.get() * 1_000;
    if now >= switch {
        (laxity.critical.get(), None)
    } else {
        (laxity.lax.get(), Some(switch))
    }
}

impl Lax {
    fn set_switch(&mut self, device: DeviceId, id: GroupId, at: Option<Nanos>) {
        let before = match at {
            Some(at) => self.due.insert(id, at),
            None => self.due.remove(&id),
        };
        if before == at {
            return;
        }
        let switches = self.switches.entry(device).or_default();
        if let Some(before) = before {
            switches.remove(&(before, id));
        }
        switches.extend(at.map(|at| (at, id)));
    }
}

impl Policy for Lax {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        for group in snapshot.changed() {
            let (class, switch) = priority(group, now);
            self.classes.set(now, group, class, snapshot, decision);
            self.set_switch(snapshot.device, group.id, switch.filter(|_| group.wants()));
        }
        while let Some(&(at, id)) = self
            .switches
            .get(&snapshot.device)
            .and_then(BTreeSet::first)
        {
            if at > now {
                decision.ask_again(at);
                break;
            }
            let group = snapshot.group(id);
            self.set_switch(snapshot.device, id, None);
            self.classes
                .set(now, group, priority(group, now).0, snapshot, decision);
        }
        self.classes.apply(now, None, snapshot, decision);
    }

    fn forget(&mut self, group: &GroupView) {
        self.set_switch(group.device, group.id, None);
        self.classes.forget(group);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};
    use xsched_hint::{Hint, Hints, Priority};

    const MS: Nanos = 1_000_000;

    #[test]
    fn a_lax_group_becomes_critical() {
        let laxity: Hints = [HintKind::Laxity.parse("5ms:-10:50").unwrap()]
            .into_iter()
            .collect();
        let normal: Hints = [Hint::Priority(Priority::NORMAL)].into_iter().collect();
        let mut world = World::with_hints(Lax::default(), &[(laxity, false), (normal, true)]);
        world.check(0, &[1], None);
        world.set_ready(0, true, MS);
        world.check(MS, &[1], Some(6 * MS));
        world.check(6 * MS - 1, &[1], Some(6 * MS));
        world.check(6 * MS, &[0], None);
        world.set_ready(0, false, 8 * MS);
        world.check(8 * MS, &[1], None);
        // Done in time, it never was critical.
        world.set_ready(0, true, 10 * MS);
        world.check(10 * MS, &[1], Some(15 * MS));
        world.set_ready(0, false, 12 * MS);
        world.check(12 * MS, &[1], None);
        // The hint changes while it waits.
        world.set_ready(0, true, 20 * MS);
        world.check(20 * MS, &[1], Some(25 * MS));
        world.change(0, |view| {
            view.hints
                .set(HintKind::Laxity.parse("2ms:-10:50").unwrap())
        });
        world.check(21 * MS, &[1], Some(22 * MS));
        world.check(22 * MS, &[0], None);
        world.change(0, |view| view.hints.priority = Some(Priority::NO_RUN));
        world.check(23 * MS, &[1], None);
    }
}
