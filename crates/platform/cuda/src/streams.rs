//! Every stream that has work, and its XQueue.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use xsched_agent::Agent;
use xsched_shim::{
    after_idle::AfterIdle,
    process::{PerProcess, generation},
    table::{self, Kept, Keyed, Table},
};
use xsched_xqueue::{HwQueue, XQueue};

use crate::{
    captures::{self, CAPTURES},
    driver,
    state::{self, guarded},
    stream::{self, Home, Stream},
    sys::*,
};

/// Which default stream a null handle means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// The context's one.
    Legacy,
    /// The calling thread's own.
    PerThread,
}

/// What names a stream in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Default streams only: handles of others are unique by themselves.
    pub(crate) context: usize,
    /// The handle; 1 and 2 are the default streams.
    pub(crate) raw: usize,
    /// A thread's default stream only.
    pub(crate) thread: usize,
}

impl table::Key for Key {
    #[inline]
    fn bits(self) -> usize {
        self.raw ^ self.context.rotate_left(17) ^ self.thread.rotate_left(40)
    }
}

/// A stream that was used.
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// Unique in the process: handles are used again.
    pub(crate) id: u64,
    /// The process that made it: streams do not survive a fork.
    generation: u32,
    pub(crate) home: Home,
    pub(crate) device: CUdevice,
    /// `None`: it could not be put under a scheduler, and is not tried again.
    queue: Option<XQueue<Stream>>,
    /// Commands of a private stream that marks stand behind: see [`marked`].
    after_idle: AfterIdle,
}

impl Keyed for Entry {
    type Key = Key;

    fn key(&self) -> Key {
        self.key
    }
}

/// A stream under a scheduler.
#[derive(Clone, Copy)]
pub(crate) struct Scheduled {
    pub(crate) entry: &'static Entry,
    pub(crate) queue: &'static XQueue<Stream>,
}

impl Scheduled {
    fn of(entry: &'static Entry) -> Option<Self> {
        let queue = entry.queue.as_ref()?;
        Some(Scheduled { entry, queue })
    }

    /// For a hook that uses it after a wait in the driver, which may last. `None`: it has just ended.
    pub(crate) fn keep(self) -> Option<KeptQueue> {
        let kept = TABLE.keep(self.entry.key)?;
        (kept.id == self.entry.id).then_some(KeptQueue(kept))
    }
}

/// A scheduled stream's queue, which is not freed.
pub(crate) struct KeptQueue(Kept<Entry>);

impl std::ops::Deref for KeptQueue {
    type Target = XQueue<Stream>;

    fn deref(&self) -> &XQueue<Stream> {
        self.0.queue.as_ref().expect("made of a scheduled stream")
    }
}

static TABLE: Table<Entry> = Table::new();
/// Held while a stream gets its queue.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

// ---- looking up ----

#[inline]
pub(crate) fn key(stream: CUstream, flavour: Flavour) -> Key {
    let raw = match (stream as usize, flavour) {
        (0, Flavour::Legacy) => CU_STREAM_LEGACY,
        (0, Flavour::PerThread) => CU_STREAM_PER_THREAD,
        (raw, _) => raw,
    };
    let is_default = raw <= CU_STREAM_PER_THREAD;
    Key {
        context: if is_default {
            driver::current_context() as usize
        } else {
            0
        },
        raw,
        thread: if raw == CU_STREAM_PER_THREAD {
            thread_id()
        } else {
            0
        },
    }
}

/// A thread that has a default stream of its own, which ends with it.
struct OwnDefaultStreams {
    thread: usize,
    generation: u32,
}

impl Drop for OwnDefaultStreams {
    fn drop(&mut self) {
        // A forked child has none of its parent's streams.
        if self.generation == generation() {
            retire(|entry| entry.key.thread == self.thread);
            CAPTURES.end_all(|origin| origin.key.thread == self.thread);
        }
    }
}

fn thread_id() -> usize {
    thread_local! {
        static OWN: OwnDefaultStreams = OwnDefaultStreams {
            thread: rustix::thread::gettid().as_raw_nonzero().get() as usize,
            generation: generation(),
        };
    }
    OWN.try_with(|own| own.thread).unwrap_or(0)
}

#[inline]
fn get(key: Key) -> Option<&'static Entry> {
    TABLE
        .get(key)
        .filter(|entry| entry.generation == generation())
}

/// A scheduled stream by its key. Valid for the duration of a hook that does not wait.
pub(crate) fn by_key(key: Key) -> Option<Scheduled> {
    get(key).and_then(Scheduled::of)
}

/// Every stream of this process that is scheduled. Valid for the duration of a hook that does not wait.
pub(crate) fn all() -> impl Iterator<Item = Scheduled> {
    TABLE
        .all()
        .filter(|entry| entry.generation == generation())
        .filter_map(Scheduled::of)
}

/// Where a command goes.
pub(crate) enum Way {
    /// To the device, by this stream.
    Scheduled(Scheduled),
    /// Into a graph: what is captured is not executed, the launch of its graph is what waits.
    Captured,
    /// Nobody schedules the stream: pass through.
    Unscheduled,
}

