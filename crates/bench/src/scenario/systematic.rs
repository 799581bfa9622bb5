//! Scenario `systematic`: threads of one process, scheduled inside it.
//!
//! Sixteen threads have a queue each and work back to back; a task is a series of commands of a set
//! duration and the wait for them. Four cases, in interleaved rounds, a process each: one thread alone;
//! sixteen unscheduled; three high and thirteen low ones; one high and fifteen low ones, by the agent's
//! own scheduler. What counts is how long a high task takes, against alone. The low threads work until
//! the high ones have done all of their tasks.

mod threads;

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use serde::Serialize;

use self::threads::{Done, Shape};
use super::Scenario;
use crate::estimate::Estimate;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::manifest::{Manifest, stamp};
use crate::peer::Peer;
use crate::stats::{CONFIDENCE, Summary, percentile_interval, summarize};
use crate::store::Store;
use crate::task::Scheduling;
use crate::worker::Device;
use crate::{Context, Outcome, UsageError};

const RESULT: &str = "systematic_result.json";
const SAMPLES: &str = "systematic_samples.csv";

/// How much longer than alone the one high task may take, P50, and how many of it are needed.
const LIMIT: f64 = 1.25;
const FEWEST_TASKS: usize = 200;
/// The process that says how long a command is, so that it is as long in all others.
const CALIBRATE: &str = "calibrate";

/// From its start until a process is ready, and from the end of a usual run to its result.
const SETUP_LIMIT: Duration = Duration::from_secs(120);
const HANG_LIMIT: Duration = Duration::from_secs(120);

/// A case: its name, its threads, and whether they are scheduled.
struct Case {
    name: &'static str,
    title: &'static str,
    high: u32,
    low: u32,
    scheduled: bool,
}

const CASES: [Case; 4] = [
    case("alone", "1 alone", 1, 0, false),
    case("unscheduled", "16 unscheduled", 1, 15, false),
    case("three-high", "3 high + 13 low", 3, 13, true),
    case("one-high", "1 high + 15 low", 1, 15, true),
];
const ALONE: usize = 0;
const JUDGED: usize = 3;

