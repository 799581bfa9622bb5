//! `--trace`: what the daemon saw and decided, as a file that ui.perfetto.dev and chrome://tracing open.
//!
//! The scheduler thread only puts records into a bounded channel. A thread of its own keeps the state of
//! the queues and writes the file; what it cannot keep up with is dropped, counted, and said in the
//! trace. Without `--trace` neither exists, and no clock is read for it.

mod writer;

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use xsched_sched::{Action, Engine, Event, EventError, HwShare, Nanos, Policy, QueueId};

use crate::{BadOption, scheduler::now};
use writer::Writer;

/// Records that may wait for the writer.
const CAPACITY: usize = 64 * 1024;

/// Where a trace goes.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The file; what it holds is replaced.
    pub file: PathBuf,
    /// It grows no larger than about this many bytes.
    pub limit: u64,
}

/// Something that happened on the scheduler thread. Times are of the monotonic clock.
enum Record {
    /// A queue was registered; its gate is closed so far.
    Queue {
        at: Nanos,
        queue: QueueId,
        owner: Owner,
    },
    /// The engine was told of an event.
    Decision {
        start: Nanos,
        end: Nanos,
        policy: &'static str,
        event: &'static str,
        /// What it says about a queue.
        change: Option<(QueueId, Change)>,
        /// Gates and shares to change.
        actions: usize,
    },
    /// A gate was opened or closed.
    Gate {
        at: Nanos,
        queue: QueueId,
        open: bool,
    },
    /// A queue's share of the hardware was set.
    Share {
        at: Nanos,
        queue: QueueId,
        share: HwShare,
    },
    /// A queue is gone with its process.
    Gone { at: Nanos, queue: QueueId },
}

impl Record {
    /// When it began: no later record began earlier.
    fn began(&self) -> Nanos {
        match self {
            Record::Decision { start, .. } => *start,
            _ => self.ended(),
        }
    }

    /// When it had happened.
    fn ended(&self) -> Nanos {
        match self {
            Record::Decision { end, .. } => *end,
            Record::Queue { at, .. }
            | Record::Gate { at, .. }
            | Record::Share { at, .. }
            | Record::Gone { at, .. } => *at,
        }
    }
}

/// Whose a queue is.
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) name: Arc<str>,
    pub(crate) device: Arc<str>,
}

/// What an event says about a queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Ready,
    Idle,
    Gone,
    /// Nothing that the trace keeps.
    None,
}

/// An opened file for a trace.
pub(crate) struct Target {
    file: File,
    path: PathBuf,
    limit: u64,
    /// It was not there before.
    created: bool,
}

impl Target {
    /// Opens the file, and leaves what it holds.
    pub(crate) fn open(options: &TraceOptions) -> Result<Target, BadOption> {
        let path = std::path::absolute(&options.file).unwrap_or_else(|_| options.file.clone());
        let open = |new: bool| OpenOptions::new().write(true).create_new(new).open(&path);
        let opened = match open(true) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                open(false).map(|file| (file, false))
            }
            opened => opened.map(|file| (file, true)),
        };
        let shown = path.display();
        let (file, created) = opened.map_err(|error| {
            BadOption(format!(
                "trace {shown} cannot be written ({error}): name a file in a directory of yours"
            ))
        })?;
        // For as long as it is open; a pipe or a file system that knows no locks is nobody's.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(BadOption(format!(
                "trace {shown} is being written by another daemon: name another file"
            )));
        }
        Ok(Target {
            file,
            path,
            limit: options.limit,
            created,
        })
    }

    /// Leaves everything as it was.
    pub(crate) fn abandon(self) {
        if self.created {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Starts the thread that writes.
    pub(crate) fn start(self) -> io::Result<Recorder> {
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        let (sender, receiver) = sync_channel(CAPACITY);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(self.file, self.limit);
        let (path, counter) = (self.path, dropped.clone());
        // No record is older.
        let began = now();
        let thread = std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || write(writer, began, receiver, &counter, &path))?;
        Ok(Recorder {
            sender: Some(sender),
            dropped,
            thread: Some(thread),
        })
    }
}

fn write(
    mut writer: Writer,
    began: Nanos,
    records: Receiver<Record>,
    dropped: &AtomicU64,
    path: &Path,
) {
    // A kill between two records then loses nothing: what is read at once is written at once.
    let mut outcome = writer.begin(began);
    while outcome.is_ok()
        && let Ok(record) = records.recv()
    {
        let mut next = Some(record);
        while outcome.is_ok()
            && let Some(record) = next
        {
            writer.lost(dropped.swap(0, Ordering::Relaxed), record.began());
            outcome = writer.take(record);
            next = records.try_recv().ok();
        }
        outcome = outcome.and_then(|()| writer.flush());
    }
    let outcome = outcome.and_then(|()| writer.end(now()));
    if let Err(error) = outcome {
        tracing::warn!(%error, path = %path.display(), "the trace ends early");
    }
}

