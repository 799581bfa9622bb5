//! The tables of a run's report as rows of text: what the terminal, Markdown and the page share.

use serde::Serialize;

use super::figures::{Figure, Round, RunReport, is_standalone};
use super::html::short;
use crate::criteria::Verdict;
use crate::estimate::Estimate;
use crate::run::{Grade, Run};
use crate::stats::Interval;
use crate::task::Arrival;

/// A criterion.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct CheckRow {
    pub sign: &'static str,
    pub class: &'static str,
    pub task: String,
    pub what: String,
    pub measured: String,
    pub unit: String,
    pub interval: String,
    pub limit: String,
    pub grade: &'static str,
    pub note: Option<String>,
}

/// A task under a contender.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct FigureRow {
    /// The first row of its task.
    pub first: bool,
    pub task: String,
    pub contender: String,
    pub requests: String,
    pub p50: String,
    pub p95: String,
    pub p99: String,
    pub p99_interval: String,
    pub p999: String,
    pub max: String,
    /// From the smallest to the largest of the rounds.
    pub p99_of_rounds: String,
    pub throughput: String,
    pub throughput_interval: String,
    pub share: String,
    pub level: String,
}

/// A task of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct TaskRow {
    pub name: String,
    pub model: String,
    pub batch: String,
    pub priority: String,
    pub arrival: String,
}

/// The tasks in words.
pub fn task_rows(run: &Run) -> Vec<TaskRow> {
    let row = |task: &crate::run::Task| TaskRow {
        name: task.name.clone(),
        model: task.model.clone(),
        batch: task.batch.to_string(),
        priority: task.priority.clone(),
        arrival: match task.arrival {
            Arrival::Closed => "back to back".to_owned(),
            Arrival::Open { rate_hz } => format!("{} requests/s", short(rate_hz)),
            Arrival::Poisson { rate_hz } => format!("{} requests/s at random", short(rate_hz)),
        },
    };
    run.tasks.iter().map(row).collect()
}

/// The criteria in words.
pub fn check_rows(run: &Run) -> Vec<CheckRow> {
    let row = |check: &crate::run::Check| {
        let (sign, class, grade) = match check.grade {
            Grade::Met => ("✓", "good", "met"),
            Grade::Missed => ("✗", "bad", "missed"),
            Grade::NotDistinguishable => ("?", "unsure", "not distinguishable"),
            Grade::NotEnoughRequests => ("?", "unsure", "not enough requests"),
            Grade::Information => ("", "soft", "for information"),
        };
        CheckRow {
            sign,
            class,
            task: check.task.clone().unwrap_or_else(|| "all".into()),
            what: check.what.clone(),
            measured: measured(check),
            unit: match is_unknown(check) {
                true => String::new(),
                false => check.unit.clone(),
            },
            interval: check.interval.map_or_else(String::new, interval),
            limit: check.limit.clone(),
            grade,
            note: check.note.clone(),
        }
    };
    run.checks.iter().map(row).collect()
}

fn measured(check: &crate::run::Check) -> String {
    match check.unit.as_str() {
        _ if is_unknown(check) => "—".to_owned(),
        "×" | "%" | "ms" => short(check.measured),
        _ => format!("{:.0}", check.measured),
    }
}

/// It has a limit, and nobody could measure it.
fn is_unknown(check: &crate::run::Check) -> bool {
    check.grade == Grade::Information && check.limit != "—"
}

/// The figures in words.
pub fn figure_rows(report: &RunReport) -> Vec<FigureRow> {
    let mut rows: Vec<FigureRow> = Vec::new();
    for figure in &report.figures {
        let contender = report
            .run
            .contenders
            .iter()
            .find(|c| c.name == figure.contender);
        let latency = figure.latency_ms.as_ref();
        let of = |value: fn(&super::figures::Latency) -> f64| {
            latency.map_or_else(|| "—".into(), |latency| short(value(latency)))
        };
        let missing = match (figure.due, figure.dropped) {
            (_, dropped) if dropped > 0 => format!(" ({dropped} dropped)"),
            (Some(due), _) if due > figure.completed => format!(" of {due}"),
            _ => String::new(),
        };
        rows.push(FigureRow {
            first: rows.last().is_none_or(|last| last.task != figure.task),
            task: figure.task.clone(),
            contender: contender.map_or_else(|| figure.contender.clone(), |c| c.title.clone()),
            requests: format!("{}{missing}", figure.completed),
            p50: of(|latency| latency.p50.value),
            p95: of(|latency| latency.p95),
            p99: of(|latency| latency.p99.value),
            p99_interval: latency.map_or_else(String::new, |latency| within(&latency.p99)),
            p999: of(|latency| latency.p999),
            max: of(|latency| latency.max),
            p99_of_rounds: p99_of_rounds(&figure.by_round),
            throughput: short(figure.throughput_per_s.value),
            throughput_interval: within(&figure.throughput_per_s),
            share: share(figure, report),
            level: figure.level.to_string(),
        });
    }
    rows
}

