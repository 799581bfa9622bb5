//! What the phases of one run share: where workers come from, where files and text go, how a
//! failure is kept.

use std::time::Duration;

use serde::Serialize;

use crate::Context;
use crate::console::Console;
use crate::daemon::Daemon;
use crate::hdr_log;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::manifest::without_folders;
use crate::mix::peers::Peer;
use crate::phase::{Failure, Limits, Measurement, PhaseFailure, Progress, run_phase};
use crate::store::Store;
use crate::task::{PhaseSpec, Scheduling, TaskSpec};
use crate::usage::Load;

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
    /// File with the trace of the latest scheduled phase, in the output directory; to be taken.
    pub trace_file: Option<String>,
    /// What else the machine did during phases; to be taken.
    pub notes: Vec<String>,
    watches_others: bool,
    settings: Settings,
    launcher: Launcher,
    limits: Limits,
    interrupt: Interrupt,
}

/// What tasks under a daemon measured, and what that cost.
#[derive(Debug)]
pub struct Scheduled {
    /// Of each task.
    pub measured: Vec<Measurement>,
    /// Processor time of the daemon and of the tasks' agents since the tasks started, seconds; `None`
    /// where that of one of them is not known.
    pub scheduler_cpu_s: Option<f64>,
    /// Resident memory of the daemon, a look a second, KiB.
    pub memory_kib: Vec<u64>,
    /// Queues that it still had when all programs had ended; `None` if it did not say.
    pub queues_left: Option<usize>,
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
        let launcher = context.launcher(store.path("logs"));
        let interrupt = context.interrupt.clone();
        Session {
            console,
            store,
            files: Vec::new(),
            trace: false,
            trace_file: None,
            notes: Vec::new(),
            watches_others: context.watches_others,
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

    /// Runs tasks at once under a daemon of their own with this policy.
    pub fn scheduled(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
        policy: &str,
    ) -> Result<Scheduled, Stop> {
        let outcome = self.run_with_daemon(name, tasks, duration, policy);
        outcome.map_err(|failure| self.fail(name, failure))
    }

    /// Starts somebody else's scheduler; `Ok(Some)` says why it cannot be had.
    pub fn start_peer(&mut self, peer: &mut dyn Peer, name: &str) -> Result<Option<String>, Stop> {
        match peer.start(&self.launcher, &self.interrupt) {
            Ok(()) => Ok(None),
            Err(cause @ Failure::Interrupted(_)) => Err(self.reject(name, cause)),
            Err(cause) => Ok(Some(cause.to_string())),
        }
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

    /// Writes the latencies of one round of a phase as an HDR log.
    pub fn keep_log(&mut self, name: &str, measured: &[Measurement]) -> anyhow::Result<()> {
        let name = log_file(name);
        let log = hdr_log::interval_log(measured)?;
        self.store.write_text(&name, &log)?;
        self.note_file(&name);
        Ok(())
    }

    fn note_file(&mut self, name: &str) {
        if self.files.iter().all(|known| known != name) {
            self.files.push(name.to_owned());
        }
    }

    /// Removes samples and log that an earlier run left of a phase.
    pub fn forget_samples(&self, phase: &str) -> anyhow::Result<()> {
        self.store
            .forget(&[&samples_file(phase), &partial_file(phase), &log_file(phase)])
    }

    fn run(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
        scheduling: Scheduling,
    ) -> Result<Vec<Measurement>, PhaseFailure> {
        self.run_and_watch(name, tasks, duration, scheduling, &mut |_| {})
    }

    /// `watch` hears how far the phase is, many times a second.
    fn run_and_watch(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
        scheduling: Scheduling,
        watch: &mut dyn FnMut(&Progress),
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
        let before = Load::now().filter(|_| self.watches_others);
        let mut progress = self.console.phase(name, duration);
        let mut show = |state: &Progress| {
            watch(state);
            progress.update(state);
        };
        let outcome = run_phase(
            &phase,
            &self.launcher,
            &self.limits,
            &self.interrupt,
            &mut show,
        );
        drop(progress);
        let others = before.and_then(|before| Load::now()?.others_since(&before));
        if let Some(others) = others {
            let note = format!("{name}: {others}");
            self.console.line(&format!("      {note}"));
            self.notes.push(note);
        }
        outcome
    }

    fn run_with_daemon(
        &mut self,
        name: &str,
        tasks: Vec<TaskSpec>,
        duration: Duration,
        policy: &str,
    ) -> Result<Scheduled, PhaseFailure> {
        self.next_trace(name);
        let started = Daemon::with_policy(&self.launcher, policy, &self.interrupt);
        let mut daemon = started.map_err(|cause| PhaseFailure {
            cause: Box::new(cause),
            partial: Vec::new(),
        })?;
        let scheduling = Scheduling::Daemon(daemon.socket().to_owned());
        let (mut at_start, mut memory_kib) = (None, Vec::new());
        let mut watch = |progress: &Progress| {
            let looks = memory_kib.len() as u64;
            if progress
                .elapsed
                .is_some_and(|elapsed| elapsed.as_secs() >= looks)
                && let Some(usage) = daemon.usage()
            {
                at_start.get_or_insert(usage);
                memory_kib.push(usage.resident_kib);
            }
        };
        let outcome = self.run_and_watch(name, tasks, duration, scheduling, &mut watch);
        let daemon_cpu_s = match (at_start, daemon.usage()) {
            (Some(first), Some(last)) => Some(last.cpu_s - first.cpu_s),
            _ => None,
        };
        let queues_left = outcome
            .is_ok()
            .then(|| daemon.queues_left(&self.launcher))
            .flatten();
        // Without its daemon the phase is void, and whatever else went wrong followed from that.
        match (outcome, daemon.check()) {
            (outcome, Ok(())) => outcome.map(|measured| Scheduled {
                scheduler_cpu_s: daemon_cpu_s
                    .zip(agents_cpu_s(&measured))
                    .map(|(a, b)| a + b),
                measured,
                memory_kib,
                queues_left,
            }),
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
        // In the record a log is named as seen from there.
        let folder = format!("{}/", self.store.dir().display());
        Stop::Phase(FailedPhase {
            phase: phase.to_owned(),
            message: without_folders(&message.replace(&folder, "")),
            partial_samples,
            interrupted: failure.is_interruption(),
        })
    }
}

/// Processor time of the agents of all tasks that were scheduled; `None` if one was not seen.
fn agents_cpu_s(measured: &[Measurement]) -> Option<f64> {
    let scheduled = measured.iter().filter(|task| task.level > 0);
    scheduled.map(|task| task.agent_cpu_s).sum()
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

/// Name of the file with the HDR log of a round of a phase.
fn log_file(round: &str) -> String {
    format!("{round}.hlog")
}

/// Name of the file with the raw samples of a phase that was not finished.
fn partial_file(phase: &str) -> String {
    format!("{phase}_samples.partial.csv")
}
