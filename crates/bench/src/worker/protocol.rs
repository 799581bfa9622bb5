//! What harness and worker say to each other: one line of text to the worker's standard input, one
//! JSON object a line from its standard output. Times are milliseconds unless the name says
//! otherwise.

use serde::{Deserialize, Serialize};

/// A line from the harness. The end of the input means [`Instruction::Stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// Begin to measure now.
    Start,
    /// End early, and report what was measured.
    Stop,
}

impl Instruction {
    /// The line as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Instruction::Start => "start",
            Instruction::Stop => "stop",
        }
    }

    /// Reads a line.
    pub fn parse(line: &str) -> Option<Instruction> {
        [Instruction::Start, Instruction::Stop]
            .into_iter()
            .find(|instruction| instruction.as_str() == line.trim())
    }
}

/// A line from the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// Built and warmed up; waits for the start.
    Ready {
        /// Name of the model.
        model: String,
        /// Images per request.
        batch: usize,
        /// Commands per request; of an eager torch model the layers, as its kernels are not known.
        commands: usize,
        /// Time to build and warm up.
        setup_ms: f64,
        /// Preemption level in force; 0 = unscheduled.
        level: u8,
    },
    /// About once a second.
    Progress {
        /// Requests completed.
        completed: u64,
        /// Since the start.
        elapsed_ms: f64,
    },
    /// The measurement; the last line, unless the worker measures several times.
    Result {
        /// Requests completed.
        completed: u64,
        /// From the start to the end of the last request, at least the duration.
        elapsed_ms: f64,
        /// The start on CLOCK_MONOTONIC, nanoseconds.
        start_ns: u64,
        /// Of each request: arrival and start, after the start of the run, and latency.
        samples: Vec<[f64; 3]>,
        /// FNV-1a of the first output's bytes, 16 hexadecimal digits.
        digest: String,
        /// Every output had the bits of the first; torch compares large ones at every eighth request.
        digests_equal: bool,
        /// Requests that were given up because the next one was there before they began.
        #[serde(default)]
        dropped: u64,
    },
    /// Why there is no result; the last line.
    Error {
        /// What to do about it depends on this.
        kind: ErrorKind,
        /// One line.
        message: String,
    },
}

/// What kind of failure ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The model or its batch does not fit.
    OutOfMemory,
    /// The device or its queue failed.
    Device,
    /// The options make no sense.
    Usage,
    /// Anything else.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(report: Report, json: &str) {
        assert_eq!(serde_json::to_string(&report).unwrap(), json);
        assert_eq!(serde_json::from_str::<Report>(json).unwrap(), report);
    }

    #[test]
    fn reports_survive_the_line() {
        check(
            Report::Ready {
                model: "resnet18".into(),
                batch: 1,
                commands: 25,
                setup_ms: 512.5,
                level: 3,
            },
            r#"{"event":"ready","model":"resnet18","batch":1,"commands":25,"setup_ms":512.5,"level":3}"#,
        );
        check(
            Report::Progress {
                completed: 12,
                elapsed_ms: 1000.0,
            },
            r#"{"event":"progress","completed":12,"elapsed_ms":1000.0}"#,
        );
        check(
            Report::Result {
                completed: 1,
                elapsed_ms: 60_000.25,
                start_ns: u64::MAX,
                samples: vec![[100.0, 100.05, 21.875]],
                digest: "00ab00ab00ab00ab".into(),
                digests_equal: true,
                dropped: 2,
            },
            concat!(
                r#"{"event":"result","completed":1,"elapsed_ms":60000.25,"#,
                r#""start_ns":18446744073709551615,"samples":[[100.0,100.05,21.875]],"#,
                r#""digest":"00ab00ab00ab00ab","digests_equal":true,"dropped":2}"#
            ),
        );
        check(
            Report::Error {
                kind: ErrorKind::OutOfMemory,
                message: "no room for 4096 images".into(),
            },
            r#"{"event":"error","kind":"out_of_memory","message":"no room for 4096 images"}"#,
        );
    }

    #[test]
    fn instructions_survive_the_line() {
        for instruction in [Instruction::Start, Instruction::Stop] {
            let line = format!("{}\n", instruction.as_str());
            assert_eq!(Instruction::parse(&line), Some(instruction));
        }
        assert_eq!(Instruction::parse("restart"), None);
    }
}
