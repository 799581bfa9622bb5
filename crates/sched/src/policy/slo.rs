//! `slo`, latency targets: as much background as the targets allow.
//!
//! For: services with a stated P99 beside batch work, where priorities alone waste what the target leaves.
//! Hints: latency_target (99 of 100 bursts, ready to idle, within this time). Groups without one are background.
//! Guarantee: the *allowance* of the background on each device goes up in small steps while the worst P99 over the last
//! 500 bursts stays some percent below its target (how many, it learns), and down at once when one breaks. From 1 to ½ it is the background's share
//! while a group with a target has work (1: as much as that group, ½: none); from ½ to 0 the share of the remaining time
//! in which the background executes at all (½: always, 0: hardly ever). Without targets all execute together.
//! Not for: targets below what a group needs alone; few bursts (500 are one step); work that never goes idle.

use super::{About, Decision, GroupView, Policy, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "slo",
    summary: "latency targets: as much background as they allow",
    hints: &[HintKind::LatencyTarget],
    work_conserving: false,
    remembers: true,
    make: || Box::new(Slo::default()),
};

/// So many bursts of a group are measured for one step.
const WINDOW: usize = 500;
/// Of these so many may take longer.
const ALLOWED: usize = WINDOW / 100;
/// The background executes, or pauses, for so long at a time.
const TURN: f64 = 1_000_000.0;
/// So many background groups execute at once.
const TOGETHER: usize = 16;
/// More take turns of this length, ns.
const ROTATION: Nanos = 50_000_000;
/// How far below the target the P99 is steered at first, as a part of it; how much further after a window that broke it,
/// and how much closer after one that did not, so that about one in 100 does at most; and the bounds.
const MARGIN: f64 = 0.03;
const AWAY: f64 = 0.01;
const CLOSER: f64 = 0.0001;
const MARGINS: (f64, f64) = (0.005, 0.2);
/// Less would measure nothing any more.
const LEAST: f64 = 0.01;
/// The group with the target always keeps some of the device.
const MOST: f64 = 0.98;

/// Latency targets. See the module.
#[derive(Clone, Debug, Default)]
pub struct Slo {
    /// The allowance that stands whatever is measured.
    fixed: Option<f64>,
    devices: BTreeMap<DeviceId, Device>,
}

impl Slo {
    /// With an allowance that stands whatever is measured, 0 to 1: to compare with.
    pub fn fixed(allowance: f64) -> Slo {
        Slo {
            fixed: Some(allowance),
            devices: BTreeMap::new(),
        }
    }

    /// The background's allowance on a device, 0 to 1.
    pub fn allowance(&self, device: DeviceId) -> f64 {
        self.devices
            .get(&device)
            .map_or(0.5, |device| device.allowance)
    }
}

/// What executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All that have work.
    All,
    /// Those with a target, while background waits.
    Urgent,
    /// The background, while one with a target waits.
    Turn,
    /// The background, alone.
    Alone,
    /// Nobody, though background has work.
    Pause,
}

#[derive(Clone, Debug)]
struct Device {
    targets: BTreeMap<GroupId, Target>,
    urgent: BTreeSet<GroupId>,
    background: BTreeSet<GroupId>,
    runs: Vec<GroupId>,
    /// The background group that was chosen last, and when it is others' turn, if there are too many.
    last: Option<GroupId>,
    rotates: Nanos,
    allowance: f64,
    /// How far below the target the P99 is steered.
    margin: f64,
    mode: Mode,
    /// Until when the two below are counted.
    counted: Nanos,
    /// Time that the background is owed while those with a target execute, ns.
    credit: f64,
    /// Time that it owes after it executed alone, ns.
    debt: f64,
    standing: Standing,
}

