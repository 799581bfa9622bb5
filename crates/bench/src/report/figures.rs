//! What reports and comparisons show of a run: for every task under every contender the figures of
//! all rounds together, with intervals, and what is missing from the run's folder.

use std::path::Path;

use serde::Serialize;

use super::samples::{self, PhaseSamples, Sample};
use crate::criteria::Verdict;
use crate::estimate::{Completions, Estimate, throughput};
use crate::run::{Phase, Run, TaskResult, Unreadable};
use crate::stats::{CONFIDENCE, percentile_interval, summarize};

/// A run with everything that its folder holds.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The record.
    pub run: Run,
    /// Of each phase of the record; empty where the file is gone.
    pub samples: Vec<PhaseSamples>,
    /// Tasks × contenders, in the record's order; those that were measured.
    pub figures: Vec<Figure>,
    /// What is missing or damaged, one line each.
    pub problems: Vec<String>,
    /// The whole.
    pub verdict: Verdict,
}

/// One task under one contender, all rounds together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// [`crate::run::Task::name`].
    pub task: String,
    /// [`crate::run::Contender::name`].
    pub contender: String,
    /// Requests that were completed.
    pub completed: u64,
    /// Requests that were due; absent for back-to-back tasks.
    pub due: Option<u64>,
    /// Requests that were given up.
    pub dropped: u64,
    /// Lowest preemption level of the rounds; 0 = unscheduled.
    pub level: u8,
    /// Absent when no request was completed.
    pub latency_ms: Option<Latency>,
    /// Completed requests per second.
    pub throughput_per_s: Estimate,
    /// Throughput ÷ that of the standalone contender, where both were measured.
    pub throughput_to_standalone: Option<Estimate>,
    /// The rounds one by one.
    pub by_round: Vec<Round>,
}

/// Latencies from arrival to completion, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub avg: f64,
    /// Median.
    pub p50: Estimate,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: Estimate,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// One round of a task under a contender.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Round {
    /// From 1.
    pub round: u32,
    /// Median latency, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile, milliseconds.
    pub p99_ms: Option<f64>,
    /// Completed requests per second.
    pub throughput_per_s: f64,
}

impl RunReport {
    /// Reads the folder of a run. Without its record there is nothing to show; anything else may be
    /// missing.
    pub fn read(folder: &Path) -> Result<RunReport, Unreadable> {
        let run = Run::read(folder)?;
        let mut problems = Vec::new();
        let samples = samples::read(folder, &run, &mut problems);
        Ok(RunReport::new(run, samples, problems))
    }

    /// From a record and its samples.
    pub fn new(run: Run, samples: Vec<PhaseSamples>, problems: Vec<String>) -> RunReport {
        let mut figures: Vec<Figure> = run
            .tasks
            .iter()
            .flat_map(|task| {
                run.contenders
                    .iter()
                    .map(move |contender| (task, contender))
            })
            .filter_map(|(task, contender)| {
                Figure::new(
                    &task.name,
                    &contender.name,
                    &rounds(&run, &samples, &task.name, &contender.name),
                )
            })
            .collect();
        let alone: Vec<(String, Estimate)> = figures
            .iter()
            .filter(|figure| is_standalone(&run, &figure.contender))
            .map(|figure| (figure.task.clone(), figure.throughput_per_s))
            .collect();
        for figure in &mut figures {
            let alone = alone.iter().find(|(task, _)| *task == figure.task);
            figure.throughput_to_standalone = alone
                .filter(|_| !is_standalone(&run, &figure.contender))
                .map(|(_, alone)| figure.throughput_per_s.ratio_to(alone));
        }
        let verdict = run.verdict();
        RunReport {
            run,
            samples,
            figures,
            problems,
            verdict,
        }
    }

    /// The figures of a task under a contender.
    pub fn figure(&self, task: &str, contender: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.task == task && figure.contender == contender)
    }

    /// Samples of a task under a contender, all rounds together.
    pub fn samples_of(&self, task: &str, contender: &str) -> Vec<Sample> {
        rounds(&self.run, &self.samples, task, contender)
            .iter()
            .flat_map(|(_, _, samples)| samples.iter().copied())
            .collect()
    }
}

/// Whether this contender is each task by itself.
pub fn is_standalone(run: &Run, contender: &str) -> bool {
    let found = run.contenders.iter().find(|other| other.name == contender);
    found.is_some_and(|found| found.kind == crate::run::Kind::Standalone)
}

type Rounds<'a> = Vec<(&'a Phase, &'a TaskResult, &'a [Sample])>;

