//! A run's figures and criteria for the terminal, as Markdown, JSON and CSV.

use std::fmt::Write;

use serde_json::{Value, json};

use super::figures::RunReport;
use super::tables::{check_rows, figure_rows, task_rows, why};

/// Columns of the figures, and which of them stand at the right.
const HEAD: [(&str, bool); 10] = [
    ("Task", false),
    ("Contender", false),
    ("Requests", true),
    ("P50 ms", true),
    ("P99 ms", true),
    ("95 % interval", true),
    ("of the rounds", true),
    ("Max ms", true),
    ("Requests/s", true),
    ("of standalone", true),
];

fn cells(report: &RunReport) -> Vec<[String; 10]> {
    let rows = figure_rows(report).into_iter().map(|row| {
        [
            row.task,
            row.contender,
            row.requests,
            row.p50,
            row.p99,
            row.p99_interval,
            row.p99_of_rounds,
            row.max,
            row.throughput,
            row.share,
        ]
    });
    rows.collect()
}

/// What `xsched bench show` prints.
pub fn text(report: &RunReport) -> String {
    let run = &report.run;
    let mut text = format!(
        "{} on {}, {}\n\n",
        run.manifest.scenario, run.device, run.manifest.timestamp
    );
    let rows = cells(report);
    if !rows.is_empty() {
        text.push_str(&aligned(&HEAD, &rows));
        text.push('\n');
    }
    for check in check_rows(run) {
        let interval = match check.interval.as_str() {
            "" => String::new(),
            interval => format!(" ({interval})"),
        };
        let sign = if check.sign.is_empty() {
            "•"
        } else {
            check.sign
        };
        let limit = match check.limit.as_str() {
            "—" => String::new(),
            limit => format!(", limit {limit}"),
        };
        let (task, what, grade) = (check.task, check.what, check.grade);
        let _ = write!(
            text,
            "{sign} {task}: {what} {}{}{interval}{limit}: {grade}",
            check.measured,
            unit(&check.unit)
        );
        if let Some(note) = check.note {
            let _ = write!(text, " ({note})");
        }
        text.push('\n');
    }
    for line in missing(report) {
        let _ = writeln!(text, "! {line}");
    }
    for note in &run.notes {
        let _ = writeln!(text, "  {note}");
    }
    let _ = writeln!(
        text,
        "\nOverall: {}. {}",
        report.verdict.text(),
        why(report)
    );
    text
}

fn unit(unit: &str) -> String {
    match unit {
        "" => String::new(),
        unit => format!(" {unit}"),
    }
}

/// Why a run or its folder is not complete, a line each.
fn missing(report: &RunReport) -> Vec<String> {
    let failure = report.run.failure.iter().map(|failure| {
        let partial = failure.partial_samples.as_ref();
        let partial = partial.map_or_else(String::new, |file| format!("; partly measured: {file}"));
        format!("{}: {}{partial}", failure.phase, failure.message)
    });
    failure.chain(report.problems.iter().cloned()).collect()
}

/// Columns as wide as they need to be. Widths are of characters, which is right for what the tables
/// here hold.
pub(super) fn aligned<const N: usize>(head: &[(&str, bool); N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|(title, _)| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let titles = head.map(|(title, _)| title.to_owned());
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), (_, right)) in row.iter().zip(widths).zip(head) {
            let pad = " ".repeat(width - cell.chars().count());
            line.push_str(&match right {
                true => format!("{pad}{cell}  "),
                false => format!("{cell}{pad}  "),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A table of Markdown.
pub(super) fn markdown_table<const N: usize>(
    head: &[(&str, bool); N],
    rows: &[[String; N]],
) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = line(&mut head.iter().map(|(title, _)| (*title).to_owned()));
    text.push_str(&line(
        &mut head
            .iter()
            .map(|(_, right)| if *right { "---:" } else { "---" }.to_owned()),
    ));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(|cell| markdown_cell(cell))));
    }
    text
}

/// Text that a table of Markdown shows as it is.
fn markdown_cell(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('|', r"\|")
        .replace('<', "&lt;")
        .replace(['\n', '\r'], " ")
}

/// The columns of the figures that other pages include.
const SHORT: [usize; 8] = [0, 1, 2, 3, 4, 5, 8, 9];

/// The table of figures alone, as other pages include it.
pub fn markdown_figures(report: &RunReport) -> String {
    let rows: Vec<[String; 8]> = cells(report)
        .into_iter()
        .map(|row| SHORT.map(|column| row[column].clone()))
        .collect();
    markdown_table(&SHORT.map(|column| HEAD[column]), &rows)
}