/// The stream, if it had work before and is not being captured.
#[inline]
pub(crate) fn find(stream: CUstream, flavour: Flavour) -> Option<Scheduled> {
    if !state::is_active() || captures::is_capturing(stream, flavour) {
        return None;
    }
    by_key(key(stream, flavour))
}

/// Where a command on this stream goes; its entry is made if this is its first command.
#[inline]
pub(crate) fn way(stream: CUstream, flavour: Flavour) -> Way {
    if !state::is_active() {
        return Way::Unscheduled;
    }
    if captures::is_capturing(stream, flavour) {
        return Way::Captured;
    }
    let key = key(stream, flavour);
    get(key)
        .or_else(|| create(key))
        .and_then(Scheduled::of)
        .map_or(Way::Unscheduled, Way::Scheduled)
}

/// A private stream that wants a mark behind the command that is about to be submitted. Nobody but its own
/// thread can ask the driver whether it is idle: one that waits for its work and then frees memory in order,
/// say, would look busy for as long as it does nothing. So marks tell of the first commands.
#[inline]
pub(crate) fn marked(stream: Scheduled) -> Option<KeptQueue> {
    if stream.queue.hw().is_told_by_marks() {
        wants_mark(stream)
    } else {
        None
    }
}

#[cold]
fn wants_mark(stream: Scheduled) -> Option<KeptQueue> {
    let is_idle = stream.queue.begin_synchronize().is_none();
    let counts = stream.entry.after_idle.counts(is_idle);
    counts.then(|| stream.keep()).flatten()
}

// ---- coming ----

/// The table had no room; until a stream ends nobody tries again.
static IS_FULL: AtomicBool = AtomicBool::new(false);

#[cold]
fn create(key: Key) -> Option<&'static Entry> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    if IS_FULL.load(Ordering::Relaxed) {
        return None;
    }
    guarded(|| {
        let _making = MAKING.lock();
        if get(key).is_none() {
            let (home, device, queue) = match place(key) {
                Some((home, device)) => (home, device, put_under_scheduler(key, home, device)),
                None => (Home::default(), -1, None),
            };
            let is_in = TABLE.insert(Entry {
                key,
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                generation: generation(),
                home,
                device,
                queue,
                after_idle: AfterIdle::default(),
            });
            IS_FULL.store(!is_in, Ordering::Relaxed);
        }
        get(key)
    })
    .flatten()
}

/// Where a stream lives; `None`: the driver does not say, as in a forked child.
fn place(key: Key) -> Option<(Home, CUdevice)> {
    let home = stream::home_of(key)?;
    Some((home, stream::device_of(home.context as CUcontext)?))
}

fn put_under_scheduler(key: Key, home: Home, device: CUdevice) -> Option<XQueue<Stream>> {
    let agent = state::agent()?;
    let hw = Stream::new(key, home, device, agent.layout());
    let queue = agent.attach(hw, &stream::device_name(device));
    queue
        .map_err(|error| state::say(&format!("a stream runs unscheduled: {error}")))
        .ok()
}

// ---- going ----

/// Takes out every entry that matches. Their gates open first: the driver may wait for what
/// stands behind one. Nothing of ours enters the driver with them when this returns. Streams for which
/// there was no room are taken out, too, so that they are tried again.
pub(crate) fn retire(matches: impl Fn(&Entry) -> bool) {
    let found_no_room =
        |entry: &Entry| entry.queue.is_none() && entry.key.raw > CU_STREAM_PER_THREAD;
    guarded(|| {
        for entry in TABLE
            .all()
            .filter(|entry| matches(entry) || found_no_room(entry))
        {
            if let Some(queue) = &entry.queue
                && entry.generation == generation()
            {
                queue.hw().let_go();
                queue.retire();
            }
            TABLE.remove_same(entry);
        }
        IS_FULL.store(false, Ordering::Relaxed);
    });
}

/// Whether this process has, or had, streams under a scheduler. Their ends count also while the program
/// lets its commands pass: the agent must not ask the driver about what has ended.
pub(crate) fn has_scheduled() -> bool {
    Agent::current().is_some()
}

/// Around the end of a stream.
pub(crate) fn destroy(stream: CUstream, call: impl FnOnce() -> CUresult) -> CUresult {
    if has_scheduled() && stream as usize > CU_STREAM_PER_THREAD {
        retire(|entry| entry.key.raw == stream as usize);
    }
    let result = call();
    if result == CUDA_SUCCESS {
        // Nobody can end a capture that began there any more.
        CAPTURES.end_all(|origin| origin.key.raw == stream as usize);
    }
    result
}

// ---- synchronizing ----

/// Around a wait for everything in a context; null: the current one.
pub(crate) fn synchronize_context(context: CUcontext, call: impl FnOnce() -> CUresult) -> CUresult {
    if !state::is_active() {
        return call();
    }
    let context = if context.is_null() {
        driver::current_context() as usize
    } else {
        context as usize
    };
    let points: Vec<_> = all()
        .filter(|stream| stream.entry.home.context == context)
        .filter_map(|stream| Some((stream.queue.begin_synchronize()?, stream.keep()?)))
        .collect();
    let result = state::context_wide(call);
    if result == CUDA_SUCCESS {
        for (point, queue) in points {
            queue.end_synchronize(Some(point));
        }
    }
    result
}
