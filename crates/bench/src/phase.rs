//! Runs one phase: starts the workers, waits until all are ready, lets them go together, collects
//! what they measured.
//!
//! Whatever happens (a hung or dying worker, memory running out, Ctrl-C), all process groups are
//! gone when [`run_phase`] returns, and what the workers could still report is kept.

use std::io::{BufRead, BufReader};
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;
use crate::launch::{END_GRACE, Launcher, Process, describe_exit, end_all};
use crate::task::{PhaseSpec, TaskSpec};
use crate::usage;
use crate::worker::protocol::{ErrorKind, Instruction, Report};

/// How often a wait looks at signals and children.
const POLL: Duration = Duration::from_millis(50);

/// How long the last lines of a process that is gone may stay in its pipe.
const DRAIN: Duration = Duration::from_secs(1);

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the start of the processes until all are ready: models are built, warm-up is done.
    pub setup: Duration,
    /// From the end of the phase's duration until every result is there.
    pub hang: Duration,
    /// From the result to the end of the process.
    pub exit: Duration,
    /// After a failure: how long the others may take to report what they have.
    pub rescue: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            setup: Duration::from_secs(300),
            hang: Duration::from_secs(60),
            exit: Duration::from_secs(10),
            rescue: Duration::from_secs(5),
        }
    }
}

/// What one worker measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The task.
    pub task: TaskSpec,
    /// Preemption level that was in force; 0 = unscheduled.
    pub level: u8,
    /// Commands of one request.
    pub commands: u64,
    /// Time to build the model and warm up, milliseconds.
    pub setup_ms: f64,
    /// Requests that were completed.
    pub completed: u64,
    /// From the start to the last completion, milliseconds.
    pub elapsed_ms: f64,
    /// The start on the monotonic clock, nanoseconds.
    pub start_ns: u64,
    /// Of each request: arrival and start after the phase's start, and latency; milliseconds.
    pub samples: Vec<[f64; 3]>,
    /// Hash of the first output.
    pub digest: String,
    /// Every output had the same bits as the first.
    pub digests_equal: bool,
    /// Requests that were given up because the next one was there before they began.
    pub dropped: u64,
    /// Processor time of the agent from the start to the last report at which it was still there,
    /// seconds; `None` where the program has none.
    pub agent_cpu_s: Option<f64>,
}

/// Why a phase gave no full result. One line each: what, why, what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
    #[error("{task} could not be started: {reason}")]
    Start { task: String, reason: String },
    #[error(
        "{task} was not ready {seconds:.0} s after its start: a smaller model or batch starts \
         sooner; log: {log}"
    )]
    NotReady {
        task: String,
        seconds: f64,
        log: String,
    },
    #[error(
        "{task} hung: no result {seconds:.0} s after the end of the phase; it was ended; log: {log}"
    )]
    Hung {
        task: String,
        seconds: f64,
        log: String,
    },
    #[error(
        "{task} delivered its result but did not end within {seconds:.0} s; it was ended; log: \
         {log}"
    )]
    HungAtExit {
        task: String,
        seconds: f64,
        log: String,
    },
    #[error("{task} did not answer within {seconds:.0} s; it was ended; log: {log}")]
    Silent {
        task: String,
        seconds: f64,
        log: String,
    },
    #[error("{task} ended early with {how}{words}; log: {log}")]
    Died {
        task: String,
        how: String,
        words: String,
        log: String,
    },
    #[error("{task} delivered its result, then ended with {how}{words}; log: {log}")]
    DiedAtExit {
        task: String,
        how: String,
        words: String,
        log: String,
    },
    #[error("{task} ran out of memory at batch {batch} ({message}): {remedy}")]
    OutOfMemory {
        task: String,
        batch: u32,
        message: String,
        remedy: String,
    },
    #[error("{task} reports: {message}; log: {log}")]
    Reported {
        task: String,
        message: String,
        log: String,
    },
    #[error(
        "{task} wrote a line that is no report ({line:?}): worker and harness must be of the same \
         version"
    )]
    Garbage { task: String, line: String },
    #[error("no request was completed: give a longer --duration")]
    Nothing,
    #[error("the daemon {0}")]
    Daemon(String),
}

/// A phase that failed, and what was measured until then.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseFailure {
    /// The first thing that went wrong.
    pub cause: Box<Failure>,
    /// Results of the workers that could still report.
    pub partial: Vec<Measurement>,
}

impl PhaseFailure {
    /// A person or a program asked for it.
    pub fn is_interruption(&self) -> bool {
        matches!(*self.cause, Failure::Interrupted(_))
    }
}

/// Where a running phase stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Time since the common start; `None` while workers get ready.
    pub elapsed: Option<Duration>,
    /// Name of each task and the number of requests that it has completed.
    pub completed: Vec<(String, u64)>,
}

