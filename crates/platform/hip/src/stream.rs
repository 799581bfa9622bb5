//! A HIP stream as a hw queue: marks and gates are commands in the stream itself.
//!
//! The segment is registered with the runtime, so that the device writes completion marks in it. A
//! gate waits for a word of signal memory (`gates`).
//! What is asked of the runtime on the application's thread leaves that thread's device as it was.

use std::{
    ffi::{c_char, c_void},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use xsched_shim::{after_idle::AfterIdle, process::PerProcess};
use xsched_wire::{
    ControlBlock, Level, Share,
    segment::{Layout, SEGMENT_BYTES},
};
use xsched_xqueue::{HwError, HwQueue, Spacing, Support};

use crate::{
    gates::{self, Signal},
    kfd, runtime, streams,
    sys::*,
};

/// As for CUDA, until somebody measures on AMD hardware what a gate costs there.
const SPACING: Spacing = Spacing::Time {
    time: Duration::from_micros(500),
    first: 8,
    most: 128,
};

/// One stream.
pub(crate) struct Stream {
    raw: usize,
    device: i32,
    layout: &'static Layout,
    support: Support,
    /// What its gates wait for.
    signal: Option<Arc<Signal>>,
    /// A thread's own default stream, which no other thread can ask about, has one.
    last: Option<Last>,
    /// Whether the stream lives: whoever enters the runtime on our behalf holds the lock, and the end
    /// of the stream waits for them. Nothing that waits for the stream is called under it.
    alive: Mutex<bool>,
}

/// An event that stands behind the last command, if that is one of the first after the stream was idle.
struct Last {
    event: usize,
    /// Whether it does.
    stands: AtomicBool,
    /// Commands that it follows.
    after_idle: AfterIdle,
}

/// Events of threads that have ended, with their devices. A thread that ends calls nothing of the
/// runtime, whose own part of the thread may be gone: the next one takes its event.
static SPARE: PerProcess<Mutex<Vec<(i32, usize)>>> = PerProcess::new();

/// A device is about to be reset, and its events end.
pub(crate) fn end_spare(device: i32) {
    let ended: Vec<_> = SPARE
        .lock()
        .extract_if(.., |spare| spare.0 == device)
        .collect();
    for (_, event) in ended {
        // SAFETY: an event of ours, which no stream has.
        unsafe { runtime::event_destroy(event as hipEvent_t) };
    }
}

impl Last {
    fn new(device: i32) -> Option<Self> {
        let found = SPARE
            .lock()
            .extract_if(.., |spare| spare.0 == device)
            .next();
        Some(Last {
            event: match found {
                Some((_, event)) => event,
                None => Self::make()?,
            },
            stands: AtomicBool::new(false),
            after_idle: AfterIdle::default(),
        })
    }

    fn make() -> Option<usize> {
        let mut event = std::ptr::null_mut();
        // SAFETY: a valid place for the result.
        let make = || unsafe { runtime::event_create(&mut event, HIP_EVENT_DISABLE_TIMING) };
        checked("hipEventCreateWithFlags", runtime::relaxed(make)).ok()?;
        Some(event as usize)
    }

    fn event(&self) -> hipEvent_t {
        self.event as hipEvent_t
    }
}

impl Stream {
    pub(crate) fn new(raw: usize, device: i32, layout: &'static Layout) -> Self {
        let (support, signal) = support(raw, device);
        Stream {
            raw,
            device,
            layout,
            support,
            signal,
            last: (raw == HIP_STREAM_PER_THREAD)
                .then(|| Last::new(device))
                .flatten(),
            alive: Mutex::new(true),
        }
    }

    /// To be called before the calling thread gives the stream a command: whether to [`follow`](Self::follow) it.
    /// Only a thread's own default stream wants that, about which other threads cannot ask.
    #[inline]
    pub(crate) fn wants_follower(&self, is_idle: impl FnOnce() -> bool) -> bool {
        let Some(last) = &self.last else { return false };
        last.stands.store(false, Ordering::Release);
        last.after_idle.counts(is_idle())
    }

    /// To be called by the thread that has just given the stream a command: puts the event behind it.
    pub(crate) fn follow(&self) {
        if let Some(last) = &self.last {
            let record = || {
                // SAFETY: the calling thread's own stream, alive, and an event of ours that lasts as long.
                let result = unsafe { runtime::event_record(last.event(), self.raw()) };
                checked("hipEventRecord", result)
            };
            let stands = self.enqueue(record).is_ok();
            last.stands.store(stands, Ordering::Release);
        }
    }

    /// The stream ends: no other thread enters the runtime with it from now on.
    pub(crate) fn let_go(&self) {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let was_alive = std::mem::replace(&mut *alive, false);
        drop(alive);
        if let Some(last) = self.last.as_ref().filter(|_| was_alive) {
            SPARE.lock().push((self.device, last.event));
        }
        if let Some(signal) = &self.signal {
            gates::let_go(signal);
        }
    }

    fn raw(&self) -> hipStream_t {
        self.raw as hipStream_t
    }

    /// Runs `body` where the stream's handle means this stream: a default stream is that of the calling
    /// thread's device. The thread has its own device again when this returns.
    pub(crate) fn on_device<T>(&self, body: impl FnOnce() -> T) -> T {
        if self.raw > HIP_STREAM_PER_THREAD {
            return body();
        }
        let before = runtime::current_device().filter(|&device| device != self.device);
        if before.is_some() {
            // SAFETY: any number may be passed.
            unsafe { runtime::set_device(self.device) };
        }
        let result = body();
        if let Some(before) = before {
            // SAFETY: as above.
            unsafe { runtime::set_device(before) };
        }
        result
    }

    /// Makes a call that enqueues, unless the stream has ended. What the runtime calls on its own
    /// meanwhile is no command of the application's.
    fn enqueue(&self, call: impl FnOnce() -> Result<(), HwError>) -> Result<(), HwError> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if !*alive {
            return Err(HwError::Unsupported("the stream has ended".into()));
        }
        streams::inside(|| self.on_device(call))
    }

    /// A word's address for the device.
    fn address(&self, word: *const u32) -> Result<Opaque, HwError> {
        device_address(word).or_else(|_| {
            register(self.layout)?;
            device_address(word)
        })
    }
}

