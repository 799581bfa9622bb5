//! `xsched run`: finds or starts a daemon, sets the environment, and becomes the program.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Context;
use xsched_server::{
    Client,
    api::{self, Policies, PolicyEntry},
};
use xsched_wire::{
    LevelChoice,
    env::{self, Scheduler, Settings},
    message::MAX_TEXT,
};

use super::seconds;
use crate::{daemon, failure, hints::HintFlags, shim};

/// Exit codes of a shell for a program that cannot be started.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a program whose accelerator work is scheduled.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "xsched run [OPTIONS] -- CMD...",
    after_help = "A hint that is not given is what XSCHED_AUTO_XQUEUE_… says (PRIORITY, UTILIZATION, TIMESLICE, DEADLINE, \
                  KDEADLINE, LAXITY, WEIGHT, LATENCY_TARGET), else the policy's default.\n\
                  The exit code is CMD's; 127 if it is not found, 126 if it cannot be executed.\n\
                  XSCHED_DISABLE=1 in the environment: CMD is executed and nothing else happens."
)]
pub(crate) struct RunArgs {
    /// What to call the program in `xsched list`
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Preemption level: 1, 2, 3, or auto for the highest that works
    #[arg(long, value_parser = level)]
    level: Option<String>,
    #[command(flatten)]
    hints: HintFlags,
    /// When a daemon that is started here ends itself, unused.
    #[arg(long, hide = true, value_parser = seconds, default_value = "600")]
    exit_when_unused: Duration,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Returns only if the program could not be started.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (program, arguments) = args.command.split_first().context("no program is named")?;
    let mut command = Command::new(program);
    command.args(arguments);
    match Settings::from_env().scheduler {
        Scheduler::Off => {}
        Scheduler::Local(_) | Scheduler::Application => {
            if let (Some(policy), None) = (env::POLICY.get(), env::SCHEDULER.get()) {
                failure::say(&format!(
                    "{}={policy}: the program is scheduled inside itself, without the daemon: unset it, or set {}=LCL to \
                     say so",
                    env::POLICY.name,
                    env::SCHEDULER.name
                ));
            }
            prepare(&mut command, args)?;
            command.envs(env::cuda_connections());
        }
        Scheduler::Global => {
            prepare(&mut command, args)?;
            let socket = scheduler(args.exit_when_unused)?;
            say_unheeded(&socket, &args.hints);
            command.env(env::SOCKET.name, socket);
        }
    }
    let error = command.exec();
    let program = program.to_string_lossy();
    let (code, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, "check its name and PATH"),
        _ => (
            CANNOT_EXECUTE,
            "check that it is a program that you may execute",
        ),
    };
    failure::say(&format!("cannot run {program}: {error}: {remedy}"));
    Ok(ExitCode::from(code))
}

/// The socket that the program is to join: of a daemon that answers, else where one may come.
fn scheduler(unused: Duration) -> anyhow::Result<PathBuf> {
    if let Some(socket) = daemon::find() {
        return Ok(std::path::absolute(socket)?);
    }
    if let Some(socket) = env::SOCKET.get() {
        failure::say(&format!(
            "the program runs unscheduled: no daemon answers at {socket}: start one with `xsched \
             serve --socket {socket}`, or unset {}",
            env::SOCKET.name
        ));
        return Ok(std::path::absolute(socket)?);
    }
    Ok(daemon::start_own(unused).unwrap_or_else(|error| {
        failure::say(&format!("the program runs unscheduled: {error:#}"));
        xsched_wire::endpoint::user_socket()
    }))
}

/// Says which hints the daemon's policy does not heed. They are given all the same: the policy may change.
fn say_unheeded(socket: &Path, hints: &HintFlags) {
    let unheeded = |policy: &PolicyEntry| {
        let names = hints.iter().filter(|hint| !hint.is_about_running());
        let names = names.map(|hint| hint.kind().name());
        let unheeded = names.filter(|name| !policy.hints.iter().any(|heeded| heeded == name));
        unheeded.collect::<Vec<_>>()
    };
    if hints.iter().next().is_none() {
        return;
    }
    let policies = Client::connect(socket).and_then(|daemon| daemon.get(api::path::POLICIES));
    let Ok(Policies { policies }) = policies else {
        return;
    };
    let in_force = policies.iter().find(|policy| policy.active);
    if let Some((policy, names)) = in_force.map(|policy| (policy, unheeded(policy)))
        && !names.is_empty()
    {
        failure::say(&format!(
            "policy {} does not heed {}: `xsched policy --list` shows what each heeds, `xsched policy NAME` changes it",
            policy.name,
            names.join(", ")
        ));
    }
}

/// The environment that does not depend on a daemon.
fn prepare(command: &mut Command, args: &RunArgs) -> anyhow::Result<()> {
    command.env(env::JOB.name, random_job()?.to_string());
    if let Some(name) = &args.name {
        command.env(env::NAME.name, name);
    }
    for hint in args.hints.iter() {
        let known = env::HINTS.iter().find(|(kind, _)| *kind == hint.kind());
        if let Some((_, variable)) = known {
            command.env(variable.name, hint.to_string());
        }
    }
    if let Some(level) = &args.level {
        command.env(env::LEVEL.name, level);
    }
    let shims = shim::installed(&std::env::current_exe()?);
    let existing = std::env::var_os(shim::LD_PRELOAD);
    let (preload, refused) = shim::preload(&shims, existing.as_deref());
    if let Some(preload) = preload {
        command.env(shim::LD_PRELOAD, preload);
    }
    if shims.is_empty() {
        failure::say(
            "no shim is installed beside xsched, so only programs that make XQueues by themselves are scheduled: build \
             them with `cargo xtask build --release`",
        );
    }
    for path in refused {
        failure::say(&format!(
            "{} is not preloaded: its path holds a blank or a colon: install xsched elsewhere",
            path.display()
        ));
    }
    Ok(())
}

/// Not 0 (no job), and within `i64`, as the agent reads it.
fn random_job() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok((u64::from_ne_bytes(bytes) >> 1).max(1))
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control) {
        return Err(format!(
            "use 1 to {MAX_TEXT} bytes without control characters"
        ));
    }
    Ok(text.into())
}

fn level(text: &str) -> Result<String, String> {
    text.parse::<LevelChoice>().map(|_| text.into())
}
