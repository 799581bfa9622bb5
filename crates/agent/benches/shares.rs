//! What share policies make of a real device (`cargo bench -p xsched-agent --bench shares`): queues that always have work,
//! on the CPU as an XPU, under the scheduler inside the process, with turns of 100 ms and two commands of 1 ms in flight:
//! those still execute beside the next one's when a turn ends, and count for whoever launched them. Prints the shares, and
//! what they lose together against one queue alone; less than nothing is that overlap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_sched::{HintKind, Hints};
use xsched_wire::{
    Level, LevelChoice,
    env::{LaunchConfig, Scheduler, Settings},
};
use xsched_xqueue::XQueue;

const COMMAND: Duration = Duration::from_millis(1);
const WARM_UP: Duration = Duration::from_secs(1);
/// Commands launched and not done, at most.
const AHEAD: u64 = 32;
const SPAN: Duration = Duration::from_secs(20);

fn main() {
    let alone = measure("fifo", HintKind::Weight, &["1"])[0];
    println!("alone: {:.1} % of the time", alone * 100.0);
    let cases: [(&str, HintKind, &[&str]); 5] = [
        ("up", HintKind::Utilization, &["75", "25"]),
        ("up", HintKind::Utilization, &["50", "30", "20"]),
        ("cfs", HintKind::Weight, &["75", "25"]),
        ("cfs", HintKind::Weight, &["500", "300", "200"]),
        ("spup", HintKind::Utilization, &["100"]),
    ];
    for (policy, kind, stated) in cases {
        let parts = measure(policy, kind, stated);
        let sum: f64 = parts.iter().sum();
        let shares: Vec<String> = parts
            .iter()
            .map(|part| format!("{:.2} %", part / sum * 100.0))
            .collect();
        println!(
            "{policy}, {kind} {}: {}; loss {:.2} %",
            stated.join("/"),
            shares.join(" / "),
            (1.0 - sum / alone) * 100.0
        );
    }
}

/// The part of the time in which each queue's commands executed.
fn measure(policy: &str, kind: HintKind, stated: &[&str]) -> Vec<f64> {
    let agent = Agent::new(Settings {
        scheduler: Scheduler::Local(Some(policy.into())),
        level: LevelChoice::Exactly(Level::Lv1),
        launch: LaunchConfig {
            threshold: 2,
            batch: 1,
        },
        hints: Hints::default(),
        name: "shares".into(),
        job: 0,
        warnings: Vec::new(),
    })
    .expect("an agent");
    let end = Arc::new(AtomicBool::new(false));
    let counts: Vec<Arc<AtomicU64>> = stated.iter().map(|_| Arc::default()).collect();
    let threads: Vec<_> = stated
        .iter()
        .zip(&counts)
        .map(|(text, count)| {
            let hints = [kind.parse(text), HintKind::TimeSlice.parse("100ms")];
            let hints: Hints = hints
                .map(|hint| hint.expect("within the range"))
                .into_iter()
                .collect();
            let hw = CpuQueue::new(1).expect("a queue");
            let queue: XQueue<CpuQueue> = agent
                .attach_with(hw, xsched_cpu::DEVICE, hints)
                .expect("is attached");
            let (end, count) = (end.clone(), count.clone());
            std::thread::spawn(move || feed(&queue, &end, &count))
        })
        .collect();
    let read = || {
        counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect::<Vec<_>>()
    };
    std::thread::sleep(WARM_UP);
    let (start, before) = (Instant::now(), read());
    std::thread::sleep(SPAN);
    let (span, after) = (start.elapsed(), read());
    end.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("ends");
    }
    let part = |(after, before): (&u64, &u64)| (after - before) as f64 / span.as_nanos() as f64;
    after.iter().zip(&before).map(part).collect()
}

/// Always some commands ahead.
fn feed(queue: &XQueue<CpuQueue>, end: &AtomicBool, count: &Arc<AtomicU64>) {
    let done = Arc::new(AtomicU64::new(0));
    let mut launched = 0;
    while !end.load(Ordering::Relaxed) {
        let (count, counter) = (count.clone(), done.clone());
        let command = Box::new(move || {
            let start = Instant::now();
            while start.elapsed() < COMMAND {
                std::hint::spin_loop();
            }
            count.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        queue.launch(command).expect("is launched");
        launched += 1;
        while launched - done.load(Ordering::Relaxed) > AHEAD && !end.load(Ordering::Relaxed) {
            std::thread::sleep(COMMAND * 4);
        }
    }
    queue.synchronize().expect("ends");
}
