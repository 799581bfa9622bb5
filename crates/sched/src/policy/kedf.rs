//! `kedf`, the k earliest deadlines first.
//!
//! For: work that must be done by a time: frames, control loops, requests with a time-out.
//! Hints: deadline (from becoming ready), kdeadline (how many execute at once on a device; the largest stated there).
//! Guarantee: on each device the k ready groups with the earliest deadlines execute; with k = 1 and a load of at most 1
//! every deadline is kept that any order could keep (apart from what switching costs). Groups without a deadline come last,
//! in the order in which they became ready.
//! Not for: overload: once deadlines are missed, those that are late hold up those that are not.

use super::{About, Decision, GroupView, Policy, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::{BTreeMap, BTreeSet};
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "kedf",
    summary: "the k earliest deadlines first",
    hints: &[HintKind::Deadline, HintKind::KDeadline],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Kedf::default()),
};

/// The k earliest deadlines first. See the module.
#[derive(Clone, Debug, Default)]
pub struct Kedf {
    devices: BTreeMap<DeviceId, Device>,
}

/// When the work must be done, then when it began.
type Urgency = (Nanos, Nanos, GroupId);

#[derive(Clone, Debug, Default)]
struct Device {
    ready: BTreeSet<Urgency>,
    known: BTreeMap<GroupId, Known>,
    /// The k that groups state, with how many do.
    stated: BTreeMap<u64, usize>,
    runs: Vec<GroupId>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    urgency: Option<Urgency>,
    k: Option<u64>,
}

impl Device {
    fn set(&mut self, id: GroupId, known: Option<Known>) {
        let before = match known {
            Some(known) => self.known.insert(id, known),
            None => self.known.remove(&id),
        }
        .unwrap_or_default();
        let known = known.unwrap_or_default();
        if let Some(urgency) = before.urgency {
            self.ready.remove(&urgency);
        }
        self.ready.extend(known.urgency);
        if before.k != known.k {
            if let Some(k) = before.k
                && let Some(count) = self.stated.get_mut(&k)
            {
                *count -= 1;
                if *count == 0 {
                    self.stated.remove(&k);
                }
            }
            if let Some(k) = known.k {
                *self.stated.entry(k).or_default() += 1;
            }
        }
    }

    fn k(&self) -> usize {
        self.stated.last_key_value().map_or(1, |(k, _)| *k as usize)
    }
}

impl Policy for Kedf {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, _now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let device = self.devices.entry(snapshot.device).or_default();
        for group in snapshot.changed() {
            decision.run(group.id, false);
            decision.share(group.id, HwShare::Normal);
            let deadline = group.hints.deadline.map(|deadline| deadline.get() * 1_000);
            let urgency = group.wants().then(|| {
                let due = deadline.map_or(Nanos::MAX, |deadline| group.since + deadline);
                (due, group.since, group.id)
            });
            let k = group.hints.k_deadline.map(|k| k.get());
            device.set(group.id, Some(Known { urgency, k }));
            if urgency.is_none()
                && let Some(oldest) = device.standing.note(group.id)
                && !snapshot.group(oldest).ready
            {
                decision.run(oldest, false);
            }
        }
        let k = device.k();
        let first: Vec<Urgency> = device.ready.iter().take(k).copied().collect();
        for &id in &device.runs {
            let urgency = device.known.get(&id).and_then(|known| known.urgency);
            if urgency.is_some() && urgency.as_ref() > first.last() {
                decision.run(id, false);
            }
        }
        let runs: Vec<GroupId> = first.into_iter().map(|(.., id)| id).collect();
        for &id in &runs {
            decision.run(id, true);
        }
        device.runs = runs;
        // One that could run at once finds its gate open.
        let room = device.ready.len() < k;
        device.standing.apply(snapshot, decision, |_| room);
    }

    fn forget(&mut self, group: &GroupView) {
        if let Some(device) = self.devices.get_mut(&group.device) {
            device.set(group.id, None);
            device.runs.retain(|&id| id != group.id);
            device.standing.forget(group.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};
    use xsched_hint::{Hints, Priority};

    const MS: Nanos = 1_000_000;

    fn deadline(text: &str) -> Hints {
        [HintKind::Deadline.parse(text).unwrap()]
            .into_iter()
            .collect()
    }

    #[test]
    fn the_earliest_deadline_runs() {
        let groups = [
            (deadline("50ms"), false),
            (deadline("10ms"), false),
            (Hints::default(), true),
            (Hints::default(), false),
        ];
        let mut world = World::with_hints(Kedf::default(), &groups);
        world.check(0, &[2], None);
        world.set_ready(0, true, MS);
        world.check(MS, &[0], None);
        world.set_ready(3, true, 2 * MS);
        world.set_ready(1, true, 2 * MS);
        world.check(2 * MS, &[1], None);
        world.set_ready(1, false, 3 * MS);
        world.check(3 * MS, &[0], None);
        // Due at 45 + 10, after 1 + 50.
        world.set_ready(1, true, 45 * MS);
        world.check(45 * MS, &[0], None);
        world.set_ready(0, false, 46 * MS);
        world.check(46 * MS, &[1], None);
        // Those without a deadline in the order in which they came.
        world.set_ready(1, false, 47 * MS);
        world.check(47 * MS, &[2], None);
        // Two at once.
        world.change(3, |view| {
            view.hints.set(HintKind::KDeadline.parse("2").unwrap())
        });
        world.check(48 * MS, &[2, 3], None);
        world.set_ready(0, true, 49 * MS);
        world.check(49 * MS, &[0, 2], None);
        world.change(0, |view| view.hints.priority = Some(Priority::NO_RUN));
        world.check(50 * MS, &[2, 3], None);
    }
}
