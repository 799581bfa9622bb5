//! The words that gates in streams wait for, and the thread that writes them.
//!
//! A device waits on signal memory, which no other process can write. So one thread of this process
//! sleeps on the gate words of the segment, and what they say goes into the signals. A signal says 1
//! while its queue may execute. It is never freed: a stream may still wait on it.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustix::thread::futex;
use xsched_shim::{process::PerProcess, state::guarded, words};
use xsched_wire::{
    ControlBlock,
    block::{GATE_BYPASS, GATE_OPEN},
};

use crate::{kfd, runtime, sys::*};

/// The word of one queue.
pub(crate) struct Signal {
    /// Address of the word, for host and device.
    word: usize,
    /// The queue's block while the queue lives and has a gate.
    block: Mutex<Option<&'static ControlBlock>>,
}

impl Signal {
    fn block(&self) -> MutexGuard<'_, Option<&'static ControlBlock>> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whether the queue may execute; gives its block and the gate as it was read. Whoever
    /// holds the lock reads the gate, so that the last one to write has read it last.
    fn mirror(&self) -> Option<(&'static ControlBlock, u32)> {
        let block = self.block();
        let block = (*block)?;
        // Read once: what is slept on must be what was written.
        let gate = block.gate();
        self.write(u32::from(is_open(gate)));
        Some((block, gate))
    }

    fn write(&self, value: u32) {
        // SAFETY: the low word of 8 bytes of signal memory, made by `make` and never freed.
        let word = unsafe { AtomicU32::from_ptr(self.word as *mut u32) };
        word.store(value, Ordering::SeqCst);
    }
}

/// A signal for a stream of a device, or why there is none.
pub(crate) fn make(device: i32) -> Result<Arc<Signal>, String> {
    let mut can_wait = 0;
    // SAFETY: a valid place for the result.
    let asked =
        unsafe { runtime::device_attribute(&mut can_wait, HIP_ATTRIBUTE_CAN_WAIT_VALUE, device) };
    if asked != HIP_SUCCESS || can_wait == 0 {
        forget_error(asked);
        return Err("the streams of this device cannot wait for a value".into());
    }
    let mut word = std::ptr::null_mut();
    // SAFETY: a valid place for the result.
    let made = runtime::relaxed(|| unsafe {
        runtime::malloc_with_flags(&mut word, HIP_SIGNAL_BYTES, HIP_MALLOC_SIGNAL_MEMORY)
    });
    if made != HIP_SUCCESS || word.is_null() {
        forget_error(made);
        return Err(format!("the runtime refused signal memory (error {made})"));
    }
    let signal = Signal {
        word: word as usize,
        block: Mutex::new(None),
    };
    signal.write(1);
    Ok(Arc::new(signal))
}

fn is_open(gate: u32) -> bool {
    gate & (GATE_OPEN | GATE_BYPASS) != 0
}

/// What we failed at is not the application's error.
fn forget_error(error: hipError_t) {
    if error != HIP_SUCCESS {
        // SAFETY: no arguments.
        unsafe { runtime::get_last_error() };
    }
}

/// A gate of the queue is about to stand in its stream; what it has to wait for.
pub(crate) fn stand(signal: &Arc<Signal>, block: &'static ControlBlock) -> Result<Opaque, String> {
    let is_new = signal.block().replace(block).is_none();
    if is_new {
        block.watch_gate(true);
        KEEPER
            .get()
            .add(signal)
            .map_err(|error| format!("cannot start the thread that opens gates: {error}"))?;
    }
    // A gate that closed just now holds what comes behind this, however late the thread wakes. If the thread
    // read it before it closed and goes to sleep after it has opened again, it would not look.
    if signal.mirror().is_some_and(|(_, gate)| !is_open(gate)) {
        KEEPER.get().wake();
    }
    Ok(signal.word as Opaque)
}

/// The queue ends: its gates open for good.
pub(crate) fn let_go(signal: &Arc<Signal>) {
    let block = signal.block().take();
    if let Some(block) = block {
        block.watch_gate(false);
        signal.write(1);
        KEEPER.get().remove(signal);
    }
}

static KEEPER: PerProcess<Keeper> = PerProcess::new();

#[derive(Default)]
struct Keeper {
    is_running: AtomicBool,
    /// Changes when the thread is to look again.
    word: AtomicU32,
    signals: Mutex<Vec<Arc<Signal>>>,
}

impl Keeper {
    fn signals(&self) -> MutexGuard<'_, Vec<Arc<Signal>>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
        let _ = futex::wake(&self.word, futex::Flags::empty(), 1);
    }

    fn add(&'static self, signal: &Arc<Signal>) -> io::Result<()> {
        self.signals().push(signal.clone());
        if self.is_running.swap(true, Ordering::SeqCst) {
            self.wake();
            return Ok(());
        }
        let started = xsched_agent::spawn("xsched-gates", move || {
            guarded(|| self.run());
        });
        if started.is_err() {
            self.is_running.store(false, Ordering::SeqCst);
        }
        started
    }

    fn remove(&self, signal: &Arc<Signal>) {
        self.signals().retain(|own| !Arc::ptr_eq(own, signal));
        self.wake();
    }

    fn run(&self) {
        loop {
            let seen = self.word.load(Ordering::SeqCst);
            let signals = self.signals().clone();
            let gates: Vec<_> = signals
                .iter()
                .filter_map(|signal| signal.mirror())
                .map(|(block, gate)| (block.gate_address(), gate))
                .collect();
            kfd::settle();
            words::sleep(&self.word, seen, &gates, None);
        }
    }
}
