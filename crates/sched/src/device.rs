//! One device: how a decision about its groups is made and carried out.
//!
//! Nothing here visits all groups: only those that an event or the policy named, those that the policy runs (few, as
//! policies bound them), and, for a piece of the guard, the short records of those that wait.

use crate::{
    guard::{Guard, Rules, Waiter},
    ids::{DeviceId, GroupId, Nanos},
    policy::{Decision, Policy, Snapshot},
    registry::{Batch, Part, Registry},
};

/// The limits of the configuration that hold on every device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) stall: Nanos,
}

pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// See [`crate::Event::Device`].
    pub(crate) one_background: bool,
    /// Groups that the next decision is told about. May repeat.
    changed: Vec<GroupId>,
    /// Groups that may differ from what was carried out. May repeat.
    differing: Vec<GroupId>,
    /// When the policy wants to decide next.
    ask_again: Option<Nanos>,
    /// Ready groups that the policy runs.
    runs: Vec<GroupId>,
    /// Ready groups that the policy does not run.
    waits: Vec<Waiter>,
    guard: Guard,
    /// Who had a piece when the last decision was carried out.
    last_holder: Option<GroupId>,
    /// Since when some group waits.
    contended_since: Option<Nanos>,
    /// No queue can count as stalled before this.
    stall_check: Nanos,
    /// Queues that may differ from their group: new, moved, held or resumed.
    pub(crate) dirty: Vec<usize>,
    /// When to decide next if nothing happens.
    pub(crate) deadline: Option<Nanos>,
}

impl Device {
    pub(crate) fn new(id: DeviceId, rules: Option<Rules>) -> Device {
        Device {
            id,
            one_background: false,
            changed: Vec::new(),
            differing: Vec::new(),
            ask_again: None,
            runs: Vec::new(),
            waits: Vec::new(),
            guard: Guard::new(rules),
            last_holder: None,
            contended_since: None,
            stall_check: 0,
            dirty: Vec::new(),
            deadline: None,
        }
    }

    /// Has the policy decide anew.
    pub(crate) fn decide(
        &mut self,
        now: Nanos,
        policy: &mut dyn Policy,
        decision: &mut Decision,
        registry: &mut Registry,
        limits: &Limits,
    ) {
        self.find_stalled(now, registry, limits);
        self.end_piece_in_time(now, registry);
        decision.ask_again = None;
        let snapshot = Snapshot {
            device: self.id,
            one_background: self.one_background,
            changed: &self.changed,
            groups: &registry.groups,
        };
        policy.decide(now, &snapshot, decision);
        self.ask_again = decision.ask_again;
        self.differing.append(&mut self.changed);
        self.differing.append(&mut decision.changed);
    }

