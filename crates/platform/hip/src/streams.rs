//! Every stream that has work, and its XQueue.

use std::{
    cell::Cell,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use xsched_agent::Agent;
use xsched_shim::{
    captures::Captures,
    events::{self, Note},
    process::{PerProcess, generation},
    state::{self, guarded},
    table::{Kept, Keyed, Table},
};
use xsched_wire::block::DrainPoint;
use xsched_xqueue::XQueue;

use crate::{
    kfd, runtime,
    stream::{self, Stream},
    sys::*,
};

/// Which default stream a null handle means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// The device's one.
    Legacy,
    /// The calling thread's own.
    PerThread,
}

/// A stream in this process. Handles of created streams are unique by themselves; a default stream
/// is named by its device, and by its thread where it is the thread's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(usize);

const OF_DEVICE: usize = 1 << 63;
const OF_THREAD: usize = 1 << 62;
/// The bits of a default stream's key that name its device.
const DEVICE: usize = 0xffff;

/// A stream that was used.
pub(crate) struct Entry {
    key: usize,
    raw: usize,
    device: i32,
    /// Unique in the process: handles are used again.
    id: u64,
    /// The process that made it: streams do not survive a fork.
    generation: u32,
    /// `None`: it could not be put under a scheduler, and is not tried again.
    queue: Option<XQueue<Stream>>,
}

impl Entry {
    /// `None`: nobody schedules the stream.
    pub(crate) fn queue(&self) -> Option<&XQueue<Stream>> {
        self.queue.as_ref()
    }
}

impl Keyed for Entry {
    type Key = usize;

    fn key(&self) -> usize {
        self.key
    }
}

static TABLE: Table<Entry> = Table::new();
/// By the keys of the streams that they began in.
pub(crate) static CAPTURES: Captures<usize> = Captures::new();
/// Held while a stream gets its queue.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

thread_local! {
    /// Inside a hook: calls of the runtime to itself, or of ours to it, pass through.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether a hook that is entered now has anything to do. True: until [`leave`] it has not.
#[inline]
pub(crate) fn enter() -> bool {
    state::is_active() && enter_always()
}

/// The same for a hook that also acts while commands pass unscheduled: the agent asks the runtime about the
/// streams that it knows, and the program may have its commands scheduled again.
#[inline]
pub(crate) fn enter_always() -> bool {
    INSIDE
        .try_with(|inside| !inside.replace(true))
        .unwrap_or(false)
}

/// Undoes [`enter`].
#[inline]
pub(crate) fn leave() {
    let _ = INSIDE.try_with(|inside| inside.set(false));
}

// ---- looking up ----

/// The handle by which functions without a flavour know a stream.
fn explicit(stream: hipStream_t, flavour: Flavour) -> usize {
    match (stream as usize, flavour) {
        (0, Flavour::PerThread) => HIP_STREAM_PER_THREAD,
        (HIP_STREAM_LEGACY, _) => 0,
        (raw, _) => raw,
    }
}

/// A thread that has default streams of its own, which end with it.
struct OwnDefaultStreams {
    key: usize,
    generation: u32,
}

impl Drop for OwnDefaultStreams {
    fn drop(&mut self) {
        // A forked child has none of its parent's streams.
        if self.generation == generation() {
            let own = self.key;
            retire(|entry| entry.key & !DEVICE == own);
            CAPTURES.end_all(|origin| origin & !DEVICE == own);
        }
    }
}

/// The calling thread's part of the key of its default streams.
fn of_thread() -> usize {
    thread_local! {
        static OWN: OwnDefaultStreams = OwnDefaultStreams {
            key: OF_THREAD | (rustix::thread::gettid().as_raw_nonzero().get() as usize) << 16,
            generation: generation(),
        };
    }
    OWN.try_with(|own| own.key).unwrap_or(OF_THREAD)
}

#[inline]
fn key(raw: usize) -> Option<Key> {
    if raw > HIP_STREAM_PER_THREAD {
        return Some(Key(raw));
    }
    let device = runtime::current_device()? as usize;
    if raw == HIP_STREAM_PER_THREAD {
        return Some(Key(of_thread() | device));
    }
    Some(Key(OF_DEVICE | device))
}

fn get(key: Key) -> Option<&'static Entry> {
    TABLE
        .get(key.0)
        .filter(|entry| entry.generation == generation())
}

