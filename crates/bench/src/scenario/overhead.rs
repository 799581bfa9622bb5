//! Scenario `overhead`: what the shim costs a program that has the device to itself.
//!
//! Equal processes differ by more than the shim costs. So on CUDA each process lets every other of its
//! requests pass the shim unscheduled, and what counts is the difference within it; or with `--launch`
//! it measures its hook against the driver's own function ([`launch`]).
//!
//! Elsewhere, and with `--processes`, each pair starts the same program several times: without any
//! preload, with the shim preloaded but switched off, and scheduled by a daemon. All get ready together,
//! then each works in turn while the others sleep, there and back (A B C C B A), so that what changes
//! slowly cancels; the order alternates.
//!
//! Every pair has processes of its own. The overhead is the centre of the paired differences, with its
//! interval ([`Centre`]).

mod launch;

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use serde::Serialize;

use self::launch::Costs;
use super::Scenario;
use crate::brief::Brief;
use crate::daemon::Daemon;
use crate::launch::Launcher;
use crate::manifest::{Manifest, stamp};
use crate::peer::Peer;
use crate::stats::{Centre, MIN_DIFFERENCES, median};
use crate::store::Store;
use crate::task::Scheduling;
use crate::worker::protocol::Report;
use crate::worker::{self, Device};
use crate::{Context, Outcome, UsageError};

/// Requests of each process before the first that counts.
const WARMUP: u32 = 10;
/// Measurements of each process.
const PASSES: u32 = 2;
/// From its start until a process is ready, and from the end of its time to its result.
const SETUP_LIMIT: Duration = Duration::from_secs(300);
const HANG_LIMIT: Duration = Duration::from_secs(60);

/// Limits of the overhead and of its half-width: percent of a request, ns of a launch.
const REQUEST_LIMIT: Limit = Limit {
    overhead: 1.0,
    half_width: 0.5,
    unit: "%",
};
const LAUNCH_LIMIT: Limit = Limit {
    overhead: 60.0,
    half_width: 30.0,
    unit: "ns",
};

/// The scenario.
pub(super) struct Overhead;

impl Scenario for Overhead {
    fn name(&self) -> &'static str {
        "overhead"
    }

    fn measures(&self) -> &'static str {
        "What the shim costs a program that is alone on the device: a model's requests, or with \
         --launch a kernel launch"
    }

    fn passes_when(&self) -> &'static str {
        "the requests take at most 1% longer than without the shim, known to 0.5%; a launch takes at \
         most 60 ns longer, known to 30 ns (95% half-widths)"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        if options.peer {
            return launch::program().map(|()| Outcome::Pass);
        }
        options.check(context)?;
        measure(&options, context)
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Device to run on: cpu, cuda or opencl.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: Device,
    /// Model, back to back.
    #[arg(long, value_name = "MODEL", default_value = "resnet18")]
    model: String,
    /// Images per request; of gpt2-small sequences.
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// Measure kernel launches instead of a model: the host's time for one, no gate due.
    #[arg(long, conflicts_with_all = ["model", "batch", "seconds"])]
    launch: bool,
    /// Compare processes without the shim, with it switched off and scheduled by it, instead of
    /// requests of one process; on cuda.
    #[arg(long, conflicts_with = "launch")]
    processes: bool,
    /// Pairs of measurements with and without the shim.
    #[arg(long, value_name = "N", default_value_t = 15)]
    pairs: u32,
    /// Length of each of the two measurements of a process, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Directory of the result [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    json: bool,
    /// Be one of the processes whose launches are measured.
    #[arg(long, hide = true)]
    peer: bool,
}

