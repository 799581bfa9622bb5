//! What the phases of one run share: where workers come from, where files and text go, how a
//! failure is kept.

use std::time::Duration;

use serde::Serialize;

use crate::Context;
use crate::console::Console;
use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::phase::{Failure, Limits, Measurement, PhaseFailure, run_phase};
use crate::store::Store;
use crate::task::{PhaseSpec, Scheduling, TaskSpec};

/// What is the same in every phase of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Device that all tasks use.
    pub device: String,
    /// Seed of weights and inputs.
    pub seed: u64,
    /// Requests that each worker runs before it is ready.
    pub warmup: u32,
    /// Preemption level to ask for; `None` takes the best that the device has.
    pub level: Option<u8>,
}

/// One run of a scenario.
pub struct Session {
    /// Text for people.
    pub console: Console,
    /// The output directory.
    pub store: Store,
    /// Files that were written there, in this order.
    pub files: Vec<String>,
    /// Have the daemons write traces.
    pub trace: bool,
    /// File with the trace of the latest scheduled phase, in the output directory.
    pub trace_file: Option<String>,
    settings: Settings,
    launcher: Launcher,
    limits: Limits,
    interrupt: Interrupt,
}

/// Why a run ends before its time.
#[derive(Debug)]
pub enum Stop {
    /// A phase failed. People have been told, and what was measured is kept.
    Phase(FailedPhase),
    /// The harness itself cannot go on.
    Error(anyhow::Error),
}

/// A phase without a full result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPhase {
    /// Its name.
    pub phase: String,
    /// What went wrong and what to do, one line.
    pub message: String,
    /// File with the samples of the workers that could still report.
    pub partial_samples: Option<String>,
    /// A person or a program asked the run to end.
    pub interrupted: bool,
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Error(error)
    }
}

impl Session {
    /// Starts nothing yet.
    pub fn new(
        context: &Context,
        console: Console,
        store: Store,
        settings: Settings,
        limits: Limits,
    ) -> Session {
        let launcher = Launcher {
            program: context.program.clone(),
            environment: context.environment.clone(),
            log_dir: store.path("logs"),
            trace: None,
        };
        let interrupt = context.interrupt.clone();
        Session {
            console,
            store,
            files: Vec::new(),
            trace: false,
            trace_file: None,
            settings,
            launcher,
            limits,
            interrupt,
        }
    }

    /// Runs tasks at once without a scheduler.
    pub fn unscheduled(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
    ) -> Result<Vec<Measurement>, Stop> {
        let outcome = self.run(name, tasks, duration, Scheduling::Off);
        outcome.map_err(|failure| self.fail(name, failure))
    }

    /// Runs tasks at once under a daemon of their own.
    pub fn scheduled(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
    ) -> Result<Vec<Measurement>, Stop> {
        let outcome = self.run_with_daemon(name, tasks, duration);
        outcome.map_err(|failure| self.fail(name, failure))
    }

    /// Notes that a phase is no use although all its workers reported.
    pub fn reject(&mut self, phase: &str, cause: Failure) -> Stop {
        let partial = Vec::new();
        let cause = Box::new(cause);
        self.fail(phase, PhaseFailure { cause, partial })
    }

    /// Writes a result file, or replaces it after another round.
    pub fn keep(&mut self, name: &str, result: &impl Serialize) -> anyhow::Result<()> {
        self.store.write_json(name, result)?;
        self.note_file(name);
        Ok(())
    }

    /// Writes the samples of a phase, or replaces them after another round.
    pub fn keep_samples(
        &mut self,
        phase: &str,
        rounds: &[impl AsRef<[Measurement]>],
    ) -> anyhow::Result<()> {
        let name = samples_file(phase);
        self.store.write_samples(&name, rounds)?;
        self.note_file(&name);
        Ok(())
    }

    fn note_file(&mut self, name: &str) {
        if self.files.iter().all(|known| known != name) {
            self.files.push(name.to_owned());
        }
    }

    /// Removes samples that an earlier run left of a phase.
    pub fn forget_samples(&self, phase: &str) -> anyhow::Result<()> {
        self.store
            .forget(&[&samples_file(phase), &partial_file(phase)])
    }

    fn run(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
        scheduling: Scheduling,
    ) -> Result<Vec<Measurement>, PhaseFailure> {
        let phase = PhaseSpec {
            name: name.to_owned(),
            tasks,
            duration,
            scheduling,
            level: self.settings.level,
            device: self.settings.device.clone(),
            seed: self.settings.seed,
            warmup: self.settings.warmup,
        };
        let mut progress = self.console.phase(name, duration);
        let mut show = |state: &_| progress.update(state);
        run_phase(
            &phase,
            &self.launcher,
            &self.limits,
            &self.interrupt,
            &mut show,
        )
    }

    fn run_with_daemon(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
    ) -> Result<Vec<Measurement>, PhaseFailure> {
        self.next_trace(name);
        let started = Daemon::start(&self.launcher, &self.interrupt);
        let mut daemon = started.map_err(|cause| PhaseFailure {
            cause: Box::new(cause),
            partial: Vec::new(),
        })?;
        let scheduling = Scheduling::Daemon(daemon.socket().to_owned());
        let outcome = self.run(name, tasks, duration, scheduling);
        // Without its daemon the phase is void, and whatever else went wrong followed from that.
        match (outcome, daemon.check()) {
            (outcome, Ok(())) => outcome,
            (Ok(partial), Err(cause)) => Err(PhaseFailure {
                cause: Box::new(cause),
                partial,
            }),
            (Err(failure), Err(_)) if failure.is_interruption() => Err(failure),
            (Err(failure), Err(cause)) => Err(PhaseFailure {
                cause: Box::new(cause),
                ..failure
            }),
        }
    }

    /// Chooses the file of the next daemon's trace: one for each round of a phase.
    fn next_trace(&mut self, phase: &str) {
        if !self.trace {
            return;
        }
        let mut names = (1..).map(|round| trace_file(phase, round));
        self.trace_file = names.find(|name| !self.files.contains(name));
        if let Some(name) = self.trace_file.clone() {
            self.note_file(&name);
        }
        self.launcher.trace = self.trace_file.as_ref().map(|name| self.store.path(name));
    }

    fn fail(&mut self, phase: &str, failure: PhaseFailure) -> Stop {
        let message = failure.cause.to_string();
        self.console.line(&format!("      ❌ {phase}: {message}"));
        let mut partial_samples = None;
        if !failure.partial.is_empty() {
            let name = partial_file(phase);
            if let Err(error) = self
                .store
                .write_samples(&name, std::slice::from_ref(&failure.partial))
            {
                return Stop::Error(error);
            }
            partial_samples = Some(name);
        }
        Stop::Phase(FailedPhase {
            phase: phase.to_owned(),
            message,
            partial_samples,
            interrupted: failure.is_interruption(),
        })
    }
}

/// Name of the file with the trace of a round of a phase.
fn trace_file(phase: &str, round: usize) -> String {
    match round {
        1 => format!("{phase}_trace.json"),
        _ => format!("{phase}_trace-{round}.json"),
    }
}

/// Name of the file with the raw samples of a phase.
pub fn samples_file(phase: &str) -> String {
    format!("{phase}_samples.csv")
}

/// Name of the file with the raw samples of a phase that was not finished.
fn partial_file(phase: &str) -> String {
    format!("{phase}_samples.partial.csv")
}