/// The entry, for a hook that uses it after a wait in the runtime, which may last longer than the table
/// keeps what was taken out of it.
fn keep(entry: &Entry) -> Option<Kept<Entry>> {
    let same = |kept: &Kept<Entry>| (kept.id, kept.generation) == (entry.id, generation());
    TABLE.keep(entry.key).filter(same)
}

/// The stream, if it had work before and is not being captured.
fn find(stream: hipStream_t, flavour: Flavour) -> Option<&'static Entry> {
    let raw = explicit(stream, flavour);
    if is_capturing(raw) {
        return None;
    }
    get(key(raw)?)
}

/// The queue through which a command on this stream goes; made if this is its first command.
/// `None`: into a graph, or nobody schedules the stream.
#[inline]
pub(crate) fn way(stream: hipStream_t, flavour: Flavour) -> Option<&'static XQueue<Stream>> {
    entry(stream, flavour)?.queue.as_ref()
}

/// The same for a hook that uses the queue after a wait in the runtime.
pub(crate) fn kept_way(stream: hipStream_t, flavour: Flavour) -> Option<Kept<Entry>> {
    keep(entry(stream, flavour)?)
}

#[inline]
fn entry(stream: hipStream_t, flavour: Flavour) -> Option<&'static Entry> {
    let raw = explicit(stream, flavour);
    if is_capturing(raw) {
        return None;
    }
    let key = key(raw)?;
    get(key).or_else(|| create(key, raw))
}

/// A scheduled stream that the program has a handle of, whoever uses its own handle again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lasting {
    key: usize,
    id: u64,
    raw: usize,
    device: i32,
}

impl Lasting {
    /// The stream; its queue is made if need be.
    pub(crate) fn new(stream: hipStream_t) -> Option<Lasting> {
        let entry = entry(stream, Flavour::Legacy)?;
        entry.queue.as_ref()?;
        Some(Lasting {
            key: entry.key,
            id: entry.id,
            raw: entry.raw,
            device: entry.device,
        })
    }

    /// Keeps its queue while `body` runs, which may wait. `None`: the stream has ended.
    pub(crate) fn with<T>(&self, body: impl FnOnce(&XQueue<Stream>) -> T) -> Option<T> {
        let kept = TABLE.keep(self.key)?;
        let is_same = (kept.id, kept.generation) == (self.id, generation());
        let queue = kept.queue.as_ref().filter(|_| is_same)?;
        Some(body(queue))
    }

    /// Nothing of the stream is scheduled any more.
    pub(crate) fn give_up(&self) {
        retire(|entry| entry.id == self.id);
    }

    /// Whether it is a default stream, which others wait for.
    pub(crate) fn is_default(&self) -> bool {
        self.raw <= HIP_STREAM_PER_THREAD
    }
}

/// Runs `body`, whose calls into the runtime pass through hooks as they are.
pub(crate) fn inside<T>(body: impl FnOnce() -> T) -> T {
    let entered = enter();
    let result = body();
    if entered {
        leave();
    }
    result
}

/// The queues of this process.
pub(crate) fn queues() -> impl Iterator<Item = &'static XQueue<Stream>> {
    TABLE
        .all()
        .filter(|entry| entry.generation == generation())
        .filter_map(|entry| entry.queue.as_ref())
}

/// Whether a condition holds for every stream of this process; one without a queue meets none.
pub(crate) fn all_queues(mut is_met: impl FnMut(&XQueue<Stream>) -> bool) -> bool {
    let mut own = TABLE.all().filter(|entry| entry.generation == generation());
    own.all(|entry| entry.queue.as_ref().is_some_and(&mut is_met))
}

/// Whether the stream waits for the device's default stream, and that for it.
pub(crate) fn is_blocking(stream: hipStream_t) -> bool {
    let mut flags = 0;
    // SAFETY: the program's own stream; a valid place for the result.
    let result = unsafe { runtime::stream_get_flags(stream, &mut flags) };
    stream as usize <= HIP_STREAM_PER_THREAD
        || result != HIP_SUCCESS
        || flags & HIP_STREAM_NON_BLOCKING == 0
}

#[inline]
fn is_capturing(raw: usize) -> bool {
    CAPTURES.any() && ask_capturing(raw)
}

