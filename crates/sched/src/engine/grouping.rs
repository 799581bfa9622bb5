//! How queues form groups, and how groups come, change and go.

use super::{Engine, Process};
use crate::{
    ids::{GroupId, ProcessId},
    policy::GroupView,
};
use xsched_hint::Hints;

impl Engine {
    pub(super) fn process(&mut self, process: ProcessId) -> &mut Process {
        self.processes
            .get_mut(&process)
            .expect("the process of a registered queue is registered")
    }

    /// A new group without queues, with its process's hints.
    pub(super) fn add_group(&mut self, device: usize, own: bool, process: ProcessId) -> GroupId {
        let (now, on) = (self.now, self.devices[device].id);
        let owner = &self.processes[&process];
        let mut hints = owner.hints;
        let left = hints
            .utilization
            .map_or(0, |_| self.utilization_left(device));
        // A queue of its own has a share of its own; one that does not fit is not taken.
        hints.utilization = hints
            .utilization
            .filter(|wanted| !own && wanted.get() <= left);
        let id = self.registry.add_group(device, now, |id| {
            let mut view = GroupView::new(id, process, on, hints, now);
            view.own = own;
            view.nice = owner.nice;
            view.foreground = owner.foreground;
            view
        });
        self.registry.group(id).stopped = owner.stopped;
        self.decision.add(id);
        self.process(process).groups.push(id);
        self.note_change(id);
        id
    }

    /// Makes a queue a member of a group.
    pub(super) fn join(&mut self, queue: usize, id: GroupId) {
        let now = self.now;
        let member = &mut self.registry.queues[queue];
        member.group = id;
        (member.stalled, member.last_progress) = (false, now);
        let counts = member.counts();
        let group = self.registry.group(id);
        group.queues.push(queue);
        group.ready_queues += usize::from(counts);
        let device = group.device;
        self.devices[device].dirty.push(queue);
        self.touched.push(device);
        self.refresh(id);
    }

    /// Takes a queue out of its group, and the group away if it was the last.
    pub(super) fn leave(&mut self, queue: usize) {
        let member = &self.registry.queues[queue];
        let (id, process) = (member.group, member.process);
        let (counts, stalled) = (member.counts(), member.stalled);
        let group = self.registry.group(id);
        group.queues.retain(|&other| other != queue);
        group.ready_queues -= usize::from(counts);
        group.stalled_queues -= usize::from(stalled);
        if !group.queues.is_empty() {
            self.refresh(id);
            return;
        }
        let device = group.device;
        self.devices[device].remove(self.now, id, &mut self.registry);
        let group = self.registry.groups.remove(id.index());
        self.policy.forget(&group.view);
        self.process(process).groups.retain(|&other| other != id);
        self.touched.push(device);
    }

    /// Unregisters a queue.
    pub(super) fn remove(&mut self, queue: usize) {
        self.leave(queue);
        let gone = self.registry.queues.remove(queue);
        self.queues.remove(&gone.id);
        self.process(gone.process)
            .queues
            .retain(|&other| other != queue);
    }

    /// Compares a group's readiness with its queues and its process.
    pub(super) fn refresh(&mut self, id: GroupId) {
        let now = self.now;
        let group = self.registry.group(id);
        let moves = group.moves();
        let stalled = group.ready_queues > 0 && !moves;
        let ready = moves && !group.stopped;
        let view = &mut group.view;
        let before = (view.ready, std::mem::replace(&mut view.stalled, stalled));
        if view.ready != ready {
            view.set_ready(ready, now);
            if !ready && moves {
                view.forget_rhythm();
            }
        }
        if before != (ready, stalled) {
            self.note_change(id);
        }
    }

    /// Adds to a group's hints. A utilization that does not fit on its device is left as it was.
    pub(super) fn set_hints(&mut self, id: GroupId, mut hints: Hints) {
        let device = self.registry.group(id).device;
        if let Some(wanted) = hints.utilization {
            let now = self.registry.groups[id.index()].view.hints.utilization;
            let left = self.utilization_left(device) + now.map_or(0, |percent| percent.get());
            hints.utilization = hints.utilization.filter(|_| wanted.get() <= left);
        }
        let view = &mut self.registry.group(id).view;
        let before = view.hints;
        view.hints.extend(hints.iter());
        if view.hints != before {
            self.note_change(id);
        }
    }

    /// The next decision on its device, which this event brings, is told about the group.
    pub(super) fn note_change(&mut self, id: GroupId) {
        let device = self.registry.group(id).device;
        self.touched.push(device);
        self.devices[device].note_change(id);
    }
}
