//! The engine: events in, actions out.

mod grouping;

use crate::{
    device::{Device, Limits},
    event::{Action, Event, EventError, HwShare, Target},
    guard::Rules,
    ids::{DeviceId, GroupId, Nanos, ProcessId, QueueId},
    policy::{Decision, GroupView, Hpf, Policy},
    registry::{Batch, Group, Part, Queue, Registry},
    status::{GroupStatus, QueueStatus},
};
use std::collections::{BTreeMap, BTreeSet};
use xsched_hint::{Hint, Hints};

const MS: Nanos = 1_000_000;

/// How an engine schedules.
pub struct Config {
    /// The rule.
    pub policy: Box<dyn Policy>,
    /// The least share of the device, 0 to 1, that a ready group gets which the policy does not run. 0 turns the guard
    /// off.
    pub min_share: f64,
    /// Over which time it gets that.
    pub window: Nanos,
    /// The longest time for which the guard gives the device to a group.
    pub piece: Nanos,
    /// The most that the guard takes of a device for all groups together, up to 0.5.
    pub sum_of_minima: f64,
    /// A queue that keeps others waiting without any progress for so long counts as stalled, and no longer makes its
    /// group ready. 0: never.
    pub stall_limit: Nanos,
}

impl Config {
    /// The defaults with this policy.
    pub fn new(policy: Box<dyn Policy>) -> Config {
        Config {
            policy,
            min_share: 0.05,
            window: 1_000 * MS,
            piece: 5 * MS,
            sum_of_minima: 0.25,
            stall_limit: 2_000 * MS,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::new(Box::new(Hpf::default()))
    }
}

/// Keeps who is registered and what they do, asks the policy, and says what changes.
pub struct Engine {
    policy: Box<dyn Policy>,
    rules: Option<Rules>,
    limits: Limits,
    /// The latest time passed in; time never goes back.
    now: Nanos,
    registry: Registry,
    queues: BTreeMap<QueueId, usize>,
    processes: BTreeMap<ProcessId, Process>,
    devices: Vec<Device>,
    device_indices: BTreeMap<DeviceId, usize>,
    /// When each device is to be decided on next.
    timers: BTreeSet<(Nanos, usize)>,
    decision: Decision,
    /// Devices that the event in hand concerns.
    touched: Vec<usize>,
    shares: Vec<Action>,
    opens: Vec<Action>,
}

#[derive(Default)]
struct Process {
    /// Of its queues without hints of their own.
    hints: Hints,
    stopped: bool,
    nice: i8,
    foreground: bool,
    queues: Vec<usize>,
    /// Its groups, those of queues with hints of their own among them.
    groups: Vec<GroupId>,
}

impl Engine {
    /// An engine with nothing registered.
    pub fn new(config: Config) -> Engine {
        Engine {
            policy: config.policy,
            rules: Rules::new(
                config.min_share,
                config.sum_of_minima,
                config.window,
                config.piece,
            ),
            limits: Limits {
                stall: config.stall_limit,
            },
            now: 0,
            registry: Registry::default(),
            queues: BTreeMap::new(),
            processes: BTreeMap::new(),
            devices: Vec::new(),
            device_indices: BTreeMap::new(),
            timers: BTreeSet::new(),
            decision: Decision::default(),
            touched: Vec::new(),
            shares: Vec::new(),
            opens: Vec::new(),
        }
    }

