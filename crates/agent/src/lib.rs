//! The agent: registers a process's queues with a scheduler and obeys it.
//!
//! The scheduler is the daemon (`global`), or an engine in the agent's own thread (`local`), or
//! the application itself, or nobody. Whatever happens to it, queues run on: when it is lost, the
//! bypass bit opens every gate, and hardware shares go back to normal. One thread a process,
//! started with the first queue; a process without queues starts none.
//!
//! Reading order: this file, `shared` (queues, doorbell), `bypass` (gates that open over the
//! scheduler's head), `global`, `local`, `process` (fork and exit: the only file with `unsafe`).

mod bypass;
mod global;
mod local;
mod log;
mod process;
mod shared;

use std::{
    io,
    sync::{Arc, atomic::AtomicPtr},
};

use xsched_wire::{
    Hints,
    env::{Scheduler, Settings},
    segment::SegmentError,
};
use xsched_xqueue::{HwQueue, Managing, XQueue};

use shared::Shared;

/// Why a queue could not be put under a scheduler. The program can use its hw queue without.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No shared memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// No eventfd.
    #[error("cannot create an eventfd: {0}")]
    System(#[from] io::Error),
    /// The agent belongs to the parent process.
    #[error("this agent belongs to the process that forked: make a new one in the child")]
    Forked,
    /// All control blocks are in use.
    #[error("more than {} queues in one process", xsched_wire::segment::SLOTS)]
    TooManyQueues,
}

/// The in-process side of scheduling. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

/// The process's agent: null, or an `Arc` that is never released, so that hooks may use it until
/// the process ends. Reset to null in a forked child.
static PROCESS: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

impl Agent {
    /// The process's own agent, if it was made already.
    pub fn current() -> Option<Self> {
        process::load(&PROCESS).map(|shared| Agent { shared })
    }

    /// The process's own agent, as the environment says; made by the first call.
    pub fn from_env() -> Result<Self, AttachError> {
        Self::from_settings(Settings::from_env)
    }

    /// The same with settings that the program gives, which count if it has no agent yet.
    pub fn from_settings(settings: impl FnOnce() -> Settings) -> Result<Self, AttachError> {
        if let Some(agent) = Self::current() {
            return Ok(agent);
        }
        let fresh = Self::new(settings())?;
        for warning in &fresh.shared.settings.warnings {
            log::warn(warning);
        }
        Ok(Agent {
            shared: process::publish(&PROCESS, fresh.shared),
        })
    }

    /// An agent of its own, for programs that use the API directly.
    pub fn new(settings: Settings) -> Result<Self, AttachError> {
        let shared = Arc::new(Shared::new(settings)?);
        process::watch(&shared);
        Ok(Agent { shared })
    }

    /// Puts a hw queue of `device` (the same string in every process that uses the same device)
    /// under the scheduler.
    pub fn attach<Q: HwQueue>(&self, hw: Q, device: &str) -> Result<XQueue<Q>, AttachError> {
        self.attach_with(hw, device, Hints::default())
    }

    /// The same with hints of its own, which make the queue its own task group.
    pub fn attach_with<Q: HwQueue>(
        &self,
        hw: Q,
        device: &str,
        hints: Hints,
    ) -> Result<XQueue<Q>, AttachError> {
        self.put_under_scheduler(hw, device, hints, false)
    }

    /// A gate without commands of its own: it is closed while all queues of the process on `device`
    /// are, for commands that may execute in any of them. In a process of several task groups it
    /// stays open.
    pub fn attach_common<Q: HwQueue>(&self, hw: Q, device: &str) -> Result<XQueue<Q>, AttachError> {
        self.put_under_scheduler(hw, device, Hints::default(), true)
    }

    fn put_under_scheduler<Q: HwQueue>(
        &self,
        hw: Q,
        device: &str,
        hints: Hints,
        common: bool,
    ) -> Result<XQueue<Q>, AttachError> {
        let shared = &self.shared;
        let slot = shared.reserve()?;
        let scheduled = shared.settings.scheduler != Scheduler::Off;
        let managing = scheduled.then_some(Managing {
            level: shared.settings.level,
            launch: shared.settings.launch,
        });
        let queue = XQueue::new(hw, slot, shared.clone(), managing);
        shared.register(slot, device, hints, common, queue.managed());
        if scheduled && shared.settings.scheduler != Scheduler::Application {
            start_thread(shared);
        }
        Ok(queue)
    }

    /// Changes the hints of one queue, which becomes its own task group.
    pub fn hint<Q: HwQueue>(&self, queue: &XQueue<Q>, hints: Hints) {
        self.shared.hint(queue.slot(), hints);
    }

    /// Changes the hints of all queues of the process that have none of their own.
    pub fn hint_process(&self, hints: Hints) {
        self.shared.hint_process(hints);
    }

    /// Whether more than one task group has a queue in this process: they may block each other.
    pub fn has_several_groups(&self) -> bool {
        self.shared.has_several_groups()
    }

    /// Opens all gates of the process until the guard is dropped: for a thread inside a driver call
    /// that waits for what stands behind them.
    pub fn open_while(&self) -> Opened<'_> {
        self.shared.inside_call(true);
        Opened {
            shared: &self.shared,
        }
    }

    /// The process's segment, for platforms whose device accesses it.
    pub fn layout(&self) -> &'static xsched_wire::segment::Layout {
        self.shared.layout()
    }

    /// Messages that the scheduler is yet to be told.
    pub fn unsent(&self) -> usize {
        self.shared.unsent()
    }

    /// Whether a scheduler decides at the moment: a daemon answered, or the local one runs.
    pub fn is_scheduled(&self) -> bool {
        self.shared.is_scheduled()
    }
}

/// While it lives, all gates of the process are open.
#[must_use = "gates close again when it is dropped"]
pub struct Opened<'a> {
    shared: &'a Shared,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.shared.inside_call(false);
    }
}

/// Opens every gate of the process for good. Runs at exit by itself; a shim also calls it before a
/// driver's own teardown, whose exit handlers may come first.
pub fn release_at_exit() {
    process::at_exit();
}

/// Starts a thread of ours in somebody else's process: no signal is ever handled on it.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let _signals = process::BlockedSignals::new();
    let builder = std::thread::Builder::new().name(name.into());
    builder.spawn(body).map(drop)
}

fn start_thread(shared: &Arc<Shared>) {
    if !shared.claim_thread() {
        return;
    }
    let body = {
        let shared = shared.clone();
        move || {
            let run = std::panic::AssertUnwindSafe(|| match &shared.settings.scheduler {
                Scheduler::Local(policy) => local::run(&shared, policy.as_deref()),
                _ => global::run(&shared),
            });
            if std::panic::catch_unwind(run).is_err() {
                log::warn("scheduling stopped by an internal error: this program runs unscheduled");
            }
            shared.release_all();
        }
    };
    if let Err(error) = spawn("xsched-agent", body) {
        log::warn(&format!(
            "no agent thread ({error}): this program runs unscheduled"
        ));
    }
}
