//! Scenario `all`: the scenarios of several tasks, one after the other, and one table.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use rustix::process::{Pid, Signal, kill_process};

use super::Scenario;
use crate::criteria::Verdict;
use crate::manifest::stamp;
use crate::phase::Failure;
use crate::run::Run;
use crate::store::Store;
use crate::worker::Device;
use crate::{Context, Outcome};

/// A scenario of the suite.
struct Entry {
    /// Of its folder.
    name: &'static str,
    /// Its words in any case.
    words: &'static str,
    /// Further words of a quick run; `None`: a quick run leaves it out.
    quick: Option<&'static str>,
    /// Further words of a full one.
    full: &'static str,
    /// Where it can run; empty: it has no device.
    devices: &'static [Device],
}

const fn entry(
    name: &'static str,
    words: &'static str,
    quick: Option<&'static str>,
    full: &'static str,
    devices: &'static [Device],
) -> Entry {
    Entry {
        name,
        words,
        quick,
        full,
        devices,
    }
}

const EVERY: &[Device] = &[Device::Cpu, Device::Cuda, Device::OpenCl];
const MIXES: &[Device] = &[Device::Cpu, Device::Cuda];
const CUDA: &[Device] = &[Device::Cuda];
const QUICK: Option<&str> = Some("--quick --duration 6s");

/// `soak` takes hours and is started by itself, `custom` needs a file. The limits of `preempt-latency` are for a GPU:
/// on the CPU its commands share the cores with who measures them.
#[rustfmt::skip]
const ENTRIES: &[Entry] = &[
    entry("dual-model", "dual-model", Some("--quick --duration 30"), "", EVERY),
    entry("multi-tenant", "multi-tenant", QUICK, "", MIXES),
    entry("realtime-batch", "realtime-batch", QUICK, "", MIXES),
    entry("partition", "partition", QUICK, "", MIXES),
    entry("systematic", "systematic", Some("--rounds 1 --tasks 200"), "", MIXES),
    entry("preempt-latency-1", "preempt-latency --level 1", Some(""), "", CUDA),
    entry("preempt-latency-2", "preempt-latency --level 2", Some(""), "", CUDA),
    entry("preempt-latency-3", "preempt-latency --level 3", Some(""), "", CUDA),
    entry("reaction", "reaction", Some(""), "", &[]),
    entry("overhead", "overhead", None, "", EVERY),
    entry("conformance", "conformance", None, "", CUDA),
];

/// The scenario.
pub(super) struct All;

#[derive(Debug, clap::Args)]
struct Options {
    /// Short phases, no peers, neither overhead nor conformance; in mixes of tasks what has too few
    /// requests fails nothing.
    #[arg(long)]
    quick: bool,
    /// Device to run on.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: Device,
    /// Directory of the results, a folder a scenario [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a run's record says that ended well without a verdict: one that is quick is not held to what it cannot know.
fn unjudged(folder: &Path) -> Option<String> {
    let verdict = Run::read(folder).ok()?.verdict();
    (verdict != Verdict::Pass).then(|| verdict.text().to_lowercase())
}

impl Scenario for All {
    fn name(&self) -> &'static str {
        "all"
    }

    fn measures(&self) -> &'static str {
        "Every scenario that the device can run, but soak and custom, one after the other, a folder each; \
         preempt-latency on a GPU alone"
    }

    fn passes_when(&self) -> &'static str {
        "each of them passes"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        let store = Store::open(options.out.as_deref(), None, &stamp())?;
        let mut table = format!("{:<20} {:<20} results\n", "scenario", "outcome");
        let mut outcome = Outcome::Pass;
        for entry in ENTRIES {
            let Entry { name, devices, .. } = entry;
            if !devices.is_empty() && !devices.contains(&options.device) {
                continue;
            }
            let further = if options.quick {
                entry.quick
            } else {
                Some(entry.full)
            };
            let Some(further) = further else { continue };
            writeln!(context.stdout, "== {name} ==")?;
            let folder = store.path(name);
            let mut program = Program::new(&context.program);
            program
                .arg("bench")
                .args(entry.words.split_whitespace())
                .args(further.split_whitespace())
                .arg("--out")
                .arg(&folder)
                .envs(
                    context
                        .environment
                        .iter()
                        .map(|(name, value)| (name, value)),
                );
            if !devices.is_empty() {
                program.args(["--device", options.device.name()]);
            }
            let code = supervise(program, context)?;
            let text = match code {
                Some(0) => unjudged(&folder).unwrap_or_else(|| "pass".to_owned()),
                Some(1) => "FAIL".to_owned(),
                Some(2) => "not run".to_owned(),
                _ => "died".to_owned(),
            };
            if code != Some(0) {
                outcome = Outcome::Fail;
            }
            table.push_str(&format!("{name:<20} {text:<20} {}\n", folder.display()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ALL;

    #[test]
    fn every_scenario_is_in_the_suite_unless_it_cannot_be() {
        let left_out = ["all", "custom", "list", "soak"];
        for scenario in ALL {
            let name = scenario.name();
            let words = |entry: &Entry| entry.words.split(' ').next() == Some(name);
            assert_ne!(
                ENTRIES.iter().any(words),
                left_out.contains(&name),
                "{name}"
            );
        }
    }

    #[test]
    fn every_entry_is_a_command_line_on_each_of_its_devices() {
        let command = crate::BenchArgs::augment_args(Command::new("bench"));
        for entry in ENTRIES {
            for further in entry.quick.iter().chain([&entry.full]) {
                let mut line = format!("bench {} {further} --out x", entry.words);
                let lines = match entry.devices {
                    [] => vec![line],
                    devices => {
                        line.push_str(" --device ");
                        let names = devices.iter().map(|device| device.name());
                        names.map(|name| format!("{line}{name}")).collect()
                    }
                };
                for line in lines {
                    let matches = command
                        .clone()
                        .try_get_matches_from(line.split_whitespace());
                    assert!(matches.is_ok(), "{line}");
                }
            }
        }
    }
}
