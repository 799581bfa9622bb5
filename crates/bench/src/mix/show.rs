//! What a run says at its end: on the terminal, as Markdown, as CSV; and its latencies as HDR logs.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use minijinja::{Environment, context};

use super::runner::passed;
use crate::phase::Measurement;
use crate::run::{Check, Grade, Run, TaskResult};

/// Length of an interval of an HDR log.
const LOG_EVERY_MS: f64 = 1000.0;

/// One word on the run.
fn verdict(run: &Run) -> &'static str {
    if run.failure.is_some() {
        "INCOMPLETE"
    } else if passed(run, false) {
        "PASS"
    } else if passed(run, true) {
        "NOT DECIDED"
    } else {
        "FAIL"
    }
}

fn grade_text(grade: Grade) -> &'static str {
    match grade {
        Grade::Met => "met",
        Grade::Missed => "MISSED",
        Grade::NotDistinguishable => "not distinguishable",
        Grade::NotEnoughRequests => "not enough requests",
        Grade::Information => "shown",
    }
}

fn measured_text(check: &Check) -> String {
    let digits = match check.unit.as_str() {
        "×" | "ms" => 2,
        "%" => 1,
        _ => 0,
    };
    let number = |value: f64| format!("{value:.digits$}");
    let end = |end: Option<f64>| end.map_or("…".to_owned(), number);
    match check.interval {
        Some(interval) => format!(
            "{} [{}, {}] {}",
            number(check.measured),
            end(interval.low),
            end(interval.high),
            check.unit
        ),
        None => format!("{} {}", number(check.measured), check.unit),
    }
}

/// Of one task under one way of scheduling, all rounds: throughput, median and 99th percentile (the
/// range over the rounds), requests given up.
struct Row {
    task: String,
    contender: String,
    throughput: String,
    p50: String,
    p99: String,
    dropped: u64,
}

fn rows(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    for task in &run.tasks {
        for contender in &run.contenders {
            let results: Vec<&TaskResult> = run
                .phases_of(&contender.name)
                .flat_map(|phase| &phase.tasks)
                .filter(|result| result.task == task.name)
                .collect();
            if results.is_empty() {
                continue;
            }
            let range = |figure: &dyn Fn(&TaskResult) -> Option<f64>| {
                let figures: Vec<f64> = results.iter().filter_map(|one| figure(one)).collect();
                let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
                let high = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                match figures.len() {
                    0 => "-".to_owned(),
                    1 => format!("{low:.2}"),
                    _ => format!("{low:.2}…{high:.2}"),
                }
            };
            rows.push(Row {
                task: task.name.clone(),
                contender: contender.title.clone(),
                throughput: range(&|one| Some(one.throughput_per_s)),
                p50: range(&|one| one.latency_ms.map(|latency| latency.p50)),
                p99: range(&|one| one.latency_ms.map(|latency| latency.p99)),
                dropped: results.iter().map(|one| one.dropped).sum(),
            });
        }
    }
    rows
}

/// The tables for the terminal.
pub fn table(run: &Run) -> String {
    let mut text = format!(
        "{:<20} {:<16} {:>17} {:>17} {:>17} {:>7}\n",
        "task", "scheduled by", "requests/s", "P50 (ms)", "P99 (ms)", "dropped"
    );
    for row in rows(run) {
        text.push_str(&format!(
            "{:<20} {:<16} {:>17} {:>17} {:>17} {:>7}\n",
            row.task, row.contender, row.throughput, row.p50, row.p99, row.dropped
        ));
    }
    if !run.checks.is_empty() {
        text.push_str(&format!(
            "\n{:<20} {:<26} {:>12}  {:<32} {}\n",
            "task", "criterion", "limit", "measured [95 % interval]", "judgement"
        ));
    }
    for check in &run.checks {
        text.push_str(&format!(
            "{:<20} {:<26} {:>12}  {:<32} {}\n",
            check.task.as_deref().unwrap_or("-"),
            check.what,
            check.limit,
            measured_text(check),
            grade_text(check.grade)
        ));
        if let Some(note) = &check.note {
            text.push_str(&format!("{:<20} {note}\n", ""));
        }
    }
    if let Some(failure) = &run.failure {
        let (phase, message) = (&failure.phase, &failure.message);
        text.push_str(&format!("\nIncomplete: phase {phase}: {message}\n"));
    }
    text.push_str(&format!("\n{}: {}", run.manifest.scenario, verdict(run)));
    text
}