impl Options {
    fn check(&self, context: &Context) -> Result<(), UsageError> {
        let refuse = |message: String| Err(UsageError(message));
        let fewest = MIN_DIFFERENCES as u32;
        if !(fewest..=1000).contains(&self.pairs) {
            return refuse(format!("--pairs {}: give {fewest} to 1000", self.pairs));
        }
        if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            return refuse(format!(
                "--seconds {}: give seconds above 0, at most 3600",
                self.seconds
            ));
        }
        if let Err(reason) = self.device.check_model(&self.model) {
            return refuse(format!("--model {}: {reason}", self.model));
        }
        if self.batch == 0 || (self.batch > 1 && worker::is_kernels(&self.model)) {
            return refuse(format!(
                "--batch {}: give at least 1; plain kernels have no batch",
                self.batch
            ));
        }
        if self.launch && self.device != Device::Cuda {
            return refuse("--launch: use it with --device cuda".to_owned());
        }
        if self.device != Device::Cpu && context.preload.is_none() {
            let name = self.device.name();
            return refuse(format!(
                "no shim is installed: put libshim{name}.so beside xsched (cargo build --release -p \
                 xsched-{name})"
            ));
        }
        Ok(())
    }

    /// Each pair is one process.
    fn within(&self) -> bool {
        self.device == Device::Cuda && !self.launch && !self.processes
    }

    fn limit(&self) -> Limit {
        if self.launch {
            LAUNCH_LIMIT
        } else {
            REQUEST_LIMIT
        }
    }

    /// What is compared: the CPU has no shim to preload.
    fn variants(&self) -> &'static [Variant] {
        match self.device {
            _ if self.launch => &[Variant::Bare, Variant::Off, Variant::Scheduled],
            _ if self.within() => &[Variant::Passing, Variant::Scheduled],
            Device::Cpu => &[Variant::Off, Variant::Scheduled],
            Device::Cuda | Device::OpenCl => {
                &[Variant::NoPreload, Variant::Off, Variant::Scheduled]
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Variant {
    /// The driver's own function, in the processes of the other variants.
    Bare,
    /// The shim is not there.
    NoPreload,
    /// It is preloaded, and `XSCHED_DISABLE=1`.
    Off,
    /// Requests of a scheduled process that pass.
    Passing,
    /// By a daemon, with nobody else.
    Scheduled,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Bare => "bare",
            Variant::NoPreload => "no-preload",
            Variant::Off => "off",
            Variant::Passing => "passing",
            Variant::Scheduled => "scheduled",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Variant::Bare => "the driver's own",
            Variant::NoPreload => "no preload",
            Variant::Off => "switched off",
            Variant::Passing => "passing unscheduled",
            Variant::Scheduled => "scheduled",
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Limit {
    overhead: f64,
    half_width: f64,
    unit: &'static str,
}

#[derive(Debug, Serialize)]
struct OverheadResult {
    test_name: &'static str,
    device: &'static str,
    /// `launch`, or the model.
    model: String,
    batch: u32,
    pairs: u32,
    /// Of each of the two measurements of a process; requests only.
    seconds: Option<f64>,
    /// Preemption level of the scheduled processes.
    level: u8,
    /// What `by_pair` counts: ms a request, ns a launch.
    unit: &'static str,
    variants: Vec<Figure>,
    /// The scheduled processes against the others.
    comparisons: Vec<Comparison>,
    /// Unit of the comparisons, and their limits.
    limit: Limit,
    /// Every process computed the same.
    outputs_equal: bool,
    verdict: Verdict,
    /// A figure for each variant.
    by_pair: Vec<Vec<f64>>,
    manifest: Manifest,
}

#[derive(Debug, Serialize)]
struct Figure {
    variant: Variant,
    /// Over the pairs.
    median: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    variant: Variant,
    against: Variant,
    #[serde(flatten)]
    overhead: Centre,
    /// `None`: for information only.
    verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Pass,
    /// The half-width is too large to tell.
    RunLonger,
    Fail,
}

fn judge(overhead: &Centre, limit: &Limit) -> Verdict {
    if overhead.low > limit.overhead {
        Verdict::Fail
    } else if overhead.half_width > limit.half_width {
        Verdict::RunLonger
    } else if overhead.estimate > limit.overhead {
        Verdict::Fail
    } else {
        Verdict::Pass
    }
}

/// What one pair measured.
struct Pair {
    /// A figure for each variant.
    figures: Vec<f64>,
    /// Of the scheduled process.
    level: u8,
    /// Of the outputs, one for each process; launches have none.
    digests: Vec<String>,
}

/// One measurement of a process.
struct Slice {
    /// A request took, on average.
    each_ms: f64,
    /// Of each request, ms.
    latencies: Vec<f64>,
    /// Of the output.
    digest: String,
}

/// Why a process has no figure.
const MORE: &str = "too few requests were completed: give more --seconds";

struct Bench<'a> {
    options: &'a Options,
    context: &'a Context,
    launcher: Launcher,
    daemon: Daemon,
}

fn measure(options: &Options, context: &mut Context) -> anyhow::Result<Outcome> {
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let manifest = Manifest::now(Overhead.name(), context.command.clone(), &context.version);
    let brief = Brief::begin(store, &manifest)?;
    let launcher = context.launcher(brief.store().path("logs"));
    let mut bench = Bench {
        options,
        context,
        daemon: Daemon::start(&launcher, &context.interrupt)?,
        launcher,
    };
    let mut pairs = Vec::new();
    for number in 0..options.pairs {
        pairs.push(bench.pair(number)?);
        bench.daemon.check()?;
        if (MIN_DIFFERENCES..options.pairs as usize).contains(&pairs.len()) {
            let result = compare(options, &pairs, manifest.clone())?;
            let progress = format!("{} of {} pairs", pairs.len(), options.pairs);
            brief.so_far(&progress, &result, |file| result.text(file))?;
        }
    }
    let result = compare(options, &pairs, manifest)?;
    brief.end(options.json, &result, |file| result.text(file), context)?;
    Ok(if result.verdict == Verdict::Pass {
        Outcome::Pass
    } else {
        Outcome::Fail
    })
}

impl Bench<'_> {
    fn pair(&self, number: u32) -> anyhow::Result<Pair> {
        if self.options.launch {
            return self.launches(number);
        }
        if self.options.within() {
            return self.single(number);
        }
        let variants = self.options.variants();
        let (mut peers, level) = self.peers(number, variants)?;
        let mut figures = vec![0.0; variants.len()];
        let mut digests = vec![String::new(); variants.len()];
        for index in there_and_back(number, variants.len()) {
            let slice = self.slice(&mut peers[index])?;
            figures[index] += slice.each_ms / f64::from(PASSES);
            digests[index] = slice.digest;
        }
        for peer in peers {
            peer.finish()?;
        }
        Ok(Pair {
            figures,
            level,
            digests,
        })
    }

    /// A process that is a pair of its own: of its requests those that pass, which come first, and the
    /// others in turn, each of which counts against its neighbours.
    fn single(&self, number: u32) -> anyhow::Result<Pair> {
        let mut peer = self.peer(number, Variant::Scheduled)?;
        let level = self.scheduled(&mut peer)?;
        let (mut passing, mut ratios, mut digest) = (vec![], vec![], String::new());
        for _ in 0..PASSES {
            let slice = self.slice(&mut peer)?;
            passing.extend(slice.latencies.iter().step_by(2));
            ratios.extend(to_neighbours(&slice.latencies));
            digest = slice.digest;
        }
        peer.finish()?;
        let passing = median(passing).context(MORE)?;
        let ratio = median(ratios).context(MORE)?;
        Ok(Pair {
            figures: vec![passing, passing * ratio],
            level,
            digests: vec![digest],
        })
    }

    /// A pair of processes whose launches are measured: what a hook costs is seen within each.
    fn launches(&self, number: u32) -> anyhow::Result<Pair> {
        let variants = [Variant::Off, Variant::Scheduled];
        let (mut peers, level) = self.peers(number, &variants)?;
        let (mut bare, mut hooks) = (0.0, [0.0; 2]);
        for index in there_and_back(number, variants.len()) {
            peers[index].tell("start");
            let costs = Costs::parse(&peers[index].read(HANG_LIMIT)?)?;
            bare += costs.bare / f64::from(PASSES * 2);
            hooks[index] += (costs.hooked - costs.bare) / f64::from(PASSES);
        }
        for peer in peers {
            peer.finish()?;
        }
        Ok(Pair {
            figures: vec![bare, bare + hooks[0], bare + hooks[1]],
            level,
            digests: Vec::new(),
        })
    }

    /// The processes of a pair, ready, and the level of the scheduled one.
    fn peers(&self, number: u32, variants: &[Variant]) -> anyhow::Result<(Vec<Peer>, u8)> {
        let mut peers = Vec::new();
        for variant in variants {
            peers.push(self.peer(number, *variant)?);
        }
        let mut level = 0;
        for (peer, variant) in peers.iter_mut().zip(variants) {
            match variant {
                Variant::Scheduled => level = self.scheduled(peer)?,
                _ => drop(self.ready(peer)?),
            }
        }
        Ok((peers, level))
    }

    fn peer(&self, number: u32, variant: Variant) -> anyhow::Result<Peer> {
        let name = format!("{}-{}", number + 1, variant.name());
        let command = self.command(variant);
        let interrupt = &self.context.interrupt;
        Ok(Peer::start(&self.launcher, command, &name, interrupt)?)
    }

    fn command(&self, variant: Variant) -> Program {
        let scheduling = match variant {
            Variant::Scheduled => Scheduling::Daemon(self.daemon.socket().to_owned()),
            _ => Scheduling::Off,
        };
        let name = variant.name();
        let mut command = self.launcher.run_command(&scheduling, None, "normal", name);
        if variant == Variant::Off
            && let Some(preload) = &self.context.preload
        {
            command.env("LD_PRELOAD", preload);
        }
        command.arg(&self.launcher.program);
        let Options {
            device,
            model,
            batch,
            seconds,
            launch,
            ..
        } = self.options;
        if *launch {
            command.args(["bench", "overhead", "--peer"]);
            return command;
        }
        let words = [
            ("--device", device.name().to_owned()),
            ("--model", model.clone()),
            ("--batch", batch.to_string()),
            ("--arrival", "closed".to_owned()),
            ("--duration", seconds.to_string()),
            ("--warmup", WARMUP.to_string()),
            ("--repeat", PASSES.to_string()),
        ];
        command.arg("worker");
        for (name, value) in words {
            command.arg(name).arg(value);
        }
        if self.options.within() {
            command.arg("--in-turns");
        }
        command
    }

    /// Waits until a process is ready that has to be scheduled; gives its level.
    fn scheduled(&self, peer: &mut Peer) -> anyhow::Result<u8> {
        match self.ready(peer)? {
            0 => bail!("nobody schedules the process: `xsched doctor` says why"),
            level => Ok(level),
        }
    }

    /// Waits until a process is ready; gives its level.
    fn ready(&self, peer: &mut Peer) -> anyhow::Result<u8> {
        let line = peer.read(SETUP_LIMIT)?;
        if self.options.launch {
            return Ok(line.trim().parse()?);
        }
        match report(&line)? {
            Report::Ready { level, .. } => Ok(level),
            other => bail!("not ready: {other:?}"),
        }
    }

    fn slice(&self, peer: &mut Peer) -> anyhow::Result<Slice> {
        peer.tell("start");
        let limit = HANG_LIMIT + Duration::from_secs_f64(self.options.seconds);
        loop {
            let line = peer.read(limit)?;
            match report(&line)? {
                Report::Progress { .. } => {}
                Report::Result { completed: 0, .. } => {
                    bail!(MORE)
                }
                Report::Result {
                    completed,
                    elapsed_ms,
                    samples,
                    digest,
                    digests_equal,
                    ..
                } => {
                    if !digests_equal {
                        bail!("the outputs of one process differ among themselves");
                    }
                    return Ok(Slice {
                        each_ms: elapsed_ms / completed as f64,
                        latencies: samples.into_iter().map(|[.., latency]| latency).collect(),
                        digest,
                    });
                }
                other => bail!("no result: {other:?}"),
            }
        }
    }
}

/// Every other value, from the second on, over the mean of the one before and the one after: what
/// changes more slowly cancels.
fn to_neighbours(values: &[f64]) -> impl Iterator<Item = f64> {
    let around = values.windows(3).step_by(2);
    around.map(|around| 2.0 * around[1] / (around[0] + around[2]))
}

/// Variants in turn and back again, every other pair the other way round.
fn there_and_back(number: u32, variants: usize) -> impl Iterator<Item = usize> {
    let turn = move |index: usize| match number % 2 {
        0 => index,
        _ => variants - 1 - index,
    };
    (0..variants).chain((0..variants).rev()).map(turn)
}

/// What a worker said; its failure is one here, too.
fn report(line: &str) -> anyhow::Result<Report> {
    match serde_json::from_str(line) {
        Ok(Report::Error { message, .. }) => bail!("{message}"),
        Ok(report) => Ok(report),
        Err(_) => bail!("a worker wrote a line that is no report: {line:?}"),
    }
}

fn compare(
    options: &Options,
    pairs: &[Pair],
    manifest: Manifest,
) -> anyhow::Result<OverheadResult> {
    let variants = options.variants();
    let limit = options.limit();
    let place = |variant| {
        let found = variants.iter().position(|known| *known == variant);
        found.expect("of these variants")
    };
    let difference = |variant, against| {
        let (after, before) = (place(variant), place(against));
        let of = |pair: &Pair| {
            let (after, before) = (pair.figures[after], pair.figures[before]);
            if options.launch {
                after - before
            } else {
                (after / before - 1.0) * 100.0
            }
        };
        let differences: Vec<f64> = pairs.iter().map(of).collect();
        Centre::of(&differences).context("too few pairs")
    };
    let mut comparisons = Vec::new();
    for against in variants
        .iter()
        .filter(|other| **other != Variant::Scheduled)
    {
        let overhead = difference(Variant::Scheduled, *against)?;
        comparisons.push(Comparison {
            variant: Variant::Scheduled,
            against: *against,
            overhead,
            verdict: Some(judge(&overhead, &limit)),
        });
    }
    if variants.contains(&Variant::Off) && variants[0] != Variant::Off {
        comparisons.push(Comparison {
            variant: Variant::Off,
            against: variants[0],
            overhead: difference(Variant::Off, variants[0])?,
            verdict: None,
        });
    }
    let mut digests = pairs.iter().flat_map(|pair| &pair.digests);
    let first = digests.next();
    let outputs_equal = digests.all(|digest| Some(digest) == first);
    let worst = comparisons.iter().filter_map(|one| one.verdict).max();
    let verdict = match worst {
        _ if !outputs_equal => Verdict::Fail,
        Some(worst) => worst,
        None => Verdict::Fail,
    };
    let middle = |index: usize| {
        let figures = pairs.iter().map(|pair| pair.figures[index]).collect();
        median(figures).expect("some pairs")
    };
    Ok(OverheadResult {
        test_name: "overhead",
        device: options.device.name(),
        model: if options.launch {
            "launch".to_owned()
        } else {
            options.model.clone()
        },
        batch: options.batch,
        pairs: pairs.len() as u32,
        seconds: (!options.launch).then_some(options.seconds),
        level: pairs.iter().map(|pair| pair.level).min().unwrap_or(0),
        unit: if options.launch { "ns" } else { "ms" },
        variants: variants
            .iter()
            .enumerate()
            .map(|(index, variant)| Figure {
                variant: *variant,
                median: middle(index),
            })
            .collect(),
        comparisons,
        limit,
        outputs_equal,
        verdict,
        by_pair: pairs.iter().map(|pair| pair.figures.clone()).collect(),
        manifest,
    })
}

impl OverheadResult {
    fn text(&self, file: &str) -> String {
        let what = match self.seconds {
            None => "a launch".to_owned(),
            Some(_) => format!("a request of {}, batch {}", self.model, self.batch),
        };
        let mut text = format!(
            "Overhead on {} for {what}, level {}, {} pairs\n",
            self.device, self.level, self.pairs
        );
        for figure in &self.variants {
            text.push_str(&format!(
                "  {:<28} {:>12.4} {} (median)\n",
                figure.variant.title(),
                figure.median,
                self.unit
            ));
        }
        let unit = self.limit.unit;
        for comparison in &self.comparisons {
            let Centre {
                estimate,
                half_width,
                ..
            } = comparison.overhead;
            let title = format!(
                "{} - {}",
                comparison.variant.title(),
                comparison.against.title()
            );
            let verdict = match comparison.verdict {
                None => "",
                Some(Verdict::Pass) => " ✅",
                Some(Verdict::RunLonger) => {
                    " ❌ not distinguishable: run longer (--pairs, --seconds)"
                }
                Some(Verdict::Fail) => " ❌",
            };
            text.push_str(&format!(
                "  {title:<28} {estimate:>+12.3} ± {half_width:.3} {unit}{verdict}\n"
            ));
        }
        if !self.outputs_equal {
            text.push_str("  ❌ outputs differ between the processes\n");
        }
        let verdict = match self.verdict {
            Verdict::Pass => "✅ PASS",
            Verdict::RunLonger => "❌ NOT JUDGED",
            Verdict::Fail => "❌ FAIL",
        };
        text.push_str(&format!(
            "{verdict} limits: overhead <= {} {unit}, 95% half-width <= {} {unit}\nresult: {file}\n",
            self.limit.overhead, self.limit.half_width
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_interval_is_no_verdict_unless_it_lies_above_the_limit() {
        let check = |low: f64, high: f64, expect: Verdict| {
            let overhead = Centre {
                estimate: (low + high) / 2.0,
                low,
                high,
                half_width: (high - low) / 2.0,
            };
            assert_eq!(judge(&overhead, &REQUEST_LIMIT), expect, "{low} {high}");
        };
        check(0.1, 0.3, Verdict::Pass);
        check(-0.4, 0.4, Verdict::Pass);
        check(0.9, 1.3, Verdict::Fail);
        check(-2.0, 2.0, Verdict::RunLonger);
        check(0.5, 2.5, Verdict::RunLonger);
        check(1.5, 9.0, Verdict::Fail);
    }

    #[test]
    fn a_request_counts_against_its_neighbours_so_that_drift_cancels() {
        // Steps of 2, the second and the fourth request 10 % longer.
        let latencies = [10.0, 12.0 * 1.1, 14.0, 16.0 * 1.1, 18.0, 20.0];
        let ratios: Vec<f64> = to_neighbours(&latencies).collect();
        assert_eq!(ratios.len(), 2);
        for ratio in ratios {
            assert!((ratio - 1.1).abs() < 1e-12, "{ratio}");
        }
        assert_eq!(to_neighbours(&[10.0, 11.0]).count(), 0);
    }
}
