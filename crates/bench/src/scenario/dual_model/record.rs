//! The record `run.json` of a dual-model run, in the terms that all scenarios share.

use std::time::Duration;

use crate::manifest::Manifest;
use crate::phase::Measurement;
use crate::results::seconds;
use crate::run::{Contender, FORMAT, Failure, Kind, Phase, Run, Task, TaskResult};
use crate::scenario::options::Only;
use crate::stats::summarize;
use crate::task::TaskSpec;
use crate::verdict::Samples;

pub(super) const STANDALONE: &str = "standalone";

/// What a contender of this scenario is called in the record.
pub(super) fn contender(phase: Only) -> &'static str {
    match phase {
        Only::Baseline => "native",
        Only::Scheduled => "xsched",
    }
}

/// The record of a run that starts now.
pub(super) fn start(manifest: Manifest, device: &str, only: Option<Only>) -> Run {
    let all = [
        (STANDALONE, "Standalone", Kind::Standalone, None),
        ("native", "Native", Kind::Native, Some(Only::Baseline)),
        ("xsched", "XSched", Kind::Scheduled, Some(Only::Scheduled)),
    ];
    let included = all
        .into_iter()
        .filter(|(.., phase)| only.is_none() || only == *phase);
    let contenders = included.map(|(name, title, kind, _)| Contender {
        name: name.into(),
        title: title.into(),
        kind,
    });
    Run {
        format: FORMAT,
        description:
            "An urgent model under a steady load next to a greedy one on the same device: \
                      each alone, both unscheduled, both under XSched."
                .into(),
        device: device.to_owned(),
        tasks: Vec::new(),
        contenders: contenders.collect(),
        phases: Vec::new(),
        checks: Vec::new(),
        notes: Vec::new(),
        failure: Some(Failure::unfinished("prepare")),
        manifest,
    }
}

pub(super) fn task(spec: &TaskSpec) -> Task {
    Task {
        name: spec.name.clone(),
        model: spec.model_title(),
        priority: spec.class.clone(),
        batch: spec.batch,
        arrival: spec.arrival,
    }
}

pub(super) fn phase(
    contender: &str,
    round: u32,
    timestamp: String,
    duration: Duration,
    measured: &[Measurement],
    scheduler_cpu_s: Option<f64>,
    samples_file: String,
) -> Phase {
    let result = |measured: &Measurement| {
        let latencies: Vec<f64> = measured.samples.iter().map(|sample| sample[2]).collect();
        let counted = seconds(measured, duration);
        TaskResult {
            task: measured.task.name.clone(),
            level: measured.level,
            start_ns: measured.start_ns,
            elapsed_s: measured.elapsed_ms / 1000.0,
            completed: measured.completed,
            due: measured.task.requests_due(duration),
            dropped: 0,
            throughput_per_s: if counted > 0.0 {
                measured.completed as f64 / counted
            } else {
                0.0
            },
            latency_ms: summarize(&latencies),
            output_digest: measured.digest.clone(),
            outputs_equal: measured.digests_equal,
        }
    };
    Phase {
        contender: contender.to_owned(),
        round,
        timestamp,
        duration_s: duration.as_secs_f64(),
        tasks: measured.iter().map(result).collect(),
        scheduler_cpu_s,
        samples_file,
        trace_file: None,
    }
}

/// The samples of a phase as they are compared: the first task of a round is the high-priority one, the
/// others are the copies of the low-priority one.
pub(super) fn samples(rounds: &[Vec<Measurement>]) -> Samples {
    let mut samples = Samples::default();
    for round in rounds {
        let mut tasks = round.iter();
        samples
            .high
            .extend(tasks.next().iter().flat_map(|high| &high.samples));
        let mut low: Vec<[f64; 3]> = tasks.flat_map(|low| &low.samples).copied().collect();
        let end = |&[arrival, _, latency]: &[f64; 3]| arrival + latency;
        low.sort_by(|a, b| end(a).total_cmp(&end(b)));
        samples.low.push(low);
    }
    samples
}
