//! Scenario `systematic`: threads of one process, scheduled inside it.
//!
//! Sixteen threads have a queue each and work back to back; a task is a series of commands of a set
//! duration and the wait for them. The cases, in interleaved rounds, a process each: one thread alone;
//! sixteen unscheduled; on CUDA sixteen of which one has a stream of the driver's highest priority; three
//! high and thirteen low ones, and one high and fifteen low ones, by the agent's own scheduler. What
//! counts is how long a high task takes, against alone. The low threads work until the high ones have
//! done all of their tasks.

mod threads;

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use self::threads::{BY_DRIVER, Done, Shape};
use super::Scenario;
use crate::criteria::{self, Limit};
use crate::estimate::Estimate;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::manifest::{Manifest, stamp, timestamp, without_folders};
use crate::peer::Peer;
use crate::report::{RunReport, html, summary};
use crate::run::{self, Check, Contender, Grade, Kind, Phase, Run, Task, TaskResult};
use crate::session::samples_file;
use crate::stats::summarize;
use crate::store::Store;
use crate::task::{Arrival, Scheduling};
use crate::worker::Device;
use crate::{Context, Outcome, UsageError};
use xsched_wire::env;

/// The task whose times count, and its priority.
const HIGH: &str = "high";

/// How much longer than alone the one high task may take, P50, and how many of it are needed.
const LIMIT: f64 = 1.25;
const FEWEST_TASKS: u64 = 200;
/// The process that says how long a command is, so that it is as long in all others.
const CALIBRATE: &str = "calibrate";

/// From its start until a process is ready, and from the end of a usual run to its result.
const SETUP_LIMIT: Duration = Duration::from_secs(120);
const HANG_LIMIT: Duration = Duration::from_secs(120);

/// A case: its name, its threads, and who prefers the high ones.
struct Case {
    name: &'static str,
    title: &'static str,
    high: u32,
    low: u32,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    /// Priorities of the driver's own streams. CUDA has them.
    Driver,
    Scheduler,
}

const CASES: [Case; 5] = [
    case("alone", "1 alone", 1, 0, By::Nobody),
    case("unscheduled", "16 unscheduled", 1, 15, By::Nobody),
    case(
        "stream-priority",
        "1 + 15 by CUDA's priorities",
        1,
        15,
        By::Driver,
    ),
    case("three-high", "3 high + 13 low", 3, 13, By::Scheduler),
    case("one-high", "1 high + 15 low", 1, 15, By::Scheduler),
];
const ALONE: usize = 0;
const JUDGED: usize = 4;

/// Those that a device has.
fn cases(device: Device) -> impl Iterator<Item = &'static Case> {
    CASES
        .iter()
        .filter(move |case| case.by != By::Driver || device == Device::Cuda)
}

const fn case(name: &'static str, title: &'static str, high: u32, low: u32, by: By) -> Case {
    Case {
        name,
        title,
        high,
        low,
        by,
    }
}

/// The scenario.
pub(super) struct Systematic;

impl Scenario for Systematic {
    fn name(&self) -> &'static str {
        "systematic"
    }

    fn measures(&self) -> &'static str {
        "Sixteen threads of one process under its own scheduler: a task of 1 high thread beside 15 low ones, \
         of 3 beside 13, unscheduled, and by CUDA's stream priorities, against alone"
    }

    fn passes_when(&self) -> &'static str {
        "P50 of the one high thread's tasks <= 1.25 × alone, of at least 200 tasks"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        options.check(context)?;
        if options.peer.as_deref() == Some(CALIBRATE) {
            threads::calibrate(&options)?;
            return Ok(Outcome::Pass);
        }
        if let Some(peer) = &options.peer {
            let shape =
                Shape::parse(peer).context("HIGH+LOW:ROUNDS or HIGH+LOW:ROUNDS:driver expected")?;
            threads::run(&options, shape)?;
            return Ok(Outcome::Pass);
        }
        measure(&options, context)
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Device to run on: cpu, or cuda, which also has stream priorities to compare with.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: Device,
    /// Tasks of a high thread in a round.
    #[arg(long, value_name = "N", default_value_t = 70)]
    tasks: u32,
    /// Commands of a task.
    #[arg(long, value_name = "N", default_value_t = 30)]
    commands: u32,
    /// Length of a command, µs; a product of 2048 × 2048 in fp32 takes about as long on a large GPU.
    #[arg(long, value_name = "T", default_value_t = 350.0)]
    command_us: f64,
    /// Rounds of all cases.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Directory of the result [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    json: bool,
    /// Be one of the processes: `calibrate`, or HIGH+LOW:ROUNDS, or that with :driver.
    #[arg(long, hide = true)]
    peer: Option<String>,
}