    /// Takes in one event and appends to `actions` what it changes. After an error nothing has changed.
    pub fn handle(
        &mut self,
        now: Nanos,
        event: Event,
        actions: &mut Vec<Action>,
    ) -> Result<(), EventError> {
        self.now = self.now.max(now);
        match event {
            Event::QueueCreated {
                queue,
                process,
                device,
                hints,
            } => self.create(queue, process, device, hints)?,
            Event::Device {
                device,
                one_background,
            } => {
                let index = self.device(device);
                self.devices[index].one_background = one_background;
                self.touched.push(index);
            }
            Event::QueueGone { queue } => {
                let queue = self.find(queue)?;
                self.remove(queue);
            }
            Event::ProcessGone { process } => self.end_process(process),
            Event::Ready { queue } => self.update(queue, |queue| queue.ready = true)?,
            Event::Idle { queue } => self.update(queue, |queue| queue.ready = false)?,
            Event::Hold { queue, held } => self.update(queue, |queue| queue.held = held)?,
            Event::Progress { queue } => self.update(queue, |_| ())?,
            Event::Hint { target, hint } => {
                self.check(&[target], hint)?;
                match target {
                    Target::Process(process) => {
                        self.set_process_hints(process, [hint].into_iter().collect())?;
                    }
                    Target::Queue(queue) => {
                        let queue = self.find(queue)?;
                        self.set_queue_hint(queue, hint);
                    }
                }
            }
            Event::Nice { process, nice } => self.change_process(
                process,
                |process| std::mem::replace(&mut process.nice, nice) != nice,
                |view| view.nice = nice,
            )?,
            Event::Foreground {
                process,
                foreground,
            } => self.change_process(
                process,
                |process| std::mem::replace(&mut process.foreground, foreground) != foreground,
                |view| view.foreground = foreground,
            )?,
            Event::Stopped { process, stopped } => self.set_stopped(process, stopped)?,
            Event::Timer => {
                let due = self.timers.range(..=(self.now, usize::MAX));
                self.touched.extend(due.map(|(_, device)| *device));
            }
        }
        self.decide(actions);
        Ok(())
    }

    /// When to send [`Event::Timer`], if nothing else happens before.
    pub fn next_timer(&self) -> Option<Nanos> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Puts another policy in place, at once.
    pub fn set_policy(&mut self, now: Nanos, policy: Box<dyn Policy>, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.policy = policy;
        for (index, group) in self.registry.groups.iter() {
            self.devices[group.device].note_change(GroupId(index as u32));
        }
        self.touched.extend(0..self.devices.len());
        self.decide(actions);
    }

    /// The name of the policy in place.
    pub fn policy_name(&self) -> &'static str {
        self.policy.name()
    }

    /// Every group as it stands.
    pub fn groups(&self, now: Nanos) -> impl Iterator<Item = GroupStatus> {
        let now = self.now.max(now);
        self.registry.groups.iter().map(move |(index, group)| {
            let device = &self.devices[group.device];
            let view = &group.view;
            let queues = || {
                group
                    .queues
                    .iter()
                    .map(|&queue| &self.registry.queues[queue])
            };
            GroupStatus {
                group: GroupId(index as u32),
                process: view.process,
                device: device.id,
                queues: queues().map(|queue| queue.id).collect(),
                priority: view.priority(),
                hints: view.hints,
                ready: group.ready_queues > 0,
                open: view.open,
                held: queues().all(|queue| queue.held),
                stalled: view.stalled,
                stopped: group.stopped,
                share: view.share,
                min_share: if view.priority().runs() {
                    device.promise(matches!(group.part, Part::Waits(_)))
                } else {
                    0.0
                },
                served_ns: view.served(now),
                waiting_ns: view.waiting(now),
                preemptions: group.preemptions,
            }
        })
    }

    /// Every queue as it stands.
    pub fn queues(&self, now: Nanos) -> impl Iterator<Item = QueueStatus> {
        let now = self.now.max(now);
        self.queues.values().map(move |&queue| {
            let queue = &self.registry.queues[queue];
            let group = &self.registry.groups[queue.group.index()];
            let view = &group.view;
            QueueStatus {
                queue: queue.id,
                process: queue.process,
                device: view.device,
                group: queue.group,
                priority: view.priority(),
                own_priority: view.own,
                ready: queue.ready,
                open: queue.gate == Some(true),
                held: queue.held,
                stalled: queue.stalled,
                stopped: group.stopped,
                share: queue.share,
                served_ns: view.served(now),
                waiting_ns: view.waiting(now),
            }
        })
    }

    fn find(&self, queue: QueueId) -> Result<usize, EventError> {
        self.queues
            .get(&queue)
            .copied()
            .ok_or(EventError::UnknownQueue(queue))
    }

