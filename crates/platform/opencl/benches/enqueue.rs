//! What the shim costs a program that runs alone.
//!
//! `cargo bench -p xsched-opencl [-- PROCESSES [WORKLOAD]]`. A process without the shim (*without*) and one with it
//! run in turns. The latter lets every other of its rounds pass (*passing*) and has the rest scheduled
//! (*with*), so that those two differ in nothing else, whatever the machine does meanwhile. Prints
//! medians over the processes, and for the ratio of the times the half width of its 95 % interval.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    env,
    process::{Command, Stdio},
    ptr::{null, null_mut},
    time::{Duration, Instant},
};

use support::{Cl, Handle, LOCAL, SUCCESS, level, set_enabled, shimmed};

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
    /// How long a kernel is to take; 0: as short as can be.
    milliseconds: f64,
    /// Kernels in a round, at whose end it waits for them.
    kernels: u32,
    /// Pairs of rounds.
    pairs: u32,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "tiny kernels",
        milliseconds: 0.0,
        kernels: 500,
        pairs: 100,
    },
    Workload {
        name: "1 ms kernels",
        milliseconds: 1.0,
        kernels: 20,
        pairs: 60,
    },
    Workload {
        name: "20 ms kernels",
        milliseconds: 20.0,
        kernels: 5,
        pairs: 6,
    },
];

fn main() {
    if let Ok(name) = env::var(WORKLOAD) {
        let (index, rounds) = name.split_once(' ').expect("set by the bench");
        let workload = WORKLOADS[index.parse::<usize>().expect("an index")];
        return client(workload, rounds.parse().expect("a number"));
    }
    let processes = env::args().find_map(|word| word.parse().ok()).unwrap_or(15);
    // A name without an option's dashes, of which cargo passes some.
    let is_name = |word: &String| !word.starts_with('-') && word.parse::<u32>().is_err();
    let only = env::args().skip(1).find(is_name).unwrap_or_default();
    let per_millisecond = calibrate();
    println!(
        "{:13} {:^30} {:^30} {:>17}",
        "", "µs an enqueue", "µs a kernel", "time, with/passing"
    );
    let columns = format!("{:>10}{:>10}{:>10}", "without", "passing", "with");
    println!("{:13} {columns} {columns}", "");
    let wanted = |(_, workload): &(usize, Workload)| workload.name.contains(&only);
    for (index, workload) in WORKLOADS.into_iter().enumerate().filter(wanted) {
        let rounds = ((workload.milliseconds * per_millisecond) as u32).max(1);
        let results: Vec<_> = (0..processes)
            .map(|_| (run(index, rounds, false), run(index, rounds, true)))
            .collect();
        let column = |of: fn(&(Measured, Measured)) -> f64| median(results.iter().map(of));
        let (ratio, half_width) = interval(results.iter().map(|(_, shim)| shim.ratio));
        println!(
            "{:13} {:10.3}{:10.3}{:10.3} {:10.2}{:10.2}{:10.2} {ratio:9.4} ± {half_width:.4}",
            workload.name,
            column(|(bare, _)| bare.passing.enqueue),
            column(|(_, shim)| shim.passing.enqueue),
            column(|(_, shim)| shim.with.enqueue),
            column(|(bare, _)| bare.passing.kernel),
            column(|(_, shim)| shim.passing.kernel),
            column(|(_, shim)| shim.with.kernel),
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

/// Mean, and half the width of its 95 % interval.
fn interval(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares = values.map(|value| (value - mean).powi(2)).sum::<f64>();
    let half_width = 1.96 * (squares / (count - 1.0).max(1.0) / count).sqrt();
    (mean, half_width)
}

/// µs of the calling thread an enqueue, and of the wall clock a kernel.
#[derive(Clone, Copy)]
struct Times {
    enqueue: f64,
    kernel: f64,
}

/// Medians over the rounds of one process, and over the pairs of rounds of the ratio of their times.
/// Without the shim, rounds are alike.
struct Measured {
    passing: Times,
    with: Times,
    ratio: f64,
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
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let times = |at: usize| Times {
        enqueue: numbers[at],
        kernel: numbers[at + 1],
    };
    Measured {
        passing: times(0),
        with: times(2),
        ratio: numbers[4],
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
    let round = |on: bool| {
        if preloaded {
            assert_eq!(set_enabled(i32::from(on)), 0);
        }
        let start = Instant::now();
        for _ in 0..workload.kernels {
            enqueue();
        }
        let enqueued = start.elapsed();
        cl.finish(queue);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(workload.kernels);
        Times {
            enqueue: each(enqueued),
            kernel: each(start.elapsed()),
        }
    };
    // For the shim to learn how long kernels take.
    round(true);
    // Which of the two comes first changes.
    let pairs: Vec<_> = (0..workload.pairs)
        .map(|pair| {
            let first = round(pair % 2 == 1);
            let second = round(pair % 2 == 0);
            if pair % 2 == 1 {
                (second, first)
            } else {
                (first, second)
            }
        })
        .collect();
    let of = |value: fn(&(Times, Times)) -> f64| median(pairs.iter().map(value));
    println!(
        "{} {} {} {} {}",
        of(|(passing, _)| passing.enqueue),
        of(|(passing, _)| passing.kernel),
        of(|(_, with)| with.enqueue),
        of(|(_, with)| with.kernel),
        of(|(passing, with)| with.kernel / passing.kernel),
    );
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