const fn case(
    name: &'static str,
    title: &'static str,
    high: u32,
    low: u32,
    scheduled: bool,
) -> Case {
    Case {
        name,
        title,
        high,
        low,
        scheduled,
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
         of 3 beside 13, and unscheduled, against alone"
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
            let shape = Shape::parse(peer).context("HIGH+LOW:ROUNDS expected")?;
            threads::run(&options, shape)?;
            return Ok(Outcome::Pass);
        }
        measure(&options, context)
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Device to run on: cpu or cuda.
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
    /// Be one of the processes: `calibrate`, or HIGH+LOW:ROUNDS.
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

#[derive(Debug, Serialize)]
struct SystematicResult {
    test_name: &'static str,
    device: &'static str,
    commands: u32,
    command_us: f64,
    rounds: u32,
    cases: Vec<CaseResult>,
    /// P50 of the one high thread's tasks ÷ P50 alone, with its interval.
    ratio: Estimate,
    limit: f64,
    verdict: Verdict,
    manifest: Manifest,
}

#[derive(Debug, Serialize)]
struct CaseResult {
    case: &'static str,
    high_threads: u32,
    low_threads: u32,
    /// 0: unscheduled.
    level: u8,
    /// Of the high threads' tasks, ms, all rounds.
    high: Summary,
    p50: Estimate,
    /// Tasks a second of all low threads together.
    low_per_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Pass,
    Fail,
    /// The interval of the ratio holds the limit, or there are too few tasks.
    RunLonger,
}

fn judge(ratio: &Estimate, tasks: usize) -> Verdict {
    let (low, high) = ratio.bounds().unwrap_or((0.0, f64::INFINITY));
    if low > LIMIT {
        Verdict::Fail
    } else if high > LIMIT || tasks < FEWEST_TASKS {
        Verdict::RunLonger
    } else {
        Verdict::Pass
    }
}

fn measure(options: &Options, context: &mut Context) -> anyhow::Result<Outcome> {
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let manifest = Manifest::now(Systematic.name(), context.command.clone(), &context.version);
    let launcher = context.launcher(store.path("logs"));
    let rounds_each = calibrate(options, &launcher, &context.interrupt)?;
    let mut done: [Vec<Done>; CASES.len()] = Default::default();
    for round in 1..=options.rounds {
        for (case, results) in CASES.iter().zip(&mut done) {
            let Case { high, low, .. } = case;
            let role = format!("{high}+{low}:{rounds_each}");
            let command = command(options, case.name, case.scheduled, &role, &launcher);
            let name = format!("{}-{round}", case.name);
            let mut peer = Peer::start(&launcher, command, &name, &context.interrupt)?;
            peer.read(SETUP_LIMIT)?;
            let line = peer.ask("start", options.longest(case))?;
            let one = serde_json::from_str(&line);
            results.push(one.with_context(|| format!("not understood: {line:?}"))?);
            peer.finish()?;
        }
    }
    let result = compare(options, &done, manifest)?;
    store.write_json(RESULT, &result)?;
    store.write_text(SAMPLES, &samples(&done))?;
    store.write_output(&result)?;
    let text = result.text(&store.path(RESULT).display().to_string());
    context.print(options.json, &result, &text)?;
    Ok(match result.verdict {
        Verdict::Pass => Outcome::Pass,
        Verdict::Fail | Verdict::RunLonger => Outcome::Fail,
    })
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
    command
        .arg(&launcher.program)
        .args(["bench", "systematic", "--peer", peer])
        .args(["--device", options.device.name()])
        .args(["--tasks", &options.tasks.to_string()])
        .args(["--commands", &options.commands.to_string()])
        .args(["--command-us", &options.command_us.to_string()]);
    command
}

fn compare(
    options: &Options,
    done: &[Vec<Done>],
    manifest: Manifest,
) -> anyhow::Result<SystematicResult> {
    let mut cases = Vec::new();
    for (case, rounds) in CASES.iter().zip(done) {
        let high: Vec<f64> = rounds
            .iter()
            .flat_map(|round| &round.high_ms)
            .flatten()
            .copied()
            .collect();
        let summary = summarize(&high).context("no task was done")?;
        let mut sorted = high;
        sorted.sort_by(f64::total_cmp);
        let seconds: f64 = rounds.iter().map(|round| round.seconds).sum();
        let low: u64 = rounds.iter().map(|round| round.low_tasks).sum();
        cases.push(CaseResult {
            case: case.name,
            high_threads: case.high,
            low_threads: case.low,
            level: rounds.iter().map(|round| round.level).min().unwrap_or(0),
            high: summary,
            p50: Estimate {
                value: summary.p50,
                interval: Some(percentile_interval(&sorted, 0.5, CONFIDENCE)),
            },
            low_per_s: low as f64 / seconds,
        });
    }
    let ratio = cases[JUDGED].p50.ratio_to(&cases[ALONE].p50);
    let verdict = judge(&ratio, cases[JUDGED].high.count as usize);
    Ok(SystematicResult {
        test_name: "systematic",
        device: options.device.name(),
        commands: options.commands,
        command_us: options.command_us,
        rounds: options.rounds,
        cases,
        ratio,
        limit: LIMIT,
        verdict,
        manifest,
    })
}

/// Every high task's time, in order.
fn samples(done: &[Vec<Done>]) -> String {
    let mut text = String::from("case,round,thread,ms\n");
    for (case, rounds) in CASES.iter().zip(done) {
        for (round, one) in rounds.iter().enumerate() {
            for (thread, tasks) in one.high_ms.iter().enumerate() {
                for ms in tasks {
                    let name = case.name;
                    text.push_str(&format!("{name},{},{thread},{ms:.3}\n", round + 1));
                }
            }
        }
    }
    text
}

impl SystematicResult {
    fn text(&self, file: &str) -> String {
        let mut text = format!(
            "Threads of one process on {}, a task is {} commands of {} µs, {} rounds\n  {:<18} {:>5} {:>7} \
             {:>10} {:>10} {:>10} {:>12}\n",
            self.device,
            self.commands,
            self.command_us,
            self.rounds,
            "",
            "level",
            "tasks",
            "P50, ms",
            "P99, ms",
            "× alone",
            "low tasks/s"
        );
        let alone = &self.cases[ALONE];
        for (case, title) in self.cases.iter().zip(CASES.iter().map(|case| case.title)) {
            text.push_str(&format!(
                "  {title:<18} {:>5} {:>7} {:>10.2} {:>10.2} {:>10.2} {:>12.2}\n",
                case.level,
                case.high.count,
                case.high.p50,
                case.high.p99,
                case.high.p50 / alone.high.p50,
                case.low_per_s
            ));
        }
        let verdict = match self.verdict {
            Verdict::Pass => "✅ PASS",
            Verdict::Fail => "❌ FAIL",
            Verdict::RunLonger => "❌ NOT DISTINGUISHABLE: run longer (--tasks, --rounds)",
        };
        let interval = self.ratio.bounds();
        let interval = interval.map_or_else(String::new, |(low, high)| {
            format!(" (95% interval {low:.3} to {high:.3})")
        });
        text.push_str(&format!(
            "{verdict} limit: 1 high + 15 low, P50 <= {LIMIT} × alone, was {:.3}{interval}\nresult: {file}\n",
            self.ratio.value
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use crate::stats::Interval;

    use super::*;

    #[test]
    fn an_interval_around_the_limit_is_no_verdict() {
        let check = |low: f64, high: f64, tasks: usize, expect: Verdict| {
            let ratio = Estimate {
                value: (low + high) / 2.0,
                interval: Some(Interval {
                    low: Some(low),
                    high: Some(high),
                }),
            };
            assert_eq!(judge(&ratio, tasks), expect, "{low} {high} {tasks}");
        };
        check(1.0, 1.1, 210, Verdict::Pass);
        check(1.2, 1.3, 210, Verdict::RunLonger);
        check(1.3, 1.4, 210, Verdict::Fail);
        check(1.0, 1.1, 150, Verdict::RunLonger);
        let unknown = Estimate::bare(1.0);
        assert_eq!(judge(&unknown, 300), Verdict::RunLonger);
    }
}
