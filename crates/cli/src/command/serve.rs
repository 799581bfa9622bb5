//! `xsched serve`: the daemon, in the foreground or, for `xsched run`, detached.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Context;
use xsched_server::{ServeOptions, TraceOptions};
use xsched_wire::{endpoint, env};

use super::seconds;
use crate::failure::{self, BadInput};

/// The hidden flag of a daemon that `xsched run` starts.
const DETACH: &str = "--detach";
/// In percent.
const MAX_SHARE: f64 = xsched_server::MAX_MIN_SHARE * 100.0;

/// Run the scheduling daemon until SIGTERM or Ctrl-C.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Without --socket and XSCHED_SOCKET: root's is /run/xsched/xsched.sock where \
                        the directory /run/xsched exists (make it once: `install -d -m 755 \
                        /run/xsched`); everybody else's, and root's without that directory, is \
                        $XDG_RUNTIME_DIR/xsched/xsched.sock, or /tmp/xsched-UID/xsched.sock."
)]
pub(crate) struct ServeArgs {
    /// Policy to start with; `xsched policy` changes it
    #[arg(long, default_value = "hpf")]
    policy: String,
    /// Where to listen; the HTTP API is beside it, with .http at the end
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Share of the device that every program gets, 0 (none) to 25
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "5", allow_negative_numbers = true)]
    min_share: f64,
    /// End when no program was connected for this long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    exit_when_unused: Option<Duration>,
    /// Write a trace of queues, gates and decisions that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Size at which the trace ends
    #[arg(long, value_name = "MIB", requires = "trace", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    trace_limit: u64,
    /// Start again as nobody's child, without the terminal, and return.
    #[arg(long, hide = true)]
    detach: bool,
}

/// Returns when the daemon has ended.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    xsched_sched::policy::by_name(&args.policy).map_err(|error| BadInput(error.to_string()))?;
    if args.detach {
        detach().context("cannot detach the daemon")?;
        return Ok(ExitCode::SUCCESS);
    }
    let socket = args.socket.unwrap_or_else(standard_socket);
    let options = ServeOptions {
        socket: socket.clone(),
        policy: args.policy,
        min_share: args.min_share / 100.0,
        exit_when_unused: args.exit_when_unused,
        trace: args.trace.map(|file| TraceOptions {
            file,
            limit: args.trace_limit << 20,
        }),
    };
    xsched_server::serve(options, || {
        // A service without stdout still serves.
        let _ = failure::print(&format!("ready on {}\n", socket.display()));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Documented in the help text.
fn standard_socket() -> PathBuf {
    let system = Path::new(endpoint::SYSTEM_SOCKET);
    let may_be_system =
        rustix::process::geteuid().is_root() && system.parent().is_some_and(Path::is_dir);
    match env::SOCKET.get() {
        Some(path) => path.into(),
        None if may_be_system => system.into(),
        None => endpoint::user_socket(),
    }
}

/// Leaves the session of whoever started us, and leaves the daemon to the system: our parent
/// becomes the user's program, which must not find a child that it never had. Descriptors that it
/// handed down (locks, pipes) stay behind.
fn detach() -> anyhow::Result<()> {
    rustix::process::setsid()?;
    close_fds::set_fds_cloexec(3, &[]);
    Command::new(std::env::current_exe()?)
        .args(
            std::env::args_os()
                .skip(1)
                .filter(|argument| argument != DETACH),
        )
        .spawn()?;
    Ok(())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=MAX_SHARE).contains(&share) => Ok(share),
        _ => Err(format!("use 0 to {MAX_SHARE} percent")),
    }
}
