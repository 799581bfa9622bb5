//! The commands, one file each.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use tracing_subscriber::filter::LevelFilter;

mod active_window;
mod doctor;
mod hint;
mod list;
mod policy;
mod run;
mod serve;
mod sim;

use crate::shim;

/// What `xsched` can do.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    List(list::ListArgs),
    Hint(hint::HintArgs),
    Policy(policy::PolicyArgs),
    ActiveWindow(active_window::ActiveWindowArgs),
    Sim(sim::SimArgs),
    Doctor(doctor::DoctorArgs),
    /// Measure: the dual-model experiment and others
    Bench(xsched_bench::BenchArgs),
    /// One workload of a benchmark, as its harness starts it.
    #[command(hide = true)]
    Worker(xsched_bench::worker::WorkerArgs),
    /// A program that uses a device, as `doctor` starts it.
    #[command(hide = true)]
    Probe(crate::probe::ProbeArgs),
}

impl Command {
    /// What is logged when `XSCHED_LOG` says nothing.
    pub(crate) fn log_level(&self) -> LevelFilter {
        match self {
            Command::Serve(_) => LevelFilter::INFO,
            _ => LevelFilter::WARN,
        }
    }

    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::run(&args),
            Command::Serve(args) => serve::run(args),
            Command::List(args) => list::run(&args),
            Command::Hint(args) => hint::run(&args),
            Command::Policy(args) => policy::run(&args),
            Command::ActiveWindow(args) => active_window::run(&args),
            Command::Sim(args) => sim::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Bench(args) => {
                let version = env!("CARGO_PKG_VERSION");
                let version = match option_env!("BUILT_COMMIT") {
                    Some(commit) => format!("{version} ({commit})"),
                    None => version.to_owned(),
                };
                let mut context = xsched_bench::Context::current(&version)
                    .context("cannot set up a benchmark")?;
                let existing = std::env::var_os(shim::LD_PRELOAD);
                let shims = shim::installed(&context.program);
                context.preload = shim::preload(&shims, existing.as_deref())
                    .0
                    .filter(|_| !shims.is_empty());
                xsched_bench::run(args, context)
            }
            Command::Worker(args) => xsched_bench::worker::run(args),
            Command::Probe(args) => crate::probe::run(&args),
        }
    }
}

/// A time in seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds >= 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "use a number of seconds, 0 or more".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_a_number_from_0() {
        let check = |text, expect| assert_eq!(seconds(text).ok(), expect, "{text}");
        check("0", Some(Duration::ZERO));
        check("0.25", Some(Duration::from_millis(250)));
        check("60", Some(Duration::from_secs(60)));
        for text in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            check(text, None);
        }
    }
}
