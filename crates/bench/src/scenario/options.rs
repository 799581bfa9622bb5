//! Options that every scenario of two phases has.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::UsageError;
use crate::mix::options::parse_seconds;
use crate::phase::Limits;

/// The longest time that can be asked for, so that sums of times stay representable: a day, in
/// seconds.
const LONGEST: f64 = 86_400.0;

/// Options that every scenario of two phases has.
#[derive(Debug, clap::Args)]
pub(super) struct CommonOptions {
    /// Length of each of the two phases, for example 20, 20s or 5m; seconds unless it says [default: 60, or
    /// as long as the verdict needs].
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(super) duration: Option<Duration>,
    /// What has too few requests is not judged, and fails nothing.
    #[arg(long)]
    pub(super) quick: bool,
    /// Also write the result of the run to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Directory of the results [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Device to run on.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(super) device: String,
    /// Measure this phase alone, without standalone figures and comparison.
    #[arg(long, value_name = "PHASE")]
    pub(super) only: Option<Only>,
    /// Seed of weights and inputs.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub(super) seed: u64,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    pub(super) json: bool,
    /// Preemption level of the scheduled phase; auto takes the best that works.
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub(super) level: Level,
    /// Write a trace of each scheduled phase that ui.perfetto.dev opens, PHASE_trace.json.
    #[arg(long)]
    pub(super) trace: bool,
    /// How long after the end of a phase a result may be missing before its worker counts as hung,
    /// seconds.
    #[arg(long, value_name = "SECONDS", hide = true)]
    hang_limit: Option<f64>,
}

/// One of the two phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Only {
    Baseline,
    Scheduled,
}

impl Only {
    pub(super) fn name(self) -> &'static str {
        match self {
            Only::Baseline => "baseline",
            Only::Scheduled => "scheduled",
        }
    }
}

/// A preemption level to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Level {
    #[value(name = "1")]
    Lv1,
    #[value(name = "2")]
    Lv2,
    #[value(name = "3")]
    Lv3,
    Auto,
}

impl Level {
    pub(super) fn number(self) -> Option<u8> {
        match self {
            Level::Lv1 => Some(1),
            Level::Lv2 => Some(2),
            Level::Lv3 => Some(3),
            Level::Auto => None,
        }
    }
}

impl CommonOptions {
    /// Refuses what makes no sense; gives the position of the device among those that are `known`.
    pub(super) fn check(&self, known: &[&str]) -> Result<usize, UsageError> {
        if let Some(limit) = self.hang_limit
            && !(0.0..=LONGEST).contains(&limit)
        {
            return Err(UsageError(format!(
                "--hang-limit {limit}: give seconds from 0 to {LONGEST}"
            )));
        }
        let found = known.iter().position(|name| *name == self.device);
        found.ok_or_else(|| {
            let known = known.join(", ");
            UsageError(format!(
                "--device {}: this build supports {known}",
                self.device
            ))
        })
    }

    pub(super) fn runs(&self, phase: Only) -> bool {
        self.only.is_none_or(|only| only == phase)
    }

    pub(super) fn limits(&self, mut limits: Limits) -> Limits {
        if let Some(limit) = self.hang_limit {
            limits.hang = Duration::from_secs_f64(limit);
        }
        limits
    }
}
