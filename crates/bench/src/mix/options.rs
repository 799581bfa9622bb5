//! Options of every scenario that is a mix of tasks.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Mix;
use super::file::{known_time, parse_device};
use super::peers::{self, Peer};
use crate::UsageError;
use crate::worker::Device;

/// A time above 0 on a command line: with its unit, or a number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let is_number = text.ends_with(|c: char| c.is_ascii_digit());
    known_time(&format!("{text}{}", if is_number { "s" } else { "" })).ok_or_else(|| {
        format!("use a time such as 20, 20s, 500ms or 2h, at most a day, not {text:?}")
    })
}

/// Options of every scenario that is a mix of tasks.
#[derive(Debug, Clone, Args)]
pub(crate) struct MixOptions {
    /// Device to run on [default: cpu].
    #[arg(long, value_name = "NAME", value_parser = parse_device)]
    device: Option<Device>,
    /// Length of each phase, for example 20, 20s or 2h; seconds unless it says.
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    duration: Option<Duration>,
    /// Measure every way of scheduling in turn, N times each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,
    /// Time of each task alone, in all rounds together.
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    standalone: Option<Duration>,
    /// Short phases and warm-ups, one round, no peers: what has too few requests is not judged, and fails nothing.
    #[arg(long)]
    pub(super) quick: bool,
    /// Also measure somebody else's scheduler: auto (those that the machine has), none, nice, mps, or
    /// NAME=CMD, where CMD goes before each worker's command line; {priority}, {rank} (0 is the most
    /// urgent) and {task} stand for the task's, {command} for the worker's command line.
    #[arg(long, value_name = "PEER", default_value = "auto")]
    peer: Vec<String>,
    /// Preemption level to ask for; the best that works by default.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=3))]
    level: Option<u8>,
    /// Write a trace of each phase under XSched that ui.perfetto.dev opens, PHASE_trace.json.
    #[arg(long)]
    pub(super) trace: bool,
    /// Seed of weights, inputs, arrivals at random and intervals.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Directory of the results [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Print verdict, figures and record as JSON on standard output, and the text for people on standard
    /// error.
    #[arg(long)]
    pub(super) json: bool,
}

/// Length of a phase with `--quick`.
const QUICK: Duration = Duration::from_secs(8);
/// Requests before a phase with `--quick`: some take seconds on a CPU.
const QUICK_WARMUP: u32 = 3;

impl MixOptions {
    /// The device that is asked for.
    pub(crate) fn device(&self) -> Device {
        self.device.unwrap_or(Device::Cpu)
    }

    /// A device that is asked for though the scenario has its own.
    pub(crate) fn other_device(&self) -> Option<Device> {
        self.device
    }

    /// What is asked for goes before what the scenario says.
    pub(crate) fn apply(&self, mix: &mut Mix) {
        if self.quick {
            (mix.duration, mix.rounds) = (mix.duration.min(QUICK), 1);
            mix.warmup = mix.warmup.min(QUICK_WARMUP);
        }
        mix.extend &= !self.quick && self.duration.is_none();
        mix.duration = self.duration.unwrap_or(mix.duration);
        mix.rounds = self.rounds.unwrap_or(mix.rounds);
        mix.standalone = self.standalone.or(mix.standalone);
        mix.seed = self.seed.unwrap_or(mix.seed);
        mix.level = self.level.or(mix.level);
    }

    /// The peers, and notes on those that are not here.
    #[allow(clippy::type_complexity)]
    pub(super) fn peers(
        &self,
        device: Device,
    ) -> Result<(Vec<Box<dyn Peer>>, Vec<String>), UsageError> {
        if self.quick && self.peer == ["auto"] {
            return Ok(Default::default());
        }
        peers::chosen(&self.peer, device).map_err(UsageError)
    }
}
