//! What came of a run: figures by task, as a table, as CSV, and several policies side by side.

use serde::Serialize;
use std::fmt::Write;
use xsched_sched::Nanos;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The policy's name.
    pub policy: String,
    /// Where chance began.
    pub seed: u64,
    /// Virtual time that counts.
    pub seconds: f64,
    /// Number of devices.
    pub devices: usize,
    /// Commands executed, those of the warm-up among them.
    pub commands: u64,
    /// Times that a device went over to another task.
    pub switches: u64,
    /// The part of the devices' time in which commands executed.
    pub utilization: f64,
    /// By task, in the scenario's order.
    pub tasks: Vec<TaskReport>,
}

/// One task. Latencies are from arrival to completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub name: String,
    /// Index of its device.
    pub device: usize,
    /// Requests done.
    pub requests: u64,
    /// Requests done a second.
    pub throughput_rps: f64,
    /// Half of them took no longer.
    pub latency_p50_ms: f64,
    /// 99 of 100 took no longer.
    pub latency_p99_ms: f64,
    /// The longest.
    pub latency_max_ms: f64,
    /// Its part of the device's time.
    pub share: f64,
    /// Time that it was ready and its gate closed.
    pub waiting_ms: f64,
    /// Times that its gate was closed while it was ready.
    pub preemptions: u64,
    /// Requests that took longer than its deadline.
    pub late: u64,
    /// All latencies in the order of completion, ns.
    #[serde(skip)]
    pub latencies: Vec<Nanos>,
}

impl TaskReport {
    /// A latency in a table.
    fn shown(&self, ms: f64) -> String {
        match self.requests {
            0 => "—".to_owned(),
            _ => format!("{ms:.3}"),
        }
    }
}

/// What is gathered while a task executes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskStats {
    pub(crate) latencies: Vec<Nanos>,
    pub(crate) busy: Nanos,
    pub(crate) late: u64,
}

impl TaskStats {
    pub(crate) fn report(self, name: String, device: usize, span: Nanos) -> TaskReport {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let ms = |quantile: f64| {
            // The smallest value that so many do not exceed.
            let rank = (quantile * sorted.len() as f64).ceil() as usize;
            let value = sorted.get(rank.max(1) - 1).copied().unwrap_or(0);
            value as f64 / 1e6
        };
        TaskReport {
            name,
            device,
            requests: sorted.len() as u64,
            throughput_rps: sorted.len() as f64 / (span as f64 / 1e9),
            latency_p50_ms: ms(0.5),
            latency_p99_ms: ms(0.99),
            latency_max_ms: ms(1.0),
            share: self.busy as f64 / span as f64,
            waiting_ms: 0.0,
            preemptions: 0,
            late: self.late,
            latencies: self.latencies,
        }
    }
}

/// So many tasks are shown in a table; more are left to CSV and JSON.
const SHOWN: usize = 30;

/// A run as a table.
pub fn table(report: &Report) -> String {
    let mut text = format!(
        "{} under {}: {} s, {} devices, {} commands, {:.1} % busy\n\n",
        report.scenario,
        report.policy,
        report.seconds,
        report.devices,
        report.commands,
        report.utilization * 100.0
    );
    let mut rows = vec![
        [
            "TASK",
            "REQUESTS",
            "P50 ms",
            "P99 ms",
            "MAX ms",
            "REQ/S",
            "SHARE",
            "WAITING ms",
            "PREEMPTIONS",
            "LATE",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(report.tasks.iter().take(SHOWN).map(|task| {
        vec![
            task.name.clone(),
            task.requests.to_string(),
            task.shown(task.latency_p50_ms),
            task.shown(task.latency_p99_ms),
            task.shown(task.latency_max_ms),
            format!("{:.2}", task.throughput_rps),
            format!("{:.1} %", task.share * 100.0),
            format!("{:.0}", task.waiting_ms),
            task.preemptions.to_string(),
            task.late.to_string(),
        ]
    }));
    text.push_str(&columns(&rows));
    if report.tasks.len() > SHOWN {
        let _ = writeln!(
            text,
            "… and {} more: see --csv, --json",
            report.tasks.len() - SHOWN
        );
    }
    text
}

/// Several runs of one scenario side by side: P99 and requests a second of each task.
pub fn comparison(reports: &[Report]) -> String {
    let mut heading = vec!["TASK".to_owned()];
    for report in reports {
        heading.push(format!("{} P99 ms", report.policy));
        heading.push("REQ/S".to_owned());
    }
    let mut rows = vec![heading];
    let tasks = reports.first().map_or(0, |report| report.tasks.len());
    for index in 0..tasks.min(SHOWN) {
        let mut row = vec![reports[0].tasks[index].name.clone()];
        for report in reports {
            let task = &report.tasks[index];
            row.push(task.shown(task.latency_p99_ms));
            row.push(format!("{:.2}", task.throughput_rps));
        }
        rows.push(row);
    }
    columns(&rows)
}

fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// All runs as CSV, a line a task.
pub fn csv(reports: &[Report]) -> String {
    let mut text =
        "scenario,policy,task,device,requests,throughput_rps,latency_p50_ms,latency_p99_ms,\
                    latency_max_ms,share,waiting_ms,preemptions,late\n"
            .to_owned();
    for report in reports {
        for task in &report.tasks {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{},{},{},{},{}",
                quoted(&report.scenario),
                report.policy,
                quoted(&task.name),
                task.device,
                task.requests,
                task.throughput_rps,
                task.latency_p50_ms,
                task.latency_p99_ms,
                task.latency_max_ms,
                task.share,
                task.waiting_ms,
                task.preemptions,
                task.late
            );
        }
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
