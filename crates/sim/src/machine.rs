//! Devices and tasks in virtual time, and the engine that schedules them.

use crate::{
    report::{Report, TaskStats},
    scenario::{DeviceSpec, Scenario, TaskSpec},
    work::{Arrival, Draw},
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};
use xsched_sched::{
    Action, Config, DeviceId, Engine, Event, HwShare, Nanos, Policy, ProcessId, QueueId, policy,
};

/// The slice of a background task beside others, as the CUDA shim sets it.
const BACKGROUND_SLICE: Nanos = 50_000;

/// Plays a scenario under a policy of this name.
pub fn run(scenario: &Scenario, policy: &str) -> Result<Report, policy::UnknownPolicy> {
    Ok(run_with(scenario, policy::by_name(policy)?, false).0)
}

/// Plays a scenario under a policy, and gives, if asked, who executed when.
pub fn run_with(
    scenario: &Scenario,
    policy: Box<dyn Policy>,
    record: bool,
) -> (Report, Vec<Segment>) {
    let name = policy.name();
    let mut machine = Machine::new(scenario, policy, record);
    machine.play();
    machine.finish(name)
}

/// A time without interruption in which a task executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the device.
    pub device: usize,
    /// Index of the task.
    pub task: usize,
    /// From.
    pub start: Nanos,
    /// To.
    pub end: Nanos,
}

/// What happens at a time. Of those at one time what ends comes before what begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The device's stretch ends, unless it was changed since (by its number).
    Stretch(u32, u32),
    Gate(u32, bool),
    Share(u32, HwShareCode),
    Arrival(u32),
}

/// A share that can be ordered.
type HwShareCode = u32;

fn code(share: HwShare) -> HwShareCode {
    match share {
        HwShare::Background => 1,
        HwShare::Slice(micros) => micros.max(2),
        _ => 0,
    }
}

struct Machine<'a> {
    scenario: &'a Scenario,
    engine: Engine,
    now: Nanos,
    end: Nanos,
    warm_up: Nanos,
    devices: Vec<Device<'a>>,
    tasks: Vec<Task<'a>>,
    calendar: BinaryHeap<Reverse<(Nanos, Happening, u64)>>,
    /// Numbers what is put into the calendar, so that equal entries come in order.
    entries: u64,
    actions: Vec<Action>,
    segments: Option<Vec<Segment>>,
    commands: u64,
}

struct Device<'a> {
    spec: &'a DeviceSpec,
    /// Tasks with commands that may execute, in order; the one that executes is not among them.
    line: VecDeque<u32>,
    running: Option<u32>,
    /// Who executed last.
    last: Option<u32>,
    /// Since when the running command executes, after the switch.
    since: Nanos,
    /// The slice of the one that executes, if the device slices, and when it ends next: then the device goes to the next
    /// if somebody waits, else another slice begins.
    slice: Option<Nanos>,
    slice_ends: Nanos,
    /// Number of the stretch in the calendar.
    stretch: u32,
    busy: Nanos,
    switches: u64,
}

struct Task<'a> {
    spec: &'a TaskSpec,
    name_number: Option<u32>,
    device: u32,
    draw: Draw,
    /// Requests that wait: when they arrived.
    waiting: VecDeque<Nanos>,
    /// When the request in progress arrived, how many commands it still has, and what is left of the first of them.
    arrived: Option<Nanos>,
    commands: u32,
    left: Nanos,
    /// The length of commands where a trace says it.
    traced: Option<Nanos>,
    next_trace: usize,
    /// Gate.
    open: bool,
    /// Commands that a closed gate does not stop any more.
    allowance: u32,
    /// Commands since the last gate in the queue.
    since_gate: u32,
    share: HwShareCode,
    in_line: bool,
    stats: TaskStats,
}

impl Task<'_> {
    fn may_execute(&self) -> bool {
        self.commands > 0 && (self.open || self.allowance > 0)
    }
}

