//! Who executed when, as a picture.

use crate::{machine::Segment, scenario::Scenario};
use std::fmt::Write;
use xsched_sched::Nanos;

/// Colours that stay apart for most eyes, one a task.
const COLOURS: [&str; 6] = [
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];
const LEFT: f64 = 110.0;
const WIDTH: f64 = 760.0;
const LANE: f64 = 22.0;
const TITLE: f64 = 22.0;
const AXIS: f64 = 26.0;

/// A picture of several runs of a small scenario: a panel a policy, a lane a task, from time 0 to `until`.
pub fn timeline(scenario: &Scenario, runs: &[(String, Vec<Segment>)], until: Nanos) -> String {
    let names: Vec<&str> = scenario.tasks.iter().map(|task| &*task.name).collect();
    let panel = TITLE + names.len() as f64 * LANE + 10.0;
    let height = runs.len() as f64 * panel + AXIS;
    let x = |time: Nanos| LEFT + WIDTH * time as f64 / until as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        LEFT + WIDTH + 20.0
    );
    for (number, (policy, segments)) in runs.iter().enumerate() {
        let top = number as f64 * panel;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 15.0,
            escaped(policy)
        );
        for (lane, name) in names.iter().enumerate() {
            let y = top + TITLE + lane as f64 * LANE;
            let _ = writeln!(
                svg,
                "<text x=\"8\" y=\"{}\">{}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{}\" fill=\"#f2f2f2\"/>",
                y + 13.0,
                escaped(name),
                LANE - 4.0
            );
        }
        for segment in segments.iter().filter(|segment| segment.start < until) {
            let y = top + TITLE + segment.task as f64 * LANE;
            let (start, end) = (x(segment.start), x(segment.end.min(until)));
            let _ = writeln!(
                svg,
                "<rect x=\"{start:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"{}\" fill=\"{}\"/>",
                (end - start).max(0.2),
                LANE - 4.0,
                COLOURS[segment.task % COLOURS.len()]
            );
        }
    }
    let base = runs.len() as f64 * panel;
    for tick in 0..=10 {
        let time = until / 10 * tick;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(time),
            base + 14.0,
            time / 1_000_000
        );
    }
    let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">ms</text>\n</svg>", base + 14.0);
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
