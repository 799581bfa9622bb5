//! The record of a run that compares ways of scheduling the same tasks: what stands in `run.json`,
//! and what every report and every comparison of two runs is made from.
//!
//! It is written again after every phase, so an interrupted run leaves a record of what it has.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::criteria::Verdict;
use crate::manifest::Manifest;
use crate::stats::{Interval, Summary};
use crate::task::Arrival;

/// Name of the file in the folder of a run.
pub const FILE: &str = "run.json";

/// Version of this record's form; readers refuse others.
pub const FORMAT: u32 = 1;

/// A run, complete or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Scenario, command, version, host.
    pub manifest: Manifest,
    /// What the scenario shows, one or two sentences.
    pub description: String,
    /// Device that all tasks use.
    pub device: String,
    /// The tasks, the most urgent first.
    pub tasks: Vec<Task>,
    /// What is compared, in the order of the phases of one round; the first is the reference.
    pub contenders: Vec<Contender>,
    /// The phases that are finished, in the order of their start.
    pub phases: Vec<Phase>,
    /// The criteria; empty as long as they cannot be judged.
    pub checks: Vec<Check>,
    /// What a reader of the figures should know: how defaults were scaled, what was left out and why.
    pub notes: Vec<String>,
    /// Why the run is not complete.
    pub failure: Option<Failure>,
}

/// One task of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique within the run.
    pub name: String,
    /// What it executes, as people write it.
    pub model: String,
    /// Priority, class or share, as people write it.
    pub priority: String,
    /// Images (or frames, or clips) of one request.
    pub batch: u32,
    /// How its requests come.
    #[serde(flatten)]
    pub arrival: Arrival,
}

/// A way of scheduling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    /// Unique within the run, a short word: `standalone`, `native`, `xsched`, `mps` …
    pub name: String,
    /// As people write it.
    pub title: String,
    /// What it is.
    pub kind: Kind,
}

/// What a contender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Each task by itself, unscheduled: the reference of its latency and throughput.
    Standalone,
    /// All tasks at once, unscheduled.
    Native,
    /// All tasks at once under the scheduler.
    Scheduled,
    /// All tasks at once under somebody else's scheduler.
    Peer,
}

/// One round of one contender. A standalone phase has one task, and there is one a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// [`Contender::name`].
    pub contender: String,
    /// From 1.
    pub round: u32,
    /// Start, with the time zone's offset.
    pub timestamp: String,
    /// Length that was asked for, seconds.
    pub duration_s: f64,
    /// What the tasks did.
    pub tasks: Vec<TaskResult>,
    /// Processor time of the scheduler's daemon and of the agents in the tasks, seconds; where it
    /// was measured.
    pub scheduler_cpu_s: Option<f64>,
    /// File with the raw samples, in the folder of the run.
    pub samples_file: String,
    /// File with the trace, in the folder of the run; with `--trace`.
    pub trace_file: Option<String>,
}

/// What one task did in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// [`Task::name`].
    pub task: String,
    /// Preemption level in force; 0 = unscheduled.
    pub level: u8,
    /// Start on CLOCK_MONOTONIC, nanoseconds.
    pub start_ns: u64,
    /// From the start to the end of the last request, at least the duration; seconds.
    pub elapsed_s: f64,
    /// Requests that were completed.
    pub completed: u64,
    /// Requests that were due; back-to-back tasks have none.
    pub due: Option<u64>,
    /// Requests that were given up because the next one was there before they began.
    pub dropped: u64,
    /// Completed requests per second.
    pub throughput_per_s: f64,
    /// From arrival to completion, milliseconds; `None` if no request was completed.
    pub latency_ms: Option<Summary>,
    /// FNV-1a of the first output, 16 hexadecimal digits; empty where there is none.
    pub output_digest: String,
    /// Every output had the bits of the first.
    pub outputs_equal: bool,
}

/// A criterion and its judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The task that it is about; `None` for the whole run.
    pub task: Option<String>,
    /// What is judged, for example `P99 ÷ standalone`.
    pub what: String,
    /// The limit as people write it, for example `≤ 1.60`.
    pub limit: String,
    /// What was measured.
    pub measured: f64,
    /// 95 % interval of `measured`, where there is one.
    pub interval: Option<Interval>,
    /// `ms`, `×`, `%`, `requests` …
    pub unit: String,
    /// The judgement.
    pub grade: Grade,
    /// What to know or to do, one line.
    pub note: Option<String>,
}

