//! The highest class executes: what every policy that ranks groups by a number has in common.
//!
//! On each device the groups of the highest class with work execute together, up to [`TOGETHER`] of them (more take
//! turns); below the highest class registered one at a time where the hardware takes slices. A turn that a higher class
//! interrupts goes on afterwards. An idle group of the highest class registered finds its gate open; of the others those
//! that were active last, while nobody above them has work.

use super::{Decision, GroupView, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// So many groups of one class execute at once on a device. More than these could hardly help each other, and each costs
/// a gate when a higher class comes.
const TOGETHER: usize = 16;

/// How long a group executes before the next where not all may, and whoever waits has its turn again within
/// [`ROUND`]: the guard gives pieces to those who wait for long.
const TURN: Nanos = 50_000_000;
const ROUND: Nanos = 75_000_000;
const SHORTEST_TURN: Nanos = 10_000_000;

/// The slice of background programs where there are several, µs. Whoever is closed still has on the device what stands
/// before its next gate, and two with slices of 50 µs spend them on the switches for good; with 100 they do not.
const CROWDED_SLICE: u32 = 200;

/// All groups by device and class. Larger classes go first.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    /// How long the others stay closed after the top group went idle, if its last gap was shorter than this: a string of
    /// short bursts is not chopped, a long gap is not wasted.
    pub(super) linger: Nanos,
    /// Idle groups of the highest class registered find their gate open, and those below it have a background share.
    top_is_special: bool,
    /// By group.
    entries: Vec<Option<Entry>>,
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    class: i32,
    ready: bool,
}

#[derive(Clone, Debug, Default)]
struct Device {
    members: BTreeMap<i32, BTreeSet<GroupId>>,
    ready: BTreeMap<i32, BTreeSet<GroupId>>,
    /// Who executes, of the class that does.
    runs: Vec<GroupId>,
    /// The class that executes, and whose turn it is in those of which not all may.
    executes: Option<i32>,
    turns: BTreeMap<i32, Turn>,
    /// A class that has no work just now but will soon, and until when that is believed.
    lingers: Option<(i32, Nanos, GroupId)>,
    standing: Standing,
    /// The highest class registered when shares were last given, and whether programs below it starve each other unless
    /// they have slices.
    top: Option<i32>,
    crowded: bool,
    /// Several programs are below it.
    several_below: bool,
    /// Members came or went since.
    regrouped: bool,
    /// What was last applied to the standing gates: classes from here on may run, if at all.
    standing_from: Option<i32>,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    holders: Vec<GroupId>,
    /// The last one whose turn began.
    last: Option<GroupId>,
    /// When it is the next ones'.
    ends: Nanos,
    /// Since when a higher class executes.
    interrupted: Nanos,
}

impl Default for Classes {
    fn default() -> Classes {
        Classes {
            linger: 200_000,
            top_is_special: true,
            entries: Vec::new(),
            devices: BTreeMap::new(),
        }
    }
}

impl Classes {
    /// Where the highest class registered is nothing special: classes change all the time, or one elsewhere may be higher.
    pub(super) fn of_equals() -> Classes {
        Classes {
            top_is_special: false,
            ..Classes::default()
        }
    }

    /// Takes in what changed on a device, with the class of each group.
    pub(super) fn update(
        &mut self,
        now: Nanos,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
        class: impl Fn(&GroupView) -> i32,
    ) {
        for group in snapshot.changed() {
            self.set(now, group, class(group), snapshot, decision);
        }
    }

