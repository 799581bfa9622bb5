//! How queues form groups, and how groups come, change and go.

use super::{Engine, Process};
use crate::{
    hint::Priority,
    ids::{GroupId, Nanos, ProcessId},
    policy::GroupView,
    registry::{Group, Place},
};

impl Engine {
    pub(super) fn process(&mut self, process: ProcessId) -> &mut Process {
        self.processes
            .get_mut(&process)
            .expect("the process of a registered queue is registered")
    }

    /// A new, active group without queues.
    pub(super) fn add_group(
        &mut self,
        device: usize,
        own: bool,
        process: ProcessId,
        priority: Priority,
    ) -> GroupId {
        let id = self
            .registry
            .add_group(device, own, process, priority, self.now);
        let owner = self.process(process);
        owner.groups.push(id);
        let stopped = owner.stopped;
        self.registry.group(id).stopped = stopped;
        self.devices[device].count_class(priority);
        self.unpark_group(id);
        id
    }

    /// Makes a queue a member of a group.
    pub(super) fn join(&mut self, queue: usize, id: GroupId) {
        let member = &mut self.registry.queues[queue];
        member.group = id;
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
        let (id, process, counts) = (member.group, member.process, member.counts());
        let group = self.registry.group(id);
        group.queues.retain(|&other| other != queue);
        group.ready_queues -= usize::from(counts);
        if !group.queues.is_empty() {
            self.refresh(id);
            return;
        }
        let group = self.registry.groups.remove(id.0 as usize);
        let device = &mut self.devices[group.device];
        let view = match group.place {
            Place::Active(position) => device.deactivate(self.now, position, &mut self.registry),
            Place::Parked(view) => view,
        };
        self.policy.forget(id);
        self.process(process).groups.retain(|&other| other != id);
        self.touched.push(group.device);
        self.leave_class(group.device, view.priority);
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
        let group = self.registry.group(id);
        let has_work = group.ready_queues > 0;
        let stopped = group.stopped;
        let view = self.devices[group.device].view_mut(&mut group.place);
        let ready = has_work && !stopped && !view.stalled;
        if view.ready != ready {
            view.set_ready(ready, self.now);
            if !ready && has_work {
                // Not the end of its work, so nothing to linger for.
                view.last_gap = Nanos::MAX;
            }
            self.note_change(id);
        }
    }

    pub(super) fn set_priority(&mut self, id: GroupId, priority: Priority) {
        let group = self.registry.group(id);
        let device = group.device;
        let view = self.devices[device].view_mut(&mut group.place);
        let old = std::mem::replace(&mut view.priority, priority);
        if old != priority {
            self.note_change(id);
            self.devices[device].count_class(priority);
            self.leave_class(device, old);
        }
    }

    /// The next decision on its device, which this event brings, is told about the group.
    pub(super) fn note_change(&mut self, id: GroupId) {
        let group = self.registry.group(id);
        self.touched.push(group.device);
        match group.place {
            Place::Active(position) => self.devices[group.device].note_change(position),
            Place::Parked(_) => self.unpark_group(id),
        }
    }

    /// Brings parked groups back into the decisions.
    pub(super) fn unpark(&mut self, which: impl Fn(&GroupView, usize) -> bool) {
        let parked = |(index, group): (usize, &Group)| match &group.place {
            Place::Parked(view) if which(view, group.device) => Some(GroupId(index as u32)),
            _ => None,
        };
        let found: Vec<GroupId> = self.registry.groups.iter().filter_map(parked).collect();
        for id in found {
            self.unpark_group(id);
        }
    }

    #[cfg(test)]
    pub(crate) fn parked_groups(&self) -> usize {
        self.registry
            .groups
            .iter()
            .filter(|(_, group)| matches!(group.place, Place::Parked(_)))
            .count()
    }

    fn unpark_group(&mut self, id: GroupId) {
        let group = self.registry.group(id);
        // The position is filled in at once; until then the place is empty.
        if let Place::Parked(view) = std::mem::replace(&mut group.place, Place::Active(usize::MAX))
        {
            group.place = self.devices[group.device].activate(self.now, view);
        }
    }

    /// One group less of this priority. If it was the last of the top class, the next class becomes the top and its
    /// gates open even where nothing is to do.
    fn leave_class(&mut self, device: usize, priority: Priority) {
        let before = self.devices[device].top();
        self.devices[device].uncount_class(priority);
        let top = self.devices[device].top();
        if top != before {
            self.unpark(|view, of| of == device && Some(view.priority) == top);
        }
    }
}
