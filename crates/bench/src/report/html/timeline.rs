//! Latency over time under one contender, and below it who ran when, around the slowest request of
//! the most urgent task.

use super::svg::{Drawing, LEFT, RIGHT, Scale, short};
use super::thin;
use crate::report::figures::RunReport;
use crate::report::samples::Sample;
use crate::run::{Contender, Phase};
use crate::stats::median;

/// Points of one task in a drawing.
const POINTS: usize = 1500;
/// Height of a task's lane.
const LANE: f64 = 26.0;

/// Smallest and largest latency of all phases of several tasks, so that all drawings compare;
/// `None` without samples.
pub(super) fn range(report: &RunReport) -> Option<(f64, f64)> {
    let phases = report.run.phases.iter().zip(&report.samples);
    let together = phases.filter(|(phase, _)| !alone(report, phase));
    let latencies = together.flat_map(|(_, tasks)| tasks.iter().flatten().map(|s| s.latency_ms));
    latencies.fold(None, |range, latency| {
        let (min, max) = range.unwrap_or((latency, latency));
        Some((latency.min(min), latency.max(max)))
    })
}

fn alone(report: &RunReport, phase: &Phase) -> bool {
    crate::report::figures::is_standalone(&report.run, &phase.contender)
}

/// The round of a contender in which the most urgent task was slowest at its 99th percentile.
pub(super) fn drawing(
    report: &RunReport,
    contender: &Contender,
    number: usize,
    (min, max): (f64, f64),
) -> Option<String> {
    let first = report.run.tasks.first()?;
    let of_first = |phase: &Phase| {
        let result = phase.tasks.iter().find(|result| result.task == first.name);
        result
            .and_then(|result| result.latency_ms)
            .map_or(0.0, |latency| latency.p99)
    };
    let rounds = report.run.phases.iter().zip(&report.samples);
    let rounds: Vec<_> = rounds
        .filter(|(phase, samples)| {
            phase.contender == contender.name
                && !alone(report, phase)
                && samples.iter().any(|samples| !samples.is_empty())
        })
        .collect();
    let (phase, samples) = rounds
        .iter()
        .max_by(|a, b| of_first(a.0).total_cmp(&of_first(b.0)))?;

    let starts = phase.tasks.iter().map(|task| task.start_ns);
    let origin = starts.min().unwrap_or(0);
    // Of each task of the run its samples here, in seconds after the first start.
    let tasks: Vec<(usize, Vec<Request>)> = report
        .run
        .tasks
        .iter()
        .enumerate()
        .filter_map(|(index, task)| {
            let at = phase
                .tasks
                .iter()
                .position(|result| result.task == task.name)?;
            let offset_s = (phase.tasks[at].start_ns - origin) as f64 / 1e9;
            let mut requests: Vec<Request> = samples[at]
                .iter()
                .map(|sample| Request::new(sample, offset_s))
                .collect();
            requests.sort_by(|a, b| a.arrival_s.total_cmp(&b.arrival_s));
            Some((index, requests))
        })
        .collect();
    let ends = tasks
        .iter()
        .flat_map(|task| &task.1)
        .map(|request| request.end_s);
    let end = ends.fold(phase.duration_s, f64::max);
    let window = window(&tasks, end);

    let legend = 20.0;
    let (top, bottom) = (legend + 8.0, 220.0);
    let lanes_top = bottom + 74.0;
    let lanes_bottom = lanes_top + tasks.len() as f64 * LANE;
    let mut drawing = Drawing::new(lanes_bottom + 44.0);
    let x = Scale::linear(0.0, end, LEFT, RIGHT);
    let y = Scale::fitting(min, max, bottom, top);
    for (place, (index, _)) in tasks.iter().enumerate() {
        let at = LEFT + place as f64 * 170.0;
        drawing.raw(&format!(
            r#"<rect x="{at:.1}" y="5" width="14" height="10" class="lane t{index}"/>"#
        ));
        drawing.text(at + 20.0, 14.0, "label", &report.run.tasks[*index].name);
    }
    drawing.raw(&format!(
        r#"<rect x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" class="zoom"/>"#,
        x.at(window.0),
        (x.at(window.1) - x.at(window.0)).max(2.0),
        bottom - top
    ));
    drawing.x_axis(
        &x,
        (top, bottom),
        "time in the phase, s (shaded: the stretch below)",
    );
    let ticks: Vec<_> = y
        .ticks()
        .iter()
        .map(|tick| (y.at(*tick), super::svg::tick_text(*tick)))
        .collect();
    drawing.y_ticks(&ticks);
    drawing.y_title(
        (top + bottom) / 2.0,
        if y.is_log() {
            "latency, ms (log.)"
        } else {
            "latency, ms"
        },
    );
    // The most urgent task last, on top of the others.
    for (index, requests) in tasks.iter().rev() {
        let points: Vec<(f64, f64)> = requests
            .iter()
            .map(|request| (request.arrival_s, request.latency_ms))
            .collect();
        let mut path = String::new();
        for (at, latency) in thin::over_time(&points, POINTS) {
            path.push_str(&format!("M{:.1} {:.1}h0", x.at(at), y.at(latency)));
        }
        drawing.raw(&format!(r#"<path d="{path}" class="dots t{index}"/>"#));
    }

    let zoom = Scale::linear(window.0, window.1, LEFT, RIGHT);
    drawing.x_axis(&zoom, (lanes_top, lanes_bottom), "time in the phase, s");
    drawing.text(
        LEFT,
        lanes_top - 8.0,
        "label",
        &format!(
            "Who ran when, around the slowest request of {}. Thin: waiting for the task's own \
             earlier request.",
            first.name
        ),
    );
    for (lane, (index, requests)) in tasks.iter().enumerate() {
        let top = lanes_top + lane as f64 * LANE;
        let name = &report.run.tasks[*index].name;
        drawing.text(
            LEFT - 8.0,
            top + LANE / 2.0 + 4.0,
            "tick end",
            &initials(name),
        );
        bars(&mut drawing, &zoom, window, top, *index, name, requests);
    }
    let round = match rounds.len() {
        1 => String::new(),
        all => format!(
            " in round {} of {all}, that with the highest P99",
            phase.round
        ),
    };
    Some(drawing.finish(
        &format!("timeline-{number}"),
        &format!("{}{round}", contender.title),
        "Above, the latency of every request against its arrival. Below, a lane for every task with \
         its requests as bars from start to completion.",
    ))
}

/// The end of a name that tells it from the others, so that it fits beside its lane.
fn initials(name: &str) -> String {
    let last = name.rsplit('-').next().unwrap_or(name);
    let short = if last.chars().all(|c| c.is_ascii_digit()) {
        name
    } else {
        last
    };
    let from = short.chars().count().saturating_sub(8);
    short.chars().skip(from).collect()
}

struct Request {
    arrival_s: f64,
    start_s: f64,
    end_s: f64,
    latency_ms: f64,
}

impl Request {
    fn new(sample: &Sample, offset_s: f64) -> Request {
        Request {
            arrival_s: offset_s + sample.arrival_ms / 1000.0,
            start_s: offset_s + sample.start_ms / 1000.0,
            end_s: offset_s + sample.end_ms() / 1000.0,
            latency_ms: sample.latency_ms,
        }
    }
}

/// A stretch of time around the slowest request of the first task, long enough for several requests
/// of every task.
fn window(tasks: &[(usize, Vec<Request>)], end: f64) -> (f64, f64) {
    let slowest = tasks
        .iter()
        .find(|task| !task.1.is_empty())
        .and_then(|(_, requests)| {
            requests
                .iter()
                .max_by(|a, b| a.latency_ms.total_cmp(&b.latency_ms))
        });
    let Some(slowest) = slowest else {
        return (0.0, end);
    };
    let typical = tasks
        .iter()
        .filter_map(|(_, requests)| median(requests.iter().map(|r| r.end_s - r.start_s).collect()));
    let longest = typical.fold(0.0, f64::max);
    let length = (12.0 * longest)
        .max(3.0 * slowest.latency_ms / 1000.0)
        .clamp(end / 1e4, end);
    let middle = (slowest.arrival_s + slowest.end_s) / 2.0;
    let from = (middle - length / 2.0).clamp(0.0, end - length);
    (from, from + length)
}

fn bars(
    drawing: &mut Drawing,
    x: &Scale,
    window: (f64, f64),
    top: f64,
    index: usize,
    name: &str,
    requests: &[Request],
) {
    let inside = requests
        .iter()
        .filter(|request| request.end_s >= window.0 && request.arrival_s <= window.1);
    // Bars nearer to each other than a drawing can show are one.
    let mut merged: Vec<(f64, f64, u32, f64)> = Vec::new();
    let mut waits: Vec<(f64, f64)> = Vec::new();
    for request in inside {
        let (from, to) = (x.at(request.start_s), x.at(request.end_s));
        if request.start_s > request.arrival_s {
            waits.push((x.at(request.arrival_s), from));
        }
        match merged.last_mut() {
            Some(last) if to - last.0 < 1.5 => {
                *last = (last.0, to, last.2 + 1, last.3.max(request.latency_ms));
            }
            _ => merged.push((from, to, 1, request.latency_ms)),
        }
    }
    let middle = top + LANE / 2.0;
    for (from, to) in waits {
        if to - from > 0.7 {
            drawing.line((from, middle), (to, middle), &format!("wait t{index}"));
        }
    }
    for (from, to, count, latency) in merged {
        let tip = match count {
            1 => format!("{name}: {} ms", short(latency)),
            _ => format!("{name}: {count} requests, at most {} ms", short(latency)),
        };
        let area = (from, top + 4.0, (to - from - 0.6).max(0.4), LANE - 8.0);
        drawing.bar(area, &format!("lane t{index}"), &tip);
    }
}
