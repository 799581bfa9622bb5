//! The starvation guard's two promises under every policy: what each waiting group gets, and what the guard takes.

use proptest::{prelude::*, test_runner::RngSeed};
use std::collections::BTreeMap;
use xsched_sched::*;

const MS: Nanos = 1_000_000;
const WINDOW: Nanos = 1_000 * MS;
const SPAN: Nanos = 5_000 * MS;

/// One device: urgent groups (queues from 0) that come and go, and background ones (queues from 100) that, once there,
/// are ready throughout.
struct Host {
    engine: Engine,
    now: Nanos,
    gates: BTreeMap<u64, bool>,
    /// Of each background queue: when it came or its gate changed, and its service until then.
    service: BTreeMap<u64, Vec<(Nanos, Nanos)>>,
    /// At each time the least share that the engine names for a background group from then on.
    promises: Vec<(Nanos, f64)>,
    /// How late timers are delivered.
    lateness: Nanos,
}

impl Host {
    fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.engine.handle(self.now, event, &mut actions).unwrap();
        for action in actions {
            let Action::Gate { queue, open } = action else {
                continue;
            };
            if let Some(service) = self.service.get_mut(&queue.0) {
                let &(since, served) = service.last().unwrap();
                let was_open = self.gates.get(&queue.0) == Some(&true);
                service.push((
                    self.now,
                    served + if was_open { self.now - since } else { 0 },
                ));
            }
            self.gates.insert(queue.0, open);
        }
        let least = self
            .engine
            .groups(self.now)
            .filter(|group| group.queues.iter().all(|queue| queue.0 >= 100))
            .map(|group| group.min_share)
            .fold(1.0, f64::min);
        self.promises.push((self.now, least));
    }

    fn create(&mut self, queue: u64, priority: i32) {
        if queue >= 100 {
            self.service.insert(queue, vec![(self.now, 0)]);
        }
        let (process, device) = (ProcessId(queue), DeviceId(0));
        let hints = [Hint::Priority(Priority::new(priority).unwrap())]
            .into_iter()
            .collect();
        self.event(Event::QueueCreated {
            queue: QueueId(queue),
            process,
            device,
            hints,
        });
    }

    fn wait_until(&mut self, until: Nanos) {
        while let Some(at) = self
            .engine
            .next_timer()
            .map(|at| at + self.lateness)
            .filter(|&at| at <= until)
        {
            self.now = self.now.max(at);
            self.event(Event::Timer);
        }
        self.now = until;
    }

    /// Its service until `at`.
    fn served(&self, queue: u64, at: Nanos) -> Nanos {
        let service = &self.service[&queue];
        let index = service.partition_point(|&(time, _)| time <= at);
        let (since, served) = service[index - 1];
        match service.get(index) {
            // Between two changes it is open throughout or not at all.
            Some(&(_, next)) if next > served => served + (at - since),
            Some(_) => served,
            None => served + if self.gates[&queue] { at - since } else { 0 },
        }
    }

    /// Every background queue has its share in every window.
    fn check_shares(&self) {
        for (&queue, service) in &self.service {
            let came = service[0].0;
            // Service changes its slope at these times only, so the worst window begins or ends at one of them.
            let edges = service
                .iter()
                .flat_map(|&(time, _)| [time, time.saturating_sub(WINDOW)]);
            for start in edges.filter(|&start| start >= came && start + WINDOW <= self.now) {
                let end = start + WINDOW;
                let first = self
                    .promises
                    .partition_point(|&(time, _)| time <= start)
                    .saturating_sub(1);
                let during = self.promises[first..]
                    .iter()
                    .take_while(|&&(time, _)| time <= end);
                let promise = during.map(|&(_, share)| share).fold(1.0, f64::min);
                let served = self.served(queue, end) - self.served(queue, start);
                assert!(
                    served as f64 >= promise * WINDOW as f64,
                    "{}: queue {queue} got {} ms of {} from {} ms on",
                    self.engine.policy_name(),
                    served as f64 / MS as f64,
                    promise * WINDOW as f64 / MS as f64,
                    start as f64 / MS as f64
                );
            }
        }
    }
}

/// (ready for, idle for) in µs, of an urgent group.
type Rhythm = (u64, u64);

