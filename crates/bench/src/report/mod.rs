//! What a run says at its end. Of any scenario's record: [`RunReport`], from which `xsched bench
//! show` and the page [`html`] are made. Of a dual-model run also what its document asks for: on the
//! terminal, as Markdown, as JSON.

pub mod diff;
pub mod figures;
pub mod html;
pub mod samples;
pub mod summary;
pub mod tables;

#[cfg(test)]
pub(crate) mod examples_of_runs;

mod json;
mod markdown;
mod table;

use serde::Serialize;

pub use figures::RunReport;
pub use json::document;
pub use markdown::markdown;
pub use table::{comparison, findings, phase};

use crate::criteria::Verdict;
use crate::manifest::Manifest;
use crate::results::{PhaseResult, RunFacts, StandaloneResult};
use crate::verdict::{Comparison, LOW_LIMIT, P99_LIMIT, Reading};

/// Everything that a run has produced when it ends, complete or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Command, version, host.
    pub manifest: Manifest,
    /// Length of the two phases, seconds.
    pub duration: f64,
    /// The single phase of `--only`.
    pub only: Option<String>,
    /// Known once the rate is.
    pub facts: Option<RunFacts>,
    /// What a reader of the figures should know: how defaults were scaled, which figures are few.
    pub notes: Vec<String>,
    /// The tasks alone.
    pub standalone: Option<StandaloneResult>,
    /// Both tasks unscheduled.
    pub baseline: Option<PhaseResult>,
    /// Both tasks scheduled.
    pub scheduled: Option<PhaseResult>,
    /// Present when both phases are there.
    pub comparison: Option<Comparison>,
    /// Why the run is not complete.
    pub failure: Option<FailureNote>,
    /// Files beside the report.
    pub files: Vec<String>,
}

impl Record {
    /// The same as that of the run's record, whose criteria are those of the comparison.
    pub fn verdict(&self) -> Verdict {
        match (&self.failure, &self.comparison) {
            (Some(_), _) => Verdict::Incomplete,
            (None, Some(comparison)) => comparison.verdict,
            (None, None) => Verdict::Measured,
        }
    }
}

/// Why a run is not complete.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureNote {
    /// The phase in which it ended.
    pub phase: String,
    /// One line.
    pub message: String,
    /// Phases that have no result because of it.
    pub missing: Vec<String>,
    /// File with the samples of the unfinished phase, if there are any.
    pub partial_samples: Option<String>,
}

/// The difference between two figures, as `+7.4%`.
fn change(before: f64, after: f64) -> String {
    // Adding zero turns -0 into 0.
    let percent = ((after / before - 1.0) * 1000.0).round() / 10.0 + 0.0;
    format!("{percent:+.1}%")
}

/// What the reading means and what to do about it, one paragraph.
fn reading_text(comparison: &Comparison) -> String {
    let p99 = change(1.0, comparison.high_p99_ratio);
    let low = comparison.low_throughput_ratio * 100.0;
    let interval = comparison.high_latency.interval;
    let lower = interval.is_some_and(|interval| interval.high.is_some_and(|high| high < 1.0));
    match comparison.reading {
        Reading::Ideal if lower => format!(
            "ideal: the high-priority task is faster than unscheduled (P99 {p99}), the \
             low-priority task keeps {low:.0}% of its throughput."
        ),
        Reading::Ideal => format!(
            "ideal: the high-priority task is hardly affected (P99 {p99}), the low-priority task \
             keeps {low:.0}% of its throughput."
        ),
        Reading::Overhead => format!(
            "overhead: the high-priority P99 is worse than unscheduled (P99 {p99}, limit +{:.0}%). \
             Try a smaller window (XSCHED_AUTO_XQUEUE_THRESHOLD) or another preemption level \
             (--level).",
            (P99_LIMIT - 1.0) * 100.0
        ),
        Reading::NotInEffect => format!(
            "priorities not in effect: the high-priority P99 changed by {p99}, the low-priority \
             task kept {low:.0}% of its throughput. Check that the preload took effect and that a \
             scheduler is running: `xsched doctor`, and `xsched list` while programs run."
        ),
        Reading::Starvation => format!(
            "starvation: the low-priority task keeps only {low:.0}% of its throughput (more than \
             {:.0}% wanted). The high-priority task leaves little of the device: lower its rate, \
             or raise the scheduler's minimal share.",
            LOW_LIMIT * 100.0
        ),
    }
}

/// Records with fixed figures, for tests.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;
    use crate::manifest::Host;
    use crate::results::examples;
    use crate::verdict::examples::document;

    /// The document's example.
    pub(crate) fn record() -> Record {
        let (baseline, scheduled, alone) = (
            examples::baseline(),
            examples::scheduled(),
            examples::standalone(),
        );
        Record {
            manifest: Manifest {
                scenario: "dual-model".into(),
                command: ["xsched", "bench", "dual-model", "--duration", "60"]
                    .map(String::from)
                    .to_vec(),
                version: "0.1.0".into(),
                timestamp: "2026-01-02T03:03:25+00:00".into(),
                host: Host {
                    cpu_model: "Example CPU @ 2.00GHz".into(),
                    cores: 2,
                    memory_mib: 16384,
                    kernel: "6.1.0".into(),
                    accelerators: vec!["Example GPU".into()],
                    driver: Some("Example 1.2".into()),
                },
                environment: Vec::new(),
            },
            duration: 60.0,
            only: None,
            facts: Some(examples::facts()),
            notes: vec!["a note".into()],
            comparison: Some(document()),
            standalone: Some(alone),
            baseline: Some(baseline),
            scheduled: Some(scheduled),
            failure: None,
            files: vec!["baseline_result.json".into(), "xsched_result.json".into()],
        }
    }

    /// The scheduled phase was interrupted.
    pub(crate) fn interrupted() -> Record {
        Record {
            scheduled: None,
            comparison: None,
            failure: Some(FailureNote {
                phase: "scheduled".into(),
                message: "interrupted by Ctrl-C".into(),
                missing: vec!["scheduled".into()],
                partial_samples: Some("scheduled_samples.partial.csv".into()),
            }),
            ..record()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        assert_eq!(change(45.23, 48.56), "+7.4%");
        assert_eq!(change(24.56, 12.34), "-49.8%");
        assert_eq!(change(10.0, 9.9999), "+0.0%");
    }

    #[test]
    fn every_reading_says_what_to_do() {
        let comparison = examples::record().comparison.unwrap();
        let text = |reading, p99, low| {
            let mut comparison = Comparison {
                reading,
                high_p99_ratio: p99,
                low_throughput_ratio: low,
                ..comparison.clone()
            };
            let (low, high) = (Some(p99 - 0.1), Some(p99 + 0.1));
            comparison.high_latency.interval = Some(crate::stats::Interval { low, high });
            reading_text(&comparison)
        };
        assert!(text(Reading::Ideal, 1.05, 0.5).contains("hardly affected (P99 +5.0%)"));
        // Where the intervals overlap it is no win.
        assert!(text(Reading::Ideal, 0.95, 0.5).contains("hardly affected (P99 -5.0%)"));
        assert!(text(Reading::Ideal, 0.6, 0.8).contains("faster than unscheduled (P99 -40.0%)"));
        assert!(text(Reading::Overhead, 1.3, 0.5).contains("--level"));
        assert!(text(Reading::NotInEffect, 2.0, 0.99).contains("scheduler is running"));
        assert!(text(Reading::Starvation, 0.9, 0.1).contains("only 10%"));
    }
}
