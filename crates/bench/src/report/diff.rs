//! Two runs of a scenario compared: every figure of one with the same figure of the other.

use std::fmt::Write;

use serde::Serialize;

use super::figures::{Figure, RunReport};
use super::html::short;
use super::summary::{aligned, markdown_table};
use crate::UsageError;
use crate::estimate::Estimate;

/// All comparisons.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The scenario of both.
    pub scenario: String,
    /// Start and version of each.
    pub runs: [String; 2],
    /// Tasks × contenders × figures that both runs have.
    pub changes: Vec<Change>,
    /// What is not the same on both sides, or missing on one.
    pub notes: Vec<String>,
}

/// One figure in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Change {
    pub task: String,
    pub contender: String,
    /// `p50_ms`, `p99_ms` or `throughput_per_s`.
    pub figure: &'static str,
    pub before: Estimate,
    pub after: Estimate,
    /// `after` ÷ `before`.
    pub ratio: Estimate,
    pub reading: Reading,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// Lower latency or higher throughput, the intervals apart.
    Better,
    /// The reverse.
    Worse,
    /// The intervals overlap.
    NotDistinguishable,
    /// A figure has no interval.
    NoInterval,
}

/// Refuses, in one line, what cannot be compared.
pub fn compare(a: &RunReport, b: &RunReport) -> Result<Difference, UsageError> {
    let (left, right) = (&a.run, &b.run);
    let refuse = |what: &str, left: &str, right: &str| {
        Err(UsageError(format!(
            "cannot compare: {what} {left} and {right}; name two runs of the same scenario"
        )))
    };
    let (scenario, other) = (&left.manifest.scenario, &right.manifest.scenario);
    if scenario != other {
        return refuse("the scenarios are", scenario, other);
    }
    for task in &left.tasks {
        let same = right.tasks.iter().find(|other| other.name == task.name);
        let other = same.filter(|same| (&task.model, task.batch) != (&same.model, same.batch));
        if let Some(other) = other {
            let text = |task: &crate::run::Task| format!("{} × {}", task.model, task.batch);
            return refuse(&format!("{} runs", task.name), &text(task), &text(other));
        }
    }
    let arrives_alike = |before: &&Figure| {
        let task = |run: &crate::run::Run| {
            let own = run.tasks.iter().find(|task| task.name == before.task);
            own.map(|task| task.arrival)
        };
        task(left) == task(right)
    };
    let changes: Vec<Change> = a
        .figures
        .iter()
        .filter(arrives_alike)
        .filter_map(|before| Some((before, b.figure(&before.task, &before.contender)?)))
        .flat_map(|(before, after)| changes(before, after))
        .collect();
    if changes.is_empty() {
        let names = |report: &RunReport| {
            let figures = report.figures.iter();
            let names: Vec<_> = figures
                .map(|f| format!("{}/{}", f.task, f.contender))
                .collect();
            if names.is_empty() {
                "nothing".to_owned()
            } else {
                names.join(", ")
            }
        };
        return refuse("they have no figure in common,", &names(a), &names(b));
    }
    let run = |report: &RunReport| {
        let manifest = &report.run.manifest;
        format!("{}, xsched {}", manifest.timestamp, manifest.version)
    };
    Ok(Difference {
        scenario: scenario.clone(),
        runs: [run(a), run(b)],
        changes,
        notes: notes(a, b),
    })
}

fn changes(before: &Figure, after: &Figure) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |figure, old: Estimate, new: Estimate, more_is_better| {
        changes.push(Change {
            task: before.task.clone(),
            contender: before.contender.clone(),
            figure,
            before: old,
            after: new,
            ratio: new.ratio_to(&old),
            reading: read(&old, &new, more_is_better),
        });
    };
    if let (Some(old), Some(new)) = (&before.latency_ms, &after.latency_ms) {
        add("p50_ms", old.p50, new.p50, false);
        add("p99_ms", old.p99, new.p99, false);
    }
    add(
        "throughput_per_s",
        before.throughput_per_s,
        after.throughput_per_s,
        true,
    );
    changes
}