/// Makes the segment accessible to all devices.
fn register(layout: &'static Layout) -> Result<(), HwError> {
    let start: *mut c_void = std::ptr::from_ref(layout).cast_mut().cast();
    let flags = HIP_HOST_REGISTER_PORTABLE | HIP_HOST_REGISTER_MAPPED;
    // SAFETY: exactly the segment's mapping, which lasts as long as the process.
    let result =
        runtime::relaxed(|| unsafe { runtime::host_register(start, SEGMENT_BYTES, flags) });
    match result {
        // Another thread was first.
        HIP_SUCCESS | HIP_ERROR_ALREADY_REGISTERED => Ok(()),
        error => checked("hipHostRegister", error),
    }
}

fn device_address(word: *const u32) -> Result<Opaque, HwError> {
    let mut address = std::ptr::null_mut();
    // SAFETY: the word lies in the segment; a valid place for the result.
    let result =
        unsafe { runtime::host_get_device_pointer(&mut address, word.cast_mut().cast(), 0) };
    checked("hipHostGetDevicePointer", result)?;
    Ok(address)
}

fn checked(what: &str, result: hipError_t) -> Result<(), HwError> {
    if result == HIP_SUCCESS {
        return Ok(());
    }
    // SAFETY: no arguments. What we failed at is not the application's error.
    unsafe { runtime::get_last_error() };
    Err(HwError::Unsupported(format!(
        "{what} failed with error {result}"
    )))
}

/// What the explicit API submits: a call into the runtime.
pub(crate) type Command = Box<dyn FnOnce() -> hipError_t + Send>;

impl HwQueue for Stream {
    type Command = Command;

    fn support(&self) -> Support {
        self.support.clone()
    }

    fn launch(&self, command: Command) -> Result<(), HwError> {
        match command() {
            HIP_SUCCESS => Ok(()),
            error => Err(HwError::Command(format!("HIP error {error}"))),
        }
    }

    fn synchronize(&self) -> Result<(), HwError> {
        // SAFETY: the program's own stream.
        match self.on_device(|| unsafe { runtime::stream_synchronize(self.raw()) }) {
            HIP_SUCCESS => Ok(()),
            error => Err(HwError::Command(format!("HIP error {error}"))),
        }
    }