fn play(policy: &str, urgent: &[Rhythm], background: &[u64], lateness: Nanos) -> Host {
    let mut host = Host {
        engine: Engine::new(Config {
            stall_limit: 0,
            ..Config::new(policy::by_name(policy).unwrap())
        }),
        now: WINDOW,
        gates: BTreeMap::new(),
        service: BTreeMap::new(),
        promises: Vec::new(),
        lateness,
    };
    let end = host.now + SPAN;
    // (time, queue, what): an urgent one becomes ready or idle, a background one comes.
    let mut calendar = std::collections::BTreeSet::new();
    for (queue, _) in (0..).zip(urgent) {
        host.create(queue, 100 + queue as i32 % 3);
        calendar.insert((host.now, queue, true));
    }
    for (queue, &after) in (100..).zip(background) {
        calendar.insert((host.now + after * MS, queue, true));
    }
    while let Some((time, queue, ready)) = calendar.pop_first().filter(|(time, ..)| *time < end) {
        host.wait_until(time);
        if queue >= 100 {
            host.create(queue, -((queue % 3) as i32));
        } else {
            let (busy, idle) = urgent[queue as usize];
            calendar.insert((
                time + if ready { busy } else { idle } * 1_000,
                queue,
                !ready,
            ));
        }
        let queue = QueueId(queue);
        host.event(if ready {
            Event::Ready { queue }
        } else {
            Event::Idle { queue }
        });
    }
    host.wait_until(end);
    host
}

fn rhythm() -> impl Strategy<Value = Rhythm> {
    prop_oneof![
        Just((SPAN, 0)),
        (1_000..400_000_u64, 100..30_000_u64),
        (500..20_000_u64, 50..2_000_u64),
    ]
}

proptest! {
    // The same cases in every run.
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_waiting_group_gets_its_share_of_every_window(
        urgent in prop::collection::vec(rhythm(), 1..4),
        background in prop::collection::vec(prop_oneof![Just(0), 0..4_000_u64], 1..12),
        lateness in 0..100_000_u64,
    ) {
        for name in policy::names() {
            play(name, &urgent, &background, lateness).check_shares();
        }
    }
}

/// How much of the device, in percent, the background groups together and the least of them get beside a busy one.
#[track_caller]
fn check(background: usize, expect_together: std::ops::RangeInclusive<u64>, expect_least: u64) {
    let host = play("hpf", &[(SPAN, 0)], &vec![0; background], 0);
    host.check_shares();
    let end = host.now;
    let percent = |served: Nanos| served * 1_000 / SPAN;
    let served: Vec<Nanos> = host
        .service
        .keys()
        .map(|&queue| host.served(queue, end))
        .collect();
    let (together, least) = (
        percent(served.iter().sum()),
        percent(*served.iter().min().unwrap()),
    );
    assert!(
        expect_together.contains(&together),
        "{background} get {together} ‰"
    );
    assert!(
        least >= expect_least,
        "the least of {background} gets {least} ‰"
    );
}

#[test]
fn the_guard_takes_a_quarter_at_most() {
    // In thousandths.
    check(1, 50..=70, 50);
    check(2, 100..=140, 50);
    check(4, 200..=251, 50);
    check(5, 230..=251, 46);
    check(20, 230..=251, 11);
    check(100, 225..=251, 2);
}

#[test]
fn whoever_runs_regularly_is_left_alone() {
    // The urgent group works for most of the time, in short requests or in long ones: the background has its share without
    // the guard.
    for rhythm in [(75_000, 10_000), (260_000, 20_000)] {
        let host = play("hpf", &[rhythm], &[0], 0);
        let urgent = host
            .engine
            .groups(host.now)
            .find(|group| group.queues == [QueueId(0)])
            .unwrap();
        assert_eq!((urgent.preemptions, urgent.waiting_ns), (0, 0));
    }
}

#[test]
fn little_service_after_a_long_wait_does_not_put_pieces_off() {
    // One urgent request keeps the device for nearly as long as no piece is due, then the other leaves a fifteenth.
    for (first, gap) in [(265_100, 300), (253_900, 1_000)] {
        for background in [&[0][..], &[0, 0]] {
            let urgent = [(first, SPAN), (14 * gap, gap)];
            play("hpf", &urgent, background, 0).check_shares();
        }
    }
}

#[test]
fn a_piece_goes_on_when_the_policy_runs_its_group() {
    // The policy runs one of the background groups in every gap of the urgent one, also in the middle of its pieces.
    for name in policy::names() {
        play(name, &[(17_241, 202)], &[0, 0, 0, 0, 1845, 1845, 0], 23_296).check_shares();
    }
}

#[test]
fn whoever_runs_in_gaps_that_pieces_fall_into_gets_pieces() {
    // Pieces are 12.873 ms apart, and so are the urgent one's gaps: whichever group the policy runs there is closed for
    // another's piece.
    let background = [0, 0, 0, 258, 0, 0, 0, 0];
    play("mlfq", &[(SPAN, 0), (12_659, 214)], &background, 92_780).check_shares();
}

#[test]
fn short_gaps_do_not_chop_pieces() {
    // If mlfq ran the other in each of the urgent one's gaps, its pieces would end there.
    play("mlfq", &[(1_530, 50)], &[0], 7).check_shares();
}
