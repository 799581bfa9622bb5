//! Scenario `preempt-latency`: how long a running program keeps the device once it may not.
//!
//! Two programs on one device under a daemon. The low one keeps its queue full of commands of T µs; the
//! high one becomes ready at a random phase of them.
//!
//! * Levels 1 and 2: from the store that closes the low gate to the end of the last low command that
//!   still completes. The daemon stores the gate, as always; the low program watches the word, and takes
//!   for the store's time the last moment at which it found the gate open. The device writes a word to
//!   host memory at the end of each command, and the low program takes for its end the moment at which
//!   it reads it. So the figure is never too small, and too large by the two reads and the way of a word
//!   to host memory, a few µs together. The high program takes no time of the device meanwhile: its
//!   queue holds a wait.
//! * Level 3: from the high program's submission of a very short command to the moment that it has run,
//!   minus the median of the same with nobody else on the device.

mod programs;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use serde::Serialize;
use xsched_wire::env;

use self::programs::{Role, Seen};
use super::Scenario;
use crate::brief::Brief;
use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::manifest::{Manifest, stamp};
use crate::peer::Peer;
use crate::stats::Percentiles;
use crate::store::Store;
use crate::task::Scheduling;
use crate::worker::Device;
use crate::{Context, Outcome, UsageError};

const SAMPLES: &str = "preempt_latency_samples.csv";

/// Trials before those that count.
const WARMUP: u32 = 20;
/// Trials that a verdict needs.
const MIN_TRIALS: u32 = 2000;
/// Trials of level 3 with nobody else on the device.
const ALONE: u32 = 500;
/// The window of level 1: commands in flight at most.
const WINDOW: u32 = 8;
/// A program that takes longer to answer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Limits of the P99: levels 1 and 2 in commands, level 3 in µs whatever the command.
const LV1_LIMIT: f64 = 8.5;
const LV2_LIMIT: f64 = 1.3;
const LV3_LIMIT_US: f64 = 250.0;

/// The scenario.
pub(super) struct PreemptLatency;

impl Scenario for PreemptLatency {
    fn name(&self) -> &'static str {
        "preempt-latency"
    }

    fn measures(&self) -> &'static str {
        "How long a low-priority program keeps the device once a high-priority one is ready"
    }

    fn passes_when(&self) -> &'static str {
        "P99 of at least 2000 trials, with commands of T µs: level 1 (window 8) <= 8.5 T, level 2 \
         <= 1.3 T, level 3 <= 250 µs"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        options.check()?;
        match options.peer {
            Some(role) => {
                programs::run(role, options.device, options.kernel_us).map(|()| Outcome::Pass)
            }
            None => measure(&options, context),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Preemption level.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=3))]
    level: Option<u8>,
    /// Length of a command, T, µs.
    #[arg(long, value_name = "T", default_value_t = 500.0)]
    kernel_us: f64,
    /// Trials.
    #[arg(long, value_name = "N", default_value_t = MIN_TRIALS)]
    trials: u32,
    /// Device to run on: cpu or cuda.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: Device,
    /// Directory of the result [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    json: bool,
    /// Be one of the two programs.
    #[arg(long, hide = true)]
    peer: Option<Role>,
}