impl<'a> Machine<'a> {
    fn new(scenario: &'a Scenario, policy: Box<dyn Policy>, record: bool) -> Machine<'a> {
        let mut config = Config::new(policy);
        config.min_share = scenario.min_share / 100.0;
        // Nothing hangs here, and long commands are not to be taken for it.
        config.stall_limit = 0;
        let mut machine = Machine {
            scenario,
            engine: Engine::new(config),
            now: 0,
            end: scenario.duration.0,
            warm_up: scenario.warm_up.0,
            devices: Vec::new(),
            tasks: Vec::new(),
            calendar: BinaryHeap::new(),
            entries: 0,
            actions: Vec::new(),
            segments: record.then(Vec::new),
            commands: 0,
        };
        machine.build();
        machine
    }

    fn build(&mut self) {
        let mut first_of = Vec::new();
        for spec in &self.scenario.devices {
            first_of.push(self.devices.len() as u32);
            for _ in 0..spec.count {
                let device = DeviceId(self.devices.len() as u32);
                self.devices.push(Device {
                    spec,
                    line: VecDeque::new(),
                    running: None,
                    last: None,
                    since: 0,
                    slice: None,
                    slice_ends: 0,
                    stretch: 0,
                    busy: 0,
                    switches: 0,
                });
                let one_background = spec.one_background;
                self.tell(Event::Device {
                    device,
                    one_background,
                });
            }
        }
        for spec in &self.scenario.tasks {
            let on = spec.device.as_ref().map_or(0, |name| {
                let known = self
                    .scenario
                    .devices
                    .iter()
                    .position(|device| device.name == *name);
                known.unwrap_or(0)
            });
            for number in 0..spec.count {
                let index = self.tasks.len() as u64;
                let device = first_of[on] + number % self.scenario.devices[on].count;
                let mut draw = Draw::new(self.scenario.seed, index, spec.command);
                let first = match &spec.arrival {
                    Arrival::Poisson(mean) => Some(draw.exponential(mean.0)),
                    Arrival::Trace(_) => spec.trace.first().map(|(arrival, ..)| *arrival),
                    _ => Some(0),
                };
                self.tasks.push(Task {
                    spec,
                    name_number: (spec.count > 1).then_some(number),
                    device,
                    draw,
                    waiting: VecDeque::new(),
                    arrived: None,
                    commands: 0,
                    left: 0,
                    traced: None,
                    next_trace: 0,
                    open: false,
                    allowance: 0,
                    since_gate: 0,
                    share: 0,
                    in_line: false,
                    stats: TaskStats::default(),
                });
                let process = ProcessId(index);
                self.tell(Event::QueueCreated {
                    queue: QueueId(index),
                    process,
                    device: DeviceId(device),
                    hints: spec.hints,
                });
                if spec.nice != 0 {
                    self.tell(Event::Nice {
                        process,
                        nice: spec.nice,
                    });
                }
                if spec.foreground {
                    self.tell(Event::Foreground {
                        process,
                        foreground: true,
                    });
                }
                if let Some(first) = first {
                    self.enter(spec.start.0 + first, Happening::Arrival(index as u32));
                }
            }
        }
        // The first gates stand before anything happens.
        self.obey(true);
    }

    // ---- time ----

    fn enter(&mut self, at: Nanos, what: Happening) {
        self.entries += 1;
        self.calendar.push(Reverse((at, what, self.entries)));
    }

    /// When something happens next that is not a stretch in hand.
    fn next(&self) -> Nanos {
        let calendar = self
            .calendar
            .peek()
            .map_or(Nanos::MAX, |Reverse((at, ..))| *at);
        calendar.min(self.engine.next_timer().unwrap_or(Nanos::MAX))
    }

    fn play(&mut self) {
        loop {
            let timer = self.engine.next_timer();
            let entry = self.calendar.peek().map(|Reverse((at, ..))| *at);
            match (entry, timer) {
                (entry, Some(timer)) if entry.is_none_or(|at| timer < at) => {
                    if timer >= self.end {
                        break;
                    }
                    self.now = self.now.max(timer);
                    self.tell(Event::Timer);
                    self.obey(false);
                }
                (Some(at), _) if at < self.end => {
                    let Some(Reverse((at, what, _))) = self.calendar.pop() else {
                        break;
                    };
                    self.now = at;
                    self.happen(what);
                    self.obey(false);
                }
                _ => break,
            }
        }
        self.now = self.end;
        for device in 0..self.devices.len() as u32 {
            self.advance(device);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Stretch(device, number) => {
                if self.devices[device as usize].stretch == number {
                    self.stretch_ends(device);
                }
            }
            Happening::Gate(task, open) => self.set_gate(task, open),
            Happening::Share(task, share) => self.tasks[task as usize].share = share,
            Happening::Arrival(task) => self.arrive(task),
        }
    }

    // ---- the engine ----

    fn tell(&mut self, event: Event) {
        // The engine knows every queue that is named here.
        let told = self.engine.handle(self.now, event, &mut self.actions);
        debug_assert!(told.is_ok(), "{told:?}");
    }

    /// Stores the gates that the engine asked for, after the device's reaction time.
    fn obey(&mut self, at_once: bool) {
        while !self.actions.is_empty() {
            let actions = std::mem::take(&mut self.actions);
            for action in &actions {
                let (Action::Gate { queue, .. } | Action::Share { queue, .. }) = *action;
                let task = queue.0 as u32;
                let reaction = match at_once {
                    true => 0,
                    false => self.device_of(task).spec.reaction.0,
                };
                let what = match *action {
                    Action::Gate { open, .. } => Happening::Gate(task, open),
                    Action::Share { share, .. } => Happening::Share(task, code(share)),
                };
                if reaction == 0 {
                    self.happen(what);
                } else {
                    self.enter(self.now + reaction, what);
                }
            }
        }
    }

    fn device_of(&self, task: u32) -> &Device<'a> {
        &self.devices[self.tasks[task as usize].device as usize]
    }

