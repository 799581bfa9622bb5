//! The record `run.json` of a dual-model run, in the terms that all scenarios share.

use std::time::Duration;

use crate::manifest::Manifest;
use crate::phase::Measurement;
use crate::report::{Record, RunReport};
use crate::results::seconds;
use crate::run::{Check, Contender, FORMAT, Failure, Grade, Kind, Phase, Run, Task, TaskResult};
use crate::scenario::options::Only;
use crate::stats::{Interval, summarize};
use crate::task::TaskSpec;
use crate::verdict::{self, Comparison, LOW_LIMIT, MIN_REQUESTS, P99_LIMIT, RATE_LIMIT};

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
        scheduler_cpu_s: None,
        samples_file,
        trace_file: None,
    }
}

/// The criteria of the document, with intervals; and what is worth knowing beside them.
pub(super) fn checks(record: &Record, report: &RunReport) -> Vec<Check> {
    let (Some(comparison), Some(scheduled)) = (&record.comparison, &record.scheduled) else {
        return Vec::new();
    };
    let high = scheduled.high_priority.task.as_str();
    let low: Vec<&str> = report.run.tasks[1..]
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    let mut checks = vec![
        p99(high, comparison, report),
        Check {
            task: Some(high.to_owned()),
            what: "throughput ÷ rate asked for".into(),
            limit: format!("≥ {:.0}", RATE_LIMIT * 100.0),
            measured: comparison.high_throughput_share_of_rate * 100.0,
            interval: None,
            unit: "%".into(),
            grade: grade(comparison.high_throughput, None, RATE_LIMIT * 100.0, true),
            note: None,
        },
        low_throughput(&low, comparison, report),
        Check {
            task: None,
            what: "tasks unscheduled in a scheduled phase or the reverse, outputs that differ"
                .into(),
            limit: "0".into(),
            measured: comparison.faults.len() as f64,
            interval: None,
            unit: "faults".into(),
            grade: match comparison.faults.is_empty() {
                true => Grade::Met,
                false => Grade::Missed,
            },
            note: (!comparison.faults.is_empty()).then(|| comparison.faults.join("; ")),
        },
    ];
    checks.extend(information(high, comparison, report));
    checks
}

fn p99(high: &str, comparison: &Comparison, report: &RunReport) -> Check {
    let interval = interval_of_ratio(high, "native", report, Figure::P99);
    let note = match comparison.high_latency {
        verdict::Grade::NotEnoughRequests {
            requests,
            run_seconds,
        } => Some(format!(
            "{requests} requests a phase, a P99 verdict needs {MIN_REQUESTS}: run with --duration \
             {run_seconds} or longer"
        )),
        _ => None,
    };
    Check {
        task: Some(high.to_owned()),
        what: "P99 ÷ native".into(),
        limit: format!("< {P99_LIMIT:.2}"),
        measured: comparison.high_p99_ratio,
        interval,
        unit: "×".into(),
        grade: grade(comparison.high_latency, interval, P99_LIMIT, false),
        note,
    }
}

fn low_throughput(low: &[&str], comparison: &Comparison, report: &RunReport) -> Check {
    let one = match low {
        [one] => Some(*one),
        _ => None,
    };
    let interval = one
        .and_then(|one| interval_of_ratio(one, "native", report, Figure::Throughput))
        .map(|interval| Interval {
            low: interval.low.map(|end| end * 100.0),
            high: interval.high.map(|end| end * 100.0),
        });
    let limit = LOW_LIMIT * 100.0;
    Check {
        task: one.map(str::to_owned),
        what: match one {
            Some(_) => "throughput ÷ native".into(),
            None => format!("throughput of {} together ÷ native", low.join(", ")),
        },
        limit: format!("> {limit:.0}"),
        measured: comparison.low_throughput_ratio * 100.0,
        interval,
        unit: "%".into(),
        grade: grade(comparison.low_throughput, interval, limit, true),
        note: None,
    }
}

/// Against each task alone: shown, not judged.
fn information(high: &str, comparison: &Comparison, report: &RunReport) -> Vec<Check> {
    let of = |contender| report.figure(high, contender)?.latency_ms.as_ref();
    let mut checks = Vec::new();
    let mut add = |task: Option<&str>, what: &str, measured, interval, unit: &str| {
        checks.push(Check {
            task: task.map(str::to_owned),
            what: what.to_owned(),
            limit: "—".into(),
            measured,
            interval,
            unit: unit.to_owned(),
            grade: Grade::Information,
            note: None,
        });
    };
    if let (Some(after), Some(alone)) = (of("xsched"), of(STANDALONE)) {
        let ratio = after.p99.ratio_to(&alone.p99);
        let what = "P99 ÷ standalone";
        add(Some(high), what, ratio.value, ratio.interval, "×");
    }
    if let Some(work) = &comparison.useful_work {
        let what = "useful work (sum of throughput ÷ standalone) ÷ native";
        add(None, what, work.ratio * 100.0, None, "%");
    }
    checks
}

enum Figure {
    P99,
    Throughput,
}

fn interval_of_ratio(
    task: &str,
    reference: &str,
    report: &RunReport,
    of: Figure,
) -> Option<Interval> {
    let figure = |contender| {
        let figure = report.figure(task, contender)?;
        match of {
            Figure::P99 => Some(figure.latency_ms.as_ref()?.p99),
            Figure::Throughput => Some(figure.throughput_per_s),
        }
    };
    figure("xsched")?.ratio_to(&figure(reference)?).interval
}

/// The document's grade; where that is good, the interval must be on the right side of the limit,
/// too, where there is one.
fn grade(
    document: verdict::Grade,
    interval: Option<Interval>,
    limit: f64,
    more_is_better: bool,
) -> Grade {
    match document {
        verdict::Grade::Poor => Grade::Missed,
        verdict::Grade::NotEnoughRequests { .. } => Grade::NotEnoughRequests,
        verdict::Grade::Good => {
            let inside = interval.is_none_or(|interval| match more_is_better {
                true => interval.low.is_some_and(|low| low > limit),
                false => interval.high.is_some_and(|high| high < limit),
            });
            if inside {
                Grade::Met
            } else {
                Grade::NotDistinguishable
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_figure_with_an_interval_over_the_limit_is_not_distinguishable() {
        let interval = |low, high| Some(Interval { low, high });
        let good = verdict::Grade::Good;
        let check = |interval, more, expect| {
            assert_eq!(grade(good, interval, 1.1, more), expect, "{interval:?}");
        };
        check(interval(Some(0.5), Some(1.0)), false, Grade::Met);
        check(
            interval(Some(0.5), Some(1.2)),
            false,
            Grade::NotDistinguishable,
        );
        check(interval(Some(0.5), None), false, Grade::NotDistinguishable);
        check(interval(Some(1.2), None), true, Grade::Met);
        check(
            interval(Some(1.0), Some(2.0)),
            true,
            Grade::NotDistinguishable,
        );
        check(None, true, Grade::Met);
        let poor = grade(
            verdict::Grade::Poor,
            interval(Some(0.0), Some(9.0)),
            1.1,
            false,
        );
        assert_eq!(poor, Grade::Missed);
    }
}
