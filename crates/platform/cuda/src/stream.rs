//! A CUDA stream as a hw queue: marks and gates are commands in the stream itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use xsched_wire::{ControlBlock, Level, Share, segment::Layout};
use xsched_xqueue::{HwError, HwQueue, Spacing, Support};

use crate::{
    captures::CAPTURES,
    contexts, driver, segment,
    streams::{Flavour, Key},
    sys::*,
    timeslice::{self, StreamId},
};

/// A gate with its mark costs about 2.8 µs of the device's time and 2.2 µs of the host's: 0.6 % at
/// this distance.
const GATES_ALONE: Duration = Duration::from_micros(500);
/// Level 3: it is the time slice that stops a queue, at once, unless streams of one process stop each other. What gates
/// add is that a higher class does not give up the device again at the end of its own slice, which is this long.
const WITH_SLICES: Duration = Duration::from_millis(2);

/// One stream.
pub(crate) struct Stream {
    key: Key,
    device: CUdevice,
    /// In another thread its handle means another stream, or its context may not be current there.
    is_private: bool,
    /// Among all streams that have a share of the device.
    id: StreamId,
    layout: &'static Layout,
    /// Where its device sees the segment; 0: nowhere.
    segment: CUdeviceptr,
    support: Support,
    /// The stream's context while the stream lives: whoever enters the driver from another thread
    /// holds the lock, and the end of the stream waits for them.
    context: Mutex<Option<usize>>,
}

impl Stream {
    pub(crate) fn new(key: Key, home: Home, device: CUdevice, layout: &'static Layout) -> Self {
        let segment = segment::in_context(home.context as CUcontext, layout);
        Stream {
            key,
            device,
            is_private: key.raw == CU_STREAM_PER_THREAD
                || key.raw == CU_STREAM_LEGACY && home.green != 0,
            id: timeslice::join(device, home.context),
            layout,
            segment: *segment.as_ref().unwrap_or(&0),
            support: support(device, segment.err()),
            context: Mutex::new(Some(home.context)),
        }
    }

    /// The stream ends: no other thread enters the driver with it from now on.
    pub(crate) fn let_go(&self) {
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = None;
        timeslice::leave(self.device, self.id);
    }

    fn raw(&self) -> CUstream {
        self.key.raw as CUstream
    }

    /// A word of the segment as the device sees it.
    fn address(&self, word: *const u32) -> CUdeviceptr {
        self.segment + segment::offset(self.layout, word)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        timeslice::leave(self.device, self.id);
    }
}

/// What this process can do on this device; `unmapped` says why it sees no gates there, if so.
pub(crate) fn support(device: CUdevice, unmapped: Option<String>) -> Support {
    let lower = |level, reason: &str| Support {
        level,
        reason: Some(reason.to_owned()),
        one_background: false,
        independent: false,
    };
    if let Some(reason) = unmapped {
        return lower(Level::Lv1, &reason);
    }
    let mut mps = 0;
    // SAFETY: a valid place for the result.
    unsafe { driver::device_get_attribute(&mut mps, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, device) };
    if mps != 0 {
        return lower(Level::Lv2, "under MPS all clients share one channel group");
    }
    match timeslice::refusal(device) {
        Some(reason) => lower(Level::Lv2, &reason),
        None => Support {
            level: Level::Lv3,
            reason: None,
            // Two busy background processes switch all the time, and each is slowed by the other.
            one_background: true,
            independent: false,
        },
    }
}

fn checked(what: &str, result: CUresult) -> Result<(), HwError> {
    if result == CUDA_SUCCESS {
        return Ok(());
    }
    Err(HwError::Unsupported(format!(
        "{what} failed with error {result}"
    )))
}

/// What the explicit API submits: a call into the driver.
pub(crate) type Command = Box<dyn FnOnce() -> CUresult + Send>;

impl HwQueue for Stream {
    type Command = Command;

    fn support(&self) -> Support {
        self.support.clone()
    }

    fn launch(&self, command: Command) -> Result<(), HwError> {
        match command() {
            CUDA_SUCCESS => Ok(()),
            error => Err(HwError::Command(format!("CUDA error {error}"))),
        }
    }

    fn synchronize(&self) -> Result<(), HwError> {
        // SAFETY: the program's own stream.
        match unsafe { driver::stream_synchronize(self.raw()) } {
            CUDA_SUCCESS => Ok(()),
            error => Err(HwError::Command(format!("CUDA error {error}"))),
        }
    }

    fn is_drained(&self) -> bool {
        if self.is_private {
            return false;
        }
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(context) = *context else {
            return false;
        };
        // SAFETY: the stream lives while the lock is held.
        let query = || driver::relaxed(|| unsafe { driver::stream_query(self.raw()) });
        // During a capture even a question may be illegal.
        let asked = CAPTURES.unless_any(|| driver::with_context(context as CUcontext, query));
        asked.flatten() == Some(CUDA_SUCCESS)
    }