    // ---- tasks ----

    fn arrive(&mut self, index: u32) {
        let now = self.now;
        let task = &mut self.tasks[index as usize];
        let spec = task.spec;
        let (requests, next) = match &spec.arrival {
            Arrival::Periodic(every) => (1, Some(now + every.0)),
            Arrival::Poisson(mean) => (1, Some(now + task.draw.exponential(mean.0))),
            Arrival::Closed(_) => (1, None),
            Arrival::Bursty { count, every } => (*count, Some(now + every.0)),
            Arrival::Trace(_) => {
                task.next_trace += 1;
                let next = spec.trace.get(task.next_trace);
                (1, next.map(|(arrival, ..)| spec.start.0 + arrival))
            }
        };
        task.waiting
            .extend(std::iter::repeat_n(now, requests as usize));
        if task.arrived.is_none() {
            self.begin_request(index);
            self.tell(Event::Ready {
                queue: QueueId(index.into()),
            });
            self.line_up(index);
        }
        let is_over = |at: Nanos| spec.stop.is_some_and(|stop| at >= stop.0);
        if let Some(next) = next.filter(|next| !is_over(*next)) {
            self.enter(next, Happening::Arrival(index));
        }
    }

    /// Takes the next request, if one waits.
    fn begin_request(&mut self, index: u32) -> bool {
        let task = &mut self.tasks[index as usize];
        task.arrived = task.waiting.pop_front();
        if task.arrived.is_none() {
            return false;
        }
        let spec = task.spec;
        task.commands = spec.commands;
        if let Arrival::Trace(_) = spec.arrival {
            // Those that still wait come after this one.
            let place = task.next_trace - 1 - task.waiting.len();
            let (_, commands, length) = spec.trace[place];
            task.commands = commands;
            task.traced = Some(length);
        }
        true
    }

    fn end_request(&mut self, index: u32) {
        let now = self.now;
        let counts = now >= self.warm_up;
        let task = &mut self.tasks[index as usize];
        if let Some(arrived) = task.arrived.take().filter(|_| counts) {
            task.stats.latencies.push(now - arrived);
            let deadline = task
                .spec
                .hints
                .deadline
                .map(|deadline| deadline.get() * 1_000);
            task.stats.late += u64::from(deadline.is_some_and(|deadline| now - arrived > deadline));
        }
        if let Arrival::Closed(think) = task.spec.arrival {
            let next = now + think.0;
            if task.spec.stop.is_none_or(|stop| next < stop.0) {
                if think.0 == 0 {
                    task.waiting.push_back(now);
                } else {
                    self.enter(next, Happening::Arrival(index));
                }
            }
        }
        if !self.begin_request(index) {
            self.tell(Event::Idle {
                queue: QueueId(index.into()),
            });
        }
    }

