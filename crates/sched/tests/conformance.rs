//! What every policy must keep to, whatever happens: random events in virtual time against a model of the host.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use xsched_sched::*;

const US: Nanos = 1_000;

/// An event with small numbers, and the passing of time.
#[derive(Clone, Debug)]
enum Step {
    New {
        process: u64,
        device: u32,
        priority: Option<i32>,
    },
    Gone(usize),
    Exit(u64),
    Ready(usize),
    Idle(usize),
    Hold(usize, bool),
    Progress(usize),
    QueuePriority(usize, i32),
    ProcessPriority(u64, i32),
    QueueHint(usize, Hint),
    ProcessHint(u64, Hint),
    Nice(u64, i8),
    Foreground(u64, bool),
    Stopped(u64, bool),
    Policy(usize),
    Wait(Nanos),
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..12_usize;
    let process = || 0..6_u64;
    let priority = || prop::sample::select(vec![-256, -255, -1, 0, 0, 1, 255]);
    let hint = || {
        prop::sample::select(vec![
            hint_of(HintKind::Utilization, "0"),
            hint_of(HintKind::Utilization, "10"),
            hint_of(HintKind::Utilization, "60"),
            hint_of(HintKind::TimeSlice, "100us"),
            hint_of(HintKind::TimeSlice, "30ms"),
            hint_of(HintKind::Deadline, "1us"),
            hint_of(HintKind::Deadline, "20ms"),
            hint_of(HintKind::KDeadline, "1"),
            hint_of(HintKind::KDeadline, "3"),
            hint_of(HintKind::Laxity, "150us:-5:5"),
            hint_of(HintKind::Laxity, "15ms:255:0"),
            hint_of(HintKind::Weight, "1"),
            hint_of(HintKind::Weight, "10000"),
            hint_of(HintKind::LatencyTarget, "100us"),
            hint_of(HintKind::LatencyTarget, "60s"),
        ])
    };
    let wait = prop::sample::select(vec![
        1, 50, 150, 250, 1_500, 15_000, 90_000, 150_000, 2_100_000,
    ]);
    prop_oneof![
        4 => (process(), 0..2_u32, prop::option::of(priority()))
            .prop_map(|(process, device, priority)| Step::New { process, device, priority }),
        1 => queue().prop_map(Step::Gone),
        1 => process().prop_map(Step::Exit),
        10 => queue().prop_map(Step::Ready),
        8 => queue().prop_map(Step::Idle),
        2 => (queue(), any::<bool>()).prop_map(|(queue, held)| Step::Hold(queue, held)),
        2 => queue().prop_map(Step::Progress),
        1 => (queue(), priority()).prop_map(|(queue, priority)| Step::QueuePriority(queue, priority)),
        1 => (process(), priority()).prop_map(|(process, priority)| Step::ProcessPriority(process, priority)),
        2 => (queue(), hint()).prop_map(|(queue, hint)| Step::QueueHint(queue, hint)),
        2 => (process(), hint()).prop_map(|(process, hint)| Step::ProcessHint(process, hint)),
        1 => (process(), -20..20_i8).prop_map(|(process, nice)| Step::Nice(process, nice)),
        1 => (process(), any::<bool>()).prop_map(|(process, is)| Step::Foreground(process, is)),
        1 => (process(), any::<bool>()).prop_map(|(process, stopped)| Step::Stopped(process, stopped)),
        10 => wait.prop_map(|wait| Step::Wait(wait * US)),
    ]
}

/// Some start settled, so that the interesting states are reached often.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..120)
}

/// What the host knows of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Queue {
    process: u64,
    device: u32,
    /// It is a group of its own, with this priority.
    own: Option<i32>,
    ready: bool,
    held: bool,
    open: bool,
    share: HwShare,
}

#[derive(Clone, Copy, Debug, Default)]
struct Process {
    priority: i32,
    stopped: bool,
}

/// A group as the host would form it: (process, device, the queue if it is one of its own).
type Key = (u64, u32, Option<u64>);

struct Host {
    engine: Engine,
    now: Nanos,
    next_queue: u64,
    queues: BTreeMap<u64, Queue>,
    processes: BTreeMap<u64, Process>,
    log: Vec<(Nanos, Action)>,
}

