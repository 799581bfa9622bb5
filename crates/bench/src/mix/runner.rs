//! Measures a mix: each task alone, then all of them in rounds under every way of scheduling in turn.
//!
//! The record in `run.json` is written again after every phase, so that an interrupted run leaves what
//! it has.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use xsched_sched::policy;

use super::judge::{Evidence, Samples};
use super::options::MixOptions;
use super::peers::{self, Peer};
use super::{Arrival, Mix, Task};
use crate::console::Console;
use crate::manifest::{self, Manifest, stamp, timestamp, without_folders};
use crate::phase::{Failure, Measurement};
use crate::report::{RunReport, html, summary};
use crate::run::{self, Contender, Kind, Phase, Run, TaskResult};
use crate::session::{Scheduled, Session, Settings, Stop, samples_file};
use crate::stats::{P99_REQUESTS, summarize};
use crate::store::{Store, json_text};
use crate::task;
use crate::{Context, Outcome, UsageError};

pub(super) const REPORT: &str = "report.md";
const SUMMARY: &str = "summary.csv";

/// Shortest and longest phase of a task alone that the runner chooses.
const ALONE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// So many times the requests that a verdict needs.
const MARGIN: f64 = 1.05;
/// Longest phase that the runner chooses.
const LONGEST_PHASE: Duration = Duration::from_secs(300);

/// Runs a mix to its end.
pub(crate) fn run(
    mut mix: Mix,
    options: &MixOptions,
    context: &mut Context,
) -> anyhow::Result<Outcome> {
    options.apply(&mut mix);
    for task in &mix.tasks {
        if let (Some(model), Err(why)) = (&task.model, check_model(&mix, task)) {
            return Err(UsageError(format!("model {model}: {why}")).into());
        }
        let program = task.command.iter().flatten().next();
        if let Some(program) = program.filter(|name| !is_found(name)) {
            return Err(UsageError(format!(
                "task {}: there is no program {program}: check its name, the current directory and PATH",
                task.name
            ))
            .into());
        }
    }
    let (peers, left_out) = options.peers(mix.device)?;
    let store = Store::open(options.out.as_deref(), None, &stamp())?;
    let unheeded = unheeded(&mix);
    let mut runner = Runner::new(mix, options, peers, store, context);
    runner.run.notes.extend(left_out);
    unheeded.into_iter().for_each(|note| runner.note(note));
    runner.run_all(options, context)
}

/// Hints of tasks that the policy does not heed, a line a task.
fn unheeded(mix: &Mix) -> Vec<String> {
    let Ok(policy) = policy::about(&mix.policy) else {
        return Vec::new();
    };
    let line = |task: &Task| {
        let hints = task.hints.iter().filter(|hint| !policy.heeds(*hint));
        let unheeded: Vec<&str> = hints.map(|hint| hint.kind().name()).collect();
        (!unheeded.is_empty()).then(|| {
            let (task, policy, unheeded) = (&task.name, &mix.policy, unheeded.join(", "));
            format!("{task}: policy {policy} does not heed {unheeded} (`policy` in the file chooses another).")
        })
    };
    mix.tasks.iter().filter_map(line).collect()
}

/// Whether there is a program of this name, as a shell would find it.
fn is_found(program: &str) -> bool {
    match program.contains('/') {
        true => Path::new(program).is_file(),
        false => peers::find(program).is_some(),
    }
}

fn check_model(mix: &Mix, task: &Task) -> Result<(), String> {
    match &task.model {
        Some(model) => mix.device.check_model(model),
        None => Ok(()),
    }
}

struct Runner {
    mix: Mix,
    session: Session,
    run: Run,
    /// `None` for the phases that need nobody's help.
    peers: Vec<Box<dyn Peer>>,
    samples: Samples,
    memory: Vec<u64>,
    queues_left: Vec<Option<usize>>,
}

impl Runner {
    fn new(
        mix: Mix,
        options: &MixOptions,
        peers: Vec<Box<dyn Peer>>,
        store: Store,
        context: &mut Context,
    ) -> Runner {
        let people = if options.json {
            &mut context.stderr
        } else {
            &mut context.stdout
        };
        let people = std::mem::replace(people, Box::new(std::io::sink()));
        let console = Console::new(people, context.interactive, 3);
        let settings = Settings {
            device: mix.device.name().to_owned(),
            seed: mix.seed,
            warmup: mix.warmup,
            level: mix.level,
        };
        let mut session = Session::new(context, console, store, settings, context.limits);
        session.trace = options.trace;
        let contender = |name: &str, title: &str, kind| Contender {
            name: name.to_owned(),
            title: title.to_owned(),
            kind,
        };
        let mut contenders = vec![
            contender("standalone", "Alone", Kind::Standalone),
            contender("native", "Native", Kind::Native),
            contender(
                "xsched",
                &format!("XSched ({})", mix.policy),
                Kind::Scheduled,
            ),
        ];
        contenders.extend(peers.iter().map(|peer| peer.contender()));
        if mix.soak {
            contenders.retain(|one| matches!(one.kind, Kind::Standalone | Kind::Scheduled));
        }
        let run = Run {
            format: run::FORMAT,
            manifest: Manifest::now(&mix.name, context.command.clone(), &context.version),
            description: mix.description.clone(),
            device: mix.device.name().to_owned(),
            tasks: Vec::new(),
            contenders,
            phases: Vec::new(),
            checks: Vec::new(),
            notes: mix.notes.clone(),
            failure: None,
        };
        Runner {
            mix,
            session,
            run,
            peers,
            samples: Samples::new(),
            memory: Vec::new(),
            queues_left: Vec::new(),
        }
    }