impl Options {
    fn check(&self, context: &Context) -> Result<(), UsageError> {
        let refuse = |message: String| Err(UsageError(message));
        if self.device == Device::OpenCl {
            return refuse("--device opencl: use cpu or cuda".to_owned());
        }
        if !(1..=100_000).contains(&self.tasks) {
            return refuse(format!("--tasks {}: give 1 to 100000", self.tasks));
        }
        if !(1..=10_000).contains(&self.commands) {
            return refuse(format!("--commands {}: give 1 to 10000", self.commands));
        }
        if !(5.0..=100_000.0).contains(&self.command_us) {
            return refuse(format!(
                "--command-us {}: give 5 to 100000 µs",
                self.command_us
            ));
        }
        if !(1..=100).contains(&self.rounds) {
            return refuse(format!("--rounds {}: give 1 to 100", self.rounds));
        }
        if self.device == Device::Cuda && self.peer.is_none() && context.preload.is_none() {
            return refuse(
                "no shim is installed: put libshimcuda.so beside xsched (cargo build --release -p \
                 xsched-cuda)"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// How long a case may take. Unscheduled, a task may take as long as one of every thread.
    fn longest(&self, case: &Case) -> Duration {
        let alone = f64::from(self.tasks * self.commands) * self.command_us / 1e6;
        HANG_LIMIT + 4 * Duration::from_secs_f64(alone * f64::from(case.high + case.low))
    }
}

/// What has been measured so far, and where it is kept.
struct Experiment<'a> {
    options: &'a Options,
    store: Store,
    launcher: Launcher,
    interrupt: Interrupt,
    run: Run,
    /// Of each case the tasks of its low threads, and the time that they took, seconds.
    low: [(u64, f64); CASES.len()],
}

fn measure(options: &Options, context: &mut Context) -> anyhow::Result<Outcome> {
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let manifest = Manifest::now(Systematic.name(), context.command.clone(), &context.version);
    let mut experiment = Experiment {
        options,
        launcher: context.launcher(store.path("logs")),
        interrupt: context.interrupt.clone(),
        run: start(options, manifest),
        store,
        low: Default::default(),
    };
    experiment.keep()?;
    let ended = experiment.rounds();
    experiment.run.failure = match &ended {
        Ok(()) => None,
        // The record says how far it came.
        Err(error) => Some(run::Failure {
            message: without_folders(&format!("{error:#}")),
            ..experiment
                .run
                .failure
                .take()
                .unwrap_or_else(|| run::Failure::unfinished(""))
        }),
    };
    if ended.is_ok() {
        experiment.run.checks = checks(&experiment.report()?);
    }
    let report = experiment.keep()?;
    html::write_report(experiment.store.dir(), &report)?;
    ended?;
    let document = summary::document(&report)?;
    experiment.store.write_output(&document)?;
    let folder = experiment.store.dir().display();
    let text = format!("{}results in {folder}\n", summary::text(&report));
    context.print(options.json, &document, &text)?;
    Ok(report.verdict.outcome(false))
}

/// The record of a run that starts now.
fn start(options: &Options, manifest: Manifest) -> Run {
    let contender = |case: &Case| Contender {
        name: case.name.to_owned(),
        title: case.title.to_owned(),
        kind: match case.by {
            By::Nobody if case.low == 0 => Kind::Standalone,
            By::Nobody => Kind::Native,
            By::Driver => Kind::Peer,
            By::Scheduler => Kind::Scheduled,
        },
    };
    Run {
        format: run::FORMAT,
        manifest,
        description:
            "Threads of one process, a queue each, under its own scheduler: how long a task of a \
                      high thread takes."
                .to_owned(),
        device: options.device.name().to_owned(),
        tasks: vec![Task {
            name: HIGH.to_owned(),
            model: format!(
                "{} commands of {} µs and the wait for them",
                options.commands, options.command_us
            ),
            priority: HIGH.to_owned(),
            batch: 1,
            arrival: Arrival::Closed,
        }],
        contenders: cases(options.device).map(contender).collect(),
        phases: Vec::new(),
        checks: Vec::new(),
        notes: Vec::new(),
        failure: Some(run::Failure::unfinished(CALIBRATE)),
    }
}

impl Experiment<'_> {
    fn rounds(&mut self) -> anyhow::Result<()> {
        let rounds_each = calibrate(self.options, &self.launcher, &self.interrupt)?;
        for round in 1..=self.options.rounds {
            for case in cases(self.options.device) {
                let name = format!("{}-{round}", case.name);
                self.run.failure = Some(run::Failure::unfinished(&name));
                let timestamp = timestamp();
                let done = self.case(case, &name, rounds_each)?;
                self.finished(case, round, &name, timestamp, &done)?;
            }
        }
        Ok(())
    }

    fn case(&self, case: &Case, name: &str, rounds_each: u64) -> anyhow::Result<Done> {
        let Case { high, low, by, .. } = case;
        let by_driver = if *by == By::Driver { BY_DRIVER } else { "" };
        let role = format!("{high}+{low}:{rounds_each}{by_driver}");
        let Experiment {
            options, launcher, ..
        } = self;
        let scheduled = case.by == By::Scheduler;
        let command = command(options, case.name, scheduled, &role, launcher);
        let mut peer = Peer::start(launcher, command, name, &self.interrupt)?;
        peer.read(SETUP_LIMIT)?;
        let line = peer.ask("start", options.longest(case))?;
        let done = serde_json::from_str(&line);
        let done = done.with_context(|| format!("not understood: {line:?}"))?;
        peer.finish()?;
        Ok(done)
    }

    /// Keeps what a case has measured.
    fn finished(
        &mut self,
        case: &Case,
        round: u32,
        name: &str,
        timestamp: String,
        done: &Done,
    ) -> anyhow::Result<()> {
        let samples = samples_file(name);
        let (text, latencies) = samples_of(round, done);
        self.store.write_text(&samples, &text)?;
        let completed = latencies.len() as u64;
        // Without the last tasks of the low threads, which end after those of the high ones.
        let sums = done.high_ms.iter().map(|thread| thread.iter().sum::<f64>());
        let elapsed_s = sums.fold(0.0, f64::max) / 1e3;
        self.run.phases.push(Phase {
            contender: case.name.to_owned(),
            round,
            timestamp,
            duration_s: done.seconds,
            tasks: vec![TaskResult {
                task: HIGH.to_owned(),
                level: done.level,
                start_ns: 0,
                elapsed_s,
                completed,
                due: None,
                dropped: 0,
                throughput_per_s: completed as f64 / elapsed_s,
                latency_ms: summarize(&latencies),
                output_digest: String::new(),
                outputs_equal: true,
            }],
            scheduler_cpu_s: None,
            samples_file: samples,
            trace_file: None,
        });
        for (known, (tasks, seconds)) in CASES.iter().zip(&mut self.low) {
            if known.name == case.name {
                *tasks += done.low_tasks;
                *seconds += done.seconds;
            }
        }
        let low = CASES.iter().zip(self.low);
        self.run.notes = low
            .filter(|(case, (_, seconds))| case.low > 0 && *seconds > 0.0)
            .map(|(case, (tasks, seconds))| {
                let rate = tasks as f64 / seconds;
                format!(
                    "{}: the low threads do {rate:.2} tasks/s together.",
                    case.title
                )
            })
            .collect();
        self.keep().map(drop)
    }

    fn report(&self) -> anyhow::Result<RunReport> {
        Ok(RunReport::read(self.store.dir())?)
    }

    fn keep(&self) -> anyhow::Result<RunReport> {
        self.store.write_json(run::FILE, &self.run)?;
        self.report()
    }
}

/// The tasks of all high threads as samples, and how long each took, ms.
fn samples_of(round: u32, done: &Done) -> (String, Vec<f64>) {
    let mut tasks: Vec<(f64, f64)> = Vec::new();
    for thread in &done.high_ms {
        let mut start = 0.0;
        for ms in thread {
            tasks.push((start, *ms));
            start += ms;
        }
    }
    tasks.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut text = String::from("task,arrival_ms,start_ms,latency_ms,round\n");
    for (start, ms) in &tasks {
        text.push_str(&format!("{HIGH},{start:.3},{start:.3},{ms:.3},{round}\n"));
    }
    (text, tasks.into_iter().map(|(_, ms)| ms).collect())
}

/// The criterion, and what is worth knowing beside it.
fn checks(report: &RunReport) -> Vec<Check> {
    let p50 = |case: &Case| {
        let figure = report.figure(HIGH, case.name)?;
        Some((figure.latency_ms.as_ref()?.p50, figure.completed))
    };
    let Some((alone, _)) = p50(&CASES[ALONE]) else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        let Some((figure, tasks)) = p50(case).filter(|_| index != ALONE) else {
            continue;
        };
        let ratio = figure.ratio_to(&alone);
        let what = format!("{}: P50 ÷ alone", case.title);
        checks.push(match index {
            JUDGED => judge(&what, &ratio, tasks),
            _ => Check {
                interval: ratio.interval,
                ..criteria::information(Some(HIGH), &what, ratio.value, "×")
            },
        });
    }
    let scheduled = |contender: &str| {
        CASES
            .iter()
            .any(|case| case.name == contender && case.by == By::Scheduler)
    };
    let phases = report.run.phases.iter();
    let wrong = phases.filter(|phase| {
        let tasks = &phase.tasks;
        tasks
            .iter()
            .any(|task| (task.level > 0) != scheduled(&phase.contender))
    });
    let what = "processes unscheduled where they should be scheduled, or the reverse";
    let wrong = wrong.count();
    let note = (wrong > 0).then(|| "`xsched doctor` says why".to_owned());
    checks.push(criteria::none_of(what, wrong, "processes", note));
    checks
}