    fn set_gate(&mut self, index: u32, open: bool) {
        let device = self.tasks[index as usize].device;
        let runs = self.devices[device as usize].running == Some(index);
        if runs && !open {
            self.advance(device);
        }
        let spec = self.devices[device as usize].spec;
        let task = &mut self.tasks[index as usize];
        task.open = open;
        task.allowance = match (open, spec.level) {
            (true, _) | (_, 3) => 0,
            (false, 1) => task.commands.min(spec.window),
            // Those before the next gate, once one of them has begun.
            (false, _) => {
                let begun = runs || task.left > 0 || task.since_gate > 0;
                let before = spec.gate_interval - task.since_gate;
                if begun { before.min(task.commands) } else { 0 }
            }
        };
        if open {
            self.line_up(index);
        } else if !self.tasks[index as usize].may_execute() {
            if runs {
                self.leave(device);
                self.dispatch(device);
            } else if std::mem::take(&mut self.tasks[index as usize].in_line) {
                self.devices[device as usize]
                    .line
                    .retain(|&other| other != index);
            }
        }
    }

    // ---- devices ----

    /// Has a task wait for the device, if it may execute and does not yet.
    fn line_up(&mut self, index: u32) {
        let task = &mut self.tasks[index as usize];
        let on = task.device;
        if task.in_line || !task.may_execute() || self.devices[on as usize].running == Some(index) {
            return;
        }
        task.in_line = true;
        self.devices[on as usize].line.push_back(index);
        if self.devices[on as usize].running.is_none() {
            self.dispatch(on);
        } else {
            // The one that executes now has a slice that ends.
            self.plan(on);
        }
    }

    /// Gives a free device to the first in line.
    fn dispatch(&mut self, on: u32) {
        let device = &mut self.devices[on as usize];
        let Some(index) = device.line.pop_front() else {
            return;
        };
        let task = &mut self.tasks[index as usize];
        task.in_line = false;
        let is_new = device.last.is_some_and(|last| last != index);
        device.switches += u64::from(is_new);
        device.since = self.now + if is_new { device.spec.switch.0 } else { 0 };
        device.last = Some(index);
        device.running = Some(index);
        let own = device.spec.slice.map(|slice| slice.0);
        let slice = match task.share {
            0 => own,
            1 => own.map(|own| own.min(BACKGROUND_SLICE)),
            micros => Some(Nanos::from(micros) * 1_000),
        };
        device.slice = slice;
        device.slice_ends = slice.map_or(Nanos::MAX, |slice| device.since + slice);
        self.plan(on);
    }

    /// Enters the end of the stretch that begins, or goes on, into the calendar.
    fn plan(&mut self, on: u32) {
        let at = self.stretch_end(on);
        let device = &mut self.devices[on as usize];
        device.stretch = device.stretch.wrapping_add(1);
        let what = Happening::Stretch(on, device.stretch);
        self.enter(at, what);
    }

    /// When the running command ends, or its slice does and others wait.
    fn stretch_end(&mut self, on: u32) -> Nanos {
        let device = &mut self.devices[on as usize];
        let Some(index) = device.running else {
            return Nanos::MAX;
        };
        let task = &mut self.tasks[index as usize];
        if task.left == 0 {
            let length = task.spec.command;
            task.left = task.traced.unwrap_or_else(|| task.draw.command(length));
        }
        let done = device.since + task.left;
        if device.line.is_empty() {
            done
        } else {
            if let Some(slice) = device.slice.filter(|_| device.slice_ends < self.now) {
                device.slice_ends += (self.now - device.slice_ends).div_ceil(slice) * slice;
            }
            done.min(device.slice_ends)
        }
    }