    fn run_all(mut self, options: &MixOptions, context: &mut Context) -> anyhow::Result<Outcome> {
        self.session
            .store
            .forget(&[run::FILE, REPORT, SUMMARY, html::FILE])?;
        // Until it has ended: the last word of a run that was killed.
        self.run.failure = Some(run::Failure::unfinished("measuring"));
        self.session.keep(manifest::FILE, &self.run.manifest)?;
        let stopped = match self.measure() {
            Ok(()) => None,
            Err(Stop::Phase(failed)) => Some(failed),
            Err(Stop::Error(error)) => return Err(error),
        };
        let interrupted = stopped.as_ref().is_some_and(|failed| failed.interrupted);
        self.run.failure = None;
        match stopped {
            None => {
                let evidence = Evidence {
                    mix: &self.mix,
                    run: &self.run,
                    samples: &self.samples,
                    memory: &self.memory,
                    queues_left: &self.queues_left,
                };
                self.run.checks = evidence.judge();
            }
            Some(failed) => {
                self.run.failure = Some(run::Failure {
                    phase: failed.phase,
                    message: failed.message,
                    partial_samples: failed.partial_samples,
                });
            }
        }
        let report = self.keep()?;
        html::write_report(self.session.store.dir(), &report)?;
        let folder = self.session.store.dir().display().to_string();
        let console = &mut self.session.console;
        console.stage(3, &format!("results in {folder}"));
        console.line(&format!("\n{}", summary::text(&report)));
        if options.json {
            let document = summary::document(&report)?;
            context.stdout.write_all(json_text(&document)?.as_bytes())?;
            context.stdout.flush()?;
        }
        Ok(match interrupted {
            true => Outcome::Interrupted,
            false => report.verdict.outcome(options.quick),
        })
    }

    /// Writes what there is so far.
    fn keep(&mut self) -> anyhow::Result<RunReport> {
        self.session.keep(run::FILE, &self.run)?;
        let store = &self.session.store;
        let report = RunReport::read(store.dir())?;
        store.write_text(REPORT, &summary::markdown(&report))?;
        store.write_text(SUMMARY, &summary::csv(&report)?)?;
        Ok(report)
    }

    fn measure(&mut self) -> Result<(), Stop> {
        let folder = self.session.store.dir().display().to_string();
        let text = format!("rates and lengths; results go to {folder}");
        self.session.console.stage(1, &text);
        let tasks = self.mix.tasks.clone();
        for task in &tasks {
            let arrival = self.arrival(task)?;
            self.run.tasks.push(run::Task {
                name: task.name.clone(),
                model: without_folders(&task.title()),
                priority: task.hints_text(),
                batch: task.batch,
                arrival,
            });
            self.keep()?;
        }
        self.extend();
        // In turn, alone too, so that whatever changes slowly on the machine changes all of them.
        for round in 1..=self.mix.rounds {
            let contenders = self.run.contenders.clone();
            for contender in contenders {
                match contender.kind {
                    Kind::Standalone => self.alone(&contender, round)?,
                    _ => self.round(&contender, round)?,
                }
            }
        }
        Ok(())
    }

