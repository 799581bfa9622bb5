//! `xsched bench list`: what every scenario measures, and when it passes.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;

use super::{ALL, Scenario};
use crate::store::json_text;
use crate::{Context, Outcome};

/// Measures nothing.
pub(super) struct List;

#[derive(Serialize)]
struct Line {
    name: &'static str,
    measures: &'static str,
    passes_when: &'static str,
}

impl Scenario for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn measures(&self) -> &'static str {
        "Say what every scenario measures and when it passes"
    }

    fn passes_when(&self) -> &'static str {
        "the list was written"
    }

    fn options(&self, command: Command) -> Command {
        let json = Arg::new("json").long("json").action(ArgAction::SetTrue);
        command.arg(json.help("As JSON"))
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let line = |scenario: &&dyn Scenario| Line {
            name: scenario.name(),
            measures: scenario.measures(),
            passes_when: scenario.passes_when(),
        };
        let others = ALL.iter().filter(|one| one.name() != self.name());
        let lines: Vec<Line> = others.map(line).collect();
        let text = match options.get_flag("json") {
            true => json_text(&lines)?,
            false => lines
                .iter()
                .map(|line| {
                    format!(
                        "{}\n    measures: {}\n    passes when: {}\n",
                        line.name, line.measures, line.passes_when
                    )
                })
                .collect(),
        };
        context.stdout.write_all(text.as_bytes())?;
        context.stdout.flush()?;
        Ok(Outcome::Pass)
    }
}
