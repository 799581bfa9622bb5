//! `mlfq`, multi-level feedback queue.
//!
//! For: a mix of interactive and long-running programs of which nobody said which is which.
//! Hints: none, apart from "do not run".
//! Guarantee: groups that use short bursts rise, hogs sink: of the groups with work those of the highest level execute, one
//! at a time, in turns of 10 ms at the top and 20 ms below (a few hogs so take turns that the starvation guard need not
//! complete). A group that has used up a turn of its level sinks, however many
//! bursts it took; one whose burst ends early rises; one that waited for a second without being served rises, too.
//! Not for: programs whose urgency is known: say it, and use a policy that heeds it.

use super::{About, Decision, GroupView, Policy, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ABOUT: About = About {
    name: "mlfq",
    summary: "multi-level feedback: short bursts rise, hogs sink",
    hints: &[],
    work_conserving: true,
    remembers: true,
    make: || Box::new(Mlfq::default()),
};

/// Turns by level, the highest level first.
const TURNS: [Nanos; 4] = [10_000_000, 20_000_000, 20_000_000, 20_000_000];
/// Whoever waits for so long without being served rises.
const RECOVERY: Nanos = 1_000_000_000;
/// Where a group had a gap shorter than this and goes idle again, nobody runs for so long: what it leaves in between is
/// worth no switch, and would chop the starvation guard's pieces.
const LINGER: Nanos = 200_000;
/// So many rise in one decision at most.
const RISE_AT_ONCE: usize = 4;

/// Multi-level feedback. See the module.
#[derive(Clone, Debug, Default)]
pub struct Mlfq {
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Clone, Debug, Default)]
struct Device {
    members: BTreeMap<GroupId, Member>,
    /// Those with work: level, then who came first.
    order: BTreeSet<(usize, u64, GroupId)>,
    /// Those with work that do not run, by the time since when.
    waiting: BTreeSet<(Nanos, GroupId)>,
    current: Option<GroupId>,
    /// Until when nobody runs, for this group's sake.
    lingers: Option<(Nanos, GroupId)>,
    arrivals: u64,
    standing: Standing,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    level: usize,
    /// Its place among those with work, if it has some.
    arrival: Option<u64>,
    /// What it used of its turn at this level.
    used: Nanos,
    /// What it used in this burst.
    burst: Nanos,
    /// Its service that was accounted for.
    counted: Nanos,
    waits_since: Option<Nanos>,
}

impl Device {
    /// Charges a group for the service that it had. It sinks when its turn is used up, and goes to the end of its level.
    fn account(&mut self, group: &GroupView, now: Nanos) {
        let served = group.served(now);
        let Some(mut member) = self.members.get(&group.id).copied() else {
            return;
        };
        let service = served - member.counted;
        if service == 0 {
            return;
        }
        member.counted = served;
        member.used += service;
        member.burst += service;
        if member.used >= TURNS[member.level] {
            member.used = 0;
            member.level = (member.level + 1).min(TURNS.len() - 1);
            if member.arrival.is_some() {
                self.arrivals += 1;
                self.place(group.id, &mut member, Some(self.arrivals));
            }
        }
        self.members.insert(group.id, member);
    }

    /// Puts a group in its place among those with work, or takes it away.
    fn place(&mut self, id: GroupId, member: &mut Member, arrival: Option<u64>) {
        if let Some(before) = self.members.get(&id)
            && let Some(arrival) = before.arrival
        {
            self.order.remove(&(before.level, arrival, id));
        }
        member.arrival = arrival;
        if let Some(arrival) = arrival {
            self.order.insert((member.level, arrival, id));
        }
        self.members.insert(id, *member);
    }

    fn set_waiting(&mut self, id: GroupId, since: Option<Nanos>) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut member.waits_since, since);
        if before != since {
            before.map(|before| self.waiting.remove(&(before, id)));
            self.waiting.extend(since.map(|since| (since, id)));
        }
    }

    fn take_in(&mut self, now: Nanos, group: &GroupView) {
        let id = group.id;
        self.members.entry(id).or_insert(Member {
            level: 0,
            arrival: None,
            used: 0,
            burst: 0,
            counted: group.served(now),
            waits_since: None,
        });
        self.account(group, now);
        let mut member = self.members[&id];
        if group.wants() && member.arrival.is_none() {
            member.burst = 0;
            self.arrivals += 1;
            self.place(id, &mut member, Some(self.arrivals));
            self.set_waiting(id, Some(now));
        } else if !group.wants() && member.arrival.is_some() {
            if group.done && member.burst < TURNS[member.level.saturating_sub(1)] / 2 {
                member.level = member.level.saturating_sub(1);
                member.used = 0;
            }
            self.place(id, &mut member, None);
            self.set_waiting(id, None);
            if self.current == Some(id) && group.done && group.last_gap < LINGER {
                self.lingers = Some((group.since + LINGER, id));
            }
        }
    }

    /// Who waited for long rises; says when the next will have.
    fn recover(&mut self, now: Nanos) -> Option<Nanos> {
        for _ in 0..RISE_AT_ONCE {
            let (since, id) = self.waiting.first().copied()?;
            if since + RECOVERY > now {
                break;
            }
            let mut member = self.members[&id];
            member.level = member.level.saturating_sub(1);
            member.used = 0;
            self.arrivals += 1;
            self.place(id, &mut member, Some(self.arrivals));
            self.set_waiting(id, Some(now));
        }
        self.waiting.first().map(|(since, _)| since + RECOVERY)
    }
}

