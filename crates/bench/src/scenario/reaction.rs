//! Scenario `reaction`: how long from a doorbell in one process to a closed gate in another,
//! through the daemon.
//!
//! Two programs on one device: the high one publishes a command and rings;
//! the low one, ready all the time, watches its own gate. Both stamp `CLOCK_MONOTONIC`, which is
//! one clock for all processes. The low one spins only during a trial, so on two cores the daemon
//! has the other core.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgMatches, Args as _, Command, FromArgMatches, ValueEnum};
use serde::Serialize;
use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_xqueue::XQueue;

use super::Scenario;
use crate::brief::Brief;
use crate::clock::now_ns;
use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::launch::Launcher;
use crate::manifest::{Manifest, stamp};
use crate::peer::Peer;
use crate::phase::Failure;
use crate::stats::Percentiles;
use crate::store::Store;
use crate::task::Scheduling;
use crate::{Context, Outcome, UsageError};

/// Trials before those that count.
const WARMUP: u32 = 50;
/// A program that takes longer to answer hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// Limits, µs.
const P50_LIMIT: f64 = 30.0;
const P99_LIMIT: f64 = 200.0;

/// The scenario.
pub(super) struct Reaction;

impl Scenario for Reaction {
    fn name(&self) -> &'static str {
        "reaction"
    }

    fn measures(&self) -> &'static str {
        "Time from a doorbell in one process to a closed gate in another, through the daemon"
    }

    fn passes_when(&self) -> &'static str {
        "P50 <= 30 µs and P99 <= 200 µs, on a quiet machine"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        match options.peer {
            Some(role) => peer(role).map(|()| Outcome::Pass),
            None => measure(&options, context),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Trials.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    trials: u32,
    /// Directory of the result [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Also write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    json: bool,
    /// Be one of the two programs.
    #[arg(long, hide = true)]
    peer: Option<Role>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Becomes ready and idle on request.
    High,
    /// Watches its gate on request.
    Low,
}

#[derive(Debug, Serialize)]
struct ReactionResult {
    test_name: &'static str,
    trials: u32,
    /// Doorbell of the high program to closed gate of the low one.
    close: Percentiles,
    /// The high program idle to open gate of the low one.
    open: Percentiles,
    passed: bool,
    manifest: Manifest,
}

fn measure(options: &Options, context: &mut Context) -> anyhow::Result<Outcome> {
    if !(100..=1_000_000).contains(&options.trials) {
        let message = format!("--trials {}: give 100 to 1000000", options.trials);
        return Err(UsageError(message).into());
    }
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let manifest = Manifest::now("reaction", context.command.clone(), &context.version);
    let brief = Brief::begin(store, &manifest)?;
    let launcher = context.launcher(brief.store().path("logs"));
    let interrupt = context.interrupt.clone();
    let daemon = Daemon::start(&launcher, &interrupt)?;
    let mut high = start(&launcher, &daemon, &interrupt, Role::High)?;
    let mut low = start(&launcher, &daemon, &interrupt, Role::Low)?;

    let (mut close, mut open) = (Vec::new(), Vec::new());
    for trial in 0..options.trials + WARMUP {
        if context.interrupt.received().is_some() {
            return Ok(Outcome::Interrupted);
        }
        low.tell("watch");
        // Long enough that everybody but the watcher sleeps; not a whole number of ticks.
        std::thread::sleep(Duration::from_micros(1_000 + u64::from(trial % 97) * 21));
        let rang = stamp_of(high.ask("ring", LIMIT))?;
        let closed = stamp_of(low.read(LIMIT))?;
        let idle = stamp_of(high.ask("drain", LIMIT))?;
        let opened = stamp_of(low.read(LIMIT))?;
        if trial >= WARMUP {
            close.push((closed - rang) as f64 / 1_000.0);
            open.push((opened - idle) as f64 / 1_000.0);
        }
    }

    let close = Percentiles::of(&close).context("no trials")?;
    let open = Percentiles::of(&open).context("no trials")?;
    let passed = close.p50_us <= P50_LIMIT && close.p99_us <= P99_LIMIT;
    let result = ReactionResult {
        test_name: "reaction",
        trials: options.trials,
        close,
        open,
        passed,
        manifest,
    };
    brief.end(options.json, &result, |file| result.text(file), context)?;
    Ok(if passed { Outcome::Pass } else { Outcome::Fail })
}

impl ReactionResult {
    fn text(&self, file: &str) -> String {
        let row = |what: &str, p: &Percentiles| {
            format!(
                "  {what:<34} {:>8.1} {:>8.1} {:>8.1} {:>8.1}\n",
                p.p50_us, p.p95_us, p.p99_us, p.max_us
            )
        };
        format!(
            "Reaction through the daemon, {} trials, µs\n  {:<34} {:>8} {:>8} {:>8} {:>8}\n{}{}\
             {} limits: close P50 <= {P50_LIMIT} µs, P99 <= {P99_LIMIT} µs\nresult: {file}\n",
            self.trials,
            "",
            "P50",
            "P95",
            "P99",
            "max",
            row("doorbell to gate closed", &self.close),
            row("idle to gate open", &self.open),
            if self.passed { "✅ PASS" } else { "❌ FAIL" },
        )
    }
}

/// Starts one of the two programs; it is ready when this returns.
fn start(
    launcher: &Launcher,
    daemon: &Daemon,
    interrupt: &Interrupt,
    role: Role,
) -> Result<Peer, Failure> {
    let (name, class) = match role {
        Role::High => ("high", "high"),
        Role::Low => ("low", "low"),
    };
    let scheduling = Scheduling::Daemon(daemon.socket().to_owned());
    let mut command = launcher.run_command(&scheduling, None, class, name);
    command.arg(&launcher.program);
    command.args(["bench", "reaction", "--peer", name]);
    let mut peer = Peer::start(launcher, command, name, interrupt)?;
    peer.read(LIMIT)?;
    Ok(peer)
}

/// The next time stamp, ns.
fn stamp_of(line: Result<String, Failure>) -> anyhow::Result<u64> {
    Ok(line?.trim().parse()?)
}

/// The program itself: reads instructions, answers with time stamps.
fn peer(role: Role) -> anyhow::Result<()> {
    let agent = Agent::from_env()?;
    let queue = agent.attach(CpuQueue::new(1)?, xsched_cpu::DEVICE)?;
    let block = queue.slot().block;
    // Ready from here on, by a command that lasts as long as this function.
    let (_end, lasting) = std::sync::mpsc::channel::<()>();
    if role == Role::Low {
        queue.launch(Box::new(move || {
            let _ = lasting.recv();
            Ok(())
        }))?;
    }
    while block.is_bypassed() {
        std::thread::sleep(Duration::from_millis(1));
    }
    say(now_ns())?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "ring" => ring(&queue)?,
            "drain" => drain(&queue)?,
            "watch" => {
                while block.is_open() {
                    std::hint::spin_loop();
                }
                say(now_ns())?;
                while !block.is_open() {
                    std::hint::spin_loop();
                }
                say(now_ns())?;
            }
            other => bail!("unknown instruction '{other}'"),
        }
    }
    Ok(())
}

fn ring(queue: &XQueue<CpuQueue>) -> anyhow::Result<()> {
    let before = now_ns();
    drop(queue.admit());
    say(before)
}

fn drain(queue: &XQueue<CpuQueue>) -> anyhow::Result<()> {
    let before = now_ns();
    queue.synchronize()?;
    say(before)
}

fn say(stamp: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{stamp}")?;
    Ok(out.flush()?)
}
