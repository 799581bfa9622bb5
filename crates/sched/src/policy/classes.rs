//! The highest class executes: what every policy that ranks groups by a number has in common.
//!
//! On each device the groups of the highest class with work execute together, up to [`TOGETHER`] of them (more take
//! turns); where the hardware starves two background groups, one at a time. An idle group of the highest class registered
//! finds its gate open; of the others those that were active last, while nobody above them has work.

use super::{Decision, GroupView, Snapshot, standing::Standing};
use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
};
use std::collections::{BTreeMap, BTreeSet};

/// So many groups of one class execute at once on a device. More than these could hardly help each other, and each costs
/// a gate when a higher class comes.
const TOGETHER: usize = 16;

/// All groups by device and class. Larger classes go first.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    /// How long a group executes before the next where not all may.
    turn: Nanos,
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
    /// When it is the next ones' turn.
    turn_ends: Nanos,
    /// The last one whose turn began.
    last: Option<GroupId>,
    /// A class that has no work just now but will soon, and until when that is believed.
    lingers: Option<(i32, Nanos, GroupId)>,
    standing: Standing,
    /// The highest class registered when shares were last given.
    top: Option<i32>,
    /// What was last applied to the standing gates: classes from here on may run, if at all.
    standing_from: Option<i32>,
}

impl Default for Classes {
    fn default() -> Classes {
        Classes {
            turn: 50_000_000,
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
            of.inspect(|of| take(&mut device.members, *of, id));
            was.inspect(|was| put(&mut device.members, *was, id));
            decision.share(id, device.fair_share(was, self.top_is_special));
        }
        let Some(entry) = entry else {
            device.standing.forget(id);
            decision.run(id, false);
            decision.share(id, device.fair_share(None, self.top_is_special));
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
        take(&mut device.members, entry.class, group.id);
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
        device.follow_top(self.top_is_special, decision);
        let floor = demand.max(at_least);
        let top = device.top;
        let one_at_a_time = snapshot.one_background && floor < top;
        let most = if one_at_a_time { 1 } else { TOGETHER };
        let before = std::mem::take(&mut device.runs);
        if let Some((class, ready)) = device.ready.last_key_value()
            && Some(*class) >= floor
        {
            if ready.len() <= most {
                device.runs.extend(ready);
                device.last = device.runs.last().copied();
                device.turn_ends = now + self.turn;
            } else {
                let is_ready = |id: &GroupId| {
                    let entry = self.entries[id.index()];
                    entry.is_some_and(|entry| entry.ready && entry.class == *class)
                };
                if now < device.turn_ends {
                    device.runs.extend(before.iter().filter(|id| is_ready(id)));
                }
                if device.runs.is_empty() {
                    device.turn_ends = now + self.turn;
                }
                // The next after the last one, around.
                let after = ready.range((
                    device
                        .last
                        .map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
                    std::ops::Bound::Unbounded,
                ));
                for &id in after.chain(ready.iter()).take(ready.len()) {
                    if device.runs.len() >= most {
                        break;
                    }
                    if !device.runs.contains(&id) {
                        device.runs.push(id);
                        device.last = Some(id);
                    }
                }
                decision.ask_again(device.turn_ends);
            }
        }
        for &id in &before {
            if snapshot.group(id).ready && !device.runs.contains(&id) {
                decision.run(id, false);
                if one_at_a_time {
                    // What it has in flight runs out with a normal share: two with background shares would starve each
                    // other before either reaches its gate.
                    decision.share(id, HwShare::Normal);
                }
            }
        }
        for &id in &device.runs {
            decision.run(id, true);
            let class = self.entries[id.index()].map(|entry| entry.class);
            decision.share(id, device.fair_share(class, self.top_is_special));
        }
        if one_at_a_time {
            for group in snapshot.changed().filter(|group| group.wants()) {
                let class = self.entries[group.id.index()].map(|entry| entry.class);
                if class < top && !device.runs.contains(&group.id) {
                    // It became ready behind the one whose turn it is.
                    decision.share(group.id, HwShare::Normal);
                }
            }
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

impl Device {
    /// By what is registered, not by what is ready: changing a share is slow, arrivals are frequent. A group that must not
    /// run has no class.
    fn fair_share(&self, class: Option<i32>, top_is_special: bool) -> HwShare {
        if class < self.top && top_is_special {
            HwShare::Background
        } else {
            HwShare::Normal
        }
    }

    /// When another class is the highest registered: its idle groups stand open, and shares change.
    fn follow_top(&mut self, top_is_special: bool, decision: &mut Decision) {
        let top = self.members.last_key_value().map(|(top, _)| *top);
        if self.top == top {
            return;
        }
        self.top = top;
        self.standing_from = None;
        if !top_is_special {
            return;
        }
        for (&class, members) in &self.members {
            let ready = self.ready.get(&class);
            for &id in members {
                decision.share(id, self.fair_share(Some(class), true));
                if ready.is_none_or(|ready| !ready.contains(&id)) {
                    decision.run(id, Some(class) == top);
                }
            }
        }
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