    /// Decides on every device touched, and on those that a decision concerns as well.
    fn decide(&mut self, actions: &mut Vec<Action>) {
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut at = 0;
        while let Some(&index) = self.touched.get(at) {
            at += 1;
            self.devices[index].decide(
                self.now,
                &mut *self.policy,
                &mut self.decision,
                &mut self.registry,
                &self.limits,
            );
            if std::mem::take(&mut self.decision.everywhere) {
                // Those before this one again: they were decided on too early. None can ask for ever: what they see no
                // longer changes.
                let again = (0..self.devices.len()).filter(|other| *other != index);
                self.touched.truncate(at);
                self.touched.extend(again);
            }
        }
        if at > 1 {
            self.touched.sort_unstable();
            self.touched.dedup();
        }
        let mut batch = Batch {
            closes: actions,
            shares: &mut self.shares,
            opens: &mut self.opens,
        };
        for &index in &self.touched {
            let device = &mut self.devices[index];
            let before = device.deadline;
            device.settle(
                self.now,
                &self.decision,
                &mut self.registry,
                &self.limits,
                &mut batch,
            );
            if before != device.deadline {
                before.map(|at| self.timers.remove(&(at, index)));
                self.timers.extend(device.deadline.map(|at| (at, index)));
            }
        }
        self.touched.clear();
        actions.append(&mut self.shares);
        actions.append(&mut self.opens);
    }

    /// The index of a device, which is registered if it was not.
    fn device(&mut self, device: DeviceId) -> usize {
        *self.device_indices.entry(device).or_insert_with(|| {
            self.devices.push(Device::new(device, self.rules));
            self.devices.len() - 1
        })
    }

    fn create(
        &mut self,
        id: QueueId,
        process_id: ProcessId,
        device: DeviceId,
        hints: Hints,
    ) -> Result<(), EventError> {
        if self.queues.contains_key(&id) {
            return Err(EventError::DuplicateQueue(id));
        }
        let device = self.device(device);
        self.processes.entry(process_id).or_default();
        self.set_process_hints(process_id, hints)?;
        let process = &self.processes[&process_id];
        let shared = |group: &&GroupId| {
            let group = &self.registry.groups[group.index()];
            !group.view.own && group.device == device
        };
        let group = match process.groups.iter().find(shared) {
            Some(&group) => group,
            None => self.add_group(device, false, process_id),
        };
        let queue = self.registry.queues.insert(Queue {
            id,
            process: process_id,
            group,
            ready: false,
            held: false,
            last_progress: self.now,
            stalled: false,
            gate: None,
            share: HwShare::Normal,
        });
        self.queues.insert(id, queue);
        self.process(process_id).queues.push(queue);
        self.join(queue, group);
        Ok(())
    }

    /// Something about one queue, which also shows that it moves.
    fn update(
        &mut self,
        queue: QueueId,
        change: impl FnOnce(&mut Queue),
    ) -> Result<(), EventError> {
        let index = self.find(queue)?;
        let queue = &mut self.registry.queues[index];
        let (counted, was_held) = (queue.counts(), queue.held);
        let was_stalled = std::mem::take(&mut queue.stalled);
        queue.last_progress = self.now;
        change(queue);
        let (counts, held, id) = (queue.counts(), queue.held, queue.group);
        let group = self.registry.group(id);
        group.stalled_queues -= usize::from(was_stalled);
        match (counted, counts) {
            (false, true) => group.ready_queues += 1,
            (true, false) => group.ready_queues -= 1,
            _ => (),
        }
        let device = group.device;
        if held != was_held {
            self.devices[device].dirty.push(index);
            self.touched.push(device);
        }
        self.refresh(id);
        Ok(())
    }

    fn end_process(&mut self, process: ProcessId) {
        let Some(ended) = self.processes.get_mut(&process) else {
            return;
        };
        for queue in std::mem::take(&mut ended.queues) {
            self.remove(queue);
        }
        self.processes.remove(&process);
    }