/// Everything, for pages of Markdown.
pub fn markdown(report: &RunReport) -> String {
    let run = &report.run;
    let mut text = format!(
        "# {} on {}\n\n{}\n\n**{}** {}\n\n{}",
        run.manifest.scenario,
        run.device,
        run.description,
        report.verdict.text(),
        why(report),
        markdown_table(&HEAD, &cells(report))
    );
    let tasks: Vec<[String; 5]> = task_rows(run)
        .into_iter()
        .map(|task| {
            [
                task.name,
                task.model,
                task.batch,
                task.priority,
                task.arrival,
            ]
        })
        .collect();
    if !tasks.is_empty() {
        let head = [
            ("Task", false),
            ("Model", false),
            ("Batch", true),
            ("Priority", false),
            ("Requests come", false),
        ];
        let _ = write!(text, "\n{}", markdown_table(&head, &tasks));
    }
    let checks: Vec<[String; 6]> = check_rows(run)
        .into_iter()
        .map(|check| {
            let what = match &check.note {
                Some(note) => format!("{} ({note})", check.what),
                None => check.what,
            };
            [
                check.task,
                what,
                format!("{} {}", check.measured, check.unit),
                check.interval,
                check.limit,
                format!("{} {}", check.sign, check.grade).trim().to_owned(),
            ]
        })
        .collect();
    if !checks.is_empty() {
        let head = [
            ("Task", false),
            ("Criterion", false),
            ("Measured", true),
            ("95 % interval", true),
            ("Limit", true),
            ("Judgement", false),
        ];
        let _ = write!(text, "\n{}", markdown_table(&head, &checks));
    }
    let mut lists = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = write!(text, "\n{title}:\n\n");
            for line in lines {
                let _ = writeln!(text, "- {}", markdown_cell(line));
            }
        }
    };
    lists("Missing", &missing(report));
    lists("Notes", &run.notes);
    let _ = write!(
        text,
        "\nMeasured {} on {}, by xsched {}. Again:\n\n```sh\n{}\n```\n",
        run.manifest.timestamp,
        run.manifest.host,
        run.manifest.version,
        run.manifest.command_line()
    );
    text
}

/// The record with what was computed from it and its samples.
pub fn document(report: &RunReport) -> anyhow::Result<Value> {
    Ok(json!({
        "verdict": report.verdict,
        "figures": report.figures,
        "missing": missing(report),
        "run": serde_json::to_value(&report.run)?,
    }))
}

/// The figures, a line for a task under a contender.
pub fn csv(report: &RunReport) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "task",
        "contender",
        "completed",
        "due",
        "dropped",
        "level",
        "latency_avg_ms",
        "latency_p50_ms",
        "latency_p95_ms",
        "latency_p99_ms",
        "latency_p99_low_ms",
        "latency_p99_high_ms",
        "latency_p999_ms",
        "latency_max_ms",
        "throughput_per_s",
        "throughput_low_per_s",
        "throughput_high_per_s",
    ])?;
    for figure in &report.figures {
        let latency = figure.latency_ms.as_ref();
        let number =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        let of = |value: fn(&super::figures::Latency) -> f64| number(latency.map(value));
        let p99 = latency.and_then(|latency| latency.p99.interval);
        let rate = figure.throughput_per_s.interval;
        writer.write_record([
            figure.task.clone(),
            figure.contender.clone(),
            figure.completed.to_string(),
            figure.due.map_or_else(String::new, |due| due.to_string()),
            figure.dropped.to_string(),
            figure.level.to_string(),
            of(|latency| latency.avg),
            of(|latency| latency.p50.value),
            of(|latency| latency.p95),
            of(|latency| latency.p99.value),
            number(p99.and_then(|interval| interval.low)),
            number(p99.and_then(|interval| interval.high)),
            of(|latency| latency.p999),
            of(|latency| latency.max),
            number(Some(figure.throughput_per_s.value)),
            number(rate.and_then(|interval| interval.low)),
            number(rate.and_then(|interval| interval.high)),
        ])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use super::super::examples_of_runs::{run, with_samples};
    use super::*;
    use crate::run::Failure;

    #[test]
    fn every_form_of_a_run() {
        let report = with_samples(run());
        insta::assert_snapshot!("text", text(&report));
        insta::assert_snapshot!("markdown", markdown(&report));
        insta::assert_snapshot!("csv", csv(&report).unwrap());
        let document = document(&report).unwrap();
        insta::assert_json_snapshot!("figures", document["figures"]);
        assert_eq!(document["verdict"], "pass");
        // The form of run.json, which other versions read.
        let mut short = run();
        short.phases.truncate(1);
        insta::assert_json_snapshot!("record", short);
    }

    #[test]
    fn an_interrupted_run_with_a_lost_file() {
        let mut run = run();
        run.phases.truncate(3);
        run.checks.clear();
        run.failure = Some(Failure {
            phase: "xsched, round 1".into(),
            message: "interrupted by Ctrl-C".into(),
            partial_samples: Some("xsched-1_samples.partial.csv".into()),
        });
        let problems = vec!["native-1_samples.csv: No such file or directory".into()];
        insta::assert_snapshot!(
            "interrupted",
            text(&RunReport::new(run, Vec::new(), problems))
        );
    }
}
