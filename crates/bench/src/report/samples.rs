//! The raw samples of a run's phases, read back from its folder. What is missing or damaged is said
//! and left out.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::run::{Phase, Run};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Arrival after the start of the task's phase, milliseconds.
    pub arrival_ms: f64,
    /// Start after the start of the task's phase, milliseconds.
    pub start_ms: f64,
    /// From arrival to completion, milliseconds.
    pub latency_ms: f64,
}

impl Sample {
    /// Completion after the start of the task's phase, milliseconds.
    pub fn end_ms(&self) -> f64 {
        self.arrival_ms + self.latency_ms
    }
}

/// Of each task of a phase, in the order of [`Phase::tasks`], its samples in the order of the file.
pub type PhaseSamples = Vec<Vec<Sample>>;

/// A line of the file; other columns may stand beside these.
#[derive(Deserialize)]
struct Row {
    task: String,
    arrival_ms: f64,
    start_ms: f64,
    latency_ms: f64,
    round: Option<u32>,
}

/// Reads the samples of every phase, in the order of [`Run::phases`], and says what is not there.
pub fn read(folder: &Path, run: &Run, problems: &mut Vec<String>) -> Vec<PhaseSamples> {
    let mut files: HashMap<&str, Vec<Row>> = HashMap::new();
    for phase in &run.phases {
        let name = phase.samples_file.as_str();
        files
            .entry(name)
            .or_insert_with(|| rows(folder, name, problems));
    }
    let of_phase = |phase: &Phase| {
        let name = &phase.samples_file;
        let sharing = run
            .phases
            .iter()
            .filter(|other| other.samples_file == *name);
        let alone = sharing.count() == 1;
        let rows = &files[name.as_str()];
        let of_task = |task: &str| {
            rows.iter()
                .filter(|row| row.task == task)
                // A file that several phases share says of each sample which round it is from.
                .filter(|row| alone || row.round.is_none_or(|round| round == phase.round))
                .map(|row| Sample {
                    arrival_ms: row.arrival_ms,
                    start_ms: row.start_ms,
                    latency_ms: row.latency_ms,
                })
                .collect::<Vec<_>>()
        };
        phase.tasks.iter().map(|task| of_task(&task.task)).collect()
    };
    let samples: Vec<PhaseSamples> = run.phases.iter().map(of_phase).collect();
    for (phase, tasks) in run.phases.iter().zip(&samples) {
        if files[phase.samples_file.as_str()].is_empty() {
            continue; // Said already.
        }
        for (task, samples) in phase.tasks.iter().zip(tasks) {
            if samples.len() as u64 != task.completed {
                problems.push(format!(
                    "{}: {} of {} requests of {} ({}, round {})",
                    phase.samples_file,
                    samples.len(),
                    task.completed,
                    task.task,
                    phase.contender,
                    phase.round
                ));
            }
        }
    }
    samples
}

fn rows(folder: &Path, name: &str, problems: &mut Vec<String>) -> Vec<Row> {
    // A record names files of its own folder, whoever wrote it.
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        problems.push(format!(
            "samples file {name:?}: not a file of the run's folder"
        ));
        return Vec::new();
    }
    let mut reader = match csv::ReaderBuilder::new()
        .flexible(true)
        .from_path(folder.join(name))
    {
        Ok(reader) => reader,
        Err(error) => {
            problems.push(format!("{name}: {error}"));
            return Vec::new();
        }
    };
    let (mut rows, mut damaged) = (Vec::new(), Vec::new());
    for row in reader.deserialize::<Row>() {
        match row {
            Ok(row)
                if [row.arrival_ms, row.start_ms, row.latency_ms]
                    .iter()
                    .all(|ms| ms.is_finite()) =>
            {
                rows.push(row);
            }
            Ok(_) => damaged.push("a time is not finite".to_owned()),
            Err(error) => damaged.push(error.to_string()),
        }
    }
    match damaged.first() {
        Some(first) => problems.push(format!(
            "{name}: {} lines are no samples and are left out; the first: {first}",
            damaged.len()
        )),
        None if rows.is_empty() => problems.push(format!("{name}: no samples")),
        None => {}
    }
    rows
}
