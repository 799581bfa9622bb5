//! The local scheduler: the same engine as the daemon's, in the agent's own thread.

use std::{collections::BTreeMap, time::Duration, time::Instant};

use xsched_sched::{
    Action, Config, DeviceId, Engine, Event, Hints, HwShare, Nanos, ProcessId, QueueId, Target,
    policy,
};
use xsched_wire::{Share, State, ToScheduler};

use crate::{
    global::wait,
    log,
    shared::{Shared, TICK, hush},
};

/// The only process that a local scheduler knows.
const SELF: ProcessId = ProcessId(1);
/// The most that the starvation guard takes of a device for all of its groups together. They belong to one program:
/// less than among programs of several owners will do, and leaves its urgent threads more.
const SUM_OF_MINIMA: f64 = 0.1;

/// Runs until the process ends.
pub(crate) fn run(shared: &Shared, policy: Option<&str>) {
    let mut config = match policy.map(policy::by_name) {
        None => Config::default(),
        Some(Ok(policy)) => Config::new(policy),
        Some(Err(error)) => {
            log::warn(&format!("{error}; this program runs unscheduled"));
            return;
        }
    };
    config.sum_of_minima = SUM_OF_MINIMA;
    let mut local = Local {
        shared,
        engine: Engine::new(config),
        started: Instant::now(),
        queues: BTreeMap::new(),
        sampled: Instant::now(),
        devices: Vec::new(),
        next: 1,
        actions: Vec::new(),
    };
    for message in shared.announce_all(shared.process_hints()) {
        local.hear(message);
    }
    shared.set_scheduled(true);
    loop {
        local.turn();
    }
}

/// A queue as the engine knows it, and its counters as they were last seen.
#[derive(Clone, Copy)]
struct Queue {
    id: QueueId,
    seen: (State, u32),
}

struct Local<'a> {
    shared: &'a Shared,
    engine: Engine,
    started: Instant,
    queues: BTreeMap<u16, Queue>,
    /// When progress was last looked for.
    sampled: Instant,
    /// Interned device names.
    devices: Vec<String>,
    next: u64,
    actions: Vec<Action>,
}

