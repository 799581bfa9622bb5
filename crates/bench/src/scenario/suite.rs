//! Scenario `all`: the scenarios of several tasks, one after the other, and one table.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};

use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use rustix::process::{Pid, Signal, kill_process};

use super::Scenario;
use crate::manifest::stamp;
use crate::phase::Failure;
use crate::store::Store;
use crate::{Context, Outcome};

/// A scenario of the suite, with the further words of a quick run and of a full one.
type Entry = (&'static str, &'static str, &'static str);

/// `soak` takes hours, and the others measure one mechanism: each is started by itself.
const ENTRIES: &[Entry] = &[
    ("dual-model", "--duration 40", "--duration 60"),
    ("multi-tenant", "--quick --duration 6s", ""),
    ("realtime-batch", "--quick --duration 6s", ""),
    ("partition", "--quick --duration 6s", ""),
];

/// The scenario.
pub(super) struct All;

#[derive(Debug, clap::Args)]
struct Options {
    /// Short phases, no peers; in mixes of tasks what has too few requests fails nothing.
    #[arg(long)]
    quick: bool,
    /// Device to run on.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// Directory of the results, a folder a scenario [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Scenario for All {
    fn name(&self) -> &'static str {
        "all"
    }

    fn measures(&self) -> &'static str {
        "dual-model, multi-tenant, realtime-batch and partition, one after the other, a folder each"
    }

    fn passes_when(&self) -> &'static str {
        "each of them passes"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        crate::mix::check_device(&options.device)?;
        let store = Store::open(options.out.as_deref(), None, &stamp())?;
        let mut table = format!("{:<18} {:<8} results\n", "scenario", "outcome");
        let mut outcome = Outcome::Pass;
        for (name, quick, full) in ENTRIES {
            writeln!(context.stdout, "== {name} ==")?;
            let folder = store.path(name);
            let words = if options.quick { quick } else { full };
            let mut program = Program::new(&context.program);
            program
                .args(["bench", name, "--device", &options.device, "--out"])
                .arg(&folder)
                .args(words.split_whitespace())
                .envs(
                    context
                        .environment
                        .iter()
                        .map(|(name, value)| (name, value)),
                );
            let code = supervise(program, context)?;
            let text = match code {
                Some(0) => "pass",
                Some(1) => "FAIL",
                Some(2) => "not run",
                _ => "died",
            };
            if code != Some(0) {
                outcome = Outcome::Fail;
            }
            table.push_str(&format!("{name:<18} {text:<8} {}\n", folder.display()));
        }
        writeln!(context.stdout, "\n{table}")?;
        Ok(outcome)
    }
}

/// Runs a scenario to its end and passes on what it says. Its exit code, if it has one.
fn supervise(mut program: Program, context: &mut Context) -> anyhow::Result<Option<i32>> {
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().expect("spawned with a pipe");
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        writeln!(context.stdout, "{line}")?;
        if context.interrupt.received().is_some() {
            // A second signal changes nothing for a scenario that ends already.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
    }
    let status = child.wait()?;
    match context.interrupt.received() {
        Some(signal) => Err(Failure::Interrupted(signal).into()),
        None => Ok(status.code()),
    }
}
