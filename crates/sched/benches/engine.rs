//! What one event costs with 1,000 queues registered: the promise is at most 5 µs (`cargo bench -p xsched-sched`).

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use xsched_sched::*;

const QUEUES: u64 = 1_000;
const MS: Nanos = 1_000_000;

/// 1,000 groups of one queue each on one device; `priority` and `active` by index. The last is the one that toggles.
struct World {
    engine: Engine,
    now: Nanos,
    actions: Vec<Action>,
    /// Of the queue that toggles.
    ready: bool,
}

impl World {
    fn new(priority: impl Fn(u64) -> i32, active: impl Fn(u64) -> bool) -> World {
        let mut world = World {
            engine: Engine::new(Config::default()),
            now: 0,
            actions: Vec::new(),
            ready: false,
        };
        for index in 0..QUEUES {
            let priority = Priority::new(priority(index)).expect("within the range");
            world.handle(Event::QueueCreated {
                queue: QueueId(index),
                process: ProcessId(index),
                device: DeviceId(0),
                hints: vec![Hint::Priority(priority)],
            });
        }
        // Those that stay idle are idle for long.
        world.now += 200 * MS;
        for index in (0..QUEUES).filter(|&index| active(index)) {
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
        let queue = QueueId(QUEUES - 1);
        self.now += 300_000;
        self.ready = !self.ready;
        self.handle(if self.ready {
            Event::Ready { queue }
        } else {
            Event::Idle { queue }
        })
    }
}

/// Priorities spread over all classes below 200, the one that toggles above them.
fn mixed(index: u64) -> i32 {
    if index == QUEUES - 1 {
        200
    } else {
        (index * 37 % 400) as i32 - 200
    }
}

fn equal(index: u64) -> i32 {
    if index == QUEUES - 1 { 200 } else { 0 }
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one event of 1000 queues");
    let mut bench = |name: &str, mut world: World| {
        for _ in 0..5 {
            world.toggle();
        }
        group.bench_function(
            BenchmarkId::new(name, format!("{} changes", world.actions.len())),
            |bencher| {
                bencher.iter_custom(|events| (0..events).map(|_| world.toggle()).sum());
            },
        );
    };
    bench("idle, the top one toggles", World::new(mixed, |_| false));
    bench(
        "idle, the lowest one toggles",
        World::new(|index| -mixed(index), |_| false),
    );
    bench(
        "32 active, the top one toggles",
        World::new(mixed, |index| index % 31 == 0),
    );
    bench(
        "all active, the top one toggles",
        World::new(mixed, |index| index != QUEUES - 1),
    );
    bench(
        "all active and equal, the top one toggles",
        World::new(equal, |index| index != QUEUES - 1),
    );
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
