//! The result files: which keys they have. Existing scripts read the first ones of each type; never
//! rename those.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::phase::Measurement;
use crate::rounds::{RoundResult, Spread};
use crate::stats::{Interval, Summary, summarize};
use crate::task::Arrival;

/// `mode` of a result without scheduling.
pub const MODE_BASELINE: &str = "Native";
/// `mode` of a result under the scheduler.
pub const MODE_SCHEDULED: &str = "XSched";
/// `mode` of the tasks one at a time.
pub const MODE_STANDALONE: &str = "Standalone";

/// What is the same in every phase of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Device that both tasks used.
    pub device: String,
    /// Seed of weights and inputs.
    pub seed: u64,
    /// Warm-up requests.
    pub warmup: u32,
    /// Requests per second asked of the high-priority task.
    pub rate_hz: f64,
    /// Where `rate_hz` comes from.
    pub rate_origin: String,
    /// Images per request of the low-priority task.
    pub low_batch: u32,
    /// Processes of the low-priority task.
    pub low_copies: u32,
    /// The high-priority task replays a CUDA graph.
    pub cuda_graph: bool,
    /// Each task alone, baseline and scheduled phase in turn, this many times unless the run ended early.
    pub rounds: u32,
}

/// `baseline_result.json`, `xsched_result.json`: both tasks at once; all rounds together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseResult {
    /// Name of the scenario.
    pub test_name: String,
    /// [`MODE_BASELINE`] or [`MODE_SCHEDULED`].
    pub mode: String,
    /// Length of the phase that was asked for, in each round; seconds.
    pub duration: f64,
    /// Start of the phase's first round, with the time zone's offset.
    pub timestamp: String,
    /// The open-loop task.
    pub high_priority: HighResult,
    /// The back-to-back task.
    pub low_priority: LowResult,
    /// What is the same in every phase.
    #[serde(flatten)]
    pub facts: RunFacts,
    /// The rounds one by one; fewer than asked for if the run ended early.
    pub by_round: Vec<RoundResult>,
    /// How far they lie apart; absent when there is but one.
    pub spread: Option<Spread>,
    /// File with the raw samples, beside this one.
    pub samples_file: String,
}

/// `standalone_result.json`: each task alone on the device, unscheduled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandaloneResult {
    /// Name of the scenario.
    pub test_name: String,
    /// [`MODE_STANDALONE`].
    pub mode: String,
    /// How long the open-loop task ran, in all rounds together, seconds.
    pub duration: f64,
    /// Start of the first phase, with the time zone's offset.
    pub timestamp: String,
    /// The high-priority model back to back: its peak. Absent when the rate was given.
    pub high_priority_peak: Option<LowResult>,
    /// The open-loop task.
    pub high_priority: HighResult,
    /// The back-to-back task.
    pub low_priority: LowResult,
    /// What is the same in every phase.
    #[serde(flatten)]
    pub facts: RunFacts,
    /// File with the raw samples, beside this one.
    pub samples_file: String,
}

/// An open-loop task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HighResult {
    /// Name of the task.
    pub task: String,
    /// Model, as people write it.
    pub model: String,
    /// Requests completed.
    pub requests: u64,
    /// From the start to the last completion or the end of the phase, whichever is later; seconds.
    pub duration: f64,
    /// Requests completed per second.
    pub throughput_rps: f64,
    /// Mean latency, from the scheduled arrival to the completion.
    pub latency_avg_ms: f64,
    /// Median latency.
    pub latency_p50_ms: f64,
    /// 95th percentile.
    pub latency_p95_ms: f64,
    /// 99th percentile.
    pub latency_p99_ms: f64,
    /// Largest latency.
    pub latency_max_ms: f64,
    /// 99.9th percentile.
    pub latency_p999_ms: f64,
    /// Where the true 99th percentile lies, at 95 %; an absent end is beyond the samples.
    pub latency_p99_interval_ms: Interval,
    /// Requests that the schedule contained.
    pub requests_due: u64,
    /// What is known about every worker.
    #[serde(flatten)]
    pub worker: WorkerFacts,
}

/// A back-to-back task; its copies together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LowResult {
    /// Name of the task.
    pub task: String,
    /// Model, as people write it.
    pub model: String,
    /// Iterations completed.
    pub iterations: u64,
    /// From the start to the last completion; seconds.
    pub duration: f64,
    /// Iterations completed per second, the sum over the copies.
    pub throughput_ips: f64,
    /// Images per second: iterations times batch.
    pub images_per_sec: f64,
    /// Iterations completed per second by each copy.
    pub copies_throughput_ips: Vec<f64>,
    /// Mean time of an iteration.
    pub latency_avg_ms: f64,
    /// Median.
    pub latency_p50_ms: f64,
    /// 99th percentile.
    pub latency_p99_ms: f64,
    /// Longest iteration.
    pub latency_max_ms: f64,
    /// What is known about every worker.
    #[serde(flatten)]
    pub worker: WorkerFacts,
}

