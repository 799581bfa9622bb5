//! The drawings of a run: distributions of latency, throughput, rounds side by side.

use super::svg::{Drawing, LEFT, RIGHT, Scale, mark_path, short};
use super::thin;
use crate::estimate::Estimate;
use crate::report::figures::{Figure, RunReport, is_standalone};
use crate::run::Task;
use crate::task::Arrival;

/// Distribution of a task's latencies under every contender; the upper axis stretches the tail.
/// `None` without samples.
pub(crate) fn distribution(report: &RunReport, task: &Task, number: usize) -> Option<String> {
    let mut curves = Vec::new();
    for (index, contender) in report.run.contenders.iter().enumerate() {
        let samples = report.samples_of(&task.name, &contender.name);
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.latency_ms).collect();
        sorted.sort_by(f64::total_cmp);
        if !sorted.is_empty() {
            curves.push((index, contender, sorted));
        }
    }
    let min = curves.iter().map(|curve| curve.2[0]).reduce(f64::min)?;
    let max = curves.iter().map(|curve| curve.2[curve.2.len() - 1]);
    let max = max.reduce(f64::max)?;
    let most = curves.iter().map(|curve| curve.2.len()).max()?;

    let legend_rows = curves.len().div_ceil(4) as f64;
    let (top, bottom) = (16.0 + legend_rows * 20.0, 330.0);
    let x = Scale::fitting(min, max, LEFT, RIGHT);
    // Nines: 0.9 is 1, 0.99 is 2.
    let nines = |share: f64| -(1.0 - share).log10();
    let y = Scale::linear(0.0, nines(1.0 - 0.5 / most as f64).max(2.0), bottom, top);
    let mut drawing = Drawing::new(bottom + 46.0);
    legend(
        &mut drawing,
        &curves
            .iter()
            .map(|c| (c.0, c.1.title.as_str()))
            .collect::<Vec<_>>(),
    );
    drawing.x_axis(
        &x,
        (top, bottom),
        &format!(
            "latency, ms{}",
            if x.is_log() { " (logarithmic)" } else { "" }
        ),
    );
    let ticks: Vec<(f64, String)> = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]
        .into_iter()
        .filter(|share| nines(*share) <= nines(1.0 - 0.5 / most as f64).max(2.0))
        .map(|share| {
            (
                y.at(nines(share)),
                format!("{} %", super::svg::tick_text(share * 100.0)),
            )
        })
        .collect();
    drawing.y_ticks(&ticks);
    drawing.y_title((top + bottom) / 2.0, "requests at most this slow");
    for (index, _, sorted) in &curves {
        let mut path = String::new();
        for (share, value) in thin::distribution(sorted) {
            let verb = if path.is_empty() { 'M' } else { 'L' };
            path.push_str(&format!(
                "{verb}{:.1} {:.1}",
                x.at(value),
                y.at(nines(share))
            ));
        }
        drawing.raw(&format!(r#"<path d="{path}" class="curve c{index}"/>"#));
    }
    for (index, contender, _) in &curves {
        let Some(latency) = report
            .figure(&task.name, &contender.name)
            .and_then(|figure| figure.latency_ms.as_ref())
        else {
            continue;
        };
        let class = format!("c{index}");
        if let Some((low, high)) = latency.p99.bounds() {
            let at = y.at(2.0);
            drawing.line(
                (x.at(low), at),
                (x.at(high), at),
                &format!("whisker {class}"),
            );
        }
        for (name, value, share) in [
            ("P50", latency.p50.value, 0.5),
            ("P99", latency.p99.value, 0.99),
        ] {
            let tip = format!("{}: {name} {} ms", contender.title, short(value));
            drawing.mark((x.at(value), y.at(nines(share))), *index, &class, &tip);
        }
    }
    let figures = curves.iter().filter_map(|(_, contender, _)| {
        let latency = report
            .figure(&task.name, &contender.name)?
            .latency_ms
            .as_ref()?;
        Some(format!(
            "{} {} ms",
            contender.title,
            short(latency.p99.value)
        ))
    });
    let described = figures.collect::<Vec<_>>().join(", ");
    Some(drawing.finish(
        &format!("distribution-{number}"),
        &format!("Latency of {}", task.name),
        &format!("Share of the requests that took at most so long. 99th percentiles: {described}."),
    ))
}

/// What every contender is drawn like: line, mark, name.
fn legend(drawing: &mut Drawing, entries: &[(usize, &str)]) {
    for (place, (index, title)) in entries.iter().enumerate() {
        let x = LEFT + (place % 4) as f64 * 170.0;
        let y = 14.0 + (place / 4) as f64 * 20.0;
        drawing.line((x, y), (x + 34.0, y), &format!("curve c{index}"));
        let form = mark_path(x + 17.0, y, *index);
        drawing.raw(&format!(r#"<path d="{form}" class="mark c{index}"/>"#));
        drawing.text(x + 42.0, y + 4.0, "label", title);
    }
}

/// Completed requests per second of every task under every contender, beside what it does alone.
pub(crate) fn throughput(report: &RunReport) -> Option<String> {
    const ROW: f64 = 24.0;
    let groups: Vec<(&Task, Vec<&Figure>)> = report
        .run
        .tasks
        .iter()
        .map(|task| {
            let figures = report.figures.iter();
            (
                task,
                figures.filter(|figure| figure.task == task.name).collect(),
            )
        })
        .filter(|(_, figures): &(_, Vec<_>)| !figures.is_empty())
        .collect();
    if groups.is_empty() {
        return None;
    }
    let rows: usize = groups.iter().map(|group| group.1.len()).sum();
    let height = 12.0 + rows as f64 * ROW + groups.len() as f64 * 34.0;
    let mut drawing = Drawing::new(height + 44.0);
    let bottom = height;
    // Each task in per cent of its reference: what it does alone, else its largest.
    let reference = |figures: &[&Figure]| {
        let alone = figures
            .iter()
            .find(|figure| is_standalone(&report.run, &figure.contender));
        let largest = figures.iter().map(|figure| figure.throughput_per_s.value);
        let largest = largest.fold(0.0, f64::max);
        alone.map_or(largest, |figure| figure.throughput_per_s.value)
    };
    let share = |value: f64, reference: f64| {
        if reference > 0.0 {
            value / reference * 100.0
        } else {
            0.0
        }
    };
    let most = groups
        .iter()
        .flat_map(|(_, figures)| {
            let reference = reference(figures);
            figures.iter().map(move |figure| {
                let top = figure
                    .throughput_per_s
                    .bounds()
                    .map_or(0.0, |bounds| bounds.1);
                share(top.max(figure.throughput_per_s.value), reference)
            })
        })
        .fold(100.0, f64::max);
    let start = LEFT + 66.0;
    let x = Scale::linear(0.0, most * 1.02, start, RIGHT - 130.0);
    for tick in x.ticks() {
        drawing.line((x.at(tick), 8.0), (x.at(tick), bottom), "grid");
        drawing.text(
            x.at(tick),
            bottom + 16.0,
            "tick mid",
            &super::svg::tick_text(tick),
        );
    }
    let alone = report
        .run
        .contenders
        .iter()
        .any(|contender| is_standalone(&report.run, &contender.name));
    let title = match alone {
        true => "throughput, % of standalone",
        false => "throughput, % of the largest",
    };
    drawing.text(
        (start + RIGHT - 130.0) / 2.0,
        bottom + 34.0,
        "label mid",
        title,
    );
    drawing.line((x.at(100.0), 8.0), (x.at(100.0), bottom), "reference");
    let mut y = 12.0;
    for (task, figures) in &groups {
        let reference = reference(figures);
        drawing.text(
            4.0,
            y + 16.0,
            "label strong",
            &format!("{} ({})", task.name, task.model),
        );
        y += 24.0;
        for figure in figures {
            let (index, title) = contender(report, &figure.contender);
            let rate = figure.throughput_per_s;
            let percent = share(rate.value, reference);
            drawing.text(start - 8.0, y + 15.0, "tick end", title);
            let tip = format!("{title}: {} requests/s{}", short(rate.value), range(&rate));
            let area = (start, y + 3.0, (x.at(percent) - start).max(0.5), ROW - 8.0);
            drawing.bar(area, &format!("fill c{index}"), &tip);
            let mut end = x.at(percent);
            if let Some((low, high)) = rate.bounds() {
                let middle = y + 3.0 + (ROW - 8.0) / 2.0;
                let (low, high) = (x.at(share(low, reference)), x.at(share(high, reference)));
                drawing.line((low, middle), (high, middle), "error");
                end = end.max(high);
            }
            let text = format!("{}/s ({percent:.0} %)", short(rate.value));
            drawing.text(end + 8.0, y + 15.0, "tick", &text);
            y += ROW;
        }
        y += 10.0;
    }
    Some(drawing.finish(
        "throughput",
        "Throughput of every task",
        "Completed requests per second under every contender, as a share of what the task does \
         alone; the thin lines are 95 % intervals.",
    ))
}

/// The figure of every round that matters for a task: its P99, or its throughput where it runs back
/// to back. `None` when no contender has two rounds.
pub(crate) fn rounds(report: &RunReport, task: &Task, number: usize) -> Option<String> {
    const ROW: f64 = 30.0;
    let closed = task.arrival == Arrival::Closed;
    let value = |round: &crate::report::figures::Round| match closed {
        true => Some(round.throughput_per_s),
        false => round.p99_ms,
    };
    let figures: Vec<&Figure> = report
        .figures
        .iter()
        .filter(|figure| figure.task == task.name)
        .collect();
    if figures.iter().all(|figure| figure.by_round.len() < 2) {
        return None;
    }
    let all = figures.iter().flat_map(|figure| &figure.by_round);
    let most = all.filter_map(value).fold(0.0, f64::max);
    let bottom = 8.0 + figures.len() as f64 * ROW;
    let start = LEFT + 66.0;
    let x = Scale::linear(0.0, most * 1.05, start, RIGHT);
    let mut drawing = Drawing::new(bottom + 44.0);
    for tick in x.ticks() {
        drawing.line((x.at(tick), 4.0), (x.at(tick), bottom), "grid");
        drawing.text(
            x.at(tick),
            bottom + 16.0,
            "tick mid",
            &super::svg::tick_text(tick),
        );
    }
    let (what, unit) = match closed {
        true => ("throughput", "requests/s"),
        false => ("P99 latency", "ms"),
    };
    drawing.text(
        (start + RIGHT) / 2.0,
        bottom + 34.0,
        "label mid",
        &format!("{what} of each round, {unit}"),
    );
    for (row, figure) in figures.iter().enumerate() {
        let (index, title) = contender(report, &figure.contender);
        let y = 8.0 + (row as f64 + 0.5) * ROW;
        drawing.text(start - 8.0, y + 4.0, "tick end", title);
        drawing.line((start, y), (RIGHT, y), "grid");
        for round in &figure.by_round {
            let Some(value) = value(round) else { continue };
            let tip = format!("{title}, round {}: {} {unit}", round.round, short(value));
            drawing.mark((x.at(value), y), index, &format!("c{index}"), &tip);
        }
    }
    Some(drawing.finish(
        &format!("rounds-{number}"),
        &format!("Rounds of {}", task.name),
        &format!("The {what} of every round under every contender: how far they lie apart."),
    ))
}

/// Number and title of a contender.
pub(super) fn contender<'a>(report: &'a RunReport, name: &'a str) -> (usize, &'a str) {
    let mut all = report.run.contenders.iter().enumerate();
    all.find(|(_, contender)| contender.name == name)
        .map_or((0, name), |(index, contender)| {
            (index, contender.title.as_str())
        })
}

fn range(estimate: &Estimate) -> String {
    estimate.bounds().map_or_else(String::new, |(low, high)| {
        format!(" (95 % interval {} … {})", short(low), short(high))
    })
}