    /// One group as it is now.
    pub(super) fn set(
        &mut self,
        now: Nanos,
        group: &GroupView,
        class: i32,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
    ) {
        let id = group.id;
        if self.entries.len() <= id.index() {
            self.entries.resize(id.index() + 1, None);
        }
        let device = self.devices.entry(group.device).or_default();
        let entry = group.priority().runs().then_some(Entry {
            class,
            ready: group.ready,
        });
        let before = std::mem::replace(&mut self.entries[id.index()], entry);
        let (of, was) = (
            before.map(|entry| entry.class),
            entry.map(|entry| entry.class),
        );
        if of != was {
            of.inspect(|of| device.leave(*of, id));
            was.inspect(|was| device.join(*was, id));
        }
        if of != was || was.is_none() {
            decision.share(id, device.fair_share(was, self.top_is_special));
        }
        let Some(entry) = entry else {
            device.standing.forget(id);
            decision.run(id, false);
            of.inspect(|of| take(&mut device.ready, *of, id));
            return;
        };
        let was_ready = before
            .filter(|before| before.ready)
            .map(|before| before.class);
        let is_ready = entry.ready.then_some(class);
        if was_ready != is_ready {
            was_ready.inspect(|was| take(&mut device.ready, *was, id));
            is_ready.inspect(|is| put(&mut device.ready, *is, id));
        }
        if entry.ready {
            if was_ready.is_none() {
                // Not before it is chosen.
                decision.run(id, false);
            }
        } else if before.is_none() || was_ready.is_some() || of != was {
            // It went idle, or is new in its class.
            if let Some(oldest) = device.standing.note(id)
                && !self.stands_anyway(oldest, &self.devices[&group.device])
                && !snapshot.group(oldest).ready
            {
                decision.run(oldest, false);
            }
            let device = self.devices.entry(group.device).or_default();
            device.standing_from = None;
            let until = group.since + self.linger;
            if group.last_gap < self.linger && now < until {
                let believed = device.lingers.filter(|&(_, until, _)| now < until);
                device.lingers = believed.max(Some((class, until, id)));
            }
        }
    }

    /// It is of the class whose idle groups all have an open gate.
    fn stands_anyway(&self, id: GroupId, device: &Device) -> bool {
        let class = self.entries[id.index()].map(|entry| entry.class);
        self.top_is_special && class.is_some() && class == device.top
    }

    /// The group is gone.
    pub(super) fn forget(&mut self, group: &GroupView) {
        let Some(Some(entry)) = self.entries.get_mut(group.id.index()).map(Option::take) else {
            return;
        };
        let Some(device) = self.devices.get_mut(&group.device) else {
            return;
        };
        device.leave(entry.class, group.id);
        if entry.ready {
            take(&mut device.ready, entry.class, group.id);
        }
        device.runs.retain(|&id| id != group.id);
        device.standing.forget(group.id);
        device.lingers = device.lingers.filter(|&(_, _, id)| id != group.id);
        if device.members.is_empty() {
            self.devices.remove(&group.device);
        }
    }

    /// The class that a device is held for: the highest that has work there, or will soon.
    pub(super) fn demand(&mut self, now: Nanos, device: DeviceId) -> Option<i32> {
        let device = self.devices.get_mut(&device)?;
        device.lingers = device.lingers.filter(|&(_, until, _)| now < until);
        let lingering = device.lingers.map(|(class, ..)| class);
        device
            .ready
            .last_key_value()
            .map(|(class, _)| *class)
            .max(lingering)
    }

    /// Says who runs on the snapshot's device. Classes below `at_least` do not.
    pub(super) fn apply(
        &mut self,
        now: Nanos,
        at_least: Option<i32>,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
    ) {
        let demand = self.demand(now, snapshot.device);
        let Some(device) = self.devices.get_mut(&snapshot.device) else {
            return;
        };
        if let Some((class, until, _)) = device.lingers
            && Some(class) == demand
        {
            decision.ask_again(until);
        }
        device.follow_members(self.top_is_special, snapshot, decision);
        let floor = demand.max(at_least);
        let top = device.top;
        let one_at_a_time = snapshot.one_background && floor < top;
        let most = if one_at_a_time { 1 } else { TOGETHER };
        let before = std::mem::take(&mut device.runs);
        let executes = device.ready.last_key_value();
        let executes = executes.filter(|(class, _)| Some(**class) >= floor);
        let class = executes.map(|(class, _)| *class);
        if class != device.executes {
            let interrupted = device.executes.and_then(|was| device.turns.get_mut(&was));
            if let Some(turn) = interrupted {
                turn.interrupted = now;
            }
        }
        if let Some((&class, ready)) = executes {
            let turn = device.turns.entry(class).or_default();
            if device.executes != Some(class) {
                turn.ends += now - turn.interrupted;
            }
            turn.pass(now, ready, most);
            device.runs.extend(&turn.holders);
            if ready.len() > most {
                decision.ask_again(turn.ends);
            }
        }
        device.executes = class;
        for &id in &before {
            if snapshot.group(id).ready && !device.runs.contains(&id) {
                decision.run(id, false);
            }
        }
        for &id in &device.runs {
            decision.run(id, true);
        }
        let background_busy = one_at_a_time && !device.runs.is_empty();
        // The standing gates: open if they could run at once.
        let from = if background_busy {
            i32::MAX
        } else {
            floor.unwrap_or(i32::MIN)
        };
        if device.standing_from != Some(from) {
            device.standing_from = Some(from);
            let (entries, special) = (&self.entries, self.top_is_special);
            device.standing.apply(snapshot, decision, |id| {
                let class = entries[id.index()].map(|entry| entry.class);
                class.is_some_and(|class| class >= from) || (special && class == top)
            });
        }
    }
}

