//! An OpenCL command queue as a hw queue.

use std::sync::{Arc, Mutex, PoisonError};

use xsched_wire::{ControlBlock, Level, Share};
use xsched_xqueue::{HwError, HwQueue, Spacing, Support};

use crate::{
    device::Device,
    driver,
    gates::{self, Gates},
    sys::*,
    user_events,
    workers::Workers,
};

/// One command queue of the application's.
pub(crate) struct CommandQueue {
    raw: usize,
    gates: Arc<Gates>,
    support: Support,
    workers: Result<Arc<Workers>, String>,
    /// While the queue lives, a marker at its end. Whoever enters the driver with the queue from a
    /// thread of ours holds the lock, and the end of the queue waits for them.
    tail: Mutex<Option<Tail>>,
}

/// The last marker that was placed to see whether the queue is empty.
#[derive(Default)]
struct Tail {
    event: usize,
    /// Commands before it.
    covers: u64,
}

impl CommandQueue {
    pub(crate) fn new(raw: Queue, context: Opaque, device: &Device, in_order: bool) -> Self {
        let workers = device.workers(context);
        let trial = device.trial(context);
        let support = device.support(&trial, &workers);
        if let Ok(workers) = &workers {
            // The threads are in the background only while every queue is.
            let _ = workers.set_share(raw, Share::Normal);
        }
        CommandQueue {
            raw: raw as usize,
            gates: Gates::new(raw, context, in_order, trial.unwrap_or_default()),
            support,
            workers,
            tail: Mutex::new(Some(Tail::default())),
        }
    }

    pub(crate) fn gates(&self) -> &Arc<Gates> {
        &self.gates
    }

    fn raw(&self) -> Queue {
        self.raw as Queue
    }

    /// The queue ends: no thread of ours enters the driver with it from now on.
    pub(crate) fn let_go(&self) {
        let tail = self
            .tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(tail) = tail {
            tail.release();
        }
        if let Ok(workers) = &self.workers {
            workers.forget(self.raw());
        }
        self.gates.end();
    }
}

impl Tail {
    fn release(self) {
        if self.event != 0 {
            gates::release_when_over(self.event as Event);
        }
    }
}

/// What the explicit API submits: a call into the driver.
pub(crate) type Command = Box<dyn FnOnce() -> i32 + Send>;

fn checked(result: i32) -> Result<(), HwError> {
    match result {
        CL_SUCCESS => Ok(()),
        error => Err(HwError::Command(format!("OpenCL error {error}"))),
    }
}

impl HwQueue for CommandQueue {
    type Command = Command;

    fn support(&self) -> Support {
        self.support.clone()
    }

    fn launch(&self, command: Command) -> Result<(), HwError> {
        checked(command())
    }

    fn synchronize(&self) -> Result<(), HwError> {
        // SAFETY: the program's own queue.
        checked(unsafe { driver::finish(self.raw()) })
    }

    fn is_drained(&self) -> bool {
        let Some(block) = self.gates.block() else {
            return false;
        };
        let mut lock = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tail) = &mut *lock else {
            return false;
        };
        let covers = block.forwarded_count();
        if tail.event == 0 || tail.covers != covers {
            let mut event = std::ptr::null_mut();
            // SAFETY: the queue lives while the lock is held; a valid place for the event.
            let placed = unsafe { driver::marker(self.raw(), 0, std::ptr::null(), &mut event) };
            if placed != CL_SUCCESS {
                return false;
            }
            let event = event as usize;
            std::mem::replace(tail, Tail { event, covers }).release();
            // Some drivers execute inside this call, and may wait there for a user event.
            if !user_events::any_unset() {
                // SAFETY: as above.
                unsafe { driver::flush(self.raw()) };
            }
        }
        driver::event_status(tail.event as Event).is_some_and(|status| status <= CL_COMPLETE)
    }

    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        self.gates.mark(block, value)
    }

    fn gate(&self, block: &'static ControlBlock) -> Result<(), HwError> {
        self.gates.gate(block)
    }

    fn set_share(&self, share: Share) -> Result<(), HwError> {
        let set = |workers: &Arc<Workers>| workers.set_share(self.raw(), share);
        let workers = self.workers.as_ref().map_err(String::clone);
        workers.and_then(set).map_err(HwError::Unsupported)
    }

    fn spacing(&self, level: Level) -> Spacing {
        let workers = self.workers.as_ref();
        let level = if workers.is_ok_and(|workers| workers.are_of_one_queue()) {
            level
        } else {
            level.min(Level::Lv2)
        };
        Spacing::Commands(self.gates.interval(level))
    }

    fn tend(&self) {
        self.gates.tend();
    }

    fn wait_mark(&self, block: &'static ControlBlock, value: u32) {
        self.gates.wait(block, value);
    }
}
