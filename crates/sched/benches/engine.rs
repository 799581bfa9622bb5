//! What one event costs under every policy: the promise is at most 5 µs (`cargo bench -p xsched-sched`).
//!
//! Two worlds: 1,000 groups on one device, and 10,000 groups on 100 devices. In each a group of the highest urgency
//! toggles, with nobody else busy, with some busy, with all busy.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use xsched_sched::*;

const US: Nanos = 1_000;
const MS: Nanos = 1_000 * US;

/// Groups of one queue each, spread over devices. The last is the one that toggles.
struct World {
    engine: Engine,
    now: Nanos,
    actions: Vec<Action>,
    last: QueueId,
    /// Of the queue that toggles.
    ready: bool,
}

impl World {
    fn new(policy: &str, groups: u64, devices: u64, busy: impl Fn(u64) -> bool) -> World {
        let mut world = World {
            engine: Engine::new(Config::new(policy::by_name(policy).expect("is known"))),
            now: 0,
            actions: Vec::new(),
            last: QueueId(groups - 1),
            ready: false,
        };
        for index in 0..groups {
            let top = index == groups - 1;
            // Priorities over all classes below 200, the one that toggles above them; all the other hints, too.
            let hints = [
                (
                    HintKind::Priority,
                    if top {
                        "200".into()
                    } else {
                        (index * 37 % 5 * 40).to_string()
                    },
                ),
                (HintKind::Weight, (1 + index % 7 * 50).to_string()),
                (HintKind::Deadline, format!("{}ms", 1 + index % 100)),
                (
                    HintKind::Laxity,
                    format!("{}ms:0:{}", 1 + index % 50, index % 9),
                ),
                (HintKind::LatencyTarget, "10ms".to_owned()),
            ];
            let hints = hints
                .into_iter()
                .filter(|(kind, _)| *kind != HintKind::LatencyTarget || top)
                .filter(|(kind, _)| *kind != HintKind::Laxity || index % 3 == 0)
                .map(|(kind, text)| kind.parse(&text).expect("within the range"))
                .collect();
            world.handle(Event::QueueCreated {
                queue: QueueId(index),
                process: ProcessId(index),
                device: DeviceId((index % devices) as u32),
                hints,
            });
            if top {
                let process = ProcessId(index);
                world.handle(Event::Foreground {
                    process,
                    foreground: true,
                });
                world.handle(Event::Nice { process, nice: -20 });
            }
        }
        world.now += 200 * MS;
        for index in (0..groups - 1).filter(|&index| busy(index)) {
            world.handle(Event::Ready {
                queue: QueueId(index),
            });
        }
        world
    }

    fn handle(&mut self, event: Event) -> Duration {
        while self.engine.next_timer().is_some_and(|at| at <= self.now) {
            self.engine
                .handle(self.now, Event::Timer, &mut self.actions)
                .expect("is accepted");
        }
        self.actions.clear();
        let start = Instant::now();
        self.engine
            .handle(self.now, event, &mut self.actions)
            .expect("is accepted");
        black_box(&self.actions);
        start.elapsed()
    }

    /// The queue that toggles becomes ready or idle, so late that nothing lingers; the timers in between are not timed.
    fn toggle(&mut self) -> Duration {
        let queue = self.last;
        self.now += 300 * US;
        self.ready = !self.ready;
        self.handle(if self.ready {
            Event::Ready { queue }
        } else {
            Event::Idle { queue }
        })
    }
}

/// Which groups have work all the time.
type Busy = fn(u64) -> bool;

fn events(criterion: &mut Criterion) {
    for (groups, devices) in [(1_000, 1), (10_000, 100)] {
        let mut group =
            criterion.benchmark_group(format!("one event, {groups} groups on {devices} devices"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_millis(500))
            .warm_up_time(Duration::from_millis(100));
        for policy in policy::names() {
            let loads: [(&str, Busy); 3] = [
                ("idle", |_| false),
                ("3 % busy", |index| index % 31 == 0),
                ("all busy", |_| true),
            ];
            for (load, busy) in loads {
                let mut world = World::new(policy, groups, devices, busy);
                let mut most = 0;
                for _ in 0..6 {
                    world.toggle();
                    most = most.max(world.actions.len());
                }
                group.bench_function(
                    BenchmarkId::new(format!("{policy}, {load}"), format!("{most} changes")),
                    |bencher| {
                        bencher.iter_custom(|events| (0..events).map(|_| world.toggle()).sum());
                    },
                );
            }
        }
        group.finish();
    }
}

criterion_group!(benches, events);
criterion_main!(benches);