    fn is_drained(&self) -> bool {
        let stands = |last: &&Last| last.stands.load(Ordering::Acquire);
        let last = self.last.as_ref().filter(stands);
        // From another thread a per-thread default stream would be that thread's.
        if self.raw == HIP_STREAM_PER_THREAD && last.is_none() {
            return false;
        }
        // Whoever holds the lock enqueues, or the stream has ended.
        let Some(alive) = self.alive.try_lock().ok().filter(|alive| **alive) else {
            return false;
        };
        let query = || {
            runtime::relaxed(|| match last {
                // SAFETY: the event lasts as long as the stream, which lives while the lock is held.
                Some(last) => unsafe { runtime::event_query(last.event()) },
                // SAFETY: as above.
                None => unsafe { runtime::stream_query(self.raw()) },
            })
        };
        // During a capture even a question may be illegal.
        let ask = || streams::CAPTURES.unless_any(|| self.on_device(query));
        let answer = streams::inside(ask);
        drop(alive);
        answer == Some(HIP_SUCCESS)
    }

    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        self.enqueue(|| {
            let address = self.address(block.completed_address())?;
            // SAFETY: the program's own stream, alive; the word belongs to the device.
            let result = unsafe { runtime::stream_write_value(self.raw(), address, value, 0) };
            checked("hipStreamWriteValue32", result)
        })
    }

    fn gate(&self, block: &'static ControlBlock) -> Result<(), HwError> {
        let Some(signal) = &self.signal else {
            return Err(HwError::Unsupported("the stream has no signal".into()));
        };
        self.enqueue(|| {
            let address = gates::stand(signal, block).map_err(HwError::Unsupported)?;
            let flags = HIP_STREAM_WAIT_VALUE_GTE;
            // SAFETY: the program's own stream, alive; signal memory that is never freed.
            let result =
                unsafe { runtime::stream_wait_value(self.raw(), address, 1, flags, u32::MAX) };
            checked("hipStreamWaitValue32", result)
        })
    }

    fn enter_thread(&self) {
        if runtime::current_device() != Some(self.device) {
            // SAFETY: any number may be passed. A thread of ours, whose device is nobody else's matter.
            unsafe { runtime::set_device(self.device) };
        }
    }

    fn set_share(&self, share: Share) -> Result<(), HwError> {
        match share {
            Share::Slice(_) => Err(HwError::Unsupported(
                "the compute queues of AMD GPUs have no time slice that a process may set".into(),
            )),
            // What closes a gate takes the queues off: there is nothing to set.
            _ => Ok(()),
        }
    }

    fn spacing(&self, _: Level) -> Spacing {
        SPACING
    }

    fn tend(&self) {
        kfd::settle();
    }
}

/// What this process can do with a stream, and what its gates will wait for.
fn support(raw: usize, device: i32) -> (Support, Option<Arc<Signal>>) {
    let is = |level, reason: Option<String>| Support {
        level,
        reason,
        one_background: false,
        independent: false,
    };
    // The runtime makes a default stream, and its compute queue, when it is first asked about.
    let ask = || {
        // SAFETY: the program's own stream.
        runtime::relaxed(|| unsafe { runtime::stream_query(raw as hipStream_t) })
    };
    streams::CAPTURES.unless_any(ask);
    match gates::make(device) {
        Err(reason) => (is(Level::Lv1, Some(reason)), None),
        Ok(signal) => match kfd::refusal() {
            Some(reason) => (is(Level::Lv2, Some(reason)), Some(signal)),
            None => (is(Level::Lv3, None), Some(signal)),
        },
    }
}

/// The same in every process that uses the same device: by its place on the bus, since ordinals
/// depend on `HIP_VISIBLE_DEVICES`.
pub(crate) fn device_name(device: i32) -> String {
    let mut text = [0_u8; 32];
    // SAFETY: a place of that size; the last byte stays 0.
    let result = unsafe { runtime::device_bus_id(text.as_mut_ptr().cast::<c_char>(), 31, device) };
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(0);
    match std::str::from_utf8(&text[..end]) {
        Ok(place) if result == HIP_SUCCESS && !place.is_empty() => {
            format!("hip:{}", place.to_lowercase())
        }
        _ => format!("hip:{device}"),
    }
}