impl Options {
    fn check(&self) -> Result<(), UsageError> {
        if self.level.is_none() && self.peer.is_none() {
            return Err(UsageError("--level is missing: give 1, 2 or 3".to_owned()));
        }
        if self.device == Device::OpenCl {
            let message = "--device opencl: use cpu or cuda".to_owned();
            return Err(UsageError(message));
        }
        if !(10..=1_000_000).contains(&self.trials) {
            let message = format!("--trials {}: give 10 to 1000000", self.trials);
            return Err(UsageError(message));
        }
        if !(5.0..=100_000.0).contains(&self.kernel_us) {
            let message = format!("--kernel-us {}: give 5 to 100000 µs", self.kernel_us);
            return Err(UsageError(message));
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct PreemptionResult {
    test_name: &'static str,
    device: &'static str,
    level: u8,
    /// T, as asked for.
    kernel_us: f64,
    /// Commands in flight at most; level 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    trials: u32,
    /// Trials that did not count, since the gate opened again before their end.
    reopened: u32,
    latency: Percentiles,
    /// The same in units of T.
    p50_kernels: f64,
    p99_kernels: f64,
    max_kernels: f64,
    /// Most commands that still completed; levels 1 and 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    most_commands: Option<u32>,
    /// Submission to run with nobody else on the device; level 3. Its median is subtracted above.
    #[serde(skip_serializing_if = "Option::is_none")]
    alone: Option<Percentiles>,
    /// Of the P99, µs.
    limit_us: f64,
    verdict: Verdict,
    manifest: Manifest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Pass,
    Fail,
    NotEnoughTrials,
}

/// What all trials saw.
#[derive(Default)]
struct Trials {
    latencies_us: Vec<f64>,
    /// Commands that still completed, of each.
    commands: Vec<u32>,
    reopened: u32,
    alone: Option<Percentiles>,
}

fn measure(options: &Options, context: &mut Context) -> anyhow::Result<Outcome> {
    let level = options.level.context("checked above")?;
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let manifest = Manifest::now(
        PreemptLatency.name(),
        context.command.clone(),
        &context.version,
    );
    let brief = Brief::begin(store, &manifest)?;
    let launcher = context.launcher(brief.store().path("logs"));
    let daemon = Daemon::start(&launcher, &context.interrupt)?;
    let mut bench = Bench {
        options,
        level,
        launcher,
        daemon,
        interrupt: context.interrupt.clone(),
    };
    let trials = match level {
        3 => bench.starts()?,
        _ => bench.closings()?,
    };
    bench.daemon.check()?;

    let result = judge(options, level, &trials, manifest)?;
    brief.store().write_text(SAMPLES, &samples(&trials))?;
    brief.end(options.json, &result, |file| result.text(file), context)?;
    Ok(match result.verdict {
        Verdict::Pass => Outcome::Pass,
        Verdict::Fail | Verdict::NotEnoughTrials => Outcome::Fail,
    })
}

struct Bench<'a> {
    options: &'a Options,
    level: u8,
    launcher: Launcher,
    daemon: Daemon,
    interrupt: Interrupt,
}

impl Bench<'_> {
    /// Starts one of the programs; it is ready when this returns.
    fn start(&self, role: Role) -> anyhow::Result<Peer> {
        let Options {
            kernel_us, device, ..
        } = self.options;
        let scheduling = Scheduling::Daemon(self.daemon.socket().to_owned());
        let name = role.name();
        let mut command = self
            .launcher
            .run_command(&scheduling, Some(self.level), name, name);
        command
            .env(env::THRESHOLD.name, WINDOW.to_string())
            .env(env::BATCH_SIZE.name, (WINDOW / 2).to_string())
            .arg(&self.launcher.program)
            .args(["bench", "preempt-latency", "--peer", name])
            .args(["--device", device.name()])
            .args(["--kernel-us", &kernel_us.to_string()]);
        let mut peer = Peer::start(&self.launcher, command, name, &self.interrupt)?;
        let in_force = peer.read(LIMIT)?;
        if in_force != self.level.to_string() {
            bail!(
                "level {} does not work here: level {in_force} is in force; `xsched doctor` says why",
                self.level
            );
        }
        Ok(peer)
    }

    /// Until the high program becomes ready again: the low one has filled its queue, and any phase of
    /// its command is as likely as any other.
    fn pause(&self, trial: u32) {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let kernel = self.options.kernel_us;
        let phase = (f64::from(trial) * GOLDEN).fract();
        let us = (2.0 * kernel).max(1000.0) + phase * (2.0 * kernel).max(1000.0);
        std::thread::sleep(Duration::from_secs_f64(us / 1e6));
    }

    /// Levels 1 and 2.
    fn closings(&mut self) -> anyhow::Result<Trials> {
        let mut high = self.start(Role::High)?;
        let mut low = self.start(Role::Low)?;
        let mut trials = Trials::default();
        let most = 2 * (self.options.trials + WARMUP);
        for trial in 0.. {
            low.ask("watch", LIMIT)?;
            self.pause(trial);
            high.ask("hold", LIMIT)?;
            let line = low.read(LIMIT)?;
            high.ask("release", LIMIT)?;
            let seen = Seen::parse(&line).with_context(|| format!("not understood: {line:?}"))?;
            match seen {
                _ if trial < WARMUP => {}
                Seen::Reopened => trials.reopened += 1,
                Seen::Closed {
                    latency_ns,
                    commands,
                } => {
                    trials.latencies_us.push(latency_ns as f64 / 1e3);
                    trials.commands.push(commands);
                }
            }
            if trials.latencies_us.len() == self.options.trials as usize {
                break;
            }
            if trial >= most {
                bail!(
                    "{} of {trial} trials ended before their time, as the low gate opened again: end \
                     other programs on the device",
                    trials.reopened
                );
            }
        }
        high.finish()?;
        low.finish()?;
        Ok(trials)
    }

    /// Level 3.
    fn starts(&mut self) -> anyhow::Result<Trials> {
        let mut high = self.start(Role::High)?;
        let mut start = |trial: u32| -> anyhow::Result<f64> {
            self.pause(trial);
            let ns: u64 = high.ask("start", LIMIT)?.trim().parse()?;
            Ok(ns as f64 / 1e3)
        };
        let mut series = |count: u32| -> anyhow::Result<Vec<f64>> {
            for trial in 0..WARMUP {
                start(trial)?;
            }
            (0..count).map(&mut start).collect()
        };
        let alone = series(ALONE.min(self.options.trials))?;
        let alone = Percentiles::of(&alone).context("no trials")?;
        let low = self.start(Role::Low)?;
        let latencies = series(self.options.trials)?;
        high.finish()?;
        low.finish()?;
        Ok(Trials {
            latencies_us: latencies.iter().map(|us| us - alone.p50_us).collect(),
            alone: Some(alone),
            ..Trials::default()
        })
    }
}

fn judge(
    options: &Options,
    level: u8,
    trials: &Trials,
    manifest: Manifest,
) -> anyhow::Result<PreemptionResult> {
    let kernel_us = options.kernel_us;
    let latency = Percentiles::of(&trials.latencies_us).context("no trials")?;
    let limit_us = match level {
        1 => LV1_LIMIT * kernel_us,
        2 => LV2_LIMIT * kernel_us,
        _ => LV3_LIMIT_US,
    };
    let verdict = if latency.p99_us > limit_us {
        Verdict::Fail
    } else if options.trials < MIN_TRIALS {
        Verdict::NotEnoughTrials
    } else {
        Verdict::Pass
    };
    Ok(PreemptionResult {
        test_name: "preempt_latency",
        device: options.device.name(),
        level,
        kernel_us,
        window: (level == 1).then_some(WINDOW),
        trials: options.trials,
        reopened: trials.reopened,
        latency,
        p50_kernels: latency.p50_us / kernel_us,
        p99_kernels: latency.p99_us / kernel_us,
        max_kernels: latency.max_us / kernel_us,
        most_commands: trials.commands.iter().max().copied(),
        alone: trials.alone,
        limit_us,
        verdict,
        manifest,
    })
}

/// Raw samples, in order.
fn samples(trials: &Trials) -> String {
    let mut text = String::from("latency_us,commands\n");
    for (index, latency) in trials.latencies_us.iter().enumerate() {
        let commands = trials.commands.get(index);
        let commands = commands.map_or_else(String::new, u32::to_string);
        text.push_str(&format!("{latency:.3},{commands}\n"));
    }
    text
}

impl PreemptionResult {
    fn text(&self, file: &str) -> String {
        let Percentiles {
            p50_us,
            p95_us,
            p99_us,
            max_us,
        } = self.latency;
        let what = match self.level {
            3 => "submission to run, more than alone",
            _ => "gate closed to last command ended",
        };
        let mut text = format!(
            "Preemption at level {} on {}, commands of T = {} µs, {} trials, µs\n  {:<34} {:>9} {:>9} \
             {:>9} {:>9}\n  {what:<34} {p50_us:>9.1} {p95_us:>9.1} {p99_us:>9.1} {max_us:>9.1}\n  \
             {:<34} {:>9.2} {:>9.2} {:>9.2} {:>9.2}\n",
            self.level,
            self.device,
            self.kernel_us,
            self.trials,
            "",
            "P50",
            "P95",
            "P99",
            "max",
            "in units of T",
            self.p50_kernels,
            p95_us / self.kernel_us,
            self.p99_kernels,
            self.max_kernels,
        );
        if let Some(alone) = &self.alone {
            text.push_str(&format!(
                "  {:<34} {:>9.1} {:>9.1} {:>9.1} {:>9.1}\n",
                "submission to run, alone", alone.p50_us, alone.p95_us, alone.p99_us, alone.max_us
            ));
        }
        if let Some(most) = self.most_commands {
            text.push_str(&format!(
                "  at most {most} commands completed behind a closed gate\n"
            ));
        }
        if self.reopened > 0 {
            text.push_str(&format!(
                "  {} trials do not count: the gate opened again before their end\n",
                self.reopened
            ));
        }
        let verdict = match self.verdict {
            Verdict::Pass => "✅ PASS".to_owned(),
            Verdict::Fail => "❌ FAIL".to_owned(),
            Verdict::NotEnoughTrials => format!("❌ NOT JUDGED: give --trials {MIN_TRIALS}"),
        };
        text.push_str(&format!(
            "{verdict} limit: P99 <= {:.1} µs\nresult: {file}\n",
            self.limit_us
        ));
        text
    }
}
