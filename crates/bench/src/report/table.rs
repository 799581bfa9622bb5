//! The comparison on the terminal. Its form is fixed: people and scripts know it.

use std::fmt::Write;

use super::html::short;
use super::tables;
use super::{Record, change, reading_text};
use crate::criteria::{COST_LIMIT, Verdict};
use crate::results::{LowResult, PhaseResult};
use crate::rounds::Range;
use crate::run::{Check, Grade};
use crate::stats::{Interval, P99_REQUESTS};
use crate::verdict::{Comparison, LOW_LIMIT, P99_LIMIT, RATE_LIMIT};

const GOOD: &str = "✅";
const POOR: &str = "❌";
const UNSURE: &str = "⚠️";

/// Table and summary of two phases.
pub fn comparison(
    baseline: &PhaseResult,
    scheduled: &PhaseResult,
    comparison: &Comparison,
) -> String {
    let double = "=".repeat(70);
    let single = "-".repeat(70);
    let header = format!(
        "  Metric             Baseline      XSched        Change\n  {}",
        "-".repeat(60)
    );
    let (high, high_x) = (&baseline.high_priority, &scheduled.high_priority);
    let (low, low_x) = (&baseline.low_priority, &scheduled.low_priority);

    let lines = [
        double.clone(),
        "COMPARISON: XSched vs Baseline".to_owned(),
        double.clone(),
        String::new(),
        format!("High Priority Task ({}):", high.model),
        single.clone(),
        header.clone(),
        row(
            "P99 Latency (ms)",
            2,
            high.latency_p99_ms,
            high_x.latency_p99_ms,
            mark(&comparison.high_latency),
        ),
        row(
            "Avg Latency (ms)",
            2,
            high.latency_avg_ms,
            high_x.latency_avg_ms,
            "",
        ),
        row(
            "Throughput (rps)",
            2,
            high.throughput_rps,
            high_x.throughput_rps,
            // The document's table has no mark here: only a failure shows.
            if comparison.high_throughput.grade == Grade::Met {
                ""
            } else {
                POOR
            },
        ),
        String::new(),
        format!("Low Priority Task ({}):", low.model),
        single,
        header,
        row(
            "Throughput (ips)",
            2,
            low.throughput_ips,
            low_x.throughput_ips,
            mark(&comparison.low_throughput),
        ),
        row(
            "Images/sec",
            1,
            low.images_per_sec,
            low_x.images_per_sec,
            "",
        ),
        String::new(),
        double.clone(),
        "SUMMARY".to_owned(),
        double,
        summary(scheduled, comparison).join("\n"),
        String::new(),
        format!("Overall: {}", comparison.verdict.text()),
    ];
    lines.join("\n") + "\n"
}