    /// Counts what was executed until now.
    fn advance(&mut self, on: u32) {
        let device = &mut self.devices[on as usize];
        let Some(index) = device.running.filter(|_| self.now > device.since) else {
            return;
        };
        let task = &mut self.tasks[index as usize];
        let executed = (self.now - device.since).min(task.left);
        let counted = self
            .now
            .saturating_sub(device.since.max(self.warm_up))
            .min(executed);
        task.left -= executed;
        task.stats.busy += counted;
        device.busy += counted;
        if let Some(segments) = &mut self.segments {
            let (start, end) = (device.since, self.now);
            match segments.last_mut() {
                Some(last)
                    if (last.device, last.task, last.end)
                        == (on as usize, index as usize, start) =>
                {
                    last.end = end;
                }
                _ => segments.push(Segment {
                    device: on as usize,
                    task: index as usize,
                    start,
                    end,
                }),
            }
        }
        device.since = self.now;
    }

    /// Takes the device from the task that executes.
    fn leave(&mut self, on: u32) {
        let device = &mut self.devices[on as usize];
        device.running = None;
        device.stretch = device.stretch.wrapping_add(1);
    }

    fn stretch_ends(&mut self, on: u32) {
        loop {
            self.advance(on);
            let device = &self.devices[on as usize];
            let Some(index) = device.running else { return };
            let task = &mut self.tasks[index as usize];
            if task.left == 0 {
                self.commands += 1;
                task.commands -= 1;
                task.allowance = task.allowance.saturating_sub(1);
                task.since_gate += 1;
                if task.since_gate >= device.spec.gate_interval {
                    task.since_gate = 0;
                }
                if task.commands == 0 {
                    self.end_request(index);
                    if !self.actions.is_empty() {
                        self.after_stretch(on, index);
                        return;
                    }
                }
            }
            if !self.goes_on(on, index) {
                self.after_stretch(on, index);
                return;
            }
            // The next command of the same task: without the calendar, if nothing else happens before.
            let at = self.stretch_end(on);
            if at < self.next() && at < self.end {
                self.now = at;
                continue;
            }
            self.plan(on);
            return;
        }
    }

    /// The task that executes may go on, and keeps the device.
    fn goes_on(&self, on: u32, index: u32) -> bool {
        let device = &self.devices[on as usize];
        let sliced = !device.line.is_empty() && self.now >= device.slice_ends;
        self.tasks[index as usize].may_execute() && !sliced
    }

    fn after_stretch(&mut self, on: u32, index: u32) {
        if self.goes_on(on, index) {
            self.plan(on);
            return;
        }
        self.leave(on);
        self.line_up_quietly(on, index);
        self.dispatch(on);
    }

    /// To the end of the line, if it may execute at all.
    fn line_up_quietly(&mut self, on: u32, index: u32) {
        let task = &mut self.tasks[index as usize];
        if task.may_execute() && !task.in_line {
            task.in_line = true;
            self.devices[on as usize].line.push_back(index);
        }
    }

    // ---- results ----

    fn finish(self, policy: &'static str) -> (Report, Vec<Segment>) {
        let span = self.end - self.warm_up;
        let mut tasks: Vec<_> = self
            .tasks
            .into_iter()
            .map(|task| {
                let name = match task.name_number {
                    Some(number) => format!("{} {number}", task.spec.name),
                    None => task.spec.name.clone(),
                };
                task.stats.report(name, task.device as usize, span)
            })
            .collect();
        for group in self.engine.groups(self.end) {
            let task = &mut tasks[group.process.0 as usize];
            task.waiting_ms = group.waiting_ns as f64 / 1e6;
            task.preemptions = group.preemptions;
        }
        let busy: Nanos = self.devices.iter().map(|device| device.busy).sum();
        let report = Report {
            scenario: self.scenario.name.clone(),
            policy: policy.to_owned(),
            seed: self.scenario.seed,
            seconds: span as f64 / 1e9,
            devices: self.devices.len(),
            commands: self.commands,
            switches: self.devices.iter().map(|device| device.switches).sum(),
            utilization: busy as f64 / (span as f64 * self.devices.len() as f64),
            tasks,
        };
        (report, self.segments.unwrap_or_default())
    }
}