fn read(before: &Estimate, after: &Estimate, more_is_better: bool) -> Reading {
    let (Some(old), Some(new)) = (before.interval, after.interval) else {
        return Reading::NoInterval;
    };
    // An end that the samples do not bound is as far away as can be.
    let above = |a: Option<f64>, b: Option<f64>| a.zip(b).is_some_and(|(a, b)| a > b);
    let (more, less) = (above(new.low, old.high), above(old.low, new.high));
    match (more, less) {
        (false, false) => Reading::NotDistinguishable,
        (more, _) if more == more_is_better => Reading::Better,
        _ => Reading::Worse,
    }
}

fn notes(a: &RunReport, b: &RunReport) -> Vec<String> {
    let mut notes = Vec::new();
    let (left, right) = (&a.run, &b.run);
    if left.device != right.device {
        notes.push(format!(
            "Other device: {} and {}.",
            left.device, right.device
        ));
    }
    let (host, other) = (&left.manifest.host, &right.manifest.host);
    if host != other {
        notes.push(format!(
            "Other machine: {}, {} cores, {} and {}, {} cores, {}.",
            host.cpu_model, host.cores, host.kernel, other.cpu_model, other.cores, other.kernel
        ));
    }
    for task in &left.tasks {
        let same = right.tasks.iter().find(|other| other.name == task.name);
        if let Some(same) = same.filter(|same| same.arrival != task.arrival) {
            notes.push(format!(
                "{}: other arrivals, {} and {}; nothing of it is compared: give both runs the same rate{}.",
                task.name,
                task.arrival,
                same.arrival,
                match left.manifest.scenario.as_str() {
                    "dual-model" => " (--rate)",
                    _ => "",
                }
            ));
        }
    }
    for (here, there, which) in [(a, b, "first"), (b, a, "second")] {
        let lone = here
            .figures
            .iter()
            .filter(|figure| there.figure(&figure.task, &figure.contender).is_none());
        for figure in lone {
            notes.push(format!(
                "Only in the {which}: {} under {}.",
                figure.task, figure.contender
            ));
        }
        if let Some(failure) = &here.run.failure {
            notes.push(format!("The {which} is incomplete: {}.", failure.message));
        }
        notes.extend(
            here.problems
                .iter()
                .map(|problem| format!("The {which}: {problem}.")),
        );
    }
    notes
}

const HEAD: [(&str, bool); 8] = [
    ("Task", false),
    ("Contender", false),
    ("Figure", false),
    ("Before", true),
    ("After", true),
    ("Change", true),
    ("95 % interval", true),
    ("Reading", false),
];

fn rows(difference: &Difference) -> Vec<[String; 8]> {
    let percent = |ratio: f64| {
        // Adding zero turns -0 into 0.
        let percent = ((ratio - 1.0) * 1000.0).round() / 10.0 + 0.0;
        format!("{percent:+.1} %")
    };
    let row = |change: &Change| {
        [
            change.task.clone(),
            change.contender.clone(),
            match change.figure {
                "p50_ms" => "P50, ms",
                "p99_ms" => "P99, ms",
                _ => "requests/s",
            }
            .to_owned(),
            short(change.before.value),
            short(change.after.value),
            if change.ratio.value.is_finite() {
                percent(change.ratio.value)
            } else {
                "—".into()
            },
            change.ratio.interval.map_or_else(
                || "—".to_owned(),
                |range| {
                    let end = |end: Option<f64>, open: &str| end.map_or(open.to_owned(), percent);
                    format!("{} … {}", end(range.low, "-100 %"), end(range.high, "∞"))
                },
            ),
            match change.reading {
                Reading::Better => "better",
                Reading::Worse => "worse",
                Reading::NotDistinguishable => "not distinguishable",
                Reading::NoInterval => "no interval",
            }
            .to_owned(),
        ]
    };
    difference.changes.iter().map(row).collect()
}

/// For the terminal.
pub fn text(difference: &Difference) -> String {
    let mut text = format!(
        "{}: {} -> {}\n\n{}",
        difference.scenario,
        difference.runs[0],
        difference.runs[1],
        aligned(&HEAD, &rows(difference))
    );
    for note in &difference.notes {
        let _ = write!(text, "\n! {note}");
    }
    if !difference.notes.is_empty() {
        text.push('\n');
    }
    text
}