/// Key findings and the reading of the result.
pub fn findings(record: &Record) -> String {
    let (Some(baseline), Some(scheduled), Some(comparison)) =
        (&record.baseline, &record.scheduled, &record.comparison)
    else {
        return String::new();
    };
    let mut text = String::from("Key findings:\n");
    let mut item = |line: String| {
        let _ = writeln!(text, "  - {line}");
    };
    let (high, high_x) = (&baseline.high_priority, &scheduled.high_priority);
    item(format!(
        "High priority P99: {:.2} ms -> {:.2} ms; 95% intervals {} and {} ms ({} and {} requests).",
        high.latency_p99_ms,
        high_x.latency_p99_ms,
        interval(high.latency_p99_interval_ms),
        interval(high_x.latency_p99_interval_ms),
        high.requests,
        high_x.requests,
    ));
    for (name, phase) in [("baseline", high), ("XSched", high_x)] {
        item(format!(
            "High priority latency, {name}: P50 {:.2}, P95 {:.2}, P99.9 {:.2}, max {:.2} ms.",
            phase.latency_p50_ms, phase.latency_p95_ms, phase.latency_p999_ms, phase.latency_max_ms
        ));
    }
    if let Some(alone) = &record.standalone {
        item(format!(
            "Alone on the device: high priority P50 {:.2}, P99 {:.2} ms ({} requests{}); low \
             priority {:.2} ips.",
            alone.high_priority.latency_p50_ms,
            alone.high_priority.latency_p99_ms,
            alone.high_priority.requests,
            if alone.high_priority.requests < P99_REQUESTS {
                ", too few to judge a P99"
            } else {
                ""
            },
            alone.low_priority.throughput_ips,
        ));
    }
    item(format!(
        "High priority throughput: {:.2} of {:.2} requests/s asked for ({:.1}%).",
        high_x.throughput_rps,
        scheduled.facts.rate_hz,
        comparison.high_throughput_share_of_rate * 100.0
    ));
    let (low, low_x) = (&baseline.low_priority, &scheduled.low_priority);
    if low_x.copies_throughput_ips.len() > 1 {
        let each = |low: &LowResult| {
            let each = low.copies_throughput_ips.iter();
            let each: Vec<String> = each.map(|copy| format!("{copy:.2}")).collect();
            each.join(" + ")
        };
        item(format!(
            "Low priority throughput by process: baseline {}, XSched {} ips.",
            each(low),
            each(low_x)
        ));
    }
    if let (Some(before), Some(after), Some(ratio)) =
        (&baseline.spread, &scheduled.spread, &comparison.spread)
    {
        let range = |range: Range| format!("{:.2}..{:.2}", range.min, range.max);
        item(format!(
            "Spread over {} rounds: high priority P99 baseline {}, XSched {} ms (XSched/baseline \
             {}); low priority baseline {}, XSched {} ips (XSched/baseline {}).",
            scheduled.by_round.len(),
            range(before.high_p99_ms),
            range(after.high_p99_ms),
            range(ratio.high_p99_ratio),
            range(before.low_throughput_ips),
            range(after.low_throughput_ips),
            range(ratio.low_throughput_ratio),
        ));
    }
    if let Some(work) = &comparison.useful_work {
        item(format!(
            "Useful work (sum of throughput / standalone throughput): baseline {:.2}, XSched {:.2} \
             ({:.1}%).",
            work.baseline,
            work.xsched,
            work.ratio * 100.0
        ));
    }
    item(match comparison.cost.grade {
        Grade::Information => "Cost of scheduling: not measured.".to_owned(),
        _ => format!(
            "Cost of scheduling: daemon and agents took {}% of one core (limit {COST_LIMIT:.0}%).",
            short(comparison.cost.measured)
        ),
    });
    for note in &record.notes {
        item(note.clone());
    }
    let _ = write!(text, "\nReading: {}", reading_text(comparison));
    text.push_str(match comparison.verdict {
        Verdict::NotEnoughRequests => " From so few requests, this is no more than a hint.",
        Verdict::NotDistinguishable => {
            " An interval reaches over its limit, so this is no more than a hint: a longer --duration \
             narrows it."
        }
        _ => "",
    });
    text.push('\n');
    text
}

/// The figures of a single phase, where there is nothing to compare with.
pub fn phase(result: &PhaseResult) -> String {
    let (high, low) = (&result.high_priority, &result.low_priority);
    format!(
        "{}:\n  High priority ({}): P50 {:.2}, P95 {:.2}, P99 {:.2} (95% interval {}), max {:.2} \
         ms; {:.2} rps, {} requests\n  Low priority ({}): {:.2} ips, {:.1} images/s\n",
        result.mode,
        high.model,
        high.latency_p50_ms,
        high.latency_p95_ms,
        high.latency_p99_ms,
        interval(high.latency_p99_interval_ms),
        high.latency_max_ms,
        high.throughput_rps,
        high.requests,
        low.model,
        low.throughput_ips,
        low.images_per_sec,
    )
}