impl Policy for Mlfq {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let device = self.devices.entry(snapshot.device).or_default();
        for group in snapshot.changed() {
            device.take_in(now, group);
            decision.run(group.id, device.current == Some(group.id) && group.wants());
            decision.share(group.id, HwShare::Normal);
            if !group.wants()
                && let Some(oldest) = device.standing.note(group.id)
                && !snapshot.group(oldest).ready
            {
                decision.run(oldest, false);
            }
        }
        if let Some(current) = device.current {
            device.account(snapshot.group(current), now);
        }
        if let Some(at) = device.recover(now) {
            decision.ask_again(at);
        }
        let first = device.order.first().map(|&(.., id)| id);
        device.lingers = device
            .lingers
            .filter(|&(until, id)| now < until && first.is_some() && !snapshot.group(id).ready);
        if let Some((until, _)) = device.lingers {
            decision.ask_again(until);
        }
        let next = first.filter(|_| device.lingers.is_none());
        if next != device.current {
            if let Some(before) = device.current
                && device
                    .members
                    .get(&before)
                    .is_some_and(|member| member.arrival.is_some())
            {
                decision.run(before, false);
                device.set_waiting(before, Some(now));
            }
            device.current = next;
        }
        if let Some(next) = next {
            device.set_waiting(next, None);
            decision.run(next, true);
            if device.order.len() > 1 {
                let member = &device.members[&next];
                decision.ask_again(now + TURNS[member.level] - member.used);
            }
        }
        let lingers = device.lingers.map(|(_, id)| id);
        device.standing.apply(snapshot, decision, |id| {
            first.is_none() || lingers == Some(id)
        });
    }

    fn forget(&mut self, group: &GroupView) {
        if let Some(device) = self.devices.get_mut(&group.device) {
            if let Some(mut member) = device.members.get(&group.id).copied() {
                device.place(group.id, &mut member, None);
                device.set_waiting(group.id, None);
                device.members.remove(&group.id);
            }
            device.current = device.current.filter(|&current| current != group.id);
            device.lingers = device.lingers.filter(|&(_, id)| id != group.id);
            device.standing.forget(group.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};

    const MS: Nanos = 1_000_000;

    #[test]
    fn hogs_sink_and_short_bursts_stay_above() {
        let mut world = World::new(Mlfq::default(), &[(0, true), (0, true), (0, false)]);
        let later = |ms| Some(ms * MS);
        world.check(0, &[0], later(10));
        world.check(10 * MS, &[1], later(20));
        world.check(20 * MS, &[0], later(40));
        world.check(40 * MS, &[1], later(60));
        world.check(60 * MS, &[0], later(80));
        // A short burst comes and goes; the hog goes on with its turn.
        world.set_ready(2, true, 70 * MS);
        world.check(70 * MS, &[2], later(80));
        world.set_ready(2, false, 72 * MS);
        world.check(72 * MS, &[0], later(82));
        world.check(82 * MS, &[1], later(102));
        // The lowest level.
        world.check(102 * MS, &[0], later(122));
        world.check(122 * MS, &[1], later(142));
    }

    #[test]
    fn many_short_bursts_are_not_a_way_around() {
        let mut world = World::new(Mlfq::default(), &[(0, false), (0, true)]);
        world.decide(0);
        // Bursts of 6 ms are not short.
        for burst in 0..4 {
            let start = 100 * MS * (burst + 1);
            world.set_ready(0, true, start);
            world.decide(start);
            world.set_ready(0, false, start + 6 * MS);
            world.decide(start + 6 * MS);
        }
        // The second used up its turn; of the next, 20 ms long, 12 are used.
        world.set_ready(0, true, 600 * MS);
        world.check(600 * MS, &[0], Some(608 * MS));
    }

    #[test]
    fn who_waits_for_long_rises() {
        let mut world = World::new(Mlfq::default(), &[(0, true), (0, false), (0, false)]);
        world.decide(0);
        let mut now = 0;
        while world.served(0, now) < 200 * MS {
            now += 10 * MS;
            world.decide(now);
        }
        // Two that never end their bursts, but take turns above it, cannot keep it out for ever.
        let before = world.served(0, now);
        let end = now + 6_000 * MS;
        while now < end {
            world.set_ready(1, true, now);
            world.decide(now);
            now += 4 * MS;
            world.set_ready(1, false, now);
            world.set_ready(2, true, now);
            world.decide(now);
            now += 4 * MS;
            world.set_ready(2, false, now);
        }
        assert!(world.served(0, now) > before, "it was served");
    }
}