impl Host {
    fn new(policy: &str) -> Host {
        Host {
            engine: Engine::new(Config::new(policy::by_name(policy).unwrap())),
            now: 1_000_000 * US,
            next_queue: 0,
            queues: BTreeMap::new(),
            processes: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let nth = |index: usize| {
            self.queues
                .keys()
                .copied()
                .nth(index % self.queues.len().max(1))
        };
        match *step {
            Step::New {
                process,
                device,
                priority,
            } => self.create(process, device, priority),
            Step::Exit(process) => {
                self.queues.retain(|_, queue| queue.process != process);
                self.processes.remove(&process);
                self.event(Event::ProcessGone {
                    process: ProcessId(process),
                });
            }
            Step::ProcessPriority(id, priority) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return;
                };
                process.priority = priority;
                self.event(Event::Hint {
                    target: Target::Process(ProcessId(id)),
                    hint: hint(priority),
                });
            }
            Step::QueueHint(index, hint) => {
                let Some(id) = nth(index) else { return };
                let target = Target::Queue(QueueId(id));
                if self.may_refuse(Event::Hint { target, hint }) {
                    let queue = self.queues.get_mut(&id).unwrap();
                    queue.own = queue.own.or(Some(self.processes[&queue.process].priority));
                    self.check_state();
                }
            }
            Step::ProcessHint(id, hint) => {
                if self.processes.contains_key(&id) {
                    let target = Target::Process(ProcessId(id));
                    if self.may_refuse(Event::Hint { target, hint }) {
                        self.check_state();
                    }
                }
            }
            Step::Nice(id, nice) => {
                if self.processes.contains_key(&id) {
                    self.event(Event::Nice {
                        process: ProcessId(id),
                        nice,
                    });
                }
            }
            Step::Foreground(id, foreground) => {
                if self.processes.contains_key(&id) {
                    self.event(Event::Foreground {
                        process: ProcessId(id),
                        foreground,
                    });
                }
            }
            Step::Stopped(id, stopped) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return;
                };
                process.stopped = stopped;
                self.event(Event::Stopped {
                    process: ProcessId(id),
                    stopped,
                });
            }
            Step::Policy(index) => {
                let about = &policy::POLICIES[index % policy::POLICIES.len()];
                let mut actions = Vec::new();
                self.engine
                    .set_policy(self.now, (about.make)(), &mut actions);
                assert_eq!(self.engine.policy_name(), about.name);
                self.apply(actions);
                self.check_state();
            }
            Step::Wait(span) => self.wait(span),
            Step::Gone(index) => {
                let Some(id) = nth(index) else { return };
                self.queues.remove(&id);
                self.event(Event::QueueGone { queue: QueueId(id) });
            }
            Step::Ready(index) | Step::Idle(index) => {
                let Some(id) = nth(index) else { return };
                self.set_ready(id, matches!(step, Step::Ready(_)));
            }
            Step::Hold(index, held) => {
                let Some(id) = nth(index) else { return };
                self.queues.get_mut(&id).unwrap().held = held;
                self.event(Event::Hold {
                    queue: QueueId(id),
                    held,
                });
            }
            Step::Progress(index) => {
                let Some(id) = nth(index) else { return };
                self.event(Event::Progress { queue: QueueId(id) });
            }
            Step::QueuePriority(index, priority) => {
                let Some(id) = nth(index) else { return };
                self.queues.get_mut(&id).unwrap().own = Some(priority);
                self.event(Event::Hint {
                    target: Target::Queue(QueueId(id)),
                    hint: hint(priority),
                });
            }
        }
    }

    fn create(&mut self, process: u64, device: u32, priority: Option<i32>) {
        let id = self.next_queue;
        self.next_queue += 1;
        let known = self.processes.entry(process).or_default();
        known.priority = priority.unwrap_or(known.priority);
        // The gate's state is unknown: any action about it is news, and there must be one.
        let (own, share) = (None, HwShare::Normal);
        self.queues.insert(
            id,
            Queue {
                process,
                device,
                own,
                ready: false,
                held: false,
                open: false,
                share,
            },
        );
        let (queue, before) = (QueueId(id), self.log.len());
        let hints = priority.map(hint).into_iter().collect::<Hints>();
        self.event(Event::QueueCreated {
            queue,
            process: ProcessId(process),
            device: DeviceId(device),
            hints,
        });
        let named = |(_, action): &(Nanos, Action)| matches!(action, Action::Gate { queue: named, .. } if *named == queue);
        assert_eq!(
            self.log[before..]
                .iter()
                .filter(|entry| named(entry))
                .count(),
            1,
            "a new queue's gate is set"
        );
    }

    fn set_ready(&mut self, id: u64, ready: bool) {
        self.queues.get_mut(&id).unwrap().ready = ready;
        let queue = QueueId(id);
        self.event(if ready {
            Event::Ready { queue }
        } else {
            Event::Idle { queue }
        });
    }

    fn wait(&mut self, span: Nanos) {
        let until = self.now + span;
        while let Some(at) = self.engine.next_timer().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.event(Event::Timer);
            assert!(
                self.engine.next_timer().is_none_or(|next| next > self.now),
                "timers make progress"
            );
        }
        self.now = until;
        if span > 1_000 * US {
            self.check_work_conserving();
        }
    }

    /// Under a policy that lets a device stand idle it runs sooner or later, by the guard at the latest.
    fn wait_for(&mut self, id: u64) {
        let end = self.now + 1_000_000 * US;
        while !self.queues[&id].open
            && let Some(at) = self.engine.next_timer().filter(|at| *at < end)
        {
            self.now = self.now.max(at);
            self.event(Event::Timer);
        }
    }

    fn event(&mut self, event: Event) {
        let created = match &event {
            Event::QueueCreated { queue, .. } => Some(queue.0),
            _ => None,
        };
        let mut actions = Vec::new();
        self.engine.handle(self.now, event, &mut actions).unwrap();
        if let Some(id) = created
            && let Some(queue) = self.queues.get_mut(&id)
            && let Some(Action::Gate { open, .. }) = actions
                .iter()
                .find(|action| matches!(action, Action::Gate { queue, .. } if queue.0 == id))
        {
            queue.open = !open;
        }
        self.apply(actions);
        self.check_state();
    }

    /// A hint that may not fit beside what others were promised; nothing changes then.
    fn may_refuse(&mut self, event: Event) -> bool {
        let mut actions = Vec::new();
        match self.engine.handle(self.now, event, &mut actions) {
            Ok(()) => {
                self.apply(actions);
                true
            }
            Err(EventError::OverCommitted { wanted, left, .. }) => {
                assert!(wanted > left && actions.is_empty());
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn apply(&mut self, actions: Vec<Action>) {
        let rank = |action: &Action| match action {
            Action::Gate { open, .. } => 2 * usize::from(*open),
            Action::Share { .. } => 1,
        };
        assert!(
            actions.is_sorted_by_key(rank),
            "closes, then shares, then opens: {actions:?}"
        );
        for action in actions {
            self.log.push((self.now, action));
            match action {
                Action::Gate { queue, open } => {
                    let queue = self
                        .queues
                        .get_mut(&queue.0)
                        .expect("an action for a registered queue");
                    assert_ne!(
                        std::mem::replace(&mut queue.open, open),
                        open,
                        "{action:?} is a change"
                    );
                }
                Action::Share { queue, share } => {
                    let queue = self
                        .queues
                        .get_mut(&queue.0)
                        .expect("an action for a registered queue");
                    assert_ne!(
                        std::mem::replace(&mut queue.share, share),
                        share,
                        "{action:?} is a change"
                    );
                }
            }
        }
    }

    fn key(&self, id: u64) -> Key {
        let queue = &self.queues[&id];
        (queue.process, queue.device, queue.own.map(|_| id))
    }

    fn priority(&self, key: &Key) -> i32 {
        match key.2 {
            Some(id) => self.queues[&id].own.unwrap(),
            None => self.processes[&key.0].priority,
        }
    }

    /// The groups that count as ready, by device and key; those that stalled are left out.
    fn ready_groups(&self) -> BTreeMap<u32, Vec<Key>> {
        let stalled: Vec<QueueId> = self
            .engine
            .groups(self.now)
            .filter(|group| group.stalled)
            .flat_map(|group| group.queues)
            .collect();
        let mut found: BTreeMap<u32, Vec<Key>> = BTreeMap::new();
        for (&id, queue) in &self.queues {
            let key = self.key(id);
            let counts = queue.ready && !queue.held && !self.processes[&queue.process].stopped;
            if counts && self.priority(&key) != -256 && !stalled.contains(&QueueId(id)) {
                let keys = found.entry(queue.device).or_default();
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        found
    }

    fn is_open(&self, key: &Key) -> bool {
        self.queues
            .iter()
            .any(|(&id, queue)| self.key(id) == *key && queue.open)
    }

    fn check_state(&self) {
        for (&id, queue) in &self.queues {
            assert!(!(queue.open && queue.held), "queue {id} is held and open");
            assert!(
                !queue.open || self.priority(&self.key(id)) != -256,
                "queue {id} must not run and is open"
            );
        }
        let stalled: BTreeSet<u64> = self
            .engine
            .queues(self.now)
            .filter(|queue| queue.stalled)
            .map(|queue| queue.queue.0)
            .collect();
        // The engine knows the same groups, and tells of them what the host was told.
        for group in self.engine.groups(self.now) {
            let has_work = |id: &u64| self.queues[id].ready && !self.queues[id].held;
            let (work, idle) = group
                .queues
                .iter()
                .map(|queue| queue.0)
                .partition::<Vec<u64>, _>(has_work);
            assert!(idle.iter().all(|id| !stalled.contains(id)), "{group:?}");
            let all_stalled = work.iter().all(|id| stalled.contains(id));
            assert_eq!(group.stalled, all_stalled && !work.is_empty());
            let keys: Vec<Key> = group.queues.iter().map(|queue| self.key(queue.0)).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{group:?}");
            assert_eq!(group.priority.get(), self.priority(&keys[0]));
            assert_eq!(group.hints.priority(), group.priority);
            for queue in group.queues.iter().map(|queue| &self.queues[&queue.0]) {
                assert_eq!(
                    (queue.open, queue.share),
                    (group.open && !queue.held, group.share)
                );
            }
        }
        assert!(
            self.engine
                .queues(self.now)
                .map(|queue| queue.queue.0)
                .eq(self.queues.keys().copied())
        );
        for (device, ready) in self.ready_groups() {
            let open: Vec<&Key> = ready.iter().filter(|key| self.is_open(key)).collect();
            assert!(
                !open.is_empty() || self.engine.next_timer().is_some(),
                "device {device} sleeps for ever"
            );
            match self.engine.policy_name() {
                "fifo" => assert_eq!(open.len(), ready.len()),
                "turns" | "cfs" | "mlfq" | "up" => {
                    assert!(open.len() <= 1, "one at a time: {open:?}");
                }
                "pup" | "spup" => {
                    let mut processes: Vec<u64> = open.iter().map(|key| key.0).collect();
                    processes.dedup();
                    assert!(processes.len() <= 1, "one process at a time: {open:?}");
                }
                "hpf" => {
                    let top = ready.iter().map(|key| self.priority(key)).max();
                    let of_the_top = open.iter().all(|key| Some(self.priority(key)) == top);
                    assert!(
                        of_the_top || open.len() == 1,
                        "only a piece is for a lower one: {open:?}"
                    );
                }
                _ => (),
            }
            if self.engine.policy_name() == "hpf" {
                self.check_top_stays_open(device, &ready);
            }
        }
    }

    /// An idle group of the highest priority registered finds its gate open.
    fn check_top_stays_open(&self, device: u32, ready: &[Key]) {
        let here = || {
            self.queues
                .iter()
                .filter(|(_, queue)| queue.device == device)
        };
        let top = here().map(|(&id, _)| self.priority(&self.key(id))).max();
        for (&id, queue) in here() {
            let key = self.key(id);
            if Some(self.priority(&key)) == top && top != Some(-256) && !ready.contains(&key) {
                assert!(
                    queue.open || queue.held,
                    "queue {id} is of the top class and closed"
                );
            }
        }
    }

    fn check_work_conserving(&self) {
        if !policy::about(self.engine.policy_name())
            .unwrap()
            .work_conserving
        {
            return;
        }
        for (device, ready) in self.ready_groups() {
            assert!(
                ready.iter().any(|key| self.is_open(key)),
                "device {device} has work and stands idle: {ready:?}"
            );
        }
    }

    /// Every queue that may run does so as soon as it is alone.
    fn check_no_lost_wake_up(&mut self) {
        for id in self.queues.keys().copied().collect::<Vec<_>>() {
            self.queues.get_mut(&id).unwrap().held = false;
            self.event(Event::Hold {
                queue: QueueId(id),
                held: false,
            });
            self.set_ready(id, false);
        }
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.step(&Step::Stopped(id, false));
        }
        for id in self.queues.keys().copied().collect::<Vec<_>>() {
            self.set_ready(id, true);
            self.wait(250 * US);
            let conserving = policy::about(self.engine.policy_name())
                .unwrap()
                .work_conserving;
            if !conserving {
                self.wait_for(id);
            }
            let runs = self.priority(&self.key(id)) != -256;
            assert_eq!(self.queues[&id].open, runs, "queue {id} alone");
            self.set_ready(id, false);
        }
    }
}

fn hint_of(kind: HintKind, text: &str) -> Hint {
    kind.parse(text).unwrap()
}

fn hint(priority: i32) -> Hint {
    Hint::Priority(Priority::new(priority).unwrap())
}

fn play(policy: &str, steps: &[Step]) -> Host {
    let mut host = Host::new(policy);
    for step in steps {
        host.step(step);
    }
    host.check_no_lost_wake_up();
    host
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_conforms(steps in steps()) {
        for name in policy::names() {
            play(name, &steps);
        }
    }

    #[test]
    fn the_same_events_give_the_same_actions(steps in steps()) {
        for name in policy::names() {
            prop_assert_eq!(play(name, &steps).log, play(name, &steps).log);
        }
    }

    #[test]
    fn a_change_of_policy_loses_nothing(
        steps in prop::collection::vec(prop_oneof![6 => step(), 1 => (0..policy::POLICIES.len()).prop_map(Step::Policy)], 1..120),
    ) {
        play("hpf", &steps);
    }
}
