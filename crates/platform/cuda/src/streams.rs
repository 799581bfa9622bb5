//! Every stream that has work, and its XQueue.
//!
//! A table without locks for readers: open addressing over pointers to entries. Writers (a stream's
//! first command, its end) hold a lock. An entry that was taken out is freed only after a pause in
//! which every hook that may still look at it has returned, or says that it [keeps](Entry::keep) it.

use std::{
    ops::Deref,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_xqueue::XQueue;

use crate::{
    driver, graphs,
    state::{self, guarded},
    stream::{self, Stream},
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

/// A stream under a scheduler.
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// Unique in the process: handles are used again.
    pub(crate) id: u64,
    pub(crate) context: usize,
    pub(crate) device: CUdevice,
    pub(crate) queue: XQueue<Stream>,
    /// Hooks that keep the entry.
    keepers: AtomicU32,
}

/// An entry that is not freed.
pub(crate) struct Kept(&'static Entry);

impl Entry {
    /// For a hook that uses the entry after a wait in the driver, which may last longer than GRACE.
    pub(crate) fn keep(&'static self) -> Kept {
        self.keepers.fetch_add(1, Ordering::Relaxed);
        Kept(self)
    }
}

impl Deref for Kept {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.keepers.fetch_sub(1, Ordering::Release);
    }
}

const PLACES: usize = 4096;

static TABLE: [AtomicPtr<Entry>; PLACES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES];
/// Marks a place whose entry was taken out: probing goes on behind it.
const GONE: *mut Entry = std::ptr::dangling_mut();
/// How long a hook may still look at an entry that was taken out, without keeping it.
const GRACE: Duration = Duration::from_secs(10);

/// Streams that are being captured; while there are none, nobody asks.
static CAPTURES: AtomicU32 = AtomicU32::new(0);

struct Writer {
    /// Taken out of the table, with the time.
    retired: Vec<(Instant, Box<Entry>)>,
    /// Streams that could not be put under a scheduler: not tried again.
    refused: Vec<Key>,
}

static WRITER: Mutex<Writer> = Mutex::new(Writer {
    retired: Vec::new(),
    refused: Vec::new(),
});

fn writer() -> MutexGuard<'static, Writer> {
    WRITER.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- looking up ----

#[inline]
fn key(stream: CUstream, flavour: Flavour) -> Key {
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
    process: u32,
}

impl Drop for OwnDefaultStreams {
    fn drop(&mut self) {
        // A forked child has neither the streams nor, perhaps, a lock that nobody holds.
        if state::is_active() && self.process == std::process::id() {
            retire(|entry| entry.key.thread == self.thread);
        }
    }
}

fn thread_id() -> usize {
    thread_local! {
        static OWN: OwnDefaultStreams = OwnDefaultStreams {
            thread: rustix::thread::gettid().as_raw_nonzero().get() as usize,
            process: std::process::id(),
        };
    }
    OWN.try_with(|own| own.thread).unwrap_or(0)
}

#[inline]
fn start(key: Key) -> usize {
    let mixed = (key.raw ^ key.context.rotate_left(17) ^ key.thread.rotate_left(40)) as u64;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// The entry of this key. Valid for the duration of a hook.
#[inline]
pub(crate) fn get(key: Key) -> Option<&'static Entry> {
    let start = start(key);
    for probe in 0..PLACES {
        let pointer = TABLE[(start + probe) % PLACES].load(Ordering::Acquire);
        if pointer.is_null() {
            return None;
        }
        if pointer != GONE {
            // SAFETY: entries are published complete, and are freed GRACE after they were taken
            // out, if nobody keeps them.
            let entry = unsafe { &*pointer };
            if entry.key == key {
                return Some(entry);
            }
        }
    }
    None
}

/// Every entry. Valid for the duration of a hook.
pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().filter_map(|place| {
        let pointer = place.load(Ordering::Acquire);
        if pointer.is_null() || pointer == GONE {
            return None;
        }
        // SAFETY: as in `get`.
        Some(unsafe { &*pointer })
    })
}