    /// Carries out what was decided, once an event is decided on everywhere.
    pub(crate) fn settle(
        &mut self,
        now: Nanos,
        decision: &Decision,
        registry: &mut Registry,
        limits: &Limits,
        batch: &mut Batch<'_>,
    ) {
        // Only these can differ from what stands, unless a piece begins or ends.
        let mut differing = std::mem::take(&mut self.differing);
        for &id in &differing {
            self.note_part(now, id, decision, registry);
        }
        self.note_contention(now, limits);
        if self.guard.may_grant(now) {
            self.claim_piece(now, registry);
            self.guard.grant(now, &self.waits);
        }
        let holder = self.guard.holder();
        let before = std::mem::replace(&mut self.last_holder, holder);
        if before != holder {
            differing.extend(before.into_iter().chain(holder));
            differing.extend_from_slice(&self.runs);
        }
        for &id in &differing {
            self.carry_out(now, id, decision, registry, batch);
        }
        differing.clear();
        self.differing = differing;
        self.sync_dirty(registry, batch);
        let stall = self.contended_since.filter(|_| limits.stall > 0);
        let next = [
            self.ask_again,
            self.guard.next(self.waits.len()),
            stall.map(|_| self.stall_check),
        ];
        // A time that has passed would make the host spin.
        self.deadline = next
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + 1_000));
    }

    /// The share of the device that a group is promised, as things are.
    pub(crate) fn promise(&self, waits: bool) -> f64 {
        self.guard.promise(self.waits.len() + usize::from(!waits))
    }

    /// The next decision is told about the group.
    pub(crate) fn note_change(&mut self, group: GroupId) {
        self.changed.push(group);
    }

    /// Forgets a group that is about to go.
    pub(crate) fn remove(&mut self, now: Nanos, id: GroupId, registry: &mut Registry) {
        self.set_part(now, id, Part::None, registry);
        self.changed.retain(|&changed| changed != id);
        if self.last_holder == Some(id) {
            self.last_holder = None;
            // Whoever it had closed opens again.
            self.changed.extend_from_slice(&self.runs);
        }
    }

    /// Marks the queues that keep others from running and have not moved for the limit, whatever other queues of their
    /// groups do, and the groups that are left without one that moves.
    fn find_stalled(&mut self, now: Nanos, registry: &mut Registry, limits: &Limits) {
        let Some(contended_since) = self.contended_since else {
            return;
        };
        if limits.stall == 0 || now < self.stall_check {
            return;
        }
        self.stall_check = now + limits.stall;
        let Registry { queues, groups } = registry;
        for &id in &self.runs {
            let group = &mut groups[id.index()];
            if !group.view.ready {
                continue; // since this very event
            }
            let since = group.runs_since.max(contended_since);
            for &queue in &group.queues {
                let queue = &mut queues[queue];
                if !queue.counts() || queue.stalled {
                    continue;
                }
                let at = queue.last_progress.max(since) + limits.stall;
                if at <= now {
                    queue.stalled = true;
                    group.stalled_queues += 1;
                } else {
                    self.stall_check = self.stall_check.min(at);
                }
            }
            if !group.moves() {
                group.view.stalled = true;
                group.view.set_ready(false, now);
                group.view.forget_rhythm();
                self.changed.push(id);
            }
        }
    }

    /// Notes what the group does by the policy's decision.
    fn note_part(&mut self, now: Nanos, id: GroupId, decision: &Decision, registry: &mut Registry) {
        let group = registry.group(id);
        let part = match (group.view.wants(), decision.runs(id)) {
            (false, _) => Part::None,
            // Whoever has a piece keeps it, although the policy has come to run it, too.
            (true, true) if self.guard.holder() != Some(id) => Part::Runs(self.runs.len()),
            (true, _) => Part::Waits(self.waits.len()),
        };
        if std::mem::discriminant(&part) != std::mem::discriminant(&group.part) {
            self.set_part(now, id, part, registry);
        }
    }

    fn set_part(&mut self, now: Nanos, id: GroupId, part: Part, registry: &mut Registry) {
        let group = registry.group(id);
        let before = std::mem::replace(&mut group.part, part);
        let times = group.view.times(now);
        match before {
            Part::None => {}
            Part::Runs(at) => {
                self.runs.swap_remove(at);
                if let Some(&moved) = self.runs.get(at) {
                    registry.group(moved).part = Part::Runs(at);
                }
            }
            Part::Waits(at) => {
                if self.guard.holder() == Some(id) {
                    self.guard.end_piece(now, Some(&mut group.credit));
                }
                self.guard.stop_waiting(times, &mut group.credit);
                self.waits.swap_remove(at);
                if let Some(moved) = self.waits.get(at) {
                    registry.group(moved.group).part = Part::Waits(at);
                }
            }
        }
        // Those lists have changed places meanwhile, but not their lengths by more than this one.
        let group = registry.group(id);
        match part {
            Part::None => {}
            Part::Runs(_) => {
                group.part = Part::Runs(self.runs.len());
                group.runs_since = now;
                self.runs.push(id);
            }
            Part::Waits(_) => {
                self.guard.start_waiting(times, &mut group.credit);
                group.part = Part::Waits(self.waits.len());
                self.waits.push(Waiter {
                    due: group.credit.due,
                    group: id,
                });
            }
        }
    }

    /// The group that was due first waits for its piece, also if the policy runs it for the moment.
    fn claim_piece(&mut self, now: Nanos, registry: &mut Registry) {
        let Some(first) = self.waits.iter().map(|waiter| waiter.due).min() else {
            return;
        };
        let due = |&id: &GroupId| {
            let group = registry.group(id);
            let due = self.guard.due_since(group.view.times(now), &group.credit)?;
            (due < first).then_some((due, id))
        };
        if let Some((_, id)) = self.runs.iter().filter_map(due).min() {
            self.set_part(now, id, Part::Waits(0), registry);
        }
    }

    fn note_contention(&mut self, now: Nanos, limits: &Limits) {
        if self.waits.is_empty() {
            self.contended_since = None;
        } else if self.contended_since.is_none() {
            self.contended_since = Some(now);
            self.stall_check = now + limits.stall;
        }
    }

    /// Ends the guard's piece when its time is over. Its holder counts as changed: it was served.
    fn end_piece_in_time(&mut self, now: Nanos, registry: &mut Registry) {
        let Some(holder) = self
            .guard
            .holder()
            .filter(|_| self.guard.piece_is_over(now))
        else {
            return;
        };
        let group = registry.group(holder);
        self.guard.end_piece(now, Some(&mut group.credit));
        if let Part::Waits(at) = group.part {
            self.waits[at].due = group.credit.due;
        }
        self.changed.push(holder);
    }

    /// Compares what should be with what is, and tells the host what differs.
    fn carry_out(
        &mut self,
        now: Nanos,
        id: GroupId,
        decision: &Decision,
        registry: &mut Registry,
        batch: &mut Batch<'_>,
    ) {
        let verdict = decision.verdict(id);
        let group = registry.group(id);
        let view = &mut group.view;
        let allowed = view.priority().runs() && (verdict.run || view.stalled);
        let open = match self.guard.holder() {
            None => allowed,
            // A piece is exclusive; those without work may stay open.
            Some(holder) => id == holder || (allowed && !view.ready),
        };
        if view.open == open && view.share == verdict.share {
            return;
        }
        if view.open && !open && view.ready {
            group.preemptions += 1;
        }
        if view.open != open {
            view.set_open(open, now);
        }
        view.share = verdict.share;
        registry.sync_group(id, batch);
    }

    /// Tells the host about queues that are new to their group or held.
    fn sync_dirty(&mut self, registry: &mut Registry, batch: &mut Batch<'_>) {
        while let Some(index) = self.dirty.pop() {
            let queue = &mut registry.queues[index];
            let view = &registry.groups[queue.group.index()].view;
            queue.sync(view.open, view.share, batch);
        }
    }
}