/// The scheduler thread's end. Dropping it completes the file.
pub(crate) struct Recorder {
    sender: Option<SyncSender<Record>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Never waits.
    fn send(&self, record: Record) {
        if let Some(sender) = &self.sender
            && sender.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the trace's writer panicked");
        }
    }
}

/// The engine, watched if there is a trace.
pub(crate) struct Observed {
    engine: Engine,
    recorder: Option<Recorder>,
}

impl Observed {
    pub(crate) fn new(engine: Engine, recorder: Option<Recorder>) -> Self {
        Observed { engine, recorder }
    }

    /// Whether somebody takes note of everything.
    pub(crate) fn is_traced(&self) -> bool {
        self.recorder.is_some()
    }

    /// [`Engine::handle`].
    pub(crate) fn handle(
        &mut self,
        at: Nanos,
        event: Event,
        actions: &mut Vec<Action>,
    ) -> Result<(), EventError> {
        let Some(recorder) = &self.recorder else {
            return self.engine.handle(at, event, actions);
        };
        let (name, change) = describe(&event);
        let (before, start) = (actions.len(), now());
        let outcome = self.engine.handle(at, event, actions);
        recorder.send(Record::Decision {
            start,
            end: now(),
            policy: self.engine.policy_name(),
            event: name,
            change,
            actions: actions.len() - before,
        });
        outcome
    }

    /// [`Engine::set_policy`].
    pub(crate) fn set_policy(
        &mut self,
        at: Nanos,
        policy: Box<dyn Policy>,
        actions: &mut Vec<Action>,
    ) {
        let Some(recorder) = &self.recorder else {
            return self.engine.set_policy(at, policy, actions);
        };
        let (before, start) = (actions.len(), now());
        self.engine.set_policy(at, policy, actions);
        recorder.send(Record::Decision {
            start,
            end: now(),
            policy: self.engine.policy_name(),
            event: "policy",
            change: None,
            actions: actions.len() - before,
        });
    }

    /// A queue is about to be made known to the engine.
    pub(crate) fn created(&self, queue: QueueId, owner: impl FnOnce() -> Owner) {
        if let Some(recorder) = &self.recorder {
            let (at, owner) = (now(), owner());
            recorder.send(Record::Queue { at, queue, owner });
        }
    }

    /// A gate was set as the engine asked.
    pub(crate) fn gated(&self, queue: QueueId, open: bool) {
        if let Some(recorder) = &self.recorder {
            recorder.send(Record::Gate {
                at: now(),
                queue,
                open,
            });
        }
    }

    /// A share was set as the engine asked.
    pub(crate) fn shared(&self, queue: QueueId, share: HwShare) {
        if let Some(recorder) = &self.recorder {
            recorder.send(Record::Share {
                at: now(),
                queue,
                share,
            });
        }
    }

    /// A queue went with its process.
    pub(crate) fn gone(&self, queue: QueueId) {
        if let Some(recorder) = &self.recorder {
            recorder.send(Record::Gone { at: now(), queue });
        }
    }
}

/// What only asks needs no watching.
impl Deref for Observed {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// An event's name in the trace, and what it says about a queue.
fn describe(event: &Event) -> (&'static str, Option<(QueueId, Change)>) {
    match *event {
        Event::QueueCreated { queue, .. } => ("queue created", Some((queue, Change::None))),
        Event::QueueGone { queue } => ("queue gone", Some((queue, Change::Gone))),
        Event::Ready { queue } => ("ready", Some((queue, Change::Ready))),
        Event::Idle { queue } => ("idle", Some((queue, Change::Idle))),
        Event::Hold { queue, .. } => ("hold", Some((queue, Change::None))),
        Event::Progress { queue } => ("progress", Some((queue, Change::None))),
        Event::ProcessGone { .. } => ("process gone", None),
        Event::Device { .. } => ("device", None),
        Event::Hint { .. } => ("hint", None),
        Event::Stopped { .. } => ("stopped", None),
        Event::Nice { .. } => ("nice", None),
        Event::Foreground { .. } => ("foreground", None),
        Event::Timer => ("timer", None),
    }
}
