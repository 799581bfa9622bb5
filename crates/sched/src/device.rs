//! One device: its active groups, and how a decision about them is made and carried out.

use crate::{
    guard::{Credit, Guard, Rules, Times},
    hint::Priority,
    ids::{DeviceId, GroupId, Nanos},
    policy::{Decision, GroupView, Policy, Snapshot, Verdict},
    registry::{Batch, Place, Registry},
};
use std::collections::BTreeMap;

/// The limits of the configuration that hold on every device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) stall: Nanos,
    pub(crate) park_after: Nanos,
}

pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// See [`crate::Event::Device`].
    pub(crate) one_background: bool,
    /// The active groups; `credits` and the decision's verdicts go by the same positions.
    pub(crate) active: Vec<GroupView>,
    credits: Vec<Credit>,
    decision: Decision,
    /// Positions that the next decision is told about. May repeat.
    changed: Vec<u32>,
    /// Empty between decisions; kept for its memory.
    differing: Vec<u32>,
    /// How many groups of each priority are registered, without those that never run.
    classes: BTreeMap<Priority, usize>,
    guard: Guard,
    /// Who had a piece when the last decision was carried out.
    last_holder: Option<GroupId>,
    /// How many active groups wait.
    waiting: usize,
    /// Since when some group waits.
    contended_since: Option<Nanos>,
    /// No group can count as stalled before this.
    stall_check: Nanos,
    /// Queues that may differ from their group: new, moved, held or resumed.
    pub(crate) dirty: Vec<usize>,
    /// When to look for groups to park.
    sweep_at: Nanos,
    /// When to decide next if nothing happens.
    pub(crate) deadline: Option<Nanos>,
}

impl Device {
    pub(crate) fn new(id: DeviceId, rules: Option<Rules>) -> Device {
        Device {
            id,
            one_background: false,
            active: Vec::new(),
            credits: Vec::new(),
            decision: Decision::default(),
            changed: Vec::new(),
            differing: Vec::new(),
            classes: BTreeMap::new(),
            guard: Guard::new(rules),
            last_holder: None,
            waiting: 0,
            contended_since: None,
            stall_check: 0,
            dirty: Vec::new(),
            sweep_at: 0,
            deadline: None,
        }
    }

    /// Decides anew and carries it out.
    pub(crate) fn decide(
        &mut self,
        now: Nanos,
        policy: &mut dyn Policy,
        registry: &mut Registry,
        limits: &Limits,
        batch: &mut Batch<'_>,
    ) {
        self.find_stalled(now, registry, limits);
        self.decision.ask_again = None;
        let snapshot = Snapshot {
            device: self.id,
            one_background: self.one_background,
            top_registered: self.top(),
            groups: &self.active,
            changed: &self.changed,
        };
        policy.decide(now, &snapshot, &mut self.decision);
        // Only these can differ from what stands, unless a piece begins or ends.
        let mut differing = std::mem::take(&mut self.differing);
        differing.append(&mut self.changed);
        differing.append(&mut self.decision.changed);
        for &position in &differing {
            self.note_waiting(now, position as usize, registry);
        }
        self.note_contention(now, limits);
        self.give_pieces(now, registry);
        let holder = self.guard.holder();
        if std::mem::replace(&mut self.last_holder, holder) == holder {
            for &position in &differing {
                self.carry_out(now, position as usize, registry, batch);
            }
        } else {
            for position in 0..self.active.len() {
                self.carry_out(now, position, registry, batch);
            }
        }
        differing.clear();
        self.differing = differing;
        self.sync_dirty(registry, batch);
        self.park_idle(now, registry, limits);
        let stall = self
            .contended_since
            .filter(|_| limits.stall > 0)
            .map(|_| self.stall_check);
        let next = [
            self.decision.ask_again,
            self.guard.next(self.waiting),
            stall,
        ]
        .into_iter()
        .flatten()
        .min();
        // A time that has passed would make the host spin.
        self.deadline = next.map(|at| at.max(now + 1_000));
    }

    /// The highest priority registered.
    pub(crate) fn top(&self) -> Option<Priority> {
        self.classes.last_key_value().map(|(priority, _)| *priority)
    }

    /// The share of the device that a group is promised, as things are.
    pub(crate) fn promise(&self, waits: bool) -> f64 {
        self.guard.promise(if waits {
            self.waiting
        } else {
            self.waiting + 1
        })
    }

    /// The view of a group of this device.
    pub(crate) fn view<'a>(&'a self, place: &'a Place) -> &'a GroupView {
        match place {
            Place::Active(position) => &self.active[*position],
            Place::Parked(view) => view,
        }
    }

    /// The view of a group of this device, to be changed.
    pub(crate) fn view_mut<'a>(&'a mut self, place: &'a mut Place) -> &'a mut GroupView {
        match place {
            Place::Active(position) => &mut self.active[*position],
            Place::Parked(view) => view,
        }
    }

    pub(crate) fn count_class(&mut self, priority: Priority) {
        if priority.runs() {
            *self.classes.entry(priority).or_default() += 1;
        }
    }