/// What is known about every worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Images per request.
    pub batch: u32,
    /// Priority that it was started with.
    pub priority: String,
    /// Preemption level in force, the lowest of all rounds and copies; 0 = unscheduled.
    pub level: u8,
    /// The highest of all rounds and copies.
    pub highest_level: u8,
    /// Commands of one request.
    pub commands: u64,
    /// Time to build the model and warm up, the longest.
    pub setup_ms: f64,
    /// The first start on the monotonic clock, nanoseconds.
    pub start_ns: u64,
    /// Hash of the first output.
    pub output_digest: String,
    /// All outputs had the same bits.
    pub outputs_equal: bool,
}

impl HighResult {
    /// From the task's rounds; `None` when no request was completed.
    pub fn new(rounds: &[&Measurement], phase: Duration) -> Option<HighResult> {
        let summary = latencies(rounds)?;
        let task = &rounds.first()?.task;
        let requests = rounds.iter().map(|round| round.completed).sum();
        let due = |round: &&Measurement| round.task.requests_due(phase).unwrap_or(round.completed);
        let duration: f64 = rounds.iter().map(|round| seconds(round, phase)).sum();
        Some(HighResult {
            task: task.name.clone(),
            model: task.model_title(),
            requests,
            duration,
            throughput_rps: requests as f64 / duration,
            latency_avg_ms: summary.avg,
            latency_p50_ms: summary.p50,
            latency_p95_ms: summary.p95,
            latency_p99_ms: summary.p99,
            latency_max_ms: summary.max,
            latency_p999_ms: summary.p999,
            latency_p99_interval_ms: summary.p99_interval,
            requests_due: rounds.iter().map(due).sum(),
            worker: WorkerFacts::new(rounds)?,
        })
    }
}

impl LowResult {
    /// From the task's rounds, each with a measurement of every copy in the same order; `None` when
    /// no iteration was completed. The result has the name of the task that they are copies of.
    pub fn new(name: &str, rounds: &[&[Measurement]], phase: Duration) -> Option<LowResult> {
        let all: Vec<&Measurement> = rounds.iter().copied().flatten().collect();
        let summary = latencies(&all)?;
        let task = &all.first()?.task;
        let copies = rounds.first()?.len();
        let throughput = |copy: usize| {
            let rounds = rounds.iter().filter_map(|round| round.get(copy));
            let (completed, time) = rounds.fold((0, 0.0), |(completed, time), round| {
                (completed + round.completed, time + seconds(round, phase))
            });
            // A copy that was stopped at once has used no time.
            if completed == 0 {
                0.0
            } else {
                completed as f64 / time
            }
        };
        let copies_throughput_ips: Vec<f64> = (0..copies).map(throughput).collect();
        let throughput_ips: f64 = copies_throughput_ips.iter().sum();
        let longest = |round: &&[Measurement]| {
            let times = round.iter().map(|copy| seconds(copy, phase));
            times.fold(0.0, f64::max)
        };
        Some(LowResult {
            task: name.to_owned(),
            model: task.model_title(),
            iterations: all.iter().map(|measured| measured.completed).sum(),
            duration: rounds.iter().map(longest).sum(),
            throughput_ips,
            images_per_sec: throughput_ips * f64::from(task.batch),
            copies_throughput_ips,
            latency_avg_ms: summary.avg,
            latency_p50_ms: summary.p50,
            latency_p99_ms: summary.p99,
            latency_max_ms: summary.max,
            worker: WorkerFacts::new(&all)?,
        })
    }
}

impl WorkerFacts {
    /// Of one task in all its rounds and copies, which compute the same.
    fn new(all: &[&Measurement]) -> Option<WorkerFacts> {
        let first = all.first()?;
        let levels = || all.iter().map(|measured| measured.level);
        let same = |other: &&Measurement| other.digests_equal && other.digest == first.digest;
        Some(WorkerFacts {
            batch: first.task.batch,
            priority: first.task.class.clone(),
            level: levels().min()?,
            highest_level: levels().max()?,
            commands: first.commands,
            setup_ms: all.iter().map(|other| other.setup_ms).fold(0.0, f64::max),
            start_ns: first.start_ns,
            output_digest: first.digest.clone(),
            outputs_equal: all.iter().all(same),
        })
    }
}

fn latencies(all: &[&Measurement]) -> Option<Summary> {
    let samples = all.iter().flat_map(|measured| &measured.samples);
    let latencies: Vec<f64> = samples.map(|[_, _, latency]| *latency).collect();
    summarize(&latencies)
}