/// For pages of Markdown.
pub fn markdown(difference: &Difference) -> String {
    let mut text = format!(
        "# {}: {} → {}\n\n{}",
        difference.scenario,
        difference.runs[0],
        difference.runs[1],
        markdown_table(&HEAD, &rows(difference))
    );
    for note in &difference.notes {
        let _ = write!(text, "\n- {note}");
    }
    if !difference.notes.is_empty() {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::examples_of_runs::{large, run, with_samples};
    use super::*;
    use crate::stats::Interval;

    /// The example, with the contenders' samples swapped, so that something changes.
    fn other() -> RunReport {
        let mut run = run();
        for phase in &mut run.phases {
            phase.contender = match phase.contender.as_str() {
                "native" => "xsched".into(),
                "xsched" => "native".into(),
                same => same.into(),
            };
        }
        run.contenders.swap(1, 2);
        run.manifest.host.cores = 4;
        let mut report = with_samples(run);
        // The samples of the example go by the contender's name: take them from the other.
        let (native, scheduled) = (report.samples[2].clone(), report.samples[3].clone());
        report.samples[2] = scheduled;
        report.samples[3] = native;
        let (native, scheduled) = (report.samples[6].clone(), report.samples[7].clone());
        report.samples[6] = scheduled;
        report.samples[7] = native;
        RunReport::new(report.run, report.samples, Vec::new())
    }

    #[test]
    fn every_form_of_a_comparison() {
        let difference = compare(&with_samples(run()), &other()).unwrap();
        insta::assert_snapshot!("text", text(&difference));
        insta::assert_snapshot!("markdown", markdown(&difference));
        let p50 = &serde_json::to_value(&difference).unwrap()["changes"][3];
        assert_eq!(
            (&p50["figure"], &p50["contender"]),
            (&"p50_ms".into(), &"native".into())
        );
        assert_eq!(p50["reading"], "better");
        assert!(p50["ratio"]["interval"]["high"].as_f64().unwrap() < 1.0);
    }

    #[test]
    fn a_run_is_not_distinguishable_from_itself() {
        let report = with_samples(run());
        let difference = compare(&report, &report).unwrap();
        assert_eq!(difference.changes.len(), 2 * 3 * 3);
        for change in &difference.changes {
            assert_eq!(
                (change.ratio.value, change.reading),
                (1.0, Reading::NotDistinguishable)
            );
        }
        assert_eq!(difference.notes, Vec::<String>::new());
    }

    #[test]
    fn only_intervals_apart_are_a_change() {
        let figure = |low, value, high| Estimate {
            value,
            interval: Some(Interval { low, high }),
        };
        let old = figure(Some(9.0), 10.0, Some(11.0));
        let check = |new: Estimate, latency, throughput| {
            assert_eq!(read(&old, &new, false), latency);
            assert_eq!(read(&old, &new, true), throughput);
        };
        let unsure = Reading::NotDistinguishable;
        check(
            figure(Some(11.5), 12.0, Some(13.0)),
            Reading::Worse,
            Reading::Better,
        );
        check(
            figure(Some(5.0), 6.0, Some(8.0)),
            Reading::Better,
            Reading::Worse,
        );
        check(figure(Some(10.5), 12.0, Some(13.0)), unsure, unsure);
        check(figure(Some(5.0), 6.0, None), unsure, unsure);
        check(
            Estimate::bare(1.0),
            Reading::NoInterval,
            Reading::NoInterval,
        );
    }

    #[test]
    fn what_does_not_compare_is_refused_in_one_line() {
        let report = with_samples(run());
        let check = |change: &dyn Fn(&mut crate::run::Run), says: &str| {
            let mut run = run();
            change(&mut run);
            let other = RunReport::new(run, Vec::new(), Vec::new());
            let message = compare(&report, &other).unwrap_err().0;
            assert!(
                message.contains(says) && !message.contains('\n'),
                "{message}"
            );
        };
        check(
            &|run| run.manifest.scenario = "overhead".into(),
            "example and overhead",
        );
        check(
            &|run| run.tasks[1].batch = 8,
            "ResNet-50 × 1 and ResNet-50 × 8",
        );
        check(&|run| run.phases.clear(), "no figure in common");
        let mut fast = large(10_000);
        fast.failure = Some(crate::run::Failure {
            phase: "native".into(),
            message: "interrupted".into(),
            partial_samples: None,
        });
        let difference = compare(&report, &with_samples(fast)).unwrap();
        assert!(difference.changes.iter().all(|change| change.task == "low"));
        let notes = difference.notes.join(" ");
        assert!(
            notes.contains("give both runs the same rate")
                && notes.contains("second is incomplete"),
            "{notes}"
        );
    }
}
