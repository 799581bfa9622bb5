//! Dividing a device by weights: virtual time.
//!
//! Each *claimant* (a group, or a process with its groups) has a virtual time that advances with the service it gets,
//! slower the larger its weight. The one that is behind runs, and hands over when it is half a turn ahead of the next, so
//! that a turn of the lightest is about one turn long and the service of all stays in proportion. Who comes back from idle
//! starts where the others are: idle time is not saved up.
//!
//! Where the hardware has a time slicer that takes slices, the claimants of a device execute together with slices in
//! proportion, if they are few and their weights not too far apart.

use super::{Decision, GroupView, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::{BTreeMap, BTreeSet};

/// Virtual time: ns of service at this weight.
const SCALE: u128 = 10_000;
/// More claimants than these do not execute together in hardware slices.
const SLICED: usize = 8;
/// The shortest slice, µs; two groups with slices much shorter make no progress at all.
const SHORTEST_SLICE: u64 = 500;
/// The longest slice, µs: what the lightest may have to wait for.
const LONGEST_SLICE: u64 = 10_000;

/// The rules of one such policy.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Whose claim it is.
    pub(super) claimant: fn(&GroupView) -> u64,
    /// What was stated for it, of [`SCALE`].
    pub(super) stated: fn(&GroupView) -> Option<u64>,
    /// The weight of those for whom nothing was stated; none: they divide what is left of [`SCALE`].
    pub(super) default: Option<u64>,
    /// A turn where nobody states one.
    pub(super) turn: Nanos,
    /// Nobody gets more than its share, although the device stands idle.
    pub(super) strict: bool,
}

/// All devices under one policy.
pub(super) struct Shares {
    rules: Rules,
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Default)]
struct Device {
    members: BTreeMap<GroupId, Member>,
    claimants: BTreeMap<u64, Claimant>,
    /// Those with work by virtual time.
    order: BTreeSet<(u128, u64)>,
    /// The sum of what was stated, and for how many nothing was.
    stated: u64,
    unstated: u64,
    /// Where those start that come back from idle.
    clock: u128,
    current: Option<u64>,
    /// The service of the current one in this turn.
    used: Nanos,
    /// The hardware divides.
    sliced: bool,
    standing: Standing,
}

#[derive(Clone, Copy)]
struct Member {
    claimant: u64,
    ready: bool,
    /// Its service that was accounted for.
    counted: Nanos,
}

#[derive(Default)]
struct Claimant {
    stated: Option<u64>,
    turn: Option<Nanos>,
    time: u128,
    groups: usize,
    ready: Vec<GroupId>,
}

impl Shares {
    pub(super) fn new(rules: Rules) -> Shares {
        Shares {
            rules,
            devices: BTreeMap::new(),
        }
    }

    pub(super) fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let rules = self.rules;
        let device = self.devices.entry(snapshot.device).or_default();
        if rules.strict {
            // Virtual time is real time: whoever is behind it may run.
            device.clock = now.into();
        }
        if let Some(current) = device.current {
            device.account(now, current, &rules, snapshot);
        }
        if let Some(&(first, _)) = device.order.first().filter(|_| !rules.strict) {
            device.clock = device.clock.max(first);
        }
        for group in snapshot.changed() {
            device.take_in(now, group, &rules, snapshot, decision);
        }
        let sliced = snapshot.one_background && !rules.strict && device.can_slice(&rules);
        if sliced || std::mem::replace(&mut device.sliced, sliced) {
            device.slice(&rules, sliced, decision);
        }
        if rules.strict {
            device.take_strict_turns(now, &rules, decision);
        } else if !sliced {
            device.take_turns(now, &rules, decision);
        }
        let free = (device.order.is_empty() && !rules.strict) || sliced;
        device.standing.apply(snapshot, decision, |_| free);
    }

    pub(super) fn forget(&mut self, group: &GroupView) {
        let Some(device) = self.devices.get_mut(&group.device) else {
            return;
        };
        device.standing.forget(group.id);
        let Some(member) = device.members.remove(&group.id) else {
            return;
        };
        device.set_ready(group.id, member, false);
        let Some(claimant) = device.claimants.get_mut(&member.claimant) else {
            return;
        };
        claimant.groups -= 1;
        if claimant.groups > 0 {
            return;
        }
        match claimant.stated {
            Some(stated) => device.stated -= stated,
            None => device.unstated -= 1,
        }
        device.claimants.remove(&member.claimant);
        device.current = device.current.filter(|current| *current != member.claimant);
        if device.claimants.is_empty() {
            self.devices.remove(&group.device);
        }
    }
}