/// Where a command goes.
pub(crate) enum Way {
    /// To the device, by this stream.
    Scheduled(&'static Entry),
    /// Into a graph: what is captured is not executed, the launch of its graph is what waits.
    Captured,
    /// Nobody schedules the stream: pass through.
    Unscheduled,
}

/// The stream's entry, if it had work before and is not being captured.
#[inline]
pub(crate) fn find(stream: CUstream, flavour: Flavour) -> Option<&'static Entry> {
    if !state::is_active() || is_capturing(stream, flavour) {
        return None;
    }
    get(key(stream, flavour))
}

/// Where a command on this stream goes; its entry is made if this is its first command.
#[inline]
pub(crate) fn way(stream: CUstream, flavour: Flavour) -> Way {
    if !state::is_active() {
        return Way::Unscheduled;
    }
    if is_capturing(stream, flavour) {
        return Way::Captured;
    }
    let key = key(stream, flavour);
    get(key)
        .or_else(|| create(key))
        .map_or(Way::Unscheduled, Way::Scheduled)
}

/// Whether the stream is being captured; while none is, nobody asks.
#[inline]
fn is_capturing(stream: CUstream, flavour: Flavour) -> bool {
    CAPTURES.load(Ordering::Relaxed) != 0 && ask_capturing(stream, flavour)
}

#[cold]
fn ask_capturing(stream: CUstream, flavour: Flavour) -> bool {
    let mut status = CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the program's own stream; a valid place for the result.
    let asked =
        unsafe { driver::stream_is_capturing(stream::explicit(stream, flavour), &mut status) };
    // An error says that the legacy stream may not be asked now: then it may not be used, either.
    asked != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE
}

/// The streams that captures began in, as often as they did. Held while the driver is asked what a
/// capture would be spoiled by; none begins meanwhile.
static ORIGINS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn origins() -> MutexGuard<'static, Vec<usize>> {
    ORIGINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the driver, unless any stream of the process is being captured.
pub(crate) fn unless_capturing<T>(ask: impl FnOnce() -> T) -> Option<T> {
    let _none_begins = origins();
    (CAPTURES.load(Ordering::SeqCst) == 0).then(ask)
}

// ---- coming ----

#[cold]
fn create(key: Key) -> Option<&'static Entry> {
    guarded(|| {
        let mut writer = writer();
        if let Some(entry) = get(key) {
            return Some(entry); // another thread was first
        }
        if writer.refused.contains(&key) {
            return None;
        }
        let entry = make(key);
        match entry.and_then(|entry| insert(Box::new(entry))) {
            Some(entry) => Some(entry),
            None => {
                writer.refused.push(key);
                None
            }
        }
    })
    .flatten()
}

fn make(key: Key) -> Option<Entry> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let agent = state::agent()?;
    let context = stream::context_of(key)?;
    let device = stream::device_of(context)?;
    let name = stream::device_name(device);
    let hw = Stream::new(key, context, device, agent.layout());
    let queue = match agent.attach(hw, &name) {
        Ok(queue) => queue,
        Err(error) => {
            state::say(&format!("a stream runs unscheduled: {error}"));
            return None;
        }
    };
    Some(Entry {
        key,
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        context: context as usize,
        device,
        queue,
        keepers: AtomicU32::new(0),
    })
}

/// Publishes an entry; the caller holds the writer's lock.
fn insert(entry: Box<Entry>) -> Option<&'static Entry> {
    let start = start(entry.key);
    let place = (0..PLACES)
        .map(|probe| &TABLE[(start + probe) % PLACES])
        .find(|place| {
            let pointer = place.load(Ordering::Relaxed);
            pointer.is_null() || pointer == GONE
        })?;
    let pointer = Box::into_raw(entry);
    place.store(pointer, Ordering::Release);
    // SAFETY: just made from a box, and freed only GRACE after it was taken out.
    Some(unsafe { &*pointer })
}

// ---- going ----