    /// How a task's requests come, in requests per second; a share is one of its measured peak.
    fn arrival(&mut self, task: &Task) -> Result<task::Arrival, Stop> {
        let share = match task.arrival {
            Arrival::Closed => return Ok(task::Arrival::Closed),
            Arrival::Rate(rate_hz) => return Ok(task::Arrival::Open { rate_hz }),
            Arrival::Poisson(rate_hz) => return Ok(task::Arrival::Poisson { rate_hz }),
            Arrival::Period(period) => {
                let rate_hz = 1.0 / period.as_secs_f64();
                return Ok(task::Arrival::Open { rate_hz });
            }
            Arrival::Share(share) => share,
        };
        let name = format!("peak-{}", task.name);
        let mut spec = task.spec(task::Arrival::Closed);
        spec.options.retain(|word| word != "--drop-late");
        let duration = ALONE.0.min(self.mix.duration);
        let measured = self.session.unscheduled(&name, vec![spec], duration)?;
        self.session
            .keep_samples(&name, std::slice::from_ref(&measured))?;
        let peak = &measured[0];
        if peak.completed == 0 {
            return Err(self.session.reject(&name, Failure::Nothing));
        }
        let peak_hz = peak.completed as f64 * 1e3 / peak.elapsed_ms;
        let rate_hz = three_digits(peak_hz * share);
        self.note(format!(
            "{}: {rate_hz} requests/s, {:.0} % of the {peak_hz:.2} that it reaches alone and back to back.",
            task.name,
            share * 100.0,
        ));
        Ok(task::Arrival::Open { rate_hz })
    }

    fn note(&mut self, text: String) {
        self.session.console.line(&format!("      {text}"));
        self.run.notes.push(without_folders(&text));
    }

    /// How long a task runs alone in all rounds together. One whose limits compare percentiles does so until its own is
    /// known well enough.
    fn alone_for(&self, task: &Task) -> Duration {
        if let Some(asked) = self.mix.standalone {
            return asked;
        }
        let short = ALONE.0.min(self.mix.duration);
        if task.limits.p99_standalone.is_none() {
            return short;
        }
        let known = self.run.tasks.iter().find(|known| known.name == task.name);
        let needed = match known.map(|known| known.arrival) {
            Some(task::Arrival::Open { rate_hz } | task::Arrival::Poisson { rate_hz }) => {
                Duration::from_secs_f64((P99_REQUESTS as f64 * MARGIN / rate_hz).min(1e6))
            }
            _ => short,
        };
        let most = ALONE.1.min(self.mix.duration * self.mix.rounds);
        needed.clamp(short.min(most), most)
    }

    /// How long it does so in one of them.
    fn alone_in_a_round(&self, task: &Task) -> Duration {
        let part = self.alone_for(task) / self.mix.rounds;
        match self.spec(task).arrival {
            // Their times follow from the seed: those of a whole phase, not the first few again and again.
            task::Arrival::Poisson { .. } => part.max(self.mix.duration),
            arrival => arrival.whole(part),
        }
    }

    /// Makes the phases as long as a verdict on every percentile needs.
    fn extend(&mut self) {
        let rated =
            |task: &&Task| task.limits.p99.is_some() || task.limits.p99_standalone.is_some();
        let needed = |task: &Task| {
            let known = self.run.tasks.iter().find(|known| known.name == task.name);
            match known?.arrival {
                task::Arrival::Open { rate_hz } | task::Arrival::Poisson { rate_hz } => {
                    Some(P99_REQUESTS as f64 * MARGIN / rate_hz / f64::from(self.mix.rounds))
                }
                task::Arrival::Closed => None,
            }
        };
        let seconds = self.mix.tasks.iter().filter(rated).filter_map(needed);
        let longest = Duration::from_secs_f64(seconds.fold(0.0, f64::max).ceil().min(1e6));
        let duration = longest.min(LONGEST_PHASE);
        if self.mix.extend && duration > self.mix.duration {
            self.mix.duration = duration;
            self.note(format!(
                "Phases of {} s, as the verdicts on the P99 need {P99_REQUESTS} requests.",
                duration.as_secs()
            ));
        }
    }

    fn spec(&self, task: &Task) -> task::TaskSpec {
        let known = self.run.tasks.iter().find(|known| known.name == task.name);
        task.spec(known.map_or(task::Arrival::Closed, |known| known.arrival))
    }

    /// One phase of a way of scheduling.
    fn round(&mut self, contender: &Contender, round: u32) -> Result<(), Stop> {
        let name = format!("{}-{round}", contender.name);
        let duration = self.mix.duration;
        let text = format!(
            "{}: {} s, round {round} of {}",
            contender.title,
            duration.as_secs_f64(),
            self.mix.rounds
        );
        self.session.console.stage(2, &text);
        let specs: Vec<task::TaskSpec> =
            self.mix.tasks.iter().map(|task| self.spec(task)).collect();
        let started = timestamp();
        let (measured, scheduler_cpu_s) = match contender.kind {
            Kind::Native => (self.session.unscheduled(&name, specs, duration)?, None),
            Kind::Scheduled => {
                let policy = self.mix.policy.clone();
                let Scheduled {
                    measured,
                    scheduler_cpu_s,
                    memory_kib,
                    queues_left,
                } = self.session.scheduled(&name, specs, duration, &policy)?;
                self.memory.extend(memory_kib);
                self.queues_left.push(queues_left);
                (measured, scheduler_cpu_s)
            }
            Kind::Standalone | Kind::Peer => match self.beside_peer(contender, &name, specs)? {
                Some(measured) => (measured, None),
                None => return Ok(()),
            },
        };
        let contender = &contender.name;
        self.finished(
            contender,
            round,
            &name,
            started,
            duration,
            measured,
            scheduler_cpu_s,
        )
    }

