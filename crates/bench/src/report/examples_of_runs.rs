//! Runs with fixed figures and made-up samples, for the tests of reports.

use super::figures::RunReport;
use super::samples::Sample;
use crate::manifest::{Host, Manifest};
use crate::run::{Check, Contender, FORMAT, Grade, Kind, Phase, Run, Task, TaskResult};
use crate::stats::{Interval, summarize};
use crate::task::Arrival;

const SECONDS: f64 = 20.0;

/// Two tasks, three contenders, two rounds.
pub(crate) fn run() -> Run {
    sized(200)
}

/// The same with this many samples, about.
pub(crate) fn large(samples: usize) -> Run {
    sized(samples / 12)
}

fn sized(requests: usize) -> Run {
    let contender = |name: &str, title: &str, kind| Contender {
        name: name.into(),
        title: title.into(),
        kind,
    };
    let task = |name: &str, model: &str, arrival| Task {
        name: name.into(),
        model: model.into(),
        priority: name.into(),
        batch: 1,
        arrival,
    };
    let rate_hz = requests as f64 / SECONDS;
    let mut phases = Vec::new();
    for round in 1..=2 {
        for (contender, tasks) in [
            ("standalone", &["high"][..]),
            ("standalone", &["low"]),
            ("native", &["high", "low"]),
            ("xsched", &["high", "low"]),
        ] {
            phases.push(phase(contender, round, tasks, requests));
        }
    }
    Run {
        format: FORMAT,
        manifest: Manifest {
            scenario: "example".into(),
            command: ["xsched", "bench", "example"].map(String::from).to_vec(),
            version: "0.1.0".into(),
            timestamp: "2026-01-02T03:03:25+00:00".into(),
            host: Host {
                cpu_model: "Example CPU @ 2.00GHz".into(),
                cores: 2,
                memory_mib: 16384,
                kernel: "6.1.0".into(),
                accelerators: vec!["Example GPU".into()],
                driver: Some("Example 1.2".into()),
            },
            environment: Vec::new(),
        },
        description: "Two tasks with made-up figures.".into(),
        device: "cpu".into(),
        tasks: vec![
            task("high", "ResNet-18", Arrival::Open { rate_hz }),
            task("low", "ResNet-50", Arrival::Closed),
        ],
        contenders: vec![
            contender("standalone", "Standalone", Kind::Standalone),
            contender("native", "Native", Kind::Native),
            contender("xsched", "XSched", Kind::Scheduled),
        ],
        phases,
        checks: vec![Check {
            task: Some("high".into()),
            what: "P99 ÷ standalone".into(),
            limit: "≤ 1.60".into(),
            measured: 1.21,
            interval: Some(Interval {
                low: Some(1.12),
                high: Some(1.34),
            }),
            unit: "×".into(),
            grade: Grade::Met,
            note: None,
        }],
        notes: vec!["A note.".into()],
        failure: None,
    }
}

fn phase(contender: &str, round: u32, tasks: &[&str], requests: usize) -> Phase {
    let result = |task: &&str| {
        let samples = samples(contender, round, task, requests);
        let latencies: Vec<f64> = samples.iter().map(|sample| sample.latency_ms).collect();
        TaskResult {
            task: (*task).into(),
            level: if contender == "xsched" { 3 } else { 0 },
            start_ns: 1_000_000,
            elapsed_s: SECONDS,
            completed: samples.len() as u64,
            due: (*task == "high").then_some(samples.len() as u64),
            dropped: 0,
            throughput_per_s: samples.len() as f64 / SECONDS,
            latency_ms: summarize(&latencies),
            output_digest: "0123456789abcdef".into(),
            outputs_equal: true,
        }
    };
    Phase {
        contender: contender.into(),
        round,
        timestamp: "2026-01-02T03:03:25+00:00".into(),
        duration_s: SECONDS,
        tasks: tasks.iter().map(result).collect(),
        scheduler_cpu_s: None,
        samples_file: format!("{contender}-{round}_samples.csv"),
        trace_file: None,
    }
}

/// Times that look like those of a real run, the same on every machine.
fn samples(contender: &str, round: u32, task: &str, requests: usize) -> Vec<Sample> {
    let gap_ms = SECONDS * 1000.0 / requests as f64;
    let (base, tail) = match (task, contender) {
        ("high", "standalone") => (0.30, 0.05),
        ("high", "native") => (0.45, 0.45),
        ("high", _) => (0.33, 0.08),
        (_, "standalone") => (0.80, 0.05),
        (_, "native") => (0.95, 0.20),
        _ => (1.15, 0.30),
    };
    let mut at = 0.0;
    let mut samples = Vec::new();
    for i in 0..requests {
        // A low-discrepancy sequence in place of chance.
        let u = ((i + 7 * round as usize) as f64 * 0.618_033_988_749_895).fract();
        // To the microsecond, as in files.
        let latency_ms = gap_ms * (base - tail * (1.0 - u).ln() * 0.6);
        let latency_ms = (latency_ms * 1000.0).round() / 1000.0;
        let arrival_ms = if task == "high" {
            i as f64 * gap_ms
        } else {
            at
        };
        at = arrival_ms + latency_ms;
        if at > SECONDS * 1000.0 {
            break;
        }
        samples.push(Sample {
            arrival_ms,
            start_ms: arrival_ms,
            latency_ms,
        });
    }
    samples
}

/// With the samples that belong to the record.
pub(crate) fn with_samples(run: Run) -> RunReport {
    let requests = run.tasks.first().map_or(0, |task| match task.arrival {
        Arrival::Open { rate_hz } => (rate_hz * SECONDS).round() as usize,
        _ => 0,
    });
    let first = run.tasks[0].name.clone();
    let role = |task: &str| if task == first { "high" } else { "low" };
    let of_phase = |phase: &Phase| {
        let tasks = phase.tasks.iter();
        tasks
            .map(|task| samples(&phase.contender, phase.round, role(&task.task), requests))
            .collect()
    };
    let all = run.phases.iter().map(of_phase).collect();
    RunReport::new(run, all, Vec::new())
}
