//! The command `xsched`: run programs scheduled, run and ask the daemon, check the machine, measure.
#![deny(unsafe_code)]

mod check;
mod command;
mod daemon;
mod failure;
mod hints;
mod logging;
#[allow(unsafe_code, reason = "calls into the CUDA driver")]
mod probe;
mod shim;
mod symbols;
mod table;

use std::process::ExitCode;

use clap::Parser;

/// Preemptive scheduling of unmodified programs on shared accelerators.
#[derive(Parser, Debug)]
#[command(name = "xsched", version, disable_help_subcommand = true)]
#[command(
    after_help = "Environment: XSCHED_SOCKET names the daemon, XSCHED_DISABLE=1 switches \
                        everything off, XSCHED_LOG says what is logged (error … trace)."
)]
struct Cli {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    logging::start(cli.command.log_level());
    cli.command
        .run()
        .unwrap_or_else(|error| failure::report(&error))
}