    fn is_told_by_marks(&self) -> bool {
        self.is_private
    }

    fn has_failed(&self) -> bool {
        // SAFETY: the program's own stream, to which the calling thread submits.
        let query = || driver::relaxed(|| unsafe { driver::stream_query(self.raw()) });
        let answer = CAPTURES.unless_any(query).unwrap_or(CUDA_ERROR_NOT_READY);
        answer != CUDA_SUCCESS && answer != CUDA_ERROR_NOT_READY
    }

    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        let address = self.address(block.completed_address());
        // SAFETY: the program's own stream; the word belongs to the device.
        let result = unsafe {
            driver::stream_write_value(self.raw(), address, value, CU_STREAM_WRITE_VALUE_DEFAULT)
        };
        checked("cuStreamWriteValue32", result)
    }

    fn gate(&self, block: &'static ControlBlock) -> Result<(), HwError> {
        let address = self.address(block.gate_address());
        // SAFETY: the program's own stream; the device only reads the word.
        let result =
            unsafe { driver::stream_wait_value(self.raw(), address, 1, CU_STREAM_WAIT_VALUE_GEQ) };
        checked("cuStreamWaitValue32", result)
    }

    fn set_share(&self, share: Share) -> Result<(), HwError> {
        timeslice::set_share(self.device, self.id, share).map_err(HwError::Unsupported)
    }

    fn spacing(&self, level: Level) -> Spacing {
        let is_divided = timeslice::is_divided();
        Spacing::Time {
            time: match level {
                Level::Lv3 if !is_divided => WITH_SLICES,
                _ => GATES_ALONE,
            },
            // Whatever stands before the gates of many streams holds one of the same process up.
            first: if is_divided { 1 } else { 8 },
            most: 128,
        }
    }

    fn tend(&self) {
        timeslice::tend(self.device);
    }
}

/// The handle by which functions without a flavour know a stream.
pub(crate) fn explicit(stream: CUstream, flavour: Flavour) -> CUstream {
    match (stream as usize, flavour) {
        (0, Flavour::PerThread) => CU_STREAM_PER_THREAD as CUstream,
        _ => stream,
    }
}

/// Whether the stream waits for the legacy default stream, and that for it.
pub(crate) fn is_blocking(stream: CUstream) -> bool {
    let mut flags = 0;
    // SAFETY: the program's own stream; a valid place for the result.
    let result = unsafe { driver::stream_get_flags(stream, &mut flags) };
    stream as usize <= CU_STREAM_PER_THREAD
        || result != CUDA_SUCCESS
        || flags & CU_STREAM_NON_BLOCKING == 0
}

/// Where a stream lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home {
    /// Its context; that of a green context's stream is the device's primary one.
    pub(crate) context: usize,
    /// Its green context; 0: none.
    pub(crate) green: usize,
}

impl Home {
    fn of_default(context: usize) -> Option<Self> {
        (context != 0).then(|| Home {
            context,
            green: contexts::green_of(context),
        })
    }
}

/// The contexts that a stream belongs to.
pub(crate) fn home_of(key: Key) -> Option<Home> {
    if key.raw <= CU_STREAM_PER_THREAD {
        return Home::of_default(key.context);
    }
    let stream = key.raw as CUstream;
    let (mut context, mut green) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the program's own stream; valid places for the results.
    let result = match unsafe { driver::stream_get_ctxs(stream, &mut context, &mut green) } {
        // Drivers older than 12.5.
        // SAFETY: as above.
        CUDA_ERROR_NOT_FOUND => unsafe { driver::stream_get_ctx(stream, &mut context) },
        result => result,
    };
    (result == CUDA_SUCCESS && !context.is_null()).then_some(Home {
        context: context as usize,
        green: green as usize,
    })
}

/// The device that a context is on.
pub(crate) fn device_of(context: CUcontext) -> Option<CUdevice> {
    let mut device = 0;
    // SAFETY: a valid place for the result.
    let ask = || unsafe { driver::ctx_get_device(&mut device) };
    (driver::with_context(context, ask) == Some(CUDA_SUCCESS)).then_some(device)
}

/// The same in every process that uses the same device: by UUID, since ordinals depend on
/// `CUDA_VISIBLE_DEVICES`.
pub(crate) fn device_name(device: CUdevice) -> String {
    let mut uuid = [0; 16];
    // SAFETY: a valid place for the result.
    if unsafe { driver::device_get_uuid(&mut uuid, device) } != CUDA_SUCCESS {
        return format!("cuda:{device}");
    }
    let mut name = String::from("cuda:GPU");
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            name.push('-');
        }
        name.push_str(&format!("{byte:02x}"));
    }
    name
}