/// Runs a phase to its end.
pub fn run_phase(
    phase: &PhaseSpec,
    launcher: &Launcher,
    limits: &Limits,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Vec<Measurement>, PhaseFailure> {
    let (sender, events) = mpsc::channel();
    let mut runner = Runner {
        phase,
        limits,
        interrupt,
        progress,
        workers: Vec::new(),
        events,
        started: None,
    };
    let outcome = runner
        .start_workers(launcher, &sender)
        .and_then(|()| runner.measure());
    if outcome.is_err() {
        runner.rescue();
    }
    end_all(
        runner.workers.iter_mut().map(|worker| &mut worker.process),
        END_GRACE,
    );
    let measured = runner
        .workers
        .into_iter()
        .filter_map(Worker::measurement)
        .collect();
    match outcome {
        Ok(()) => Ok(measured),
        Err(cause) => Err(PhaseFailure {
            cause: Box::new(cause),
            partial: measured,
        }),
    }
}

/// What a reader thread passes on.
enum Message {
    Report(Report),
    Garbage(String),
    End,
}

struct Worker {
    task: TaskSpec,
    process: Process,
    ready: Option<Report>,
    result: Option<Report>,
    completed: u64,
    /// Standard output has ended.
    drained: bool,
    exit: Option<(ExitStatus, Instant)>,
    /// Processor time of its agent, seconds: at the start and at the last look.
    agent_cpu: Option<(f64, f64)>,
}

impl Worker {
    fn measurement(self) -> Option<Measurement> {
        let Some(Report::Ready {
            commands,
            setup_ms,
            level,
            ..
        }) = self.ready
        else {
            return None;
        };
        let Some(Report::Result {
            completed,
            elapsed_ms,
            start_ns,
            samples,
            digest,
            digests_equal,
            dropped,
        }) = self.result
        else {
            return None;
        };
        let task = self.task;
        Some(Measurement {
            task,
            level,
            commands: commands as u64,
            setup_ms,
            completed,
            elapsed_ms,
            start_ns,
            samples,
            digest,
            digests_equal,
            dropped,
            agent_cpu_s: self.agent_cpu.map(|(first, last)| last - first),
        })
    }

    /// Looks at what the agent has cost so far; nothing changes when the process is gone already.
    fn look_at_agent(&mut self) {
        if let Some(now) = usage::agent_cpu_s(self.process.id()) {
            self.agent_cpu.get_or_insert((now, now)).1 = now;
        }
    }

    fn name(&self) -> String {
        self.task.name.clone()
    }

    fn log(&self) -> String {
        self.process.log().display().to_string()
    }

    fn words(&self) -> String {
        self.process
            .last_words()
            .map(|words| format!(" ({words})"))
            .unwrap_or_default()
    }
}

struct Runner<'a> {
    phase: &'a PhaseSpec,
    limits: &'a Limits,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(&Progress),
    workers: Vec<Worker>,
    events: Receiver<(usize, Message)>,
    started: Option<Instant>,
}