impl Default for Device {
    fn default() -> Device {
        Device {
            targets: BTreeMap::new(),
            urgent: BTreeSet::new(),
            background: BTreeSet::new(),
            runs: Vec::new(),
            last: None,
            rotates: 0,
            // As highest priority first.
            allowance: 0.5,
            margin: MARGIN,
            mode: Mode::All,
            counted: 0,
            credit: 0.0,
            debt: 0.0,
            standing: Standing::default(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Target {
    /// ns
    latency: Nanos,
    /// Bursts that were seen end.
    seen: u64,
    /// Of the current window.
    bursts: Vec<Nanos>,
    late: usize,
    /// The last window's P99 as a part of the target.
    ratio: f64,
}

impl Target {
    /// One more burst; the P99 of the window as a part of the target where that says something new.
    fn measure(&mut self, burst: Nanos) -> Option<f64> {
        self.bursts.push(burst);
        self.late += usize::from(burst > self.latency);
        let broken = self.late > ALLOWED;
        if !broken && self.bursts.len() < WINDOW {
            return None;
        }
        let rank = self.bursts.len() - 1 - ALLOWED;
        let (_, p99, _) = self.bursts.select_nth_unstable(rank);
        self.ratio = *p99 as f64 / self.latency as f64;
        self.bursts.clear();
        self.late = 0;
        Some(self.ratio)
    }
}

impl Device {
    fn take_in(&mut self, group: &GroupView, fixed: bool) {
        let id = group.id;
        match group.hints.latency_target {
            Some(target) => {
                let known = self.targets.entry(id).or_insert_with(|| Target {
                    seen: group.bursts,
                    ..Target::default()
                });
                let latency = target.get() * 1_000;
                if std::mem::replace(&mut known.latency, latency) != latency {
                    known.bursts.clear();
                    known.late = 0;
                    known.ratio = 0.0;
                }
                let ended = std::mem::replace(&mut known.seen, group.bursts) != group.bursts;
                if ended && !group.ready && known.measure(group.last_burst).is_some() && !fixed {
                    self.steer();
                }
            }
            None => drop(self.targets.remove(&id)),
        }
        let urgent = self.targets.contains_key(&id);
        set(&mut self.urgent, id, group.wants() && urgent);
        set(&mut self.background, id, group.wants() && !urgent);
    }

    /// One step towards the target that is nearest to breaking. Windows of others may be older, but count.
    fn steer(&mut self) {
        let worst = self
            .targets
            .values()
            .map(|target| target.ratio)
            .fold(0.0, f64::max);
        let broken = worst > 1.0;
        let (least, most) = MARGINS;
        let moved = if broken { AWAY } else { -CLOSER };
        self.margin = (self.margin + moved).clamp(least, most);
        let step = (0.3 * (1.0 - self.margin - worst)).clamp(-0.1, 0.04);
        self.allowance = (self.allowance + step).clamp(LEAST, 1.0);
    }

    /// The background's share of the time while one with a target has work, and of the rest.
    fn shares(&self) -> (f64, f64) {
        let contended = ((2.0 * self.allowance - 1.0) / 2.0).clamp(0.0, 0.5 * MOST);
        (contended, (2.0 * self.allowance).clamp(LEAST, 1.0))
    }

    /// Counts the time since the last decision, in which the mode was as it is.
    fn count(&mut self, now: Nanos) {
        let time = (now - self.counted) as f64;
        self.counted = now;
        let (contended, alone) = self.shares();
        match self.mode {
            Mode::Urgent => {
                self.credit = (self.credit + time * contended / (1.0 - contended)).min(2.0 * TURN);
            }
            Mode::Turn => self.credit = (self.credit - time).max(0.0),
            Mode::Alone => self.debt = (self.debt + time * (1.0 - alone) / alone).min(100.0 * TURN),
            Mode::Pause => self.debt = (self.debt - time).max(0.0),
            Mode::All => {}
        }
    }

    /// What executes now, and for how long at most, ns.
    fn choose(&self) -> (Mode, Option<f64>) {
        let (contended, alone) = self.shares();
        match (self.urgent.is_empty(), self.background.is_empty()) {
            _ if self.targets.is_empty() => (Mode::All, None),
            (_, true) => (Mode::All, None),
            (false, false)
                if self.mode == Mode::Turn && self.credit > 0.0 || self.credit >= TURN =>
            {
                (Mode::Turn, Some(self.credit))
            }
            (false, false) if contended > 0.0 => {
                let wait = (TURN - self.credit) * (1.0 - contended) / contended;
                (Mode::Urgent, Some(wait))
            }
            (false, false) => (Mode::Urgent, None),
            (true, false) if self.mode == Mode::Pause && self.debt > 0.0 || self.debt >= TURN => {
                (Mode::Pause, Some(self.debt))
            }
            (true, false) if alone < 1.0 => (
                Mode::Alone,
                Some((TURN - self.debt) * alone / (1.0 - alone)),
            ),
            (true, false) => (Mode::Alone, None),
        }
    }

    /// As many background groups execute as may, and all of them still have work.
    fn runs_background(&self) -> bool {
        self.runs.len() == TOGETHER.min(self.background.len())
            && self.runs.iter().all(|id| self.background.contains(id))
    }

    fn next_background(&mut self, now: Nanos) -> Vec<GroupId> {
        self.rotates = now + ROTATION;
        if self.background.len() <= TOGETHER {
            return self.background.iter().copied().collect();
        }
        let after = (
            self.last.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        let around = self.background.range(after).chain(&self.background);
        let chosen: Vec<GroupId> = around.copied().take(TOGETHER).collect();
        self.last = chosen.last().copied();
        chosen
    }
}

fn set(groups: &mut BTreeSet<GroupId>, id: GroupId, is_in: bool) {
    if is_in {
        groups.insert(id);
    } else {
        groups.remove(&id);
    }
}

impl Policy for Slo {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let fixed = self.fixed;
        let device = self.devices.entry(snapshot.device).or_default();
        device.allowance = fixed.unwrap_or(device.allowance);
        device.count(now);
        for group in snapshot.changed() {
            device.take_in(group, fixed.is_some());
            if !group.wants() {
                decision.run(group.id, false);
            }
            decision.share(group.id, HwShare::Normal);
            if !group.ready
                && let Some(oldest) = device.standing.note(group.id)
                && !snapshot.group(oldest).ready
            {
                decision.run(oldest, false);
            }
        }
        let (mode, limit) = device.choose();
        if let Some(limit) = limit {
            decision.ask_again(now + (limit.max(0.0) as Nanos).clamp(1_000, 1 << 40));
        }
        let urgent = || device.urgent.iter().copied().take(TOGETHER);
        let runs: Vec<GroupId> = match mode {
            Mode::Urgent => urgent().collect(),
            Mode::Pause => Vec::new(),
            Mode::All if !device.urgent.is_empty() => urgent().collect(),
            _ if mode == device.mode && now < device.rotates && device.runs_background() => {
                device.runs.clone()
            }
            _ => device.next_background(now),
        };
        if device.background.len() > TOGETHER && mode != Mode::Pause && mode != Mode::Urgent {
            decision.ask_again(device.rotates);
        }
        for &id in &device.runs {
            if !runs.contains(&id) && snapshot.group(id).ready {
                decision.run(id, false);
            }
        }
        for &id in &runs {
            decision.run(id, true);
        }
        device.runs = runs;
        device.mode = mode;
        // One with a target may begin at once, but for the background's turns; another where nobody has work.
        let (idle, turn) = (
            device.urgent.is_empty() && device.background.is_empty(),
            mode == Mode::Turn,
        );
        let targets = &device.targets;
        device.standing.apply(snapshot, decision, |id| {
            idle || (!turn && targets.contains_key(&id))
        });
    }

    fn forget(&mut self, group: &GroupView) {
        if let Some(device) = self.devices.get_mut(&group.device) {
            device.targets.remove(&group.id);
            device.urgent.remove(&group.id);
            device.background.remove(&group.id);
            device.runs.retain(|&id| id != group.id);
            device.standing.forget(group.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::World, *};
    use xsched_hint::Hints;

    const MS: Nanos = 1_000_000;

    fn world(policy: Slo, ready: bool) -> World<Slo> {
        let target: Hints = [HintKind::LatencyTarget.parse("10ms").unwrap()]
            .into_iter()
            .collect();
        World::with_hints(policy, &[(target, ready), (Hints::default(), true)])
    }

    #[test]
    fn the_background_executes_as_far_as_it_may() {
        // Half: as highest priority first.
        let mut half = world(Slo::fixed(0.5), false);
        half.check(0, &[1], None);
        half.set_ready(0, true, MS);
        half.check(MS, &[0], None);
        // Three quarters: a quarter of the contended time.
        let mut more = world(Slo::fixed(0.75), true);
        more.check(0, &[0], Some(3 * MS));
        more.check(3 * MS, &[1], Some(4 * MS));
        more.check(4 * MS, &[0], Some(7 * MS));
        // A quarter: half of the time alone.
        let mut less = world(Slo::fixed(0.25), false);
        less.check(0, &[1], Some(MS));
        less.check(MS, &[], Some(2 * MS));
        less.check(2 * MS, &[1], Some(3 * MS));
        less.set_ready(0, true, 2_500_000);
        less.check(2_500_000, &[0], None);
    }

    /// Bursts of this length, some ms apart; the allowance afterwards.
    fn allowance_after(bursts: usize, length: Nanos) -> f64 {
        let mut world = world(Slo::default(), false);
        let mut now = 0;
        for _ in 0..bursts {
            world.set_ready(0, true, now);
            world.decide(now);
            world.set_ready(0, false, now + length);
            world.decide(now + length);
            now += length + 5 * MS;
        }
        world.policy.allowance(DeviceId(0))
    }

    #[test]
    fn the_allowance_follows_what_is_measured() {
        assert_eq!(allowance_after(WINDOW - 1, 2 * MS), 0.5);
        let once = allowance_after(WINDOW, 2 * MS);
        assert!(once > 0.5 && once <= 0.54, "a bounded step up: {once}");
        assert_eq!(allowance_after(40 * WINDOW, 2 * MS), 1.0);
        // Six late bursts are enough to go down, at once.
        assert!(allowance_after(6, 12 * MS) < 0.5);
        assert_eq!(allowance_after(400, 12 * MS), LEAST);
        let near = allowance_after(10 * WINDOW, 9_700_000);
        assert!((near - 0.5).abs() < 0.01, "at rest at the target: {near}");
    }
}