/// The time that a throughput is taken over. After its last arrival an open-loop task waits for the
/// end of the phase; a back-to-back task runs until its last completion.
pub(crate) fn seconds(measured: &Measurement, phase: Duration) -> f64 {
    let elapsed = measured.elapsed_ms / 1000.0;
    match measured.task.arrival {
        Arrival::Open { .. } | Arrival::Poisson { .. } => elapsed.max(phase.as_secs_f64()),
        Arrival::Closed => elapsed,
    }
}

/// Results with fixed figures, for the tests of everything that is built on them.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;

    fn worker(batch: u32, priority: &str, level: u8) -> WorkerFacts {
        WorkerFacts {
            batch,
            priority: priority.into(),
            level,
            highest_level: level,
            commands: 20,
            setup_ms: 812.5,
            start_ns: 1_000_000,
            output_digest: format!("00112233445566{batch:02}"),
            outputs_equal: true,
        }
    }

    pub(crate) fn facts() -> RunFacts {
        RunFacts {
            device: "cpu".into(),
            seed: 42,
            warmup: 10,
            rate_hz: 10.0,
            rate_origin: "given".into(),
            low_batch: 8,
            low_copies: 1,
            cuda_graph: false,
            rounds: 1,
        }
    }

    pub(crate) fn high(p99: f64, avg: f64, rps: f64, level: u8) -> HighResult {
        HighResult {
            task: "resnet18-high".into(),
            model: "ResNet-18".into(),
            requests: 600,
            duration: 60.0,
            throughput_rps: rps,
            latency_avg_ms: avg,
            latency_p50_ms: avg - 1.0,
            latency_p95_ms: p99 - 2.0,
            latency_p99_ms: p99,
            latency_max_ms: p99 + 5.0,
            latency_p999_ms: p99 + 4.0,
            latency_p99_interval_ms: Interval {
                low: Some(p99 - 1.0),
                high: Some(p99 + 3.0),
            },
            requests_due: 600,
            worker: worker(1, "high", level),
        }
    }

    pub(crate) fn low(ips: f64, level: u8) -> LowResult {
        LowResult {
            task: "resnet50-low".into(),
            model: "ResNet-50".into(),
            iterations: (ips * 60.0) as u64,
            duration: 60.0,
            throughput_ips: ips,
            images_per_sec: ips * 8.0,
            copies_throughput_ips: vec![ips],
            latency_avg_ms: 1000.0 / ips,
            latency_p50_ms: 1000.0 / ips,
            latency_p99_ms: 1200.0 / ips,
            latency_max_ms: 1300.0 / ips,
            worker: worker(8, "low", level),
        }
    }

    /// The baseline of the document's example.
    pub(crate) fn baseline() -> PhaseResult {
        let (high, low) = (high(45.23, 22.15, 9.98, 0), low(24.56, 0));
        PhaseResult {
            test_name: "phase4_dual_model".into(),
            mode: MODE_BASELINE.into(),
            duration: 60.0,
            timestamp: "2026-01-02T03:04:05+00:00".into(),
            by_round: vec![RoundResult::new(&high, &low)],
            spread: None,
            high_priority: high,
            low_priority: low,
            facts: facts(),
            samples_file: "baseline_samples.csv".into(),
        }
    }

    /// The scheduled phase of the document's example.
    pub(crate) fn scheduled() -> PhaseResult {
        let (high, low) = (high(48.56, 23.89, 9.95, 3), low(12.34, 3));
        PhaseResult {
            mode: MODE_SCHEDULED.into(),
            timestamp: "2026-01-02T03:05:15+00:00".into(),
            by_round: vec![RoundResult::new(&high, &low)],
            high_priority: high,
            low_priority: low,
            samples_file: "scheduled_samples.csv".into(),
            ..baseline()
        }
    }

    pub(crate) fn standalone() -> StandaloneResult {
        StandaloneResult {
            test_name: "phase4_dual_model".into(),
            mode: MODE_STANDALONE.into(),
            duration: 20.0,
            timestamp: "2026-01-02T03:03:25+00:00".into(),
            high_priority_peak: None,
            high_priority: high(21.0, 20.0, 10.0, 0),
            low_priority: low(30.7, 0),
            facts: facts(),
            samples_file: "standalone_samples.csv".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskSpec;

    fn measurement(arrival: Arrival, elapsed_ms: f64, latencies: &[f64]) -> Measurement {
        Measurement {
            task: TaskSpec {
                name: "t".into(),
                class: "high".into(),
                model: "resnet18".into(),
                batch: 4,
                arrival,
                ..TaskSpec::default()
            },
            level: 3,
            commands: 20,
            setup_ms: 1.0,
            completed: latencies.len() as u64,
            elapsed_ms,
            start_ns: 1,
            samples: latencies
                .iter()
                .map(|latency| [0.0, 0.0, *latency])
                .collect(),
            digest: "0123456789abcdef".into(),
            digests_equal: true,
            dropped: 0,
            agent_cpu_s: None,
        }
    }

    #[test]
    fn throughput_of_an_open_loop_is_over_the_whole_phase() {
        let phase = Duration::from_secs(2);
        let open = Arrival::Open { rate_hz: 2.0 };
        // The last of four arrivals is at 1.5 s: that the worker is done before 2 s does not raise
        // the rate.
        let on_time = HighResult::new(&[&measurement(open, 1600.0, &[10.0; 4])], phase).unwrap();
        assert_eq!((on_time.throughput_rps, on_time.requests_due), (2.0, 4));
        let late = HighResult::new(&[&measurement(open, 4000.0, &[10.0; 4])], phase).unwrap();
        assert_eq!(late.throughput_rps, 1.0);
        assert_eq!(
            HighResult::new(&[&measurement(open, 0.0, &[])], phase),
            None
        );
    }

    #[test]
    fn images_count_the_batch() {
        let measured = [measurement(Arrival::Closed, 2000.0, &[500.0; 4])];
        let low = LowResult::new("low", &[&measured], Duration::from_secs(1)).unwrap();
        assert_eq!(
            (low.throughput_ips, low.images_per_sec, low.iterations),
            (2.0, 8.0, 4)
        );
    }

    #[test]
    fn rounds_pool_their_samples() {
        let phase = Duration::from_secs(2);
        let open = Arrival::Open { rate_hz: 1.25 };
        let mut second = measurement(open, 3000.0, &[30.0; 3]);
        second.level = 2;
        let rounds = [&measurement(open, 2000.0, &[10.0; 3]), &second];
        let high = HighResult::new(&rounds, phase).unwrap();
        // Three arrivals lie in each round of 2 s; the second round took 3 s.
        assert_eq!((high.requests, high.requests_due), (6, 6));
        assert_eq!((high.duration, high.throughput_rps), (5.0, 1.2));
        assert_eq!((high.latency_avg_ms, high.latency_max_ms), (20.0, 30.0));
        assert_eq!((high.worker.level, high.worker.highest_level), (2, 3));
        assert!(high.worker.outputs_equal);
        second.digest = "ffffffffffffffff".into();
        let rounds = [&measurement(open, 2000.0, &[10.0; 3]), &second];
        assert!(
            !HighResult::new(&rounds, phase)
                .unwrap()
                .worker
                .outputs_equal
        );
    }

    #[test]
    fn copies_add_their_throughput() {
        let copy = |elapsed_ms, count| measurement(Arrival::Closed, elapsed_ms, &vec![1.0; count]);
        let first = [copy(1000.0, 10), copy(2000.0, 8)];
        let second = [copy(1000.0, 20), copy(2000.0, 0)];
        let low = LowResult::new("low", &[&first, &second], Duration::from_secs(1)).unwrap();
        // (10 + 20) in 2 s, and 8 in 4 s.
        assert_eq!(low.copies_throughput_ips, [15.0, 2.0]);
        assert_eq!((low.throughput_ips, low.images_per_sec), (17.0, 68.0));
        assert_eq!((low.iterations, low.duration), (38, 4.0));
        assert_eq!(low.task, "low");
    }

    #[test]
    fn the_keys_that_scripts_read_are_there() {
        let value = serde_json::to_value(examples::scheduled()).unwrap();
        let has = |value: &serde_json::Value, keys: &[&str]| {
            for key in keys {
                assert!(value.get(key).is_some(), "{key} is missing in {value}");
            }
        };
        has(
            &value,
            &[
                "test_name",
                "mode",
                "duration",
                "timestamp",
                "high_priority",
                "low_priority",
            ],
        );
        assert_eq!(value["mode"], "XSched");
        assert_eq!(
            serde_json::to_value(examples::baseline()).unwrap()["mode"],
            "Native"
        );
        let high = "task model requests duration throughput_rps latency_avg_ms latency_p50_ms \
                    latency_p95_ms latency_p99_ms latency_max_ms latency_p999_ms";
        has(
            &value["high_priority"],
            &high.split_whitespace().collect::<Vec<_>>(),
        );
        let low = "task model iterations duration throughput_ips images_per_sec";
        has(
            &value["low_priority"],
            &low.split_whitespace().collect::<Vec<_>>(),
        );
        has(&value, &["device", "seed", "rate_hz", "samples_file"]);
        let back: PhaseResult = serde_json::from_value(value).unwrap();
        assert_eq!(back, examples::scheduled());
    }
}
