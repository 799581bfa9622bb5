//! `xsched hint`: gives running programs or queues another priority.

use std::process::ExitCode;

use xsched_sched::Priority;
use xsched_server::api::{self, HintAnswer, HintRequest};

use crate::{daemon, failure};

/// Change the priority of running programs.
#[derive(clap::Args, Debug)]
#[command(
    group = clap::ArgGroup::new("target").required(true).args(["pid", "queue", "name"]),
    after_help = "Everybody may lower their own programs; raising above normal (0) is the daemon's \
                  owner's and root's."
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
    /// How urgent: realtime, high, normal, low, idle, or -255 to 255
    ///
    /// A larger number is more urgent (MPS and HAMi count the other way); -256 means: do not
    /// run.
    #[arg(long, value_name = "N|CLASS", allow_negative_numbers = true)]
    priority: Priority,
}

/// Gives it, and says to whom.
pub(crate) fn run(args: &HintArgs) -> anyhow::Result<ExitCode> {
    let request = HintRequest {
        pid: args.pid,
        queue: args.queue,
        name: args.name.clone(),
        priority: args.priority.get(),
    };
    let HintAnswer { pids, priority } = daemon::connect()?.post(api::path::HINTS, &request)?;
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let target = match args.queue {
        Some(queue) => format!("queue {queue} of pid {}", pids.join(", ")),
        None => format!("pid {}", pids.join(", ")),
    };
    failure::print(&format!("{target}: priority {priority}\n"))?;
    Ok(ExitCode::SUCCESS)
}
