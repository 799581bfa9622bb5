//! The daemon: programs register their queues here, and one scheduler serves them all.
//!
//! ```text
//!  agents ──SEQPACKET──▶ listener ─▶ session ─┐               scheduler thread
//!         ──eventfd────▶ reactor ─────────────┼▶ host ─▶ engine ─▶ gates (shared memory)
//!  xsched ──HTTP───────▶ http ─▶ admin ───────┘      └▶ reaper
//!                        (http and reaper: threads of their own)
//! ```
//! Invariant: the scheduler thread never waits for a client, and what a client sends or writes
//! harms that client alone.
#![forbid(unsafe_code)]

mod admin;
pub mod api;
mod callers;
mod client;
mod devices;
mod host;
mod http;
mod listener;
mod permission;
mod reactor;
mod reaper;
mod scheduler;
mod session;
mod trace;

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::{pipe, unregister},
};
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use xsched_sched::{Config, Engine, policy};

pub use client::{Client, ClientError};
pub use trace::TraceOptions;

use crate::{
    host::Host,
    http::About,
    listener::Listeners,
    reactor::Reactor,
    reaper::Reaper,
    scheduler::{Requests, Scheduler},
    trace::Observed,
};

/// Largest minimal share that a daemon can guarantee.
pub const MAX_MIN_SHARE: f64 = 0.25;

/// How a daemon serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where programs register. The HTTP API's socket and the lock file stand beside it.
    pub socket: PathBuf,
    /// Name of the policy, at first.
    pub policy: String,
    /// Share of a device that every waiting group is guaranteed, 0 (none) to 0.25.
    pub min_share: f64,
    /// End when for this long no program has been registered, and no process lived that had called the HTTP API.
    pub exit_when_unused: Option<Duration>,
    /// Write what happens to a file.
    pub trace: Option<TraceOptions>,
}

/// A [`ServeOptions`] that cannot be served: the caller's mistake, one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadOption(pub String);

/// Serves until SIGTERM, SIGINT or disuse. Calls `on_ready` when programs can register.
///
/// Removes its sockets at the end, and opens all gates. An error that is a [`BadOption`]
/// (`downcast_ref`) is the caller's, any other the system's.
pub fn serve(options: ServeOptions, on_ready: impl FnOnce()) -> Result<()> {
    let daemon = Daemon::bind(options)?;
    let (stop, signalled) = UnixStream::pair().context("cannot watch for signals")?;
    let mut watched = Vec::new();
    for signal in [SIGTERM, SIGINT] {
        let signalled = signalled.try_clone().context("cannot watch for signals")?;
        watched.push(pipe::register(signal, signalled).context("cannot watch for signals")?);
    }
    on_ready();
    let result = daemon.run(stop);
    for id in watched {
        unregister(id);
    }
    result
}

/// A daemon whose sockets are there, so that clients can connect, but that does not run yet.
pub struct Daemon {
    options: ServeOptions,
    listeners: Listeners,
    engine: Engine,
    trace: Option<trace::Target>,
}

impl Daemon {
    /// Checks the options and takes the sockets.
    pub fn bind(mut options: ServeOptions) -> Result<Daemon> {
        let policy = policy::by_name(&options.policy).map_err(|e| BadOption(e.to_string()))?;
        if !(0.0..=MAX_MIN_SHARE).contains(&options.min_share) {
            bail!(BadOption(format!(
                "minimal share {} is out of range: use 0 (none) to {MAX_MIN_SHARE}",
                options.min_share
            )));
        }
        options.socket = std::path::absolute(&options.socket)
            .map_err(|e| BadOption(format!("socket {}: {e}", options.socket.display())))?;
        let mut config = Config::new(policy);
        config.min_share = options.min_share;
        let trace = options
            .trace
            .as_ref()
            .map(trace::Target::open)
            .transpose()?;
        let listeners = match Listeners::claim(&options.socket) {
            Ok(listeners) => listeners,
            Err(error) => {
                if let Some(trace) = trace {
                    trace.abandon();
                }
                return Err(error);
            }
        };
        Ok(Daemon {
            listeners,
            trace,
            engine: Engine::new(config),
            options,
        })
    }

    /// Serves, on this thread, until `stop` is readable or nobody uses the daemon any more.
    pub fn run(self, stop: impl AsFd) -> Result<()> {
        raise_descriptor_limit();
        let Daemon {
            options,
            listeners,
            engine,
            trace,
        } = self;
        let owner = rustix::process::geteuid().as_raw();
        info!(
            socket = %options.socket.display(),
            policy = options.policy,
            min_share = options.min_share,
            "daemon serves",
        );
        let about = About {
            socket: options.socket,
            owner,
            min_share: options.min_share,
            started: Instant::now(),
            ends_unused: options.exit_when_unused.is_some(),
        };
        let reaper = Reaper::start().context("cannot start the reaper")?;
        let recorder = trace.map(trace::Target::start).transpose();
        let engine = Observed::new(engine, recorder.context("cannot start the trace")?);
        let host = Host::new(Reactor::new()?, reaper, engine, owner);
        let (scheduler, requests) = Scheduler::new(
            host,
            listeners.agents.try_clone()?,
            stop.as_fd(),
            options.exit_when_unused,
        )?;
        let http = HttpThread::start(&listeners, about, requests)?;
        let result = scheduler.run();
        // New clients find no daemon rather than one that is about to end.
        drop(listeners);
        drop(http);
        info!("daemon ended");
        result
    }
}

/// The thread of the HTTP API; ends when it is dropped.
struct HttpThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HttpThread {
    fn start(listeners: &Listeners, about: About, requests: Requests) -> Result<Self> {
        let listener = listeners.http.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the HTTP API")?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let served = runtime.block_on(http::serve(listener, about, requests, stopped));
            if let Err(error) = served {
                error!(%error, "HTTP API ended");
            }
        };
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(serve)
            .context("cannot start the HTTP API")?;
        Ok(HttpThread {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for HttpThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(|thread| thread.join()) {
            error!("HTTP API panicked");
        }
    }
}

/// A client takes three descriptors or more, so the usual soft limit of 1,024 would end at some 330.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        warn!(%error, "cannot raise the limit of descriptors");
    }
}