impl Turn {
    /// Says whose turn it is of those that are ready, if at most so many may execute at once.
    fn pass(&mut self, now: Nanos, ready: &BTreeSet<GroupId>, most: usize) {
        if ready.len() <= most {
            self.holders.clear();
            self.holders.extend(ready);
            self.last = self.holders.last().copied();
            self.ends = now + TURN;
            return;
        }
        self.holders.retain(|id| ready.contains(id));
        if self.holders.len() > most {
            // Fewer may execute than before.
            self.holders.truncate(most);
            self.last = self.holders.last().copied();
        }
        if now >= self.ends {
            self.holders.clear();
        }
        if self.holders.is_empty() {
            let rounds = ready.len().div_ceil(most) - 1;
            self.ends = now + TURN.min(ROUND / rounds as Nanos).max(SHORTEST_TURN);
        }
        // The next after the last one, around.
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let after = ready.range((behind, Bound::Unbounded));
        for &id in after.chain(ready).take(ready.len()) {
            if self.holders.len() >= most {
                break;
            }
            if !self.holders.contains(&id) {
                self.holders.push(id);
                self.last = Some(id);
            }
        }
    }
}

impl Device {
    /// A group is of the class from now on.
    fn join(&mut self, class: i32, id: GroupId) {
        self.regrouped = true;
        put(&mut self.members, class, id);
    }

    /// A group is no longer of the class.
    fn leave(&mut self, class: i32, id: GroupId) {
        self.regrouped = true;
        take(&mut self.members, class, id);
        if !self.members.contains_key(&class) {
            self.turns.remove(&class);
        }
    }

    /// By what is registered, not by what is ready: changing a share is slow, arrivals are frequent. A group that must not
    /// run has no class.
    fn fair_share(&self, class: Option<i32>, top_is_special: bool) -> HwShare {
        let is_below = class.is_none() || class < self.top;
        match (is_below && top_is_special, self.crowded) {
            (false, _) => HwShare::Normal,
            (true, false) => HwShare::Background,
            (true, true) => HwShare::Slice(CROWDED_SLICE),
        }
    }

    /// When another class is the highest registered, its idle groups stand open, and shares change; they also do when
    /// the first program below it gets company, or loses it.
    fn follow_members(
        &mut self,
        top_is_special: bool,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
    ) {
        let top = self.members.last_key_value().map(|(top, _)| *top);
        if std::mem::take(&mut self.regrouped) {
            self.several_below = top_is_special && self.has_several_below(top, snapshot);
        }
        let crowded = snapshot.one_background && self.several_below;
        let before = (self.top, self.crowded);
        if before == (top, crowded) {
            return;
        }
        (self.top, self.crowded) = (top, crowded);
        let is_another = before.0 != top;
        if is_another {
            self.standing_from = None;
        }
        if !top_is_special {
            return;
        }
        for (&class, members) in &self.members {
            let ready = self.ready.get(&class);
            for &id in members {
                decision.share(id, self.fair_share(Some(class), true));
                if is_another && ready.is_none_or(|ready| !ready.contains(&id)) {
                    decision.run(id, Some(class) == top);
                }
            }
        }
    }

    /// Whether more than one program has groups below a class. The hardware's slices are of programs.
    fn has_several_below(&self, top: Option<i32>, snapshot: &Snapshot<'_>) -> bool {
        let Some(top) = top else {
            return false;
        };
        let below = self.members.range(..top).flat_map(|(_, ids)| ids);
        let mut programs = below.map(|&id| snapshot.group(id).process);
        let first = programs.next();
        programs.any(|program| Some(program) != first)
    }
}

fn put(classes: &mut BTreeMap<i32, BTreeSet<GroupId>>, class: i32, id: GroupId) {
    classes.entry(class).or_default().insert(id);
}

fn take(classes: &mut BTreeMap<i32, BTreeSet<GroupId>>, class: i32, id: GroupId) {
    if let Some(members) = classes.get_mut(&class) {
        members.remove(&id);
        if members.is_empty() {
            classes.remove(&class);
        }
    }
}
