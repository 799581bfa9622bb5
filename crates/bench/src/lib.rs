//! Benchmarks of the scheduler: scenarios, their workloads, statistics, reports.
//!
//! `xsched bench SCENARIO` enters at [`run()`]; a scenario ([`scenario`]) describes its phases as
//! data ([`task`]); a phase ([`phase`]) is a set of worker processes ([`worker`]) that start
//! together, each through `xsched run`. Results are judged ([`verdict`]) and written ([`store`],
//! [`report`]).

#![deny(unsafe_code)]

pub mod diff;
pub mod scenario;
pub mod show;

pub(crate) mod clock;
pub(crate) mod commands;
pub mod criteria;
pub mod daemon;
pub(crate) mod hdr_log;
pub mod interrupt;
pub mod launch;
pub(crate) mod peer;
pub mod phase;
pub mod session;
pub mod task;
pub mod usage;

pub mod estimate;
pub mod manifest;
pub mod report;
pub mod results;
pub mod rounds;
pub mod run;
pub mod stats;
pub mod store;
pub mod verdict;

pub mod mix;
pub mod models;
pub mod worker;

mod brief;
mod console;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub use console::{Console, PhaseProgress};
use interrupt::Interrupt;
use launch::Launcher;
use phase::Limits;
use serde::Serialize;
use store::json_text;

/// Arguments of `xsched bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What to run, or which run to look at.
    #[command(subcommand)]
    pub action: Action,
}

/// What `xsched bench` can do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Measure.
    #[command(flatten)]
    Scenario(scenario::Selected),
    /// Show a run, complete or not: a summary here, and report.html in its folder.
    Show(show::ShowArgs),
    /// Compare two runs of the same scenario: what changed, and what cannot be told apart.
    Diff(diff::DiffArgs),
}

/// What a benchmark needs to know of the program that it runs in.
pub struct Context {
    /// The command `xsched`, which starts workers and daemons.
    pub program: PathBuf,
    /// Its version, for the records.
    pub version: String,
    /// The command line that led here, for the records.
    pub command: Vec<String>,
    /// What `xsched run` sets `LD_PRELOAD` to; `None` if no shim is installed.
    pub preload: Option<OsString>,
    /// Set for every child process.
    pub environment: Vec<(OsString, OsString)>,
    /// Results for scripts, and text for people unless `--json` is given.
    pub stdout: Box<dyn Write + Send>,
    /// Errors, and with `--json` text for people.
    pub stderr: Box<dyn Write + Send>,
    /// Progress may be drawn on the terminal.
    pub interactive: bool,
    /// Whether to note in the record what other programs took of the machine's processors.
    pub watches_others: bool,
    /// How long each step of a phase may take.
    pub limits: Limits,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

impl Context {
    /// The context of this very process. Takes SIGINT and SIGTERM over.
    pub fn current(version: &str) -> std::io::Result<Context> {
        Ok(Context {
            program: std::env::current_exe()?,
            version: version.to_owned(),
            command: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            preload: None,
            environment: Vec::new(),
            stdout: Box::new(Patient(std::io::stdout())),
            stderr: Box::new(Patient(std::io::stderr())),
            interactive: std::io::stderr().is_terminal(),
            watches_others: true,
            limits: Limits::default(),
            interrupt: Interrupt::on_signals()?,
        })
    }

    /// Starts children whose standard error goes to files in this folder.
    pub(crate) fn launcher(&self, log_dir: PathBuf) -> Launcher {
        Launcher {
            program: self.program.clone(),
            environment: self.environment.clone(),
            log_dir,
            trace: None,
        }
    }

    /// Prints a result: the text for people, or with `--json` the result itself and that text beside it.
    pub(crate) fn print(
        &mut self,
        json: bool,
        result: &impl Serialize,
        text: &str,
    ) -> anyhow::Result<()> {
        let people = match json {
            true => {
                self.stdout.write_all(json_text(result)?.as_bytes())?;
                &mut self.stderr
            }
            false => &mut self.stdout,
        };
        Ok(people.write_all(text.as_bytes())?)
    }
}

/// A writer whose reader may go away (`xsched bench list | head`), which is no failure.
struct Patient<W>(W);

impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// How a benchmark ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed; where there is nothing to judge, it was measured to the end.
    Pass,
    /// A criterion was not met or could not be judged, or the run failed.
    Fail,
    /// Ended by a signal.
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        match outcome {
            Outcome::Pass => ExitCode::SUCCESS,
            Outcome::Fail => ExitCode::from(1),
            Outcome::Interrupted => ExitCode::from(130),
        }
    }
}

/// A request that makes no sense or cannot be met, in one line; nothing has been run. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Runs a benchmark: exit code 0 on pass, 1 on a failed verdict or run, 130 on Ctrl-C. A
/// [`UsageError`] means exit code 2.
pub fn run(args: BenchArgs, mut context: Context) -> anyhow::Result<ExitCode> {
    let scenario = match args.action {
        Action::Scenario(scenario) => scenario,
        Action::Show(args) => return show::run(&args, &mut context),
        Action::Diff(args) => return diff::run(&args, &mut context),
    };
    let outcome = scenario.run(&mut context).or_else(|error| {
        match error.downcast_ref::<phase::Failure>() {
            Some(phase::Failure::Interrupted(signal)) => {
                writeln!(context.stderr, "interrupted by {signal}")?;
                Ok(Outcome::Interrupted)
            }
            _ => Err(error),
        }
    })?;
    Ok(outcome.into())
}