#[cold]
fn ask_capturing(raw: usize) -> bool {
    let mut status = HIP_CAPTURE_STATUS_NONE;
    // SAFETY: the program's own stream; a valid place for the result.
    let asked = unsafe { runtime::stream_is_capturing(raw as hipStream_t, &mut status) };
    // An error says that the null stream may not be asked now: then it may not be used, either.
    asked != HIP_SUCCESS || status != HIP_CAPTURE_STATUS_NONE
}

// ---- coming and going ----

#[cold]
fn create(key: Key, raw: usize) -> Option<&'static Entry> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    guarded(|| {
        let _making = MAKING.lock();
        if let Some(entry) = get(key) {
            return Some(entry); // another thread was first
        }
        let device = match raw > HIP_STREAM_PER_THREAD {
            true => runtime::stream_device(raw as hipStream_t)?,
            false => runtime::current_device()?,
        };
        let agent = state::agent()?;
        let hw = Stream::new(raw, device, agent.layout());
        let queue = agent.attach(hw, &stream::device_name(device));
        if let Err(error) = &queue {
            state::say(&format!("a stream runs unscheduled: {error}"));
        }
        TABLE.insert(Entry {
            key: key.0,
            raw,
            device,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            generation: generation(),
            queue: queue.ok(),
        });
        get(key)
    })
    .flatten()
}

/// Takes out every entry that matches. Their gates open first: the runtime may wait for what
/// stands behind one. Nothing of ours enters the runtime with the stream when this returns.
fn retire(matches: impl Fn(&Entry) -> bool) {
    guarded(|| {
        for entry in TABLE.all().filter(|entry| matches(entry)) {
            if let Some(queue) = &entry.queue
                && entry.generation == generation()
            {
                queue.close();
                queue.hw().let_go();
                queue.retire();
            }
            TABLE.remove_same(entry);
        }
        // What was held by the streams that are gone must not stay off the device.
        kfd::settle();
    });
}

/// Around the end of a stream.
pub(crate) fn destroy(stream: hipStream_t, call: impl FnOnce() -> hipError_t) -> hipError_t {
    let raw = stream as usize;
    if raw > HIP_STREAM_PER_THREAD {
        retire(|entry| entry.raw == raw);
    }
    let result = call();
    if result == HIP_SUCCESS {
        // Nobody can end a capture that began there any more.
        CAPTURES.end_all(|own| *own == raw);
    }
    result
}

/// Around the reset of the calling thread's device.
pub(crate) fn reset(call: impl FnOnce() -> hipError_t) -> hipError_t {
    let device = runtime::current_device();
    retire(|entry| Some(entry.device) == device);
    device.into_iter().for_each(stream::end_spare);
    opened(call)
}

// ---- what a thread says before it launches ----

/// Around the choice of a device. An index out of range is the application's, and so is the answer; who
/// reads it among a scheduler's lines should know whose it is.
pub(crate) fn set_device(device: i32, call: impl FnOnce() -> hipError_t) -> hipError_t {
    let result = call();
    if result == HIP_ERROR_INVALID_DEVICE && state::is_active() {
        refused(device);
    }
    result
}

#[cold]
fn refused(device: i32) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if !IS_SAID.swap(true, Ordering::Relaxed) {
        state::say(&format!(
            "the program asked for device {device}, which the runtime does not have: passed on as it is"
        ));
    }
}

thread_local! {
    /// What the thread's next `hipLaunchByPtr` launches on.
    static CONFIGURED: Cell<hipStream_t> = const { Cell::new(std::ptr::null_mut()) };
}

/// Around `hipConfigureCall`.
pub(crate) fn configure(stream: hipStream_t, call: impl FnOnce() -> hipError_t) -> hipError_t {
    let _ = CONFIGURED.try_with(|configured| configured.set(stream));
    call()
}

/// The stream of the thread's last `hipConfigureCall`.
pub(crate) fn configured() -> hipStream_t {
    let none = std::ptr::null_mut();
    CONFIGURED.try_with(Cell::get).unwrap_or(none)
}

// ---- synchronizing, capturing ----

/// A moment from which on the end of a stream's last command proves it idle.
struct Point {
    entry: Kept<Entry>,
    point: DrainPoint,
}