/// A judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// The whole interval is on the right side of the limit.
    Met,
    /// The figure is on the wrong side of the limit.
    Missed,
    /// The figure is on the right side, its interval reaches over the limit.
    NotDistinguishable,
    /// There are too few requests for an interval.
    NotEnoughRequests,
    /// Shown, not judged.
    Information,
}

/// Why a run is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The phase in which it ended.
    pub phase: String,
    /// One line.
    pub message: String,
    /// File with the samples of the unfinished phase.
    pub partial_samples: Option<String>,
}

impl Failure {
    /// What a record says of itself until its run has ended: the last word of one that was killed.
    pub fn unfinished(phase: &str) -> Failure {
        Failure {
            phase: phase.to_owned(),
            message: "the run has not ended: it is still going on, or it was killed".into(),
            partial_samples: None,
        }
    }
}

/// Why a folder is not read as a run.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// No such file, or no permission.
    #[error("{path}: {error}; name the folder of a run, as --out gave it")]
    Missing {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not the JSON of a run.
    #[error("{path}: {error}; this is not the record of a run")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why.
        error: serde_json::Error,
    },
    /// Written by another version.
    #[error("{path}: format {found}, this program reads {FORMAT}; use the version that wrote it")]
    Format {
        /// The file.
        path: String,
        /// The other format.
        found: u32,
    },
}

impl Run {
    /// What its criteria come down to.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(&self.checks, self.failure.is_none())
    }

    /// Reads the record in the folder of a run.
    pub fn read(folder: &Path) -> Result<Run, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let file = folder.join(FILE);
        let path = file.display().to_string();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => return Err(Unreadable::Missing { path, error }),
        };
        let malformed = |error| Unreadable::Malformed {
            path: path.clone(),
            error,
        };
        let found = serde_json::from_str::<Version>(&text)
            .map_err(malformed)?
            .format;
        if found != FORMAT {
            return Err(Unreadable::Format { path, found });
        }
        serde_json::from_str(&text).map_err(malformed)
    }

    /// The finished phases of a contender.
    pub fn phases_of<'a>(&'a self, contender: &'a str) -> impl Iterator<Item = &'a Phase> {
        self.phases
            .iter()
            .filter(move |phase| phase.contender == contender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Run {
        Run {
            format: FORMAT,
            manifest: Manifest::now("dual-model", vec!["xsched".into()], "0.1.0"),
            description: "Two tasks.".into(),
            device: "cpu".into(),
            tasks: vec![Task {
                name: "high".into(),
                model: "ResNet-18".into(),
                priority: "high".into(),
                batch: 1,
                arrival: Arrival::Open { rate_hz: 10.0 },
            }],
            contenders: vec![Contender {
                name: "native".into(),
                title: "Native".into(),
                kind: Kind::Native,
            }],
            phases: vec![Phase {
                contender: "native".into(),
                round: 1,
                timestamp: "2026-01-01T00:00:00+00:00".into(),
                duration_s: 10.0,
                tasks: vec![TaskResult {
                    task: "high".into(),
                    level: 0,
                    start_ns: 5,
                    elapsed_s: 10.0,
                    completed: 2,
                    due: Some(100),
                    dropped: 98,
                    throughput_per_s: 0.2,
                    latency_ms: crate::stats::summarize(&[1.0, 2.0]),
                    output_digest: "0123456789abcdef".into(),
                    outputs_equal: true,
                }],
                scheduler_cpu_s: None,
                samples_file: "native-1_samples.csv".into(),
                trace_file: None,
            }],
            checks: Vec::new(),
            notes: Vec::new(),
            failure: None,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let run = example();
        std::fs::write(
            folder.path().join(FILE),
            crate::store::json_text(&run).unwrap(),
        )
        .unwrap();
        assert_eq!(Run::read(folder.path()).unwrap(), run);
        assert_eq!(run.phases_of("native").count(), 1);
        assert_eq!(run.phases_of("xsched").count(), 0);
    }

    #[test]
    fn what_is_no_record_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: Option<&str>, expect: &str| {
            if let Some(text) = text {
                std::fs::write(folder.path().join(FILE), text).unwrap();
            }
            let message = Run::read(folder.path()).unwrap_err().to_string();
            assert!(
                message.contains(expect) && message.contains(FILE) && !message.contains('\n'),
                "{message}"
            );
        };
        check(None, "name the folder of a run");
        check(Some("{"), "not the record of a run");
        check(Some("{\"format\": 999}"), "format 999");
        check(Some("{\"format\": 1}"), "missing field");
    }
}