    pub(crate) fn uncount_class(&mut self, priority: Priority) {
        if let Some(count) = self.classes.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.classes.remove(&priority);
            }
        }
    }

    /// The next decision is told about the group at this position.
    pub(crate) fn note_change(&mut self, position: usize) {
        self.changed.push(position as u32);
    }

    /// Puts a group among the active ones.
    pub(crate) fn activate(&mut self, now: Nanos, view: GroupView) -> Place {
        let position = self.active.len();
        self.decision.verdicts.push(Verdict {
            run: false,
            share: view.share,
        });
        self.credits.push(Credit::new(Times::of(&view, now)));
        self.active.push(view);
        self.note_change(position);
        Place::Active(position)
    }

    /// Takes the group at this position out of the active ones; the last one takes its place.
    pub(crate) fn deactivate(
        &mut self,
        now: Nanos,
        position: usize,
        registry: &mut Registry,
    ) -> GroupView {
        let view = self.active.swap_remove(position);
        self.credits.swap_remove(position);
        self.decision.verdicts.swap_remove(position);
        if let Some(moved) = self.active.get(position) {
            registry.group(moved.id).place = Place::Active(position);
        }
        let last = self.active.len();
        self.changed.retain(|&changed| changed as usize != position);
        for changed in self
            .changed
            .iter_mut()
            .filter(|changed| **changed as usize == last)
        {
            *changed = position as u32;
        }
        self.waiting -= usize::from(view.waits);
        if self.guard.holder() == Some(view.id) {
            self.guard.end_piece(now, None);
        }
        view
    }

    /// Marks those that keep others from running and have not moved for the limit.
    fn find_stalled(&mut self, now: Nanos, registry: &mut Registry, limits: &Limits) {
        let Some(contended_since) = self.contended_since else {
            return;
        };
        if limits.stall == 0 || now < self.stall_check {
            return;
        }
        self.stall_check = now + limits.stall;
        for position in 0..self.active.len() {
            let view = &mut self.active[position];
            if !view.ready || view.waits || !view.priority.runs() {
                continue;
            }
            let at = registry.group(view.id).last_progress.max(contended_since) + limits.stall;
            if at <= now {
                view.stalled = true;
                view.set_ready(false, now);
                view.last_gap = Nanos::MAX;
                self.changed.push(position as u32);
            } else {
                self.stall_check = self.stall_check.min(at);
            }
        }
    }

    /// Notes whether the group at this position waits by the policy's decision.
    fn note_waiting(&mut self, now: Nanos, position: usize, registry: &mut Registry) {
        let view = &mut self.active[position];
        let waits = view.ready && view.priority.runs() && !self.decision.verdicts[position].run;
        if waits == view.waits {
            return;
        }
        view.waits = waits;
        let times = Times {
            now,
            served: view.served(now),
            waiting: view.waiting(now),
        };
        let credit = &mut self.credits[position];
        if waits {
            self.waiting += 1;
            self.guard.start_waiting(times, credit);
        } else {
            self.waiting -= 1;
            if self.guard.holder() == Some(view.id) {
                self.guard.end_piece(now, Some(&mut *credit));
            }
            self.guard.stop_waiting(times, credit);
            registry.group(view.id).last_progress = now;
        }
    }

    fn note_contention(&mut self, now: Nanos, limits: &Limits) {
        if self.waiting == 0 {
            self.contended_since = None;
        } else if self.contended_since.is_none() {
            self.contended_since = Some(now);
            self.stall_check = now + limits.stall;
        }
    }

    /// Ends the guard's piece when its time is over, and gives the next.
    fn give_pieces(&mut self, now: Nanos, registry: &mut Registry) {
        if let Some(holder) = self.guard.holder()
            && self.guard.piece_is_over(now)
            && let Place::Active(position) = registry.group(holder).place
        {
            self.guard.end_piece(now, Some(&mut self.credits[position]));
        }
        if self.guard.may_grant(now) {
            let groups = self.active.iter().zip(&self.credits);
            self.guard.grant(
                now,
                groups
                    .filter(|(view, _)| view.waits)
                    .map(|(view, credit)| (view.id, credit)),
            );
        }
    }

    /// Compares what should be with what is at this position, and tells the host what differs.
    fn carry_out(
        &mut self,
        now: Nanos,
        position: usize,
        registry: &mut Registry,
        batch: &mut Batch<'_>,
    ) {
        let verdict = self.decision.verdicts[position];
        let view = &mut self.active[position];
        let allowed = view.priority.runs() && (verdict.run || view.stalled);
        let open = match self.guard.holder() {
            None => allowed,
            // A piece is exclusive; those without work may stay open.
            Some(holder) => view.id == holder || (allowed && !view.ready),
        };
        if view.open == open && view.share == verdict.share {
            return;
        }
        if view.open && !open && view.ready {
            registry.group(view.id).preemptions += 1;
        }
        if view.open != open {
            view.set_open(open, now);
        }
        view.share = verdict.share;
        registry.sync_group(view, batch);
    }

    /// Tells the host about queues that are new to their group or held.
    fn sync_dirty(&mut self, registry: &mut Registry, batch: &mut Batch<'_>) {
        while let Some(index) = self.dirty.pop() {
            let queue = &mut registry.queues[index];
            let view = match &registry.groups[queue.group.0 as usize].place {
                Place::Active(position) => &self.active[*position],
                Place::Parked(view) => view,
            };
            queue.sync(view.open, view.share, batch);
        }
    }

    /// Parks, now and then, those that have long been idle and may not run.
    fn park_idle(&mut self, now: Nanos, registry: &mut Registry, limits: &Limits) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + limits.park_after / 4;
        // From the end, so that the one that takes the place of a parked one has been looked at.
        for position in (0..self.active.len()).rev() {
            let view = &self.active[position];
            if !view.open && !view.ready && now - view.since >= limits.park_after {
                let view = self.deactivate(now, position, registry);
                let id = view.id;
                registry.group(id).place = Place::Parked(view);
            }
        }
    }
}