impl Point {
    fn new(entry: &Entry) -> Option<Self> {
        let entry = keep(entry)?;
        let point = entry.queue()?.begin_synchronize()?;
        Some(Point { entry, point })
    }

    fn reached(self) {
        if let Some(queue) = self.entry.queue() {
            queue.end_synchronize(Some(self.point));
        }
    }
}

/// Around a wait for, or a look at, everything that the stream has.
pub(crate) fn synchronize(
    stream: hipStream_t,
    flavour: Flavour,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    let point = find(stream, flavour).and_then(Point::new);
    let result = call();
    if result == HIP_SUCCESS
        && let Some(point) = point
    {
        point.reached();
    }
    result
}

/// Around a wait for everything on the calling thread's device.
pub(crate) fn synchronize_device(call: impl FnOnce() -> hipError_t) -> hipError_t {
    let device = runtime::current_device();
    let points: Vec<_> = TABLE
        .all()
        .filter(|entry| Some(entry.device) == device)
        .filter_map(Point::new)
        .collect();
    let result = device_wide(call);
    if result == HIP_SUCCESS {
        points.into_iter().for_each(Point::reached);
    }
    result
}

/// Around a call that may wait for a whole device. In a process of several task groups what it
/// waits for may be held, by a thread that itself is waited for: all gates open for the duration.
pub(crate) fn device_wide(call: impl FnOnce() -> hipError_t) -> hipError_t {
    match Agent::current().is_some_and(|agent| agent.has_several_groups()) {
        true => opened(call),
        false => call(),
    }
}

fn opened(call: impl FnOnce() -> hipError_t) -> hipError_t {
    let agent = Agent::current();
    let _open = agent
        .as_ref()
        .and_then(|agent| guarded(|| agent.open_while()));
    call()
}

/// Around the recording of an event.
pub(crate) fn record(
    event: hipEvent_t,
    stream: hipStream_t,
    flavour: Flavour,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    // What it stood behind before, perhaps in another stream, it no longer does.
    events::forget(event as usize);
    let found = state::is_active().then(|| find(stream, flavour));
    let note = found.flatten().and_then(|entry| {
        // Before the call: a command that is submitted meanwhile may stand behind the event, and so
        // may one that is on its way to the runtime.
        Some(Note {
            key: entry.key,
            id: entry.id,
            number: entry.queue()?.slot().block.last_forwarded()?,
        })
    });
    let result = call();
    if result == HIP_SUCCESS
        && let Some(note) = note
    {
        events::note(event as usize, note);
    }
    result
}

/// Around the end of an event: its handle may come again.
pub(crate) fn forget(event: hipEvent_t, call: impl FnOnce() -> hipError_t) -> hipError_t {
    events::forget(event as usize);
    call()
}

/// Around a wait for, or a look at, an event.
pub(crate) fn reached(event: hipEvent_t, call: impl FnOnce() -> hipError_t) -> hipError_t {
    // Taken before the call, as every drain point must be.
    let point = events::look_up(event as usize).and_then(|note| {
        let entry = get(Key(note.key)).filter(|entry| entry.id == note.id)?;
        Point::new(entry).filter(|own| own.point.number() == note.number)
    });
    let result = call();
    if result == HIP_SUCCESS
        && let Some(point) = point
    {
        point.reached();
    }
    result
}

/// Around the beginning of a capture.
pub(crate) fn begin_capture(
    stream: hipStream_t,
    flavour: Flavour,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    let origin = origin(explicit(stream, flavour));
    CAPTURES.begin(origin);
    let result = call();
    if result != HIP_SUCCESS {
        CAPTURES.end_last(|own| *own == origin);
    }
    result
}

/// Around the end of a capture. One that fails may have ended it, or not: from the wrong thread, or
/// on a stream that only takes part in it.
pub(crate) fn end_capture(
    stream: hipStream_t,
    flavour: Flavour,
    call: impl FnOnce() -> hipError_t,
) -> hipError_t {
    let raw = explicit(stream, flavour);
    let result = call();
    if result == HIP_SUCCESS || !is_capturing(raw) {
        let origin = origin(raw);
        CAPTURES.end_last(|own| *own == origin);
    }
    result
}

/// What names a stream that captures: the handle of a thread's own one means another in each.
fn origin(raw: usize) -> usize {
    key(raw).map_or(raw, |key| key.0)
}