impl Runner<'_> {
    fn start_workers(
        &mut self,
        launcher: &Launcher,
        sender: &Sender<(usize, Message)>,
    ) -> Result<(), Failure> {
        for (index, task) in self.phase.tasks.iter().enumerate() {
            let command = launcher.worker_command(self.phase, task);
            let log = format!("{}-{}", self.phase.name, task.name);
            let started = launcher.spawn(command, &log);
            let mut process = started.map_err(|error| Failure::Start {
                task: task.name.clone(),
                reason: error.to_string(),
            })?;
            let stdout = process.take_stdout().expect("spawned with a pipe");
            let sender = sender.clone();
            // Never joined: a stray descendant may hold the pipe open longer than the phase lives.
            std::thread::spawn(move || read_reports(BufReader::new(stdout), index, &sender));
            self.workers.push(Worker {
                task: task.clone(),
                process,
                ready: None,
                result: None,
                completed: 0,
                drained: false,
                exit: None,
                agent_cpu: None,
            });
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<(), Failure> {
        let limits = self.limits;
        self.wait(
            limits.setup,
            |worker| worker.ready.is_some(),
            |worker| Failure::NotReady {
                task: worker.name(),
                seconds: limits.setup.as_secs_f64(),
                log: worker.log(),
            },
        )?;
        for worker in &mut self.workers {
            worker.look_at_agent();
            worker.process.send(Instruction::Start.as_str());
        }
        self.started = Some(Instant::now());
        self.wait(
            self.phase.duration + limits.hang,
            |worker| worker.result.is_some(),
            |worker| Failure::Hung {
                task: worker.name(),
                seconds: limits.hang.as_secs_f64(),
                log: worker.log(),
            },
        )?;
        for worker in &mut self.workers {
            worker.process.close_stdin();
        }
        self.wait(
            limits.exit,
            |worker| worker.exit.is_some(),
            |worker| Failure::HungAtExit {
                task: worker.name(),
                seconds: limits.exit.as_secs_f64(),
                log: worker.log(),
            },
        )?;
        // A crash while tearing down is a fault of what is measured here, too.
        for worker in &self.workers {
            if let Some((status, _)) = worker.exit
                && !status.success()
            {
                let how = describe_exit(status);
                return Err(Failure::DiedAtExit {
                    task: worker.name(),
                    how,
                    words: worker.words(),
                    log: worker.log(),
                });
            }
        }
        Ok(())
    }

    /// Takes events until every worker is `done`, or the first thing goes wrong.
    fn wait(
        &mut self,
        limit: Duration,
        done: impl Fn(&Worker) -> bool,
        too_late: impl Fn(&Worker) -> Failure,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        while !self.workers.iter().all(&done) {
            if let Some(signal) = self.interrupt.received() {
                return Err(Failure::Interrupted(signal));
            }
            self.take_event()?;
            for worker in &mut self.workers {
                poll_exit(worker);
                if let Some((status, since)) = worker.exit
                    && !done(worker)
                    && (worker.drained || since.elapsed() > DRAIN)
                {
                    let how = describe_exit(status);
                    return Err(Failure::Died {
                        task: worker.name(),
                        how,
                        words: worker.words(),
                        log: worker.log(),
                    });
                }
            }
            if Instant::now() >= deadline
                && let Some(late) = self.workers.iter().find(|worker| !done(worker))
            {
                return Err(too_late(late));
            }
            (self.progress)(&Progress {
                elapsed: self.started.map(|started| started.elapsed()),
                completed: self
                    .workers
                    .iter()
                    .map(|worker| (worker.name(), worker.completed))
                    .collect(),
            });
        }
        Ok(())
    }

    /// Takes at most one event.
    fn take_event(&mut self) -> Result<(), Failure> {
        let (index, message) = match self.events.recv_timeout(POLL) {
            Ok(event) => event,
            // Nothing yet; `run_phase` holds a sender, so that the channel never closes.
            Err(_) => return Ok(()),
        };
        let worker = &mut self.workers[index];
        match message {
            Message::End => worker.drained = true,
            Message::Garbage(line) => {
                return Err(Failure::Garbage {
                    task: worker.name(),
                    line,
                });
            }
            Message::Report(report) => match report {
                Report::Ready { .. } => worker.ready = Some(report),
                Report::Progress { completed, .. } => {
                    worker.completed = completed;
                    worker.look_at_agent();
                }
                Report::Result { completed, .. } => {
                    worker.completed = completed;
                    worker.look_at_agent();
                    worker.result = Some(report);
                }
                Report::Error { kind, message } => return Err(failure_of(worker, kind, message)),
            },
        }
        Ok(())
    }

    /// After a failure: asks the others for what they have measured so far.
    fn rescue(&mut self) {
        if self.started.is_none() {
            return;
        }
        for worker in &mut self.workers {
            worker.process.send(Instruction::Stop.as_str());
        }
        let deadline = Instant::now() + self.limits.rescue;
        while Instant::now() < deadline {
            // A second failure changes nothing: the first one is the cause.
            let _ = self.take_event();
            self.workers.iter_mut().for_each(poll_exit);
            let settled = |worker: &Worker| {
                worker.result.is_some() || (worker.exit.is_some() && worker.drained)
            };
            if self.workers.iter().all(settled) {
                return;
            }
        }
    }
}

fn poll_exit(worker: &mut Worker) {
    if worker.exit.is_none() {
        worker.exit = worker
            .process
            .poll_exit()
            .map(|status| (status, Instant::now()));
    }
}

fn failure_of(worker: &Worker, kind: ErrorKind, message: String) -> Failure {
    let task = worker.name();
    match kind {
        ErrorKind::OutOfMemory => {
            let batch = worker.task.batch;
            let remedy = match worker.task.batch_option {
                Some(option) if batch > 1 => {
                    format!("use a smaller batch, for example {option} {}", batch / 2)
                }
                _ => "end other programs on the device".to_owned(),
            };
            Failure::OutOfMemory {
                task,
                batch,
                message,
                remedy,
            }
        }
        _ => Failure::Reported {
            task,
            message,
            log: worker.log(),
        },
    }
}

fn read_reports(lines: impl BufRead, index: usize, sender: &Sender<(usize, Message)>) {
    for line in lines.lines() {
        let Ok(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        let message = match serde_json::from_str(&line) {
            Ok(report) => Message::Report(report),
            Err(_) => Message::Garbage(line.chars().take(120).collect()),
        };
        // The phase may be over already.
        if sender.send((index, message)).is_err() {
            return;
        }
    }
    let _ = sender.send((index, Message::End));
}
