//! `hhpf`, highest priority first across devices.
//!
//! For: a pipeline over several devices (an NPU and a GPU, say) that share memory bandwidth, power or a host program, so
//! that low-priority work on one slows the urgent work on another.
//! Hints: priority.
//! Guarantee: a group executes only while no group of a higher priority is ready on any device. Otherwise as `hpf`, except
//! that of idle groups only those that were active last find their gate open.
//! Not for: devices that do not disturb each other: it leaves them idle.

use super::{About, Decision, GroupView, Policy, Snapshot, classes::Classes};
use crate::ids::{DeviceId, Nanos};
use std::collections::BTreeMap;
use xsched_hint::HintKind;

pub(super) const ABOUT: About = About {
    name: "hhpf",
    summary: "highest priority first across devices",
    hints: &[HintKind::Priority],
    work_conserving: false,
    remembers: true,
    make: || Box::new(Hhpf::default()),
};

/// Highest priority first across devices. See the module.
#[derive(Clone, Debug)]
pub struct Hhpf {
    classes: Classes,
    /// The priority that each device demands, where it demands one.
    demands: BTreeMap<DeviceId, i32>,
    /// How many devices demand each priority.
    demanded: BTreeMap<i32, usize>,
    /// What all devices were last decided by.
    highest: Option<i32>,
}

impl Default for Hhpf {
    fn default() -> Hhpf {
        Hhpf {
            classes: Classes::of_equals(),
            demands: BTreeMap::new(),
            demanded: BTreeMap::new(),
            highest: None,
        }
    }
}

impl Hhpf {
    fn note_demand(&mut self, device: DeviceId, demand: Option<i32>) {
        let before = match demand {
            Some(priority) => self.demands.insert(device, priority),
            None => self.demands.remove(&device),
        };
        if before == demand {
            return;
        }
        if let Some(before) = before
            && let Some(count) = self.demanded.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.demanded.remove(&before);
            }
        }
        if let Some(demand) = demand {
            *self.demanded.entry(demand).or_default() += 1;
        }
    }
}

impl Policy for Hhpf {
    fn name(&self) -> &'static str {
        ABOUT.name
    }

    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        let priority = |group: &GroupView| group.priority().get();
        self.classes.update(now, snapshot, decision, priority);
        let demand = self.classes.demand(now, snapshot.device);
        self.note_demand(snapshot.device, demand);
        let highest = self
            .demanded
            .last_key_value()
            .map(|(priority, _)| *priority);
        if std::mem::replace(&mut self.highest, highest) != highest {
            decision.decide_everywhere();
        }
        self.classes.apply(now, highest, snapshot, decision);
    }

    fn forget(&mut self, group: &GroupView) {
        self.classes.forget(group);
    }
}

#[cfg(test)]
mod tests {
    use crate::*;

    fn open(engine: &Engine) -> Vec<u64> {
        engine
            .queues(0)
            .filter(|queue| queue.open)
            .map(|queue| queue.queue.0)
            .collect()
    }

    #[test]
    fn a_high_one_holds_lower_ones_everywhere() {
        let mut engine = Engine::new(Config::new(policy::by_name("hhpf").unwrap()));
        let mut actions = Vec::new();
        for (queue, priority, device) in [(1, 9, 0), (2, 5, 1), (3, 5, 2), (4, 1, 0)] {
            let hint = Hint::Priority(Priority::new(priority).unwrap());
            let create = Event::QueueCreated {
                queue: QueueId(queue),
                process: ProcessId(queue),
                device: DeviceId(device),
                hints: [hint].into_iter().collect(),
            };
            engine.handle(0, create, &mut actions).unwrap();
        }
        let mut tell = |now, queue: u64, ready: bool, expect: &[u64]| {
            let queue = QueueId(queue);
            let event = if ready {
                Event::Ready { queue }
            } else {
                Event::Idle { queue }
            };
            engine.handle(now, event, &mut actions).unwrap();
            assert_eq!(open(&engine), expect, "at {now}");
        };
        tell(1_000_000, 4, true, &[1, 2, 3, 4]);
        tell(2_000_000, 2, true, &[1, 2, 3]);
        tell(3_000_000, 3, true, &[1, 2, 3]);
        tell(4_000_000, 1, true, &[1]);
        tell(5_000_000, 1, false, &[1, 2, 3]);
        tell(6_000_000, 2, false, &[1, 2, 3]);
        tell(7_000_000, 3, false, &[1, 2, 3, 4]);
    }
}