    /// Adds to a process's hints, and to those of its groups that have none of their own.
    fn set_process_hints(&mut self, process: ProcessId, hints: Hints) -> Result<(), EventError> {
        let found = self.processes.get_mut(&process);
        let found = found.ok_or(EventError::UnknownProcess(process))?;
        found.hints.extend(hints.iter());
        for index in 0..found.groups.len() {
            let group = self.process(process).groups[index];
            if !self.registry.group(group).view.own {
                self.set_hints(group, hints);
            }
        }
        Ok(())
    }

    fn set_queue_hint(&mut self, index: usize, hint: Hint) {
        let queue = &self.registry.queues[index];
        let (old, process) = (queue.group, queue.process);
        let group = self.registry.group(old);
        let device = group.device;
        let own = if group.view.own {
            old
        } else {
            let group = self.add_group(device, true, process);
            self.leave(index);
            self.join(index, group);
            group
        };
        self.set_hints(own, [hint].into_iter().collect());
    }

    /// Whether a hint may be given to all of these: their utilizations must fit beside those stated on the same devices.
    pub fn check(&self, targets: &[Target], hint: Hint) -> Result<(), EventError> {
        let Hint::Utilization(wanted) = hint else {
            return Ok(());
        };
        // By device: how many groups will state it, and what they state now.
        let mut devices: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for &target in targets {
            let (groups, apart) = match target {
                Target::Process(process) => {
                    let groups = self.processes.get(&process).map(|process| &*process.groups);
                    (groups.unwrap_or_default().to_vec(), false)
                }
                Target::Queue(queue) => (vec![self.registry.queues[self.find(queue)?].group], true),
            };
            for group in groups.iter().map(|id| &self.registry.groups[id.index()]) {
                if group.view.own && !apart {
                    continue;
                }
                let device = devices.entry(group.device).or_default();
                device.0 += 1;
                // What it states is replaced, unless it stays behind for other queues.
                if group.view.own == apart || group.queues.len() == 1 {
                    device.1 += stated(group);
                }
            }
        }
        for (device, (groups, now)) in devices {
            let left = (self.utilization_left(device) + now) / groups;
            if wanted.get() > left {
                return Err(EventError::OverCommitted {
                    device: self.devices[device].id,
                    wanted: wanted.get(),
                    left,
                });
            }
        }
        Ok(())
    }

    /// Whether all of these hints may be given to one target; see [`Engine::check`].
    pub fn check_hints(&self, target: Target, hints: Hints) -> Result<(), EventError> {
        hints
            .iter()
            .try_for_each(|hint| self.check(&[target], hint))
    }

    /// What the groups of a device leave, percent.
    fn utilization_left(&self, device: usize) -> u64 {
        let groups = self.registry.groups.iter().map(|(_, group)| group);
        let stated = groups.filter(|group| group.device == device).map(stated);
        100_u64.saturating_sub(stated.sum())
    }

    /// Something about a process that its groups show.
    fn change_process(
        &mut self,
        process: ProcessId,
        change: impl FnOnce(&mut Process) -> bool,
        show: impl Fn(&mut GroupView),
    ) -> Result<(), EventError> {
        let found = self.processes.get_mut(&process);
        let found = found.ok_or(EventError::UnknownProcess(process))?;
        if change(found) {
            for index in 0..found.groups.len() {
                let group = self.process(process).groups[index];
                show(&mut self.registry.group(group).view);
                self.note_change(group);
            }
        }
        Ok(())
    }

    fn set_stopped(&mut self, process: ProcessId, stopped: bool) -> Result<(), EventError> {
        let found = self
            .processes
            .get_mut(&process)
            .ok_or(EventError::UnknownProcess(process))?;
        found.stopped = stopped;
        for index in 0..found.groups.len() {
            let group = self.process(process).groups[index];
            self.registry.group(group).stopped = stopped;
            self.refresh(group);
        }
        Ok(())
    }
}

/// The share of its device that a group states, percent.
fn stated(group: &Group) -> u64 {
    group
        .view
        .hints
        .utilization
        .map_or(0, |percent| percent.get())
}