/// The lines between SUMMARY and the overall verdict: one a criterion, then what makes the
/// comparison void.
pub(super) fn summary(scheduled: &PhaseResult, comparison: &Comparison) -> Vec<String> {
    let (limit, latency) = (P99_LIMIT * 100.0, &comparison.high_latency);
    let p99 = comparison.high_p99_ratio * 100.0;
    let mut lines = vec![format!(
        "{} High priority latency: {}",
        mark(latency),
        match latency.grade {
            Grade::Met => format!("GOOD (XSched P99 < {limit:.0}% baseline)"),
            Grade::Missed =>
                format!("POOR (XSched P99 = {p99:.1}% of baseline, must be < {limit:.0}%)"),
            _ => unsure(latency, p99, 100.0, &format!("< {limit:.0}%")),
        }
    )];
    if comparison.high_throughput.grade != Grade::Met {
        lines.push(format!(
            "{POOR} High priority throughput: POOR (XSched = {:.2} rps, {:.1}% of the requested \
             {:.2}, must be >= {:.0}%)",
            scheduled.high_priority.throughput_rps,
            comparison.high_throughput_share_of_rate * 100.0,
            scheduled.facts.rate_hz,
            RATE_LIMIT * 100.0
        ));
    }
    let (limit, throughput) = (LOW_LIMIT * 100.0, &comparison.low_throughput);
    let kept = comparison.low_throughput_ratio * 100.0;
    lines.push(format!(
        "{} Low priority throughput: {}",
        mark(throughput),
        match throughput.grade {
            Grade::Met => format!("GOOD (XSched = {kept:.1}% of baseline, > {limit:.0}%)"),
            Grade::Missed =>
                format!("POOR (XSched = {kept:.1}% of baseline, must be > {limit:.0}%)"),
            _ => unsure(throughput, kept, 1.0, &format!("> {limit:.0}%")),
        }
    ));
    if comparison.cost.grade == Grade::Missed {
        lines.push(format!(
            "{POOR} Cost of scheduling: POOR ({:.1}% of one core, must be <= {COST_LIMIT:.0}%)",
            comparison.cost.measured
        ));
    }
    lines.extend(
        comparison
            .faults
            .iter()
            .map(|fault| format!("{POOR} {fault}")),
    );
    lines
}

/// The two ends of an interval, `∞` where the samples do not bound it.
pub(super) fn interval(interval: Interval) -> String {
    let end = |end: Option<f64>, unbounded: &str| {
        end.map_or_else(|| unbounded.to_owned(), |end| format!("{end:.2}"))
    };
    format!("{}..{}", end(interval.low, "0"), end(interval.high, "∞"))
}

fn mark(check: &Check) -> &'static str {
    match check.grade {
        Grade::Met => GOOD,
        Grade::Missed => POOR,
        _ => UNSURE,
    }
}

/// Why a criterion has no judgement; its figure is in % of the baseline, its interval `scale` times
/// smaller.
fn unsure(check: &Check, percent: f64, scale: f64, limit: &str) -> String {
    if let Some(note) = &check.note {
        return format!("NOT ENOUGH REQUESTS ({note})");
    }
    let within = check.interval.map(|interval| Interval {
        low: interval.low.map(|end| end * scale),
        high: interval.high.map(|end| end * scale),
    });
    let within = within.map_or_else(String::new, tables::interval);
    format!(
        "NOT DISTINGUISHABLE (XSched = {percent:.1}% of baseline, 95% interval {within}%, must be \
         {limit}: a longer --duration narrows it)"
    )
}

