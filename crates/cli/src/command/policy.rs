//! `xsched policy`: shows, lists and changes the rule by which the daemon decides.

use std::process::ExitCode;

use xsched_server::api::{self, Policies, Policy};

use crate::{daemon, failure};

/// Show or change the policy of the daemon.
#[derive(clap::Args, Debug)]
pub(crate) struct PolicyArgs {
    /// All policies that the daemon has; the one in force is marked *
    #[arg(long, conflicts_with = "name")]
    list: bool,
    /// Policy to put in force, at once and for everybody
    name: Option<String>,
}

/// Prints the policy in force.
pub(crate) fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    let daemon = daemon::connect()?;
    if args.list {
        let Policies { policies } = daemon.get(api::path::POLICIES)?;
        let line = |policy: api::PolicyEntry| {
            let mark = if policy.active { '*' } else { ' ' };
            let hints = match policy.hints.is_empty() {
                true => String::new(),
                false => format!(" ({})", policy.hints.join(", ")),
            };
            format!("{mark} {:<6} {}{hints}\n", policy.name, policy.summary)
        };
        failure::print(&policies.into_iter().map(line).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let Policy { name } = match &args.name {
        Some(name) => daemon.put(api::path::POLICY, &Policy { name: name.clone() })?,
        None => daemon.get(api::path::POLICY)?,
    };
    failure::print(&format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}
