//! The host of the scripted tests.

use crate::*;
use std::collections::BTreeMap;

pub(super) const US: Nanos = 1_000;
pub(super) const MS: Nanos = 1_000_000;

/// A host: keeps the gates as it was told, delivers timers on time, and checks every batch of actions.
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) now: Nanos,
    gates: BTreeMap<u64, bool>,
    pub(super) shares: BTreeMap<u64, HwShare>,
}

impl Host {
    pub(super) fn new(config: Config) -> Host {
        Host {
            engine: Engine::new(config),
            now: 1_000 * MS,
            gates: BTreeMap::new(),
            shares: BTreeMap::new(),
        }
    }

    /// Commands, apart by `;`:
    /// `new QUEUE PRIORITY [PROCESS [DEVICE]]` (process = queue, device 0 unless given), `ready Q`, `idle Q`, `hold Q`,
    /// `unhold Q`, `progress Q`, `gone Q`, `prio Q N`, `pprio P N`, `exit P`, `stop P`, `cont P`, `policy NAME`,
    /// `wait MICROSECONDS`. A queue may be a range `1..5`.
    pub(super) fn run(&mut self, script: &str) {
        for command in script.split(';') {
            let mut words = command.split_whitespace();
            let (Some(verb), Some(object)) = (words.next(), words.next()) else {
                continue;
            };
            let rest: Vec<&str> = words.collect();
            match verb {
                "wait" => self.wait(object.parse::<Nanos>().unwrap() * US),
                "policy" => self.set_policy(object),
                _ => {
                    let (first, last) = object.split_once("..").unwrap_or((object, object));
                    for id in first.parse().unwrap()..=last.parse::<u64>().unwrap() {
                        self.handle(event(verb, id, &rest)).unwrap();
                    }
                }
            }
        }
    }

    fn wait(&mut self, span: Nanos) {
        let until = self.now + span;
        while let Some(at) = self.engine.next_timer().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.handle(Event::Timer).unwrap();
            assert!(
                self.engine.next_timer().is_none_or(|next| next > self.now),
                "a timer that stays"
            );
        }
        self.now = until;
    }

    pub(super) fn handle(&mut self, event: Event) -> Result<(), EventError> {
        let mut actions = Vec::new();
        self.engine.handle(self.now, event, &mut actions)?;
        self.apply(&actions);
        Ok(())
    }

    fn set_policy(&mut self, name: &str) {
        let mut actions = Vec::new();
        self.engine
            .set_policy(self.now, policy::by_name(name).unwrap(), &mut actions);
        assert_eq!(self.engine.policy_name(), name);
        self.apply(&actions);
    }

    fn apply(&mut self, actions: &[Action]) {
        let rank = |action: &Action| match action {
            Action::Gate { open, .. } => 2 * usize::from(*open),
            Action::Share { .. } => 1,
        };
        assert!(
            actions.is_sorted_by_key(rank),
            "closes, then shares, then opens: {actions:?}"
        );
        for action in actions {
            let news = match *action {
                Action::Gate { queue, open } => self.gates.insert(queue.0, open) != Some(open),
                Action::Share { queue, share } => {
                    self.shares.insert(queue.0, share).unwrap_or_default() != share
                }
            };
            assert!(news, "{action:?} changes nothing");
        }
        let told = |status: &QueueStatus| (status.queue.0, status.open);
        self.gates.retain(|queue, _| {
            self.engine
                .queues(self.now)
                .any(|status| status.queue.0 == *queue)
        });
        assert!(
            self.engine
                .queues(self.now)
                .map(|status| told(&status))
                .eq(self.gates.clone()),
            "status = gates"
        );
    }

    pub(super) fn open(&self) -> Vec<u64> {
        self.gates
            .iter()
            .filter(|(_, open)| **open)
            .map(|(queue, _)| *queue)
            .collect()
    }

    pub(super) fn group(&self, queue: u64) -> GroupStatus {
        let found = self
            .engine
            .groups(self.now)
            .find(|group| group.queues.contains(&QueueId(queue)));
        found.expect("the queue is registered")
    }
}

pub(super) fn event(verb: &str, id: u64, rest: &[&str]) -> Event {
    let (queue, process) = (QueueId(id), ProcessId(id));
    let number = |index: usize| rest.get(index).map(|word| word.parse::<u64>().unwrap());
    let hint = || Hint::Priority(rest[0].parse().unwrap());
    match verb {
        "new" => Event::QueueCreated {
            queue,
            process: ProcessId(number(1).unwrap_or(id)),
            device: DeviceId(number(2).unwrap_or(0) as u32),
            hints: [hint()].into_iter().collect(),
        },
        "ready" => Event::Ready { queue },
        "idle" => Event::Idle { queue },
        "hold" => Event::Hold { queue, held: true },
        "unhold" => Event::Hold { queue, held: false },
        "progress" => Event::Progress { queue },
        "gone" => Event::QueueGone { queue },
        "prio" => Event::Hint {
            target: Target::Queue(queue),
            hint: hint(),
        },
        "pprio" => Event::Hint {
            target: Target::Process(process),
            hint: hint(),
        },
        "exit" => Event::ProcessGone { process },
        "stop" => Event::Stopped {
            process,
            stopped: true,
        },
        "cont" => Event::Stopped {
            process,
            stopped: false,
        },
        _ => panic!("unknown command {verb}"),
    }
}
