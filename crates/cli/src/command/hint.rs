//! `xsched hint`: tells the policy something else about running programs or queues.

use std::process::ExitCode;

use xsched_server::api::{self, HintAnswer, HintRequest};

use crate::{daemon, failure, hints::HintFlags};

/// Change what the policy knows about running programs.
#[derive(clap::Args, Debug)]
#[command(
    group = clap::ArgGroup::new("target").required(true).args(["pid", "queue", "name"]),
    group = clap::ArgGroup::new("hints").required(true).multiple(true).args(HintFlags::NAMES),
    after_help = "Everybody may change their own programs; what takes from others (a priority above normal, a share, a \
                  latency target …) is the daemon's owner's and root's to give. What is out of range, or not heeded by \
                  the policy in force, is refused, and nothing changes."
)]
pub(crate) struct HintArgs {
    /// The process
    #[arg(long, value_name = "P")]
    pid: Option<u32>,
    /// The queue (see `xsched list`); it is then scheduled apart from its program's other queues
    #[arg(long, value_name = "Q")]
    queue: Option<u64>,
    /// All programs of this name
    #[arg(long, value_name = "N")]
    name: Option<String>,
    #[command(flatten)]
    hints: HintFlags,
}

/// Gives them, and says to whom.
pub(crate) fn run(args: &HintArgs) -> anyhow::Result<ExitCode> {
    let request = HintRequest {
        pid: args.pid,
        queue: args.queue,
        name: args.name.clone(),
        hints: api::hints(args.hints.iter().collect()),
    };
    let HintAnswer { pids, hints } = daemon::connect()?.post(api::path::HINTS, &request)?;
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let target = match args.queue {
        Some(queue) => format!("queue {queue} of pid {}", pids.join(", ")),
        None => format!("pid {}", pids.join(", ")),
    };
    failure::print(&format!("{target}: {}\n", text(&hints)))?;
    Ok(ExitCode::SUCCESS)
}

/// Hints on one line.
pub(crate) fn text(hints: &std::collections::BTreeMap<String, serde_json::Value>) -> String {
    let one = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    };
    hints.iter().map(one).collect::<Vec<_>>().join(", ")
}