impl Device {
    fn take_in(
        &mut self,
        now: Nanos,
        group: &GroupView,
        rules: &Rules,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
    ) {
        let key = (rules.claimant)(group);
        let stated = (rules.stated)(group);
        let unstated = &mut self.unstated;
        let claimant = self.claimants.entry(key).or_insert_with(|| {
            *unstated += 1;
            Claimant::default()
        });
        let served = group.served(now);
        let known = self.members.get(&group.id).copied();
        if known.is_none() {
            claimant.groups += 1;
            decision.share(group.id, HwShare::Normal);
        }
        let member = known.unwrap_or(Member {
            claimant: key,
            ready: false,
            counted: served,
        });
        self.members.insert(group.id, member);
        self.account(now, key, rules, snapshot);
        let Some(claimant) = self.claimants.get_mut(&key) else {
            return;
        };
        // A queue with hints of its own speaks for its program only as long as nobody else does.
        if (!group.own || claimant.stated.is_none() || claimant.groups == 1)
            && claimant.stated != stated
        {
            match claimant.stated {
                Some(before) => self.stated -= before,
                None => self.unstated -= 1,
            }
            claimant.stated = stated;
            match stated {
                Some(stated) => self.stated += stated,
                None => self.unstated += 1,
            }
        }
        if !group.own || claimant.groups == 1 {
            claimant.turn = group.hints.time_slice.map(|slice| slice.get() * 1_000);
        }
        let wants = group.wants() && !(rules.strict && stated == Some(0));
        self.set_ready(group.id, member, wants);
        let counted = group.served(now);
        self.members.insert(
            group.id,
            Member {
                ready: wants,
                counted,
                ..member
            },
        );
        if !wants {
            decision.run(group.id, false);
            if let Some(oldest) = self.standing.note(group.id)
                && !snapshot.group(oldest).ready
            {
                decision.run(oldest, false);
            }
        } else if !member.ready {
            // Not before it is chosen.
            decision.run(group.id, self.current == Some(key));
        }
    }

    /// Adds a group to those of its claimant that have work, or takes it away.
    fn set_ready(&mut self, id: GroupId, member: Member, ready: bool) {
        let Some(claimant) = self.claimants.get_mut(&member.claimant) else {
            return;
        };
        if member.ready == ready {
            return;
        }
        if ready {
            if claimant.ready.is_empty() {
                claimant.time = claimant.time.max(self.clock);
                self.order.insert((claimant.time, member.claimant));
            }
            claimant.ready.push(id);
        } else {
            claimant.ready.retain(|&ready| ready != id);
            if claimant.ready.is_empty() {
                self.order.remove(&(claimant.time, member.claimant));
            }
        }
    }

    /// Charges a claimant for the service that its groups had: together, so the longest of it.
    fn account(&mut self, now: Nanos, key: u64, rules: &Rules, snapshot: &Snapshot<'_>) {
        let weight = self.weight(key, rules);
        let Some(claimant) = self.claimants.get_mut(&key) else {
            return;
        };
        let mut service = 0;
        for id in &claimant.ready {
            let served = snapshot.group(*id).served(now);
            if let Some(member) = self.members.get_mut(id) {
                service = service.max(served - member.counted);
                member.counted = served;
            }
        }
        if service > 0 && !self.sliced {
            self.order.remove(&(claimant.time, key));
            claimant.time += u128::from(service) * SCALE / weight;
            self.order.insert((claimant.time, key));
            if self.current == Some(key) {
                self.used += service;
            }
        }
    }

    fn weight(&self, key: u64, rules: &Rules) -> u128 {
        let stated = self
            .claimants
            .get(&key)
            .and_then(|claimant| claimant.stated);
        let rest = || {
            let left = (SCALE as u64).saturating_sub(self.stated);
            rules.default.unwrap_or(left / self.unstated.max(1))
        };
        // One without any claim gets next to nothing while others want the device.
        u128::from(stated.unwrap_or_else(rest).max(1))
    }