fn p99_of_rounds(rounds: &[Round]) -> String {
    let p99 = || rounds.iter().filter_map(|round| round.p99_ms);
    let ends = p99().reduce(f64::min).zip(p99().reduce(f64::max));
    ends.filter(|_| rounds.len() > 1).map_or_else(
        || "—".into(),
        |(low, high)| format!("{} … {}", short(low), short(high)),
    )
}

fn share(figure: &Figure, report: &RunReport) -> String {
    match figure.throughput_to_standalone {
        Some(ratio) => format!("{:.0} %", ratio.value * 100.0),
        None if is_standalone(&report.run, &figure.contender) => "100 %".into(),
        None => "—".into(),
    }
}

/// What the verdict rests on, one sentence.
pub fn why(report: &RunReport) -> String {
    let checks = report.run.checks.iter();
    let judged = checks
        .filter(|check| check.grade != Grade::Information)
        .count();
    let count = |grade| {
        report
            .run
            .checks
            .iter()
            .filter(|check| check.grade == grade)
            .count()
    };
    match report.verdict {
        Verdict::Pass => format!("{judged} of {judged} criteria met."),
        Verdict::Fail => format!("{} of {judged} criteria missed.", count(Grade::Missed)),
        Verdict::NotDistinguishable => format!(
            "{} of {judged} criteria: the figure is on the right side of the limit, its interval \
             reaches over it. A longer run narrows it.",
            count(Grade::NotDistinguishable)
        ),
        Verdict::NotEnoughRequests => format!(
            "{} of {judged} criteria cannot be judged from so few requests.",
            count(Grade::NotEnoughRequests)
        ),
        Verdict::Measured => "This run has no criteria.".into(),
        Verdict::Incomplete => "What was measured until then is shown.".into(),
    }
}

/// A sentence a task: the figure that matters most under every contender.
pub fn headlines(report: &RunReport) -> Vec<String> {
    let sentence = |task: &crate::run::Task| {
        let figures = report
            .figures
            .iter()
            .filter(|figure| figure.task == task.name);
        let parts: Vec<String> = figures
            .filter_map(|figure| {
                let mut contenders = report.run.contenders.iter();
                let contender = contenders.find(|contender| contender.name == figure.contender)?;
                let text = match task.arrival {
                    Arrival::Closed => {
                        let rate = short(figure.throughput_per_s.value);
                        match figure.throughput_to_standalone {
                            Some(ratio) => format!("{rate} ({:.0} %)", ratio.value * 100.0),
                            None => rate,
                        }
                    }
                    _ => short(figure.latency_ms.as_ref()?.p99.value),
                };
                Some(format!("{} {text}", contender.title))
            })
            .collect();
        let (what, unit) = match task.arrival {
            Arrival::Closed => ("throughput", "requests/s"),
            _ => ("P99", "ms"),
        };
        (!parts.is_empty()).then(|| format!("{}: {what} {} {unit}.", task.name, parts.join(", ")))
    };
    report.run.tasks.iter().filter_map(sentence).collect()
}

/// `low … high`, with `∞` where the samples set no bound.
pub fn interval(interval: Interval) -> String {
    let end = |end: Option<f64>, open: &str| end.map_or_else(|| open.to_owned(), short);
    format!("{} … {}", end(interval.low, "0"), end(interval.high, "∞"))
}

fn within(estimate: &Estimate) -> String {
    estimate.interval.map_or_else(String::new, interval)
}