fn rounds<'a>(
    run: &'a Run,
    samples: &'a [PhaseSamples],
    task: &str,
    contender: &str,
) -> Rounds<'a> {
    let mut found = Vec::new();
    for (index, phase) in run.phases.iter().enumerate() {
        if phase.contender != contender {
            continue;
        }
        for (at, result) in phase.tasks.iter().enumerate() {
            if result.task == task {
                let samples = samples.get(index).and_then(|tasks| tasks.get(at));
                found.push((phase, result, samples.map_or(&[][..], Vec::as_slice)));
            }
        }
    }
    found
}

impl Figure {
    /// `None` when there is no such phase.
    fn new(task: &str, contender: &str, rounds: &Rounds) -> Option<Figure> {
        let level = rounds.iter().map(|(_, result, _)| result.level).min()?;
        let completed = rounds.iter().map(|(_, result, _)| result.completed).sum();
        // Where samples are missing the record's own figures count.
        let whole = rounds
            .iter()
            .all(|(_, result, samples)| samples.len() as u64 == result.completed);
        let by_round = rounds.iter().map(|(phase, result, _)| Round {
            round: phase.round,
            p50_ms: result.latency_ms.map(|latency| latency.p50),
            p99_ms: result.latency_ms.map(|latency| latency.p99),
            throughput_per_s: result.throughput_per_s,
        });
        Some(Figure {
            task: task.to_owned(),
            contender: contender.to_owned(),
            completed,
            due: rounds.iter().map(|(_, result, _)| result.due).sum(),
            dropped: rounds.iter().map(|(_, result, _)| result.dropped).sum(),
            level,
            latency_ms: if whole {
                latency_of_samples(rounds)
            } else {
                latency_of_record(rounds)
            },
            throughput_per_s: throughput_of(rounds, whole, completed),
            throughput_to_standalone: None,
            by_round: by_round.collect(),
        })
    }
}

fn throughput_of(rounds: &Rounds, whole: bool, completed: u64) -> Estimate {
    // The record knows which time counts: an open loop waits for the end of its phase.
    let counted = |result: &TaskResult| match result.throughput_per_s {
        rate if rate > 0.0 => result.completed as f64 / rate,
        _ => result.elapsed_s,
    };
    let seconds: f64 = rounds.iter().map(|(_, result, _)| counted(result)).sum();
    if !whole {
        return Estimate::bare(if seconds > 0.0 {
            completed as f64 / seconds
        } else {
            0.0
        });
    }
    let completions: Vec<Completions> = rounds
        .iter()
        .map(|(_, result, samples)| Completions {
            at_s: samples
                .iter()
                .map(|sample| sample.end_ms() / 1000.0)
                .collect(),
            elapsed_s: counted(result),
        })
        .collect();
    throughput(&completions)
}

fn latency_of_samples(rounds: &Rounds) -> Option<Latency> {
    let samples = rounds.iter().flat_map(|(_, _, samples)| samples.iter());
    let mut sorted: Vec<f64> = samples.map(|sample| sample.latency_ms).collect();
    sorted.sort_by(f64::total_cmp);
    let summary = summarize(&sorted)?;
    let estimate = |value, p| Estimate {
        value,
        interval: Some(percentile_interval(&sorted, p, CONFIDENCE)),
    };
    Some(Latency {
        avg: summary.avg,
        p50: estimate(summary.p50, 0.5),
        p95: summary.p95,
        p99: estimate(summary.p99, 0.99),
        p999: summary.p999,
        max: summary.max,
    })
}

/// Of one round its summary; of several what can be said without their samples: means weighted by
/// requests, and no interval.
fn latency_of_record(rounds: &Rounds) -> Option<Latency> {
    let summaries: Vec<_> = rounds
        .iter()
        .filter_map(|(_, result, _)| result.latency_ms)
        .collect();
    let count: f64 = summaries.iter().map(|summary| summary.count as f64).sum();
    let first = summaries.first()?;
    let mean = |of: fn(&crate::stats::Summary) -> f64| {
        let sum: f64 = summaries
            .iter()
            .map(|summary| of(summary) * summary.count as f64)
            .sum();
        sum / count
    };
    let alone = summaries.len() == 1;
    Some(Latency {
        avg: mean(|summary| summary.avg),
        p50: Estimate::bare(mean(|summary| summary.p50)),
        p95: mean(|summary| summary.p95),
        p99: Estimate {
            value: mean(|summary| summary.p99),
            interval: alone.then_some(first.p99_interval),
        },
        p999: mean(|summary| summary.p999),
        max: summaries
            .iter()
            .map(|summary| summary.max)
            .fold(0.0, f64::max),
    })
}
