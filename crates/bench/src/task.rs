//! What a phase runs, as data: tasks (model, class, arrivals) and the phase around them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the requests of a task come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "arrival", rename_all = "snake_case")]
pub enum Arrival {
    /// On a fixed schedule, whether or not the previous request is done; a late start counts as
    /// latency.
    Open {
        /// Requests per second.
        rate_hz: f64,
    },
    /// At random times, on average at this rate (a Poisson process); a late start counts as latency.
    Poisson {
        /// Requests per second.
        rate_hz: f64,
    },
    /// Back to back.
    #[default]
    Closed,
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arrival::Open { rate_hz } => write!(f, "{rate_hz} requests/s"),
            Arrival::Poisson { rate_hz } => write!(f, "{rate_hz} requests/s at random"),
            Arrival::Closed => f.write_str("back to back"),
        }
    }
}

impl Arrival {
    /// As long at least, and a whole number of requests where they come on a schedule, so that as many are due as come
    /// in that time in the long run.
    pub fn whole(self, duration: Duration) -> Duration {
        let Arrival::Open { rate_hz } = self else {
            return duration;
        };
        let requests = (duration.as_secs_f64() * rate_hz).ceil();
        // A little less, or rounding would make it one more.
        Duration::from_secs_f64(requests / rate_hz) - Duration::from_micros(1)
    }
}

/// One program of a phase: a worker process and the load on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Unique within the phase; also the name that the scheduler shows.
    pub name: String,
    /// Priority as `xsched run --priority` takes it: a class or a number.
    pub class: String,
    /// Model as the worker knows it, for example `resnet18`.
    pub model: String,
    /// Images per request.
    pub batch: u32,
    /// How requests come.
    #[serde(flatten)]
    pub arrival: Arrival,
    /// The option that changes `batch`, named in the remedy when memory runs out.
    #[serde(skip)]
    pub batch_option: Option<&'static str>,
    /// Further words of the worker's command line, for example `--cuda-graph`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Further hints, as flags of `xsched run`, for example `--utilization`, `75`.
    #[serde(default)]
    pub hints: Vec<String>,
    /// Words before the worker's command line, of somebody else's scheduler, for example `nice`.
    #[serde(default)]
    pub wrap: Vec<String>,
    /// Environment of the worker, of somebody else's scheduler.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

impl TaskSpec {
    /// Requests that a phase of `duration` contains: arrival `i` is at `i / rate`, the last one
    /// before the end. `None` where that is not known beforehand.
    pub fn requests_due(&self, duration: Duration) -> Option<u64> {
        match self.arrival {
            Arrival::Open { rate_hz } => Some((duration.as_secs_f64() * rate_hz).ceil() as u64),
            Arrival::Poisson { .. } | Arrival::Closed => None,
        }
    }

    /// The model's name as people write it.
    pub fn model_title(&self) -> String {
        model_title(&self.model)
    }
}

/// Whether a text may be the name of a task: it becomes part of file names and of command lines.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('-')
}

/// The name of a model as people write it: `resnet18` is ResNet-18.
pub fn model_title(model: &str) -> String {
    match model.strip_prefix("resnet") {
        Some(depth) => format!("ResNet-{depth}"),
        None => model.to_owned(),
    }
}

/// Whether a phase's workers are scheduled, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduling {
    /// The same programs with the scheduling switched off (`XSCHED_DISABLE=1`).
    Off,
    /// By the daemon that listens on this socket.
    Daemon(PathBuf),
    /// Inside the process, by its agent.
    Local,
}

/// One phase: its tasks run at the same time, for the same while.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseSpec {
    /// Short name: `baseline`, `scheduled`, `standalone-high` …; also the stem of its files.
    pub name: String,
    /// Programs that run at once.
    pub tasks: Vec<TaskSpec>,
    /// From the common start to the end of the arrivals.
    pub duration: Duration,
    /// Who decides which program executes.
    pub scheduling: Scheduling,
    /// Preemption level to ask for; `None` takes the best that the device has.
    pub level: Option<u8>,
    /// Device that all tasks use.
    pub device: String,
    /// Seed of weights and inputs.
    pub seed: u64,
    /// Requests that each worker runs before it says that it is ready.
    pub warmup: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arrival_at_the_very_end_is_not_due() {
        let task = |rate_hz| TaskSpec {
            name: "t".into(),
            class: "high".into(),
            model: "resnet18".into(),
            batch: 1,
            arrival: Arrival::Open { rate_hz },
            ..TaskSpec::default()
        };
        let due = |rate, seconds| task(rate).requests_due(Duration::from_secs_f64(seconds));
        assert_eq!(due(10.0, 60.0), Some(600));
        // 0, 1/3, 2/3, 1 s: four arrivals lie before 1.1 s.
        assert_eq!(due(3.0, 1.1), Some(4));
        let closed = TaskSpec {
            arrival: Arrival::Closed,
            ..task(1.0)
        };
        assert_eq!(closed.requests_due(Duration::from_secs(1)), None);
    }

    #[test]
    fn titles() {
        assert_eq!(model_title("resnet50"), "ResNet-50");
        assert_eq!(model_title("alexnet"), "alexnet");
    }
}
