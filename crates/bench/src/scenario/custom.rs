//! Scenario `custom`: a user's own mix of tasks, from a file.

use std::path::PathBuf;

use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use super::Scenario;
use crate::mix::options::MixOptions;
use crate::mix::{self, Mix};
use crate::{Context, Outcome, UsageError};

/// The scenario.
pub(super) struct Custom;

#[derive(Debug, clap::Args)]
struct Options {
    /// The scenario: TOML with a name, and a [[task]] each with a model or a command.
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    #[command(flatten)]
    mix: MixOptions,
}

impl Scenario for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn measures(&self) -> &'static str {
        "A scenario of your own from a file: tasks, arrivals, limits; alone, native, under XSched, peers"
    }

    fn passes_when(&self) -> &'static str {
        "every limit in the file is met, every task with a model is scheduled, outputs are equal"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        let mut mix = Mix::load(&options.file).map_err(|error| UsageError(error.to_string()))?;
        if let Some(device) = options.mix.other_device() {
            mix.device = device;
        }
        mix::run(mix, &options.mix, context)
    }
}