fn judge(what: &str, ratio: &Estimate, tasks: u64) -> Check {
    let limit = Limit::AtMost(LIMIT);
    let check = criteria::open(Some(HIGH), what, limit.text(2), "×");
    let check = criteria::judged(check, ratio.value, ratio.interval, limit);
    match check.grade {
        Grade::Met | Grade::NotDistinguishable if tasks < FEWEST_TASKS => Check {
            grade: Grade::NotEnoughRequests,
            note: Some(format!(
                "{tasks} tasks, {FEWEST_TASKS} are needed: give more --tasks or --rounds"
            )),
            ..check
        },
        _ => check,
    }
}

/// Length of a command in the device's own measure.
fn calibrate(options: &Options, launcher: &Launcher, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let command = command(options, CALIBRATE, false, CALIBRATE, launcher);
    let mut peer = Peer::start(launcher, command, CALIBRATE, interrupt)?;
    let rounds = peer.read(SETUP_LIMIT)?.trim().parse()?;
    peer.finish()?;
    Ok(rounds)
}

fn command(
    options: &Options,
    name: &str,
    scheduled: bool,
    peer: &str,
    launcher: &Launcher,
) -> Program {
    let scheduling = match scheduled {
        true => Scheduling::Local,
        false => Scheduling::Off,
    };
    let mut command = launcher.run_command(&scheduling, None, "normal", name);
    // As many for those that nobody schedules, or that would be what is compared.
    command
        .envs(env::cuda_connections())
        .arg(&launcher.program)
        .args(["bench", "systematic", "--peer", peer])
        .args(["--device", options.device.name()])
        .args(["--tasks", &options.tasks.to_string()])
        .args(["--commands", &options.commands.to_string()])
        .args(["--command-us", &options.command_us.to_string()]);
    command
}

#[cfg(test)]
mod tests {
    use crate::stats::Interval;

    use super::*;

    #[test]
    fn an_interval_around_the_limit_is_no_verdict() {
        let check = |low: f64, high: f64, tasks: u64, expect: Grade| {
            let ratio = Estimate {
                value: (low + high) / 2.0,
                interval: Some(Interval {
                    low: Some(low),
                    high: Some(high),
                }),
            };
            let check = judge("P50", &ratio, tasks);
            assert_eq!(check.grade, expect, "{low} {high} {tasks}");
        };
        check(1.0, 1.1, 210, Grade::Met);
        check(1.19, 1.3, 210, Grade::NotDistinguishable);
        check(1.3, 1.4, 210, Grade::Missed);
        check(1.0, 1.1, 199, Grade::NotEnoughRequests);
        check(1.3, 1.4, 199, Grade::Missed);
    }
}
