//! Every stream that has work, and its XQueue.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use xsched_agent::Agent;
use xsched_shim::{
    process::{PerProcess, generation},
    table::{self, Kept, Keyed, Table},
};
use xsched_xqueue::XQueue;

use crate::{
    driver, segment,
    state::{self, guarded},
    stream::{self, Home, Stream},
    sys::*,
    timeslice,
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
    home: Home,
    device: CUdevice,
    /// `None`: it could not be put under a scheduler, and is not tried again.
    queue: Option<XQueue<Stream>>,
    /// The agent may not ask the driver about it.
    is_private: bool,
    /// A private stream's commands that a mark is still to stand behind: see [`marked`].
    to_mark: AtomicU32,
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
/// Streams that are being captured; while there are none, nobody asks.
static CAPTURES: AtomicU32 = AtomicU32::new(0);

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
            end_captures(|origin| origin.key.thread == self.thread);
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
    if !state::is_active() || is_capturing(stream, flavour) {
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
    if is_capturing(stream, flavour) {
        return Way::Captured;
    }
    let key = key(stream, flavour);
    get(key)
        .or_else(|| create(key))
        .and_then(Scheduled::of)
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

/// Commands of a private stream, after it was idle, behind which marks stand.
const MARKED: u32 = 8;

/// A private stream that wants a mark behind the command that is about to be submitted. Nobody but its own
/// thread can ask the driver whether it is idle: one that waits for its work and then frees memory in order,
/// say, would look busy for as long as it does nothing. So marks tell of the first commands.
#[inline]
pub(crate) fn marked(stream: Scheduled) -> Option<KeptQueue> {
    if stream.entry.is_private {
        wants_mark(stream)
    } else {
        None
    }
}

#[cold]
fn wants_mark(stream: Scheduled) -> Option<KeptQueue> {
    let to_mark = &stream.entry.to_mark;
    let left = match stream.queue.begin_synchronize() {
        None => MARKED,
        Some(_) => to_mark.load(Ordering::Relaxed),
    };
    to_mark.store(left.saturating_sub(1), Ordering::Relaxed);
    if left == 0 { None } else { stream.keep() }
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
                is_private: queue.as_ref().is_some_and(|queue| queue.hw().is_private()),
                queue,
                to_mark: AtomicU32::new(0),
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
fn retire(matches: impl Fn(&Entry) -> bool) {
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
fn has_scheduled() -> bool {
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
        end_captures(|origin| origin.key.raw == stream as usize);
    }
    result
}

/// Around the end of what streams live in.
fn end_home(is_there: impl Fn(Home) -> bool, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = if has_scheduled() {
        retire(|entry| is_there(entry.home));
        state::opened(call)
    } else {
        call()
    };
    if result == CUDA_SUCCESS {
        end_captures(|origin| is_there(origin.home));
    }
    result
}

/// Around the end of a context.
pub(crate) fn destroy_context(context: CUcontext, call: impl FnOnce() -> CUresult) -> CUresult {
    let result = end_home(|home| home.context == context as usize, call);
    if result == CUDA_SUCCESS {
        segment::context_ended(context as usize);
    }
    result
}

// ---- primary and green contexts ----

/// A device's primary context, as far as the program retains it, green contexts included.
struct Primary {
    device: CUdevice,
    /// 0: nobody has asked for it yet.
    context: usize,
    retained: u32,
}

static PRIMARIES: PerProcess<Mutex<Vec<Primary>>> = PerProcess::new();

/// Counts a retain; `context`: 0 where it is not known.
fn count_retain(device: CUdevice, context: usize) {
    let mut primaries = PRIMARIES.lock();
    let index = match primaries.iter().position(|own| own.device == device) {
        Some(index) => index,
        None => {
            primaries.push(Primary {
                device,
                context: 0,
                retained: 0,
            });
            primaries.len() - 1
        }
    };
    let own = &mut primaries[index];
    own.retained += 1;
    if context != 0 {
        own.context = context;
    }
}

/// Counts a release. `None`: others hold the context. What was not seen to be retained ends with each release:
/// then its streams come back with their next commands.
fn count_release(device: CUdevice) -> Option<usize> {
    let mut primaries = PRIMARIES.lock();
    let Some(own) = primaries.iter_mut().find(|own| own.device == device) else {
        return Some(0);
    };
    own.retained = own.retained.saturating_sub(1);
    (own.retained == 0).then_some(own.context)
}

/// Around a retain of a device's primary context.
pub(crate) fn retain_primary(
    place: *mut CUcontext,
    device: CUdevice,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = timeslice::creating(device, call);
    if result == CUDA_SUCCESS && !place.is_null() {
        // SAFETY: the driver has just written to the program's place.
        count_retain(device, unsafe { *place } as usize);
    }
    result
}

/// Around a release of a device's primary context, which ends with the last one.
pub(crate) fn release_primary(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    match count_release(device) {
        Some(context) => end_primary(device, context, call),
        None => call(),
    }
}

/// Around the reset of a device's primary context, which may be released later all the same.
pub(crate) fn reset_primary(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    let known = {
        let mut primaries = PRIMARIES.lock();
        let own = primaries.iter_mut().find(|own| own.device == device);
        own.map_or(0, |own| {
            own.retained = 0;
            own.context
        })
    };
    end_primary(device, known, call)
}

fn end_primary(device: CUdevice, context: usize, call: impl FnOnce() -> CUresult) -> CUresult {
    if context != 0 {
        return destroy_context(context as CUcontext, call);
    }
    if has_scheduled() {
        retire(|entry| entry.device == device);
    }
    state::opened(call)
}

/// A green context: it retains the primary context of its device.
struct Green {
    handle: usize,
    device: CUdevice,
    /// The context that was made of it; 0: none.
    context: usize,
}

static GREENS: PerProcess<Mutex<Vec<Green>>> = PerProcess::new();

/// Around the making of a green context.
pub(crate) fn create_green(
    place: *mut CUgreenCtx,
    device: CUdevice,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = timeslice::creating(device, call);
    if result == CUDA_SUCCESS && !place.is_null() {
        // SAFETY: the driver has just written to the program's place.
        let handle = unsafe { *place } as usize;
        count_retain(device, 0);
        GREENS.lock().push(Green {
            handle,
            device,
            context: 0,
        });
    }
    result
}

/// Around the making of a context of a green one.
pub(crate) fn convert_green(
    place: *mut CUcontext,
    green: CUgreenCtx,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = call();
    if result == CUDA_SUCCESS && !place.is_null() {
        let mut greens = GREENS.lock();
        if let Some(own) = greens.iter_mut().find(|own| own.handle == green as usize) {
            // SAFETY: the driver has just written to the program's place.
            own.context = unsafe { *place } as usize;
        }
    }
    result
}

/// The green context that a context was made of; 0: none.
pub(crate) fn green_of(context: usize) -> usize {
    if GREENS.peek().is_none() {
        return 0;
    }
    let greens = GREENS.lock();
    let own = greens.iter().find(|own| own.context == context);
    own.map_or(0, |own| own.handle)
}

/// Around the end of a green context, which may be current in one thread only: nothing of ours uses it. The
/// primary context may end with it.
pub(crate) fn destroy_green(green: CUgreenCtx, call: impl FnOnce() -> CUresult) -> CUresult {
    let handle = green as usize;
    let known = {
        let mut greens = GREENS.lock();
        let index = greens.iter().position(|own| own.handle == handle);
        index.map(|index| greens.swap_remove(index))
    };
    let last = known.as_ref().and_then(|own| count_release(own.device));
    // Nobody has asked for the primary context: its streams' memory is in it.
    let of_stream = || {
        let own = |stream: &Scheduled| stream.entry.home.green == handle;
        let created = |stream: &Scheduled| stream.entry.key.raw > CU_STREAM_PER_THREAD;
        let found = all().find(|stream| own(stream) && created(stream));
        found.map_or(0, |stream| stream.entry.home.context)
    };
    let primary = last.map(|context| if context == 0 { of_stream() } else { context });
    let ends = |home: Home| home.green == handle || primary == Some(home.context);
    let result = end_home(ends, call);
    if result == CUDA_SUCCESS {
        let own = known.map(|own| own.context);
        for context in own.into_iter().chain(primary).filter(|&own| own != 0) {
            segment::context_ended(context);
        }
    }
    result
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

/// A stream that a capture began in.
struct Origin {
    key: Key,
    home: Home,
    /// The graph of the program's own that it adds to; 0: it makes one.
    graph: usize,
}

/// The streams that captures began in, as often as they did. Held while the driver is asked what a
/// capture would be spoiled by; none begins meanwhile.
static ORIGINS: PerProcess<Mutex<Vec<Origin>>> = PerProcess::new();

/// Asks the driver, unless any stream of the process is being captured.
pub(crate) fn unless_capturing<T>(ask: impl FnOnce() -> T) -> Option<T> {
    let _none_begins = ORIGINS.lock();
    (CAPTURES.load(Ordering::SeqCst) == 0).then(ask)
}

/// Whether a capture adds to this graph of the program's own: the body of a conditional node, say.
pub(crate) fn is_captured_to(graph: CUgraph) -> bool {
    ORIGINS
        .lock()
        .iter()
        .any(|origin| origin.graph == graph as usize)
}

/// Around the beginning of a capture: into a graph of the program's own, or, null, one that it makes.
pub(crate) fn begin_capture(
    graph: CUgraph,
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let key = key(stream, flavour);
    let home = stream::home_of(key).unwrap_or_default();
    // Counted before: the stream captures from inside the call on.
    let mut origins = ORIGINS.lock();
    origins.push(Origin {
        key,
        home,
        graph: graph as usize,
    });
    CAPTURES.fetch_add(1, Ordering::SeqCst);
    drop(origins);
    let result = call();
    if result != CUDA_SUCCESS {
        end_capture_of(key);
    }
    result
}

/// Around the end of a capture. One that fails may have ended it, or not: from the wrong thread, or
/// on a stream that only takes part in it.
pub(crate) fn end_capture(
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    let result = call();
    if !is_capturing(stream, flavour) {
        end_capture_of(key(stream, flavour));
    }
    result
}

/// The capture that began last in this stream, if one did, is over.
fn end_capture_of(key: Key) {
    let mut origins = ORIGINS.lock();
    if let Some(index) = origins.iter().rposition(|origin| origin.key == key) {
        origins.remove(index);
        CAPTURES.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Captures that nobody can end any more are over.
fn end_captures(matches: impl Fn(&Origin) -> bool) {
    if CAPTURES.load(Ordering::SeqCst) == 0 {
        return;
    }
    let mut origins = ORIGINS.lock();
    let before = origins.len();
    origins.retain(|origin| !matches(origin));
    let ended = (before - origins.len()) as u32;
    CAPTURES.fetch_sub(ended, Ordering::SeqCst);
}