/// The report as Markdown, from the template `mix.md.j2`.
pub fn markdown(run: &Run) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("cell", |text: String| text.replace('|', r"\|"));
    let template = environment.template_from_str(include_str!("mix.md.j2"))?;
    let rows: Vec<_> = rows(run)
        .into_iter()
        .map(|row| {
            context! {
                task => row.task, contender => row.contender, throughput => row.throughput,
                p50 => row.p50, p99 => row.p99, dropped => row.dropped,
            }
        })
        .collect();
    let checks: Vec<_> = run
        .checks
        .iter()
        .map(|check| {
            context! {
                task => check.task.as_deref().unwrap_or("-"), what => check.what,
                limit => check.limit, measured => measured_text(check),
                grade => grade_text(check.grade), note => check.note.as_deref().unwrap_or_default(),
            }
        })
        .collect();
    let tasks: Vec<_> = run
        .tasks
        .iter()
        .map(|task| {
            context! {
                name => task.name, model => task.model, batch => task.batch,
                priority => task.priority, arrival => arrival_text(task),
            }
        })
        .collect();
    Ok(template.render(context! {
        run, rows, checks, tasks,
        verdict => verdict(run),
        command => run.manifest.command_line(),
    })?)
}

fn arrival_text(task: &crate::run::Task) -> String {
    use crate::task::Arrival;
    match task.arrival {
        Arrival::Closed => "back to back".to_owned(),
        Arrival::Open { rate_hz } => format!("{rate_hz:.3} requests/s"),
        Arrival::Poisson { rate_hz } => format!("{rate_hz:.3} requests/s at random"),
    }
}

/// A line a task and phase.
pub fn csv(run: &Run) -> String {
    let mut text = String::from(
        "contender,round,task,level,completed,due,dropped,throughput_per_s,p50_ms,p95_ms,p99_ms,\
         p999_ms,max_ms\n",
    );
    for phase in &run.phases {
        for one in &phase.tasks {
            let due = one.due.map_or(String::new(), |due| due.to_string());
            text.push_str(&format!(
                "{},{},{},{},{},{due},{},{:.4}",
                phase.contender,
                phase.round,
                one.task,
                one.level,
                one.completed,
                one.dropped,
                one.throughput_per_s
            ));
            match &one.latency_ms {
                Some(of) => text.push_str(&format!(
                    ",{:.3},{:.3},{:.3},{:.3},{:.3}\n",
                    of.p50, of.p95, of.p99, of.p999, of.max
                )),
                None => text.push_str(",,,,,\n"),
            }
        }
    }
    text
}