    /// The one that is behind runs, until it is half a turn ahead.
    fn take_turns(&mut self, now: Nanos, rules: &Rules, decision: &mut Decision) {
        let time = |key: u64| self.claimants.get(&key).map_or(0, |claimant| claimant.time);
        let has_work = |key: &u64| self.order.contains(&(time(*key), *key));
        let first_but = |key: Option<u64>| {
            self.order
                .iter()
                .find(|(_, other)| Some(*other) != key)
                .copied()
        };
        let until_ahead = |key: u64, rival: u128| {
            let turn = self.claimants.get(&key).and_then(|claimant| claimant.turn);
            let weight = self.weight(key, rules);
            let lead = u128::from(turn.unwrap_or(rules.turn) / 2) * SCALE / weight;
            ((rival + lead).saturating_sub(time(key)) * weight).div_ceil(SCALE) as Nanos
        };
        let current = self.current.filter(has_work);
        let stays = current.filter(|&current| {
            first_but(Some(current)).is_none_or(|(rival, _)| until_ahead(current, rival) > 0)
        });
        let next = stays.or_else(|| first_but(current).map(|(_, key)| key));
        if let Some(next) = next
            && let Some((rival, _)) = first_but(Some(next))
        {
            decision.ask_again(now + until_ahead(next, rival));
        }
        self.hand_over(next, decision);
    }

    /// The one that is furthest behind real time runs for a turn.
    fn take_strict_turns(&mut self, now: Nanos, rules: &Rules, decision: &mut Decision) {
        let claimant = |key: u64| self.claimants.get(&key);
        let turn = |key: u64| {
            claimant(key)
                .and_then(|claimant| claimant.turn)
                .unwrap_or(rules.turn)
        };
        let has_work =
            |key: &u64| claimant(*key).is_some_and(|claimant| !claimant.ready.is_empty());
        let stays = self
            .current
            .filter(has_work)
            .filter(|&current| self.used < turn(current));
        let first = self.order.first().copied();
        let next = stays.or(first
            .filter(|(time, _)| *time <= now.into())
            .map(|(_, key)| key));
        if stays.is_none() {
            self.used = 0;
        }
        match (next, first) {
            (Some(next), _) => decision.ask_again(now + turn(next) - self.used),
            (None, Some((time, _))) => decision.ask_again(time as Nanos),
            (None, None) => {}
        }
        self.hand_over(next, decision);
    }

    fn hand_over(&mut self, next: Option<u64>, decision: &mut Decision) {
        if let Some(before) = self.current.filter(|before| Some(*before) != next) {
            self.run(before, false, decision);
        }
        self.current = next;
        if let Some(next) = next {
            self.run(next, true, decision);
        }
    }

    fn run(&self, key: u64, run: bool, decision: &mut Decision) {
        let ready = self.claimants.get(&key).map(|claimant| &claimant.ready);
        for &id in ready.into_iter().flatten() {
            decision.run(id, run);
        }
    }

    /// Few enough, with weights near enough, for slices in proportion.
    fn can_slice(&self, rules: &Rules) -> bool {
        if self.claimants.len() > SLICED {
            return false;
        }
        let weights = || self.claimants.keys().map(|&key| self.weight(key, rules));
        let (least, most) = (weights().min().unwrap_or(1), weights().max().unwrap_or(1));
        most * u128::from(SHORTEST_SLICE) <= least * u128::from(LONGEST_SLICE)
    }

    /// All run together with slices in proportion, or no longer do.
    fn slice(&mut self, rules: &Rules, sliced: bool, decision: &mut Decision) {
        let least = self
            .claimants
            .keys()
            .map(|&key| self.weight(key, rules))
            .min()
            .unwrap_or(1);
        for (&id, member) in &self.members {
            let slice = self.weight(member.claimant, rules) * u128::from(SHORTEST_SLICE) / least;
            // Alone, it may as well be as nobody had touched it.
            let share = if sliced && self.claimants.len() > 1 {
                HwShare::Slice(slice as u32)
            } else {
                HwShare::Normal
            };
            decision.share(id, share);
            if member.ready {
                decision.run(id, sliced);
            }
        }
        self.sliced = sliced;
        self.current = None;
    }
}
