//! The engine: events in, actions out.

mod grouping;

use crate::{
    device::{Device, Limits},
    event::{Action, Event, EventError, HwShare},
    guard::Rules,
    hint::{Hint, Priority, Target},
    ids::{DeviceId, GroupId, Nanos, ProcessId, QueueId},
    policy::{Hpf, Policy},
    registry::{Batch, Queue, Registry},
    status::{GroupStatus, QueueStatus},
};
use std::collections::BTreeMap;

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
    /// A group that keeps others waiting without any progress for so long counts as stalled. 0: never.
    pub stall_limit: Nanos,
    /// A group that is idle for so long and may not run is left out of decisions until it has work.
    pub park_after: Nanos,
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
            park_after: 100 * MS,
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
    /// Devices that the event in hand concerns.
    touched: Vec<usize>,
    shares: Vec<Action>,
    opens: Vec<Action>,
}

struct Process {
    /// Of its queues without a priority of their own.
    priority: Priority,
    stopped: bool,
    queues: Vec<usize>,
    /// Its groups, those with a priority of their own among them.
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
                park_after: config.park_after,
            },
            now: 0,
            registry: Registry::default(),
            queues: BTreeMap::new(),
            processes: BTreeMap::new(),
            devices: Vec::new(),
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
            } => self.create(queue, process, device, &hints)?,
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
            Event::Hint {
                target: Target::Process(process),
                hint: Hint::Priority(priority),
            } => {
                self.set_process_priority(process, priority)?;
            }
            Event::Hint {
                target: Target::Queue(queue),
                hint: Hint::Priority(priority),
            } => {
                let queue = self.find(queue)?;
                self.set_queue_priority(queue, priority);
            }
            Event::Stopped { process, stopped } => self.set_stopped(process, stopped)?,
            Event::Timer => {
                let due = |(index, device): (usize, &Device)| {
                    (device.deadline? <= self.now).then_some(index)
                };
                self.touched
                    .extend(self.devices.iter().enumerate().filter_map(due));
            }
        }
        self.decide(actions);
        Ok(())
    }

    /// When to send [`Event::Timer`], if nothing else happens before.
    pub fn next_timer(&self) -> Option<Nanos> {
        self.devices
            .iter()
            .filter_map(|device| device.deadline)
            .min()
    }

    /// Puts another policy in place, at once.
    pub fn set_policy(&mut self, now: Nanos, policy: Box<dyn Policy>, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.policy = policy;
        self.unpark(|_, _| true);
        for (index, device) in self.devices.iter_mut().enumerate() {
            for position in 0..device.active.len() {
                device.note_change(position);
            }
            self.touched.push(index);
        }
        self.decide(actions);
    }

    /// The name of the policy in place.
    pub fn policy_name(&self) -> &'static str {
        self.policy.name()
    }

    /// Whether the hint has a meaning to the policy in place. Hints are kept in any case, for the next one.
    pub fn accepts(&self, hint: &Hint) -> bool {
        self.policy.accepts(hint)
    }

    /// Every group as it stands.
    pub fn groups(&self, now: Nanos) -> impl Iterator<Item = GroupStatus> {
        let now = self.now.max(now);
        self.registry.groups.iter().map(move |(index, group)| {
            let device = &self.devices[group.device];
            let view = device.view(&group.place);
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
                priority: view.priority,
                ready: group.ready_queues > 0,
                open: view.open,
                held: queues().all(|queue| queue.held),
                stalled: view.stalled,
                stopped: group.stopped,
                share: view.share,
                min_share: if view.priority.runs() {
                    device.promise(view.waits)
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
            let group = &self.registry.groups[queue.group.0 as usize];
            let device = &self.devices[group.device];
            let view = device.view(&group.place);
            QueueStatus {
                queue: queue.id,
                process: queue.process,
                device: device.id,
                group: queue.group,
                priority: view.priority,
                own_priority: group.own,
                ready: queue.ready,
                open: queue.gate == Some(true),
                held: queue.held,
                stalled: view.stalled,
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

    /// Decides on every device touched.
    fn decide(&mut self, actions: &mut Vec<Action>) {
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut batch = Batch {
            closes: actions,
            shares: &mut self.shares,
            opens: &mut self.opens,
        };
        for index in self.touched.drain(..) {
            let device = &mut self.devices[index];
            device.decide(
                self.now,
                &mut *self.policy,
                &mut self.registry,
                &self.limits,
                &mut batch,
            );
        }
        actions.append(&mut self.shares);
        actions.append(&mut self.opens);
    }

    /// The index of a device, which is registered if it was not.
    fn device(&mut self, device: DeviceId) -> usize {
        let known = self.devices.iter().position(|known| known.id == device);
        known.unwrap_or_else(|| {
            self.devices.push(Device::new(device, self.rules));
            self.devices.len() - 1
        })
    }

    fn create(
        &mut self,
        id: QueueId,
        process_id: ProcessId,
        device: DeviceId,
        hints: &[Hint],
    ) -> Result<(), EventError> {
        if self.queues.contains_key(&id) {
            return Err(EventError::DuplicateQueue(id));
        }
        let device = self.device(device);
        self.processes.entry(process_id).or_insert_with(|| Process {
            priority: Priority::NORMAL,
            stopped: false,
            queues: Vec::new(),
            groups: Vec::new(),
        });
        for hint in hints {
            match hint {
                Hint::Priority(priority) => self.set_process_priority(process_id, *priority)?,
            }
        }
        let process = &self.processes[&process_id];
        let priority = process.priority;
        let shared = |group: &&GroupId| {
            let group = &self.registry.groups[group.0 as usize];
            !group.own && group.device == device
        };
        let group = match process.groups.iter().find(shared) {
            Some(&group) => group,
            None => self.add_group(device, false, process_id, priority),
        };
        let queue = self.registry.queues.insert(Queue {
            id,
            process: process_id,
            group,
            ready: false,
            held: false,
            gate: None,
            share: HwShare::Normal,
        });
        self.queues.insert(id, queue);
        self.process(process_id).queues.push(queue);
        self.join(queue, group);
        Ok(())
    }

    /// Something about one queue, which also shows that its group moves.
    fn update(
        &mut self,
        queue: QueueId,
        change: impl FnOnce(&mut Queue),
    ) -> Result<(), EventError> {
        let index = self.find(queue)?;
        let queue = &mut self.registry.queues[index];
        let (counted, was_held) = (queue.counts(), queue.held);
        change(queue);
        let (counts, held, id) = (queue.counts(), queue.held, queue.group);
        let group = self.registry.group(id);
        match (counted, counts) {
            (false, true) => group.ready_queues += 1,
            (true, false) => group.ready_queues -= 1,
            _ => (),
        }
        group.last_progress = self.now;
        let device = group.device;
        if held != was_held {
            self.devices[device].dirty.push(index);
            self.touched.push(device);
        }
        let view = self.devices[device].view_mut(&mut group.place);
        if std::mem::take(&mut view.stalled) {
            self.note_change(id);
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

    fn set_process_priority(
        &mut self,
        process: ProcessId,
        priority: Priority,
    ) -> Result<(), EventError> {
        let found = self
            .processes
            .get_mut(&process)
            .ok_or(EventError::UnknownProcess(process))?;
        found.priority = priority;
        for index in 0..found.groups.len() {
            let group = self.process(process).groups[index];
            if !self.registry.group(group).own {
                self.set_priority(group, priority);
            }
        }
        Ok(())
    }

    fn set_queue_priority(&mut self, index: usize, priority: Priority) {
        let queue = &self.registry.queues[index];
        let (old, process) = (queue.group, queue.process);
        let group = self.registry.group(old);
        let device = group.device;
        if group.own {
            self.set_priority(old, priority);
        } else {
            let group = self.add_group(device, true, process, priority);
            self.leave(index);
            self.join(index, group);
        }
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