impl Local<'_> {
    fn turn(&mut self) {
        let tick = self.shared.tick();
        let until_timer = self.engine.next_timer().map_or(tick, |at| {
            Duration::from_nanos(at.saturating_sub(self.now()))
        });
        wait(
            &[self.shared.doorbell(), self.shared.wake_fd()],
            until_timer.min(tick),
        );
        hush(self.shared.doorbell());
        hush(self.shared.wake_fd());
        for message in self.shared.take_outbox() {
            self.hear(message);
        }
        let mut dirty = Vec::new();
        self.shared.layout().take_dirty(|slot| dirty.push(slot));
        for slot in dirty {
            self.look(slot);
        }
        if self.sampled.elapsed() >= TICK {
            self.sampled = Instant::now();
            self.sample();
            let nice = rustix::process::getpriority_process(None).unwrap_or(0);
            if !self.queues.is_empty() {
                self.tell(Event::Nice {
                    process: SELF,
                    nice: nice.clamp(-20, 19) as i8,
                });
            }
        }
        if self.engine.next_timer().is_some_and(|at| at <= self.now()) {
            self.tell(Event::Timer);
        }
        self.shared.look_after(Instant::now());
    }

    fn now(&self) -> Nanos {
        self.started.elapsed().as_nanos() as Nanos
    }

    /// A message, as a daemon would hear it.
    fn hear(&mut self, message: ToScheduler) {
        match message {
            ToScheduler::CreateQueue(info) => {
                let Some(block) = self.shared.layout().block(info.slot) else {
                    return;
                };
                let queue = QueueId(self.next);
                self.next += 1;
                let seen = (block.state(), block.completed());
                self.queues.insert(info.slot, Queue { id: queue, seen });
                let device = self.device(&info.device);
                if info.attributes.one_background {
                    self.tell(Event::Device {
                        device,
                        one_background: true,
                    });
                }
                self.tell(Event::QueueCreated {
                    queue,
                    process: SELF,
                    device,
                    hints: self.shared.process_hints(),
                });
                self.hint(Target::Queue(queue), info.hints);
                self.look(info.slot);
                self.shared.hand_over(info.slot);
            }
            ToScheduler::DestroyQueue { slot } => {
                if let Some(queue) = self.queues.remove(&slot) {
                    self.tell(Event::QueueGone { queue: queue.id });
                }
                if let Some(block) = self.shared.layout().block(slot) {
                    let _ = block.open_gate();
                    block.wake_gate();
                }
            }
            // Queues bring the process's hints along.
            ToScheduler::Hint { slot: None, .. } if self.queues.is_empty() => {}
            ToScheduler::Hint { slot: None, hints } => self.hint(Target::Process(SELF), hints),
            ToScheduler::Hint {
                slot: Some(slot),
                hints,
            } => {
                if let Some(queue) = self.queues.get(&slot) {
                    self.hint(Target::Queue(queue.id), hints);
                }
            }
            ToScheduler::Hold { slot, held } => {
                if let Some(&Queue { id: queue, .. }) = self.queues.get(&slot) {
                    self.tell(Event::Hold { queue, held });
                }
            }
            ToScheduler::Level { .. } => {}
        }
    }

    fn hint(&mut self, target: Target, hints: Hints) {
        for hint in hints.iter() {
            self.tell(Event::Hint { target, hint });
        }
    }

    fn device(&mut self, name: &str) -> DeviceId {
        let known = self.devices.iter().position(|device| device == name);
        let index = known.unwrap_or_else(|| {
            self.devices.push(name.to_owned());
            self.devices.len() - 1
        });
        DeviceId(index as u32)
    }

    /// Reads the words of a queue that changed.
    fn look(&mut self, slot: u16) {
        let block = self.shared.layout().block(slot);
        if let (Some(queue), Some(block)) = (self.queues.get_mut(&slot), block) {
            queue.seen = (block.state(), block.completed());
            let (queue, is_ready) = (queue.id, queue.seen.0.is_ready());
            self.tell(if is_ready {
                Event::Ready { queue }
            } else {
                Event::Idle { queue }
            });
        }
    }

    /// Tells the engine which ready queues moved: one that does not counts as hung after a while.
    fn sample(&mut self) {
        let moved: Vec<_> = self
            .queues
            .iter_mut()
            .filter(|(_, queue)| queue.seen.0.is_ready())
            .filter_map(|(&slot, queue)| {
                let block = self.shared.layout().block(slot)?;
                let now = (block.state(), block.completed());
                (std::mem::replace(&mut queue.seen, now) != now).then_some(queue.id)
            })
            .collect();
        for queue in moved {
            self.tell(Event::Progress { queue });
        }
    }

    fn tell(&mut self, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        if let Err(error) = self.engine.handle(self.now(), event, &mut actions) {
            log::warn(&format!("local scheduler: {error}"));
        }
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.actions = actions;
    }

    fn carry_out(&self, action: Action) {
        let (Action::Gate { queue, .. } | Action::Share { queue, .. }) = action;
        let found = self.queues.iter().find(|(_, known)| known.id == queue);
        let Some((&slot, _)) = found else { return };
        match action {
            Action::Gate { open, .. } => {
                let Some(block) = self.shared.layout().block(slot) else {
                    return;
                };
                let wake = match open {
                    true => block.open_gate(),
                    false => block.close_gate(),
                };
                if wake {
                    block.wake_gate();
                }
            }
            Action::Share { share, .. } => {
                if let Some(managed) = self.shared.managed(slot) {
                    managed.apply_share(match share {
                        HwShare::Background => Share::Background,
                        HwShare::Slice(micros) => Share::Slice(micros),
                        _ => Share::Normal,
                    });
                }
            }
        }
    }
}
