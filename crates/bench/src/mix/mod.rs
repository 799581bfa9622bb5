//! Scenarios as data: tasks of any kind at once, what they must reach, and how that is measured.
//!
//! A [`Mix`] is read from a user's file ([`file`]) or made by a built-in scenario; `runner` measures it
//! in rounds, each task alone and all under every way of scheduling ([`peers`]); `judge` compares. A
//! reader of the results needs the record in `run.json` only ([`mod@crate::run`]).

mod file;
mod judge;
pub(crate) mod options;
pub mod peers;
mod runner;

use std::time::Duration;

use serde::Deserialize;
use xsched_hint::{HintKind, Hints};

use crate::task;
use crate::worker::{COMMAND, Device};

pub use file::BadScenario;
pub(crate) use runner::run;

/// A scenario: tasks that share a device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// What to call it.
    pub name: String,
    /// What it shows, one or two sentences.
    #[serde(default)]
    pub description: String,
    /// Device that all tasks use.
    #[serde(default = "file::default_device", deserialize_with = "file::device")]
    pub device: Device,
    /// Length of a phase.
    #[serde(default = "file::default_duration", deserialize_with = "file::time")]
    pub duration: Duration,
    /// Every way of scheduling is measured this often, in turn.
    #[serde(default = "file::default_rounds", deserialize_with = "file::rounds")]
    pub rounds: u32,
    /// Time of each task alone, in all rounds together; by default as long as its limits need.
    #[serde(default, deserialize_with = "file::some_time")]
    pub standalone: Option<Duration>,
    /// Requests that each worker runs before it is ready.
    #[serde(default = "file::default_warmup", deserialize_with = "file::warmup")]
    pub warmup: u32,
    /// Fixes weights, inputs, arrivals at random and intervals.
    #[serde(default = "file::default_seed")]
    pub seed: u64,
    /// Policy of the daemon.
    #[serde(default = "file::default_policy", deserialize_with = "file::policy")]
    pub policy: String,
    /// Preemption level to ask for; the best that works by default.
    #[serde(default, deserialize_with = "file::level")]
    pub level: Option<u8>,
    /// The tasks, the most urgent first.
    #[serde(rename = "task", deserialize_with = "file::tasks")]
    pub tasks: Vec<Task>,
    /// Only under the scheduler, whose memory must not grow.
    #[serde(skip)]
    pub soak: bool,
    /// The phases are made as long as the limits on percentiles need.
    #[serde(skip)]
    pub extend: bool,
    /// What to know about where the figures of this scenario come from.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// One task: a program and the load on it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Unique; also the name that the scheduler shows.
    #[serde(deserialize_with = "file::name")]
    pub name: String,
    /// A built-in model, as `xsched worker --model` has it.
    #[serde(default)]
    pub model: Option<String>,
    /// Or a command line: a request is one run of it.
    #[serde(default, deserialize_with = "file::command")]
    pub command: Option<Vec<String>>,
    /// Images of one request.
    #[serde(default = "file::default_batch", deserialize_with = "file::batch")]
    pub batch: u32,
    /// Further words of the worker's command line.
    #[serde(default)]
    pub options: Vec<String>,
    /// What the policy knows.
    #[serde(default, deserialize_with = "file::hints")]
    pub hints: Hints,
    /// When requests come.
    #[serde(default)]
    pub arrival: Arrival,
    /// A request is given up when the next one is there before it begins.
    #[serde(default)]
    pub drop_late: bool,
    /// What it must reach under the scheduler.
    #[serde(default)]
    pub limits: Limits,
}

/// When requests come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// Back to back.
    #[default]
    Closed,
    /// So many a second at equal distances.
    #[serde(deserialize_with = "file::positive")]
    Rate(f64),
    /// One every so often.
    #[serde(deserialize_with = "file::time")]
    Period(Duration),
    /// So many a second on average, at random times.
    #[serde(deserialize_with = "file::positive")]
    Poisson(f64),
    /// At equal distances, as many as keep the device busy for this share of the time: the share times
    /// what the task reaches alone and back to back.
    #[serde(deserialize_with = "file::share")]
    Share(f64),
}

/// What a task must reach under the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// 99th percentile of the latency, at most this.
    #[serde(default, deserialize_with = "file::some_time")]
    pub p99: Option<Duration>,
    /// The same, at most so many times that alone.
    #[serde(default, deserialize_with = "file::some_positive")]
    pub p99_standalone: Option<f64>,
    /// Throughput, at least this share of that alone.
    #[serde(default, deserialize_with = "file::some_positive")]
    pub throughput_standalone: Option<f64>,
    /// Requests given up, at most.
    #[serde(default)]
    pub dropped: Option<u64>,
    /// Every request is complete this long after its arrival.
    #[serde(default)]
    pub completion: Option<Completion>,
}

/// A time in which every request must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// Before the next one comes.
    Period,
    /// This long.
    #[serde(deserialize_with = "file::time")]
    Within(Duration),
}

impl Task {
    /// A task with a built-in model.
    pub(crate) fn new(name: &str, model: &str, priority: i32) -> Task {
        let mut hints = Hints::default();
        hints.extend(HintKind::Priority.parse(&priority.to_string()));
        Task {
            name: name.to_owned(),
            model: Some(model.to_owned()),
            batch: 1,
            hints,
            ..Task::default()
        }
    }

    /// As a worker runs it, once its arrivals are known.
    pub(crate) fn spec(&self, arrival: task::Arrival) -> task::TaskSpec {
        let mut options = self.options.clone();
        if self.drop_late {
            options.push("--drop-late".to_owned());
        }
        if let Some(command) = &self.command {
            options.push("--".to_owned());
            options.extend(command.iter().cloned());
        }
        let flag = |hint: xsched_hint::Hint| {
            let name = format!("--{}", hint.kind().name().replace('_', "-"));
            [name, hint.to_string()]
        };
        let others = self.hints.iter();
        let others = others.filter(|hint| hint.kind() != HintKind::Priority);
        task::TaskSpec {
            name: self.name.clone(),
            class: self.hints.priority().to_string(),
            model: self.model.clone().unwrap_or_else(|| COMMAND.to_owned()),
            batch: self.batch,
            arrival,
            options,
            hints: others.flat_map(flag).collect(),
            ..task::TaskSpec::default()
        }
    }

    /// What it executes, as people write it.
    pub(crate) fn title(&self) -> String {
        match (&self.model, &self.command) {
            (Some(model), _) => task::model_title(model),
            (None, Some(command)) => command.join(" "),
            (None, None) => String::new(),
        }
    }

    /// Its hints as people write them, the priority alone as a bare number.
    pub(crate) fn hints_text(&self) -> String {
        let hint = |hint: xsched_hint::Hint| match hint.kind() {
            HintKind::Priority => hint.to_string(),
            kind => format!("{} {hint}", kind.name().replace('_', " ")),
        };
        let all: Vec<String> = self.hints.iter().map(hint).collect();
        match all.is_empty() {
            true => "normal".to_owned(),
            false => all.join(", "),
        }
    }
}