/// One metric. Decimal points stand in one column, so that fewer digits leave room at the right.
fn row(name: &str, digits: usize, before: f64, after: f64, mark: &str) -> String {
    let room = 2 - digits;
    let (first, second) = (11 - room, 13 - room);
    let pad = " ".repeat(room);
    let line = format!(
        "  {name:<16}{before:>first$.digits$}{pad}{after:>second$.digits$}{pad}",
        pad = pad
    );
    let change = change(before, after);
    format!("{line}{change:>12} {mark}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::examples;
    use super::*;
    use crate::rounds::Spread;
    use crate::verdict::examples::compare;

    /// The document's example, to the letter.
    const EXPECTED: &str = "\
======================================================================
COMPARISON: XSched vs Baseline
======================================================================

High Priority Task (ResNet-18):
----------------------------------------------------------------------
  Metric             Baseline      XSched        Change
  ------------------------------------------------------------
  P99 Latency (ms)      45.23        48.56       +7.4% ✅
  Avg Latency (ms)      22.15        23.89       +7.9%
  Throughput (rps)       9.98         9.95       -0.3%

Low Priority Task (ResNet-50):
----------------------------------------------------------------------
  Metric             Baseline      XSched        Change
  ------------------------------------------------------------
  Throughput (ips)      24.56        12.34      -49.8% ✅
  Images/sec           196.5         98.7       -49.8%

======================================================================
SUMMARY
======================================================================
✅ High priority latency: GOOD (XSched P99 < 110% baseline)
✅ Low priority throughput: GOOD (XSched = 50.2% of baseline, > 30%)

Overall: PASS
";

    fn render(record: &Record) -> String {
        let (baseline, scheduled) = (
            record.baseline.as_ref().unwrap(),
            record.scheduled.as_ref().unwrap(),
        );
        comparison(baseline, scheduled, record.comparison.as_ref().unwrap())
    }

    #[test]
    fn the_documents_example_prints_to_the_letter() {
        let text = render(&examples::record());
        assert_eq!(text, EXPECTED);
    }

    #[test]
    fn failures_and_doubts_are_said() {
        let mut record = examples::record();
        let scheduled = record.scheduled.as_mut().unwrap();
        scheduled.high_priority.latency_p99_ms = 1068.9;
        scheduled.high_priority.throughput_rps = 7.1;
        scheduled.low_priority.throughput_ips = 2.4;
        scheduled.low_priority.worker.level = 0;
        record.comparison = Some(compare(record.baseline.as_ref().unwrap(), scheduled, None));
        insta::assert_snapshot!("failures", render(&record) + "\n" + &findings(&record));

        let mut record = examples::record();
        let scheduled = record.scheduled.as_mut().unwrap();
        scheduled.high_priority.requests = 47;
        scheduled.high_priority.latency_p99_interval_ms.high = None;
        record.comparison = Some(compare(record.baseline.as_ref().unwrap(), scheduled, None));
        insta::assert_snapshot!("not_enough", render(&record) + "\n" + &findings(&record));

        let mut record = examples::record();
        let comparison = record.comparison.as_mut().unwrap();
        for (check, low, high) in [
            (&mut comparison.high_latency, 1.01, 1.18),
            (&mut comparison.low_throughput, 29.0, 62.0),
        ] {
            let (low, high) = (Some(low), Some(high));
            check.interval = Some(Interval { low, high });
            check.grade = Grade::NotDistinguishable;
        }
        comparison.verdict = Verdict::of(&comparison.checks(), true);
        let text = render(&record) + "\n" + &findings(&record);
        insta::assert_snapshot!("not_distinguishable", text);
    }

    #[test]
    fn findings_of_the_example() {
        insta::assert_snapshot!("findings", findings(&examples::record()));
        assert_eq!(findings(&examples::interrupted()), "");
    }

    #[test]
    fn rounds_and_copies_are_told_apart() {
        let mut record = examples::record();
        let phases = [record.baseline.as_mut(), record.scheduled.as_mut()];
        for phase in phases.into_iter().flatten() {
            phase.low_priority.copies_throughput_ips = vec![7.5, 4.25];
            let mut other = phase.by_round[0].clone();
            other.high_p99_ms *= 2.0;
            phase.by_round.push(other);
            phase.spread = Spread::of(&phase.by_round);
        }
        let (baseline, scheduled) = (&record.baseline, &record.scheduled);
        let (baseline, scheduled) = (baseline.as_ref().unwrap(), scheduled.as_ref().unwrap());
        record.comparison = Some(compare(baseline, scheduled, None));
        let text = findings(&record);
        for line in [
            "Low priority throughput by process: baseline 7.50 + 4.25, XSched 7.50 + 4.25 ips.",
            "Spread over 2 rounds: high priority P99 baseline 45.23..90.46, XSched 48.56..97.12 \
             ms (XSched/baseline 1.07..1.07); low priority baseline 24.56..24.56, XSched \
             12.34..12.34 ips (XSched/baseline 0.50..0.50).",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        let report = crate::report::markdown(&record).unwrap();
        let round = "| 2 | 90.46 | 97.12 | 24.56 | 12.34 |";
        assert!(report.contains(round), "{round:?} is missing in {report}");
    }

    #[test]
    fn one_phase_alone() {
        insta::assert_snapshot!(
            "one_phase",
            phase(examples::record().baseline.as_ref().unwrap())
        );
    }
}
