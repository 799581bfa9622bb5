//! A command of the user's as a workload: a request is one run of it, from its start to its end.

use std::process::{Command, Stdio};

use super::{Failure, WorkerArgs, Workload};
use crate::launch::describe_exit;

/// The command and its arguments.
pub(super) struct CommandWorkload {
    command: Command,
    name: String,
}

impl CommandWorkload {
    /// The command is not run yet, and there is one (`schedule` has checked it). It inherits what `xsched
    /// run` has set, so that it is scheduled as any program is.
    pub(super) fn new(args: &WorkerArgs) -> CommandWorkload {
        let (program, arguments) = args.command.split_first().expect("checked before");
        let mut command = Command::new(program);
        // Standard output is the protocol's, standard error the log.
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        CommandWorkload {
            command,
            name: program.to_string_lossy().into_owned(),
        }
    }
}

impl Workload for CommandWorkload {
    fn commands(&self) -> usize {
        1
    }

    /// Not known here: the queues are the command's.
    fn level(&self) -> u8 {
        0
    }

    fn infer(&mut self) -> Result<Vec<u8>, Failure> {
        let name = &self.name;
        let status = self
            .command
            .status()
            .map_err(|error| Failure::usage(format!("{name} cannot be started: {error}")))?;
        if status.success() {
            return Ok(Vec::new());
        }
        let how = describe_exit(status);
        Err(Failure::other(format!("{name} ended with {how}")))
    }
}
