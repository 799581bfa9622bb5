//! What the shim costs a program that runs alone: the same program with and without it, in turns.
//!
//! `cargo bench -p xsched-opencl [-- PAIRS]`. Prints medians over the pairs, and for the ratio of the
//! times the half width of its 95 % interval.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    env,
    process::{Command, Stdio},
    ptr::{null, null_mut},
    time::{Duration, Instant},
};

use support::{Cl, Handle, LOCAL, SUCCESS, level, shimmed};

/// In the environment of a client: which workload.
const WORKLOAD: &str = "XSCHED_BENCH_WORKLOAD";

type Enqueue = extern "C" fn(
    Handle,
    Handle,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    *const Handle,
    *mut Handle,
) -> i32;

/// What a client measures.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    /// Rounds of a kernel, per millisecond that it is to take; 0: as short as can be.
    milliseconds: f64,
    /// Kernels between two waits, and waits.
    kernels: u32,
    waits: u32,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "tiny kernels",
        milliseconds: 0.0,
        kernels: 500,
        waits: 40,
    },
    Workload {
        name: "1 ms kernels",
        milliseconds: 1.0,
        kernels: 100,
        waits: 4,
    },
    Workload {
        name: "20 ms kernels",
        milliseconds: 20.0,
        kernels: 10,
        waits: 2,
    },
];

fn main() {
    if let Ok(name) = env::var(WORKLOAD) {
        let (index, rounds) = name.split_once(' ').expect("set by the bench");
        let workload = WORKLOADS[index.parse::<usize>().expect("an index")];
        return client(workload, rounds.parse().expect("a number"));
    }
    let pairs = env::args().find_map(|word| word.parse().ok()).unwrap_or(15);
    let per_millisecond = calibrate();
    println!(
        "{:14} {:>24} {:>24} {:>20}",
        "", "µs an enqueue", "µs a kernel", "time, with / without"
    );
    println!(
        "{:14} {:>12}{:>12} {:>12}{:>12}",
        "", "without", "with", "without", "with"
    );
    for (index, workload) in WORKLOADS.into_iter().enumerate() {
        let rounds = ((workload.milliseconds * per_millisecond) as u32).max(1);
        let results: Vec<_> = (0..pairs)
            .map(|_| [run(index, rounds, false), run(index, rounds, true)])
            .collect();
        let median = |of: &dyn Fn(&[Measured; 2]) -> f64| {
            let mut values: Vec<_> = results.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let ratio = |pair: &[Measured; 2]| pair[1].kernel / pair[0].kernel;
        let mean = results.iter().map(ratio).sum::<f64>() / pairs as f64;
        let spread = results
            .iter()
            .map(|pair| (ratio(pair) - mean).powi(2))
            .sum::<f64>();
        let half_width = 1.96 * (spread / (pairs as f64 - 1.0).max(1.0) / pairs as f64).sqrt();
        println!(
            "{:14} {:12.3}{:12.3} {:12.2}{:12.2} {:12.4} ± {half_width:.4}",
            workload.name,
            median(&|pair| pair[0].enqueue),
            median(&|pair| pair[1].enqueue),
            median(&|pair| pair[0].kernel),
            median(&|pair| pair[1].kernel),
            median(&ratio),
        );
    }
}

/// µs of the calling thread an enqueue, and of the wall clock a kernel.
#[derive(Clone, Copy)]
struct Measured {
    enqueue: f64,
    kernel: f64,
}

fn run(workload: usize, rounds: u32, with: bool) -> Measured {
    let mut command = Command::new(env::current_exe().unwrap());
    if with {
        shimmed(&mut command, &[LOCAL]);
    }
    let output = command
        .env(WORKLOAD, format!("{workload} {rounds}"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the bench can start itself");
    assert!(output.status.success(), "a client failed");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let mut numbers = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    Measured {
        enqueue: next(),
        kernel: next(),
    }
}

/// One workload; prints what it measured.
fn client(workload: Workload, rounds: u32) {
    let cl = Cl::load();
    let (queue, buffer, kernel) = (cl.queue(0), cl.buffer(64), cl.kernel());
    // Looked up once, as programs do.
    let enqueue: Enqueue = cl.symbol("clEnqueueNDRangeKernel");
    let words = 64;
    let enqueue = || {
        let (none, event) = (null(), null_mut());
        let result = enqueue(queue, kernel, 1, none, &words, none, 0, null(), event);
        assert_eq!(result, SUCCESS);
    };
    let preloaded = env::var_os("LD_PRELOAD").is_some();
    release(&cl, cl.work(queue, kernel, buffer, 64, rounds));
    cl.finish(queue);
    while preloaded && level(queue) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut enqueuing, mut total) = (Duration::ZERO, Duration::ZERO);
    // The first round is for the shim to learn how long kernels take.
    for wait in 0..=workload.waits {
        let start = Instant::now();
        for _ in 0..workload.kernels {
            enqueue();
        }
        let enqueued = start.elapsed();
        cl.finish(queue);
        if wait > 0 {
            enqueuing += enqueued;
            total += start.elapsed();
        }
    }
    let kernels = f64::from(workload.kernels * workload.waits);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / kernels;
    println!("{} {}", each(enqueuing), each(total));
}

fn release(cl: &Cl, event: Handle) {
    cl.call("clReleaseEvent", event);
}

/// Rounds that take a millisecond.
fn calibrate() -> f64 {
    let cl = Cl::load();
    let (queue, buffer, kernel) = (cl.queue(0), cl.buffer(64), cl.kernel());
    let time = || {
        let start = Instant::now();
        release(&cl, cl.work(queue, kernel, buffer, 64, 100_000));
        cl.finish(queue);
        start.elapsed()
    };
    time();
    let best = (0..20).map(|_| time()).min().expect("some");
    100_000.0 / (best.as_secs_f64() * 1e3)
}