    /// A phase under somebody else's scheduler; `None` and a note if that cannot be had.
    fn beside_peer(
        &mut self,
        contender: &Contender,
        name: &str,
        mut specs: Vec<task::TaskSpec>,
    ) -> Result<Option<Vec<Measurement>>, Stop> {
        let mut peers = self.peers.iter();
        let index = peers.position(|peer| peer.contender().name == contender.name);
        let Some(index) = index else {
            return Ok(None);
        };
        if let Some(why) = self.session.start_peer(&mut *self.peers[index], name)? {
            drop(self.peers.remove(index));
            self.run.contenders.retain(|one| one != contender);
            self.run
                .phases
                .retain(|one| one.contender != contender.name);
            self.note(format!("{} is left out: {why}.", contender.title));
            return Ok(None);
        }
        let tasks = specs.len();
        for (rank, spec) in specs.iter_mut().enumerate() {
            self.peers[index].environment(spec, rank, tasks);
        }
        let measured = self.session.unscheduled(name, specs, self.mix.duration);
        self.peers[index].stop();
        measured.map(Some)
    }

    /// A round of every task by itself.
    fn alone(&mut self, contender: &Contender, round: u32) -> Result<(), Stop> {
        let rounds = self.mix.rounds;
        let text = format!("Alone: one task at a time, round {round} of {rounds}");
        self.session.console.stage(2, &text);
        for task in self.mix.tasks.clone() {
            let duration = self.alone_in_a_round(&task);
            let spec = self.spec(&task);
            let name = match rounds {
                1 => format!("{}-{}", contender.name, task.name),
                _ => format!("{}-{}-{round}", contender.name, task.name),
            };
            let started = timestamp();
            let measured = self.session.unscheduled(&name, vec![spec], duration)?;
            self.finished(
                &contender.name,
                round,
                &name,
                started,
                duration,
                measured,
                None,
            )?;
        }
        Ok(())
    }

    /// Keeps what a phase has measured.
    #[allow(clippy::too_many_arguments)]
    fn finished(
        &mut self,
        contender: &str,
        round: u32,
        name: &str,
        timestamp: String,
        duration: Duration,
        measured: Vec<Measurement>,
        scheduler_cpu_s: Option<f64>,
    ) -> Result<(), Stop> {
        self.session
            .keep_samples(name, std::slice::from_ref(&measured))?;
        self.session.keep_log(name, &measured)?;
        for one in &measured {
            let key = (contender.to_owned(), one.task.name.clone());
            self.samples
                .entry(key)
                .or_default()
                .push(one.samples.clone());
        }
        self.run.phases.push(Phase {
            contender: contender.to_owned(),
            round,
            timestamp,
            duration_s: duration.as_secs_f64(),
            tasks: measured.iter().map(|one| result(one, duration)).collect(),
            scheduler_cpu_s,
            samples_file: samples_file(name),
            trace_file: self.session.trace_file.take(),
        });
        self.run.notes.append(&mut self.session.notes);
        self.keep()?;
        Ok(())
    }
}

fn result(measured: &Measurement, duration: Duration) -> TaskResult {
    let latencies: Vec<f64> = measured.samples.iter().map(|sample| sample[2]).collect();
    // A back-to-back task runs until its last completion, the others wait for the end of the phase.
    let elapsed_s = measured.elapsed_ms / 1e3;
    let elapsed_s = match measured.task.arrival {
        task::Arrival::Closed => elapsed_s,
        _ => elapsed_s.max(duration.as_secs_f64()),
    };
    TaskResult {
        task: measured.task.name.clone(),
        level: measured.level,
        start_ns: measured.start_ns,
        elapsed_s,
        completed: measured.completed,
        due: measured.task.requests_due(duration),
        dropped: measured.dropped,
        throughput_per_s: measured.completed as f64 / elapsed_s,
        latency_ms: summarize(&latencies),
        output_digest: measured.digest.clone(),
        outputs_equal: measured.digests_equal,
    }
}

/// Rounded down: a rate that one can type.
fn three_digits(value: f64) -> f64 {
    let scale = 10f64.powi(2 - value.log10().floor() as i32);
    (value * scale).floor() / scale
}

#[cfg(test)]
mod tests {
    use super::three_digits;

    #[test]
    fn rates_can_be_typed() {
        assert_eq!(three_digits(13.3333), 13.3);
        assert_eq!(three_digits(0.45678), 0.456);
        assert_eq!(three_digits(1234.5), 1230.0);
    }
}
