//! The scenarios, a file each. A new one implements [`Scenario`] and gets a line in [`ALL`].

mod conformance;
mod custom;
mod dual_model;
mod list;
mod mixed;
mod multi_tenant;
mod options;
mod overhead;
mod partition;
mod preempt_latency;
mod reaction;
mod realtime_batch;
mod soak;
mod suite;
mod systematic;

use std::fmt;

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};

use crate::{Context, Outcome};

/// Every scenario, in the order of the help text.
pub const ALL: &[&dyn Scenario] = &[
    &suite::All,
    &conformance::Conformance,
    &custom::Custom,
    &dual_model::DualModel,
    &list::List,
    &multi_tenant::SCENARIO,
    &overhead::Overhead,
    &partition::SCENARIO,
    &preempt_latency::PreemptLatency,
    &reaction::Reaction,
    &realtime_batch::SCENARIO,
    &soak::SCENARIO,
    &systematic::Systematic,
];

/// Something that `xsched bench` can run.
pub trait Scenario: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it measures, one line.
    fn measures(&self) -> &'static str;

    /// When it passes, one line.
    fn passes_when(&self) -> &'static str;

    /// Adds its options.
    fn options(&self, command: Command) -> Command;

    /// Runs it. A [`crate::UsageError`] must come before anything was started or written.
    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome>;
}

/// The scenario that the command line names, with its options.
#[derive(Clone)]
pub struct Selected {
    scenario: &'static dyn Scenario,
    options: ArgMatches,
}

impl Selected {
    /// The scenario.
    pub fn scenario(&self) -> &'static dyn Scenario {
        self.scenario
    }

    /// Runs it.
    pub fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        self.scenario.run(&self.options, context)
    }
}

impl fmt::Debug for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selected")
            .field(&self.scenario.name())
            .finish()
    }
}

impl Subcommand for Selected {
    fn augment_subcommands(command: Command) -> Command {
        ALL.iter().fold(command, |command, scenario| {
            let sub = scenario.options(Command::new(scenario.name()));
            // The options' own description would stand here.
            let sub = sub.about(scenario.measures()).long_about(None);
            let after = format!("Passes when: {}", scenario.passes_when());
            command.subcommand(sub.after_help(after))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        ALL.iter().any(|scenario| scenario.name() == name)
    }
}

impl FromArgMatches for Selected {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let found = matches.subcommand().and_then(|(name, options)| {
            Some((
                *ALL.iter().find(|scenario| scenario.name() == name)?,
                options,
            ))
        });
        match found {
            Some((scenario, options)) => Ok(Selected {
                scenario,
                options: options.clone(),
            }),
            None => Err(clap::Error::raw(
                clap::error::ErrorKind::MissingSubcommand,
                "name a scenario\n",
            )),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        let command = crate::BenchArgs::augment_args(Command::new("bench"));
        command.clone().debug_assert();
        for scenario in ALL {
            let mut words = vec!["bench", scenario.name()];
            // The one that cannot do without.
            words.extend((scenario.name() == "custom").then_some("mine.toml"));
            let matches = command.clone().try_get_matches_from(words).unwrap();
            let args = crate::BenchArgs::from_arg_matches(&matches).unwrap();
            let crate::Action::Scenario(found) = args.action else {
                panic!("{} is no scenario", scenario.name());
            };
            assert_eq!(found.scenario().name(), scenario.name());
            assert!(!scenario.measures().is_empty() && !scenario.passes_when().is_empty());
        }
        assert!(
            command
                .clone()
                .try_get_matches_from(["bench", "unheard-of"])
                .is_err()
        );
        assert!(command.try_get_matches_from(["bench"]).is_err());
    }
}