/// The latencies of a phase in microseconds as an HDR histogram interval log, a tag a task, an interval a
/// second of arrivals.
pub(super) fn interval_log(measured: &[Measurement]) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = V2Serializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    let mut writer = builder
        .with_base_time(SystemTime::UNIX_EPOCH)
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut bytes, &mut serializer)?;
    writer.write_comment("latencies in microseconds, times since the start of the phase")?;
    for one in measured {
        let tag = Tag::new(&one.task.name);
        let second = |sample: &[f64; 3]| (sample[0] / LOG_EVERY_MS) as u64;
        for interval in one.samples.chunk_by(|a, b| second(a) == second(b)) {
            let mut histogram = Histogram::<u64>::new(3)?;
            for [_, _, latency] in interval {
                histogram.record((latency.max(0.0) * 1e3).round() as u64)?;
            }
            let start = Duration::from_secs(second(&interval[0]));
            writer
                .write_histogram(&histogram, start, Duration::from_secs(1), tag)
                .map_err(|error| anyhow::anyhow!("no HDR log: {error:?}"))?;
        }
    }
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::run::{Contender, FORMAT, Failure, Kind, Phase, Task};
    use crate::stats::{Interval, summarize};
    use crate::task::Arrival;

    /// A run with fixed figures.
    fn example() -> Run {
        let contender = |name: &str, title: &str, kind| Contender {
            name: name.into(),
            title: title.into(),
            kind,
        };
        let result = |latency: f64, level| TaskResult {
            task: "search".into(),
            level,
            start_ns: 5,
            elapsed_s: 10.0,
            completed: 4,
            due: Some(4),
            dropped: 1,
            throughput_per_s: 0.4,
            latency_ms: summarize(&[latency, latency, latency, 2.0 * latency]),
            output_digest: "0123456789abcdef".into(),
            outputs_equal: true,
        };
        let phase = |contender: &str, round, latency, level| Phase {
            contender: contender.into(),
            round,
            timestamp: "2026-01-01T00:00:00+00:00".into(),
            duration_s: 10.0,
            tasks: vec![result(latency, level)],
            scheduler_cpu_s: (level > 0).then_some(0.05),
            samples_file: format!("{contender}-{round}_samples.csv"),
            trace_file: None,
        };
        Run {
            format: FORMAT,
            manifest: Manifest {
                scenario: "shop".into(),
                timestamp: "2026-01-01T00:00:00+00:00".into(),
                host: crate::report::examples::record().manifest.host,
                environment: Vec::new(),
                ..Manifest::now("shop", vec!["xsched".into(), "a b".into()], "0.1.0")
            },
            description: "A search beside nothing.".into(),
            device: "cpu".into(),
            tasks: vec![Task {
                name: "search".into(),
                model: "ResNet-18".into(),
                priority: "high".into(),
                batch: 1,
                arrival: Arrival::Open { rate_hz: 0.4 },
            }],
            contenders: vec![
                contender("native", "Native", Kind::Native),
                contender("xsched", "XSched (hpf)", Kind::Scheduled),
            ],
            phases: vec![
                phase("native", 1, 40.0, 0),
                phase("xsched", 1, 20.0, 2),
                phase("native", 2, 50.0, 0),
                phase("xsched", 2, 21.0, 2),
            ],
            checks: vec![
                Check {
                    task: Some("search".into()),
                    what: "P99 ÷ standalone".into(),
                    limit: "≤ 1.60".into(),
                    measured: 1.25,
                    interval: Some(Interval {
                        low: Some(1.1),
                        high: Some(1.7),
                    }),
                    unit: "×".into(),
                    grade: Grade::NotDistinguishable,
                    note: None,
                },
                Check {
                    task: None,
                    what: "scheduling, of one core".into(),
                    limit: "≤ 3".into(),
                    measured: 0.5,
                    interval: None,
                    unit: "%".into(),
                    grade: Grade::Met,
                    note: Some("a | note".into()),
                },
            ],
            notes: vec!["A note.".into()],
            failure: None,
        }
    }

    fn interrupted() -> Run {
        let mut run = example();
        run.checks.clear();
        run.phases.truncate(1);
        run.failure = Some(Failure {
            phase: "xsched-1".into(),
            message: "interrupted by Ctrl-C".into(),
            partial_samples: Some("xsched-1_samples.partial.csv".into()),
        });
        run
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!("table", table(&example()));
        insta::assert_snapshot!("table_interrupted", table(&interrupted()));
    }

    #[test]
    fn reports() {
        insta::assert_snapshot!("report", markdown(&example()).unwrap());
        insta::assert_snapshot!("report_interrupted", markdown(&interrupted()).unwrap());
    }

    #[test]
    fn records_and_lines() {
        insta::assert_json_snapshot!("record", example());
        insta::assert_snapshot!("summary", csv(&example()));
    }
}