/// Takes out every entry that matches. Their gates open first: the driver may wait for what
/// stands behind one.
fn retire(matches: impl Fn(&Entry) -> bool) {
    guarded(|| {
        let mut writer = writer();
        let now = Instant::now();
        for place in &TABLE {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() || pointer == GONE {
                continue;
            }
            // SAFETY: in the table, so not freed; the lock keeps other writers away.
            if matches(unsafe { &*pointer }) {
                place.store(GONE, Ordering::Release);
                // SAFETY: made by `insert` from a box, and just taken out by this thread alone.
                let entry = unsafe { Box::from_raw(pointer) };
                entry.queue.hw().let_go();
                entry.queue.retire();
                writer.retired.push((now, entry));
            }
        }
        writer.refused.retain(|key| key.raw <= CU_STREAM_PER_THREAD);
        writer.retired.retain(|(since, entry)| {
            now.duration_since(*since) < GRACE || entry.keepers.load(Ordering::Acquire) > 0
        });
    });
}

/// Around the end of a stream.
pub(crate) fn destroy(stream: CUstream, call: impl FnOnce() -> CUresult) -> CUresult {
    if state::is_active() && stream as usize > CU_STREAM_PER_THREAD {
        retire(|entry| entry.key.raw == stream as usize);
    }
    let result = call();
    if result == CUDA_SUCCESS {
        // Nobody can end a capture that began there any more.
        uncount_capture(stream);
    }
    result
}

/// Around the end of a context.
pub(crate) fn destroy_context(context: CUcontext, call: impl FnOnce() -> CUresult) -> CUresult {
    if !state::is_active() {
        return call();
    }
    retire(|entry| entry.context == context as usize);
    state::opened(call)
}

/// Around the reset or release of a device's primary context. A stream that lives on, since others
/// hold the context, too, comes back with its next command.
pub(crate) fn destroy_device(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    if !state::is_active() {
        return call();
    }
    retire(|entry| entry.device == device);
    state::opened(call)
}

// ---- synchronizing, capturing ----

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
        .filter(|entry| entry.context == context)
        .filter_map(|entry| Some((entry.keep(), entry.queue.begin_synchronize()?)))
        .collect();
    let result = state::context_wide(call);
    if result == CUDA_SUCCESS {
        for (entry, point) in points {
            entry.queue.end_synchronize(Some(point));
        }
    }
    result
}

/// Around the beginning of a capture.
pub(crate) fn begin_capture(
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let stream = stream::explicit(stream, flavour);
    // Counted before: the stream captures from inside the call on.
    let mut origins = origins();
    origins.push(stream as usize);
    CAPTURES.fetch_add(1, Ordering::SeqCst);
    drop(origins);
    let result = call();
    if result != CUDA_SUCCESS {
        uncount_capture(stream);
    }
    result
}

/// Around the beginning of a capture into a graph of the program's own.
pub(crate) fn begin_capture_to(
    graph: CUgraph,
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    graphs::begin_foreign(graph);
    let result = begin_capture(stream, flavour, call);
    if result != CUDA_SUCCESS {
        graphs::end_foreign(graph);
    }
    result
}

/// Around the end of a capture. One that fails may have ended it, or not: from the wrong thread, or
/// on a stream that only takes part in it.
pub(crate) fn end_capture(
    stream: CUstream,
    flavour: Flavour,
    graph: *mut CUgraph,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = call();
    if !is_capturing(stream, flavour) {
        uncount_capture(stream::explicit(stream, flavour));
    }
    if result == CUDA_SUCCESS && !graph.is_null() {
        // SAFETY: the driver has just written to the program's place.
        graphs::end_foreign(unsafe { *graph });
    }
    result
}

/// A capture that began in this stream, if one did, is over.
fn uncount_capture(stream: CUstream) {
    let mut origins = origins();
    if let Some(index) = origins.iter().position(|&own| own == stream as usize) {
        origins.swap_remove(index);
        CAPTURES.fetch_sub(1, Ordering::SeqCst);
    }
}
