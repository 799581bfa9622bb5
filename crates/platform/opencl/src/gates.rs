//! Gates and marks in a queue, made of user events, barriers, markers and callbacks.
//!
//! `chain` decides; this file talks to the driver. No driver call is made under the lock but the
//! retaining of an event: a driver may run callbacks inside a call, and those come back here.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_wire::{ControlBlock, Level};
use xsched_xqueue::{HwError, hw};

use crate::{
    chain::{self, By, Chain},
    driver,
    keeper::{self, Keeper},
    sys::*,
    user_events,
};
use xsched_shim::state::guarded;

/// A user event that a barrier waits for.
#[derive(Debug)]
struct Gate {
    event: usize,
    /// Its place among all gates of the process.
    number: u64,
}

/// Everything that stands in one queue on our behalf.
pub(crate) struct Gates {
    queue: usize,
    context: usize,
    in_order: bool,
    /// How long a gate takes that is completed just in time.
    pause: Duration,
    /// How long one command takes, ns; a copy of what the chain says.
    command: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// The queue's block, from its first command until its end.
    block: Option<&'static ControlBlock>,
    ended: bool,
    chain: Chain<Gate, usize>,
}

/// What the callback of a mark gets.
struct Reached {
    gates: Arc<Gates>,
    value: u32,
}

/// The process is exiting: no gate is placed any more, and no thread of ours enters the driver by itself.
static EXITING: AtomicBool = AtomicBool::new(false);

/// From now on no gate is placed.
pub(crate) fn exit() {
    EXITING.store(true, Ordering::SeqCst);
}

impl Gates {
    pub(crate) fn new(queue: Queue, context: Opaque, in_order: bool, pause: Duration) -> Arc<Self> {
        let chain = Chain::new(pause);
        Arc::new(Gates {
            queue: queue as usize,
            context: context as usize,
            in_order,
            pause,
            command: AtomicU64::new(nanos(chain.command())),
            state: Mutex::new(State {
                block: None,
                ended: false,
                chain,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raw(&self) -> Queue {
        self.queue as Queue
    }

    /// Commands between two gates.
    pub(crate) fn interval(&self, level: Level) -> u32 {
        let command = Duration::from_nanos(self.command.load(Ordering::Relaxed));
        chain::interval(level, command, self.pause)
    }

    /// The queue's block.
    pub(crate) fn set_block(&self, block: &'static ControlBlock) {
        self.state().block = Some(block);
    }

    pub(crate) fn block(&self) -> Option<&'static ControlBlock> {
        self.state().block
    }

    /// Address of the gate word, while the queue is held; `None`: nothing here is to be waited for.
    pub(crate) fn closed_word(&self) -> Option<*const u32> {
        let state = self.state();
        let block = state.block.filter(|block| !block.is_open())?;
        (!state.ended && state.chain.is_armed()).then(|| block.gate_address())
    }

    // ---- gates ----

    /// Places a gate, unless the device may pass here anyway.
    pub(crate) fn gate(self: &Arc<Self>, block: &'static ControlBlock) -> Result<(), HwError> {
        if self.passes_anyway(block) {
            return Ok(());
        }
        let mut error = CL_SUCCESS;
        // SAFETY: the context of a queue that the program is using; a valid place for the error.
        let event = unsafe { driver::create_user_event(self.context as Opaque, &mut error) };
        if event.is_null() {
            return Err(unsupported("clCreateUserEvent", error));
        }
        let keeper = keeper::get();
        if let Err(error) = keeper.start() {
            // SAFETY: made above, used by nobody.
            unsafe { driver::release_event(event) };
            return Err(HwError::Unsupported(format!(
                "no thread for gates: {error}"
            )));
        }
        let number = keeper.armed_one();
        // Before the barrier: from here on whatever opens the queue completes the event.
        // SAFETY: made above.
        unsafe { driver::retain_event(event) };
        self.state().chain.arm(Gate {
            event: event as usize,
            number,
        });
        let mut stands = std::ptr::null_mut();
        // SAFETY: the program's own queue; one event that is held over the call, a place for another.
        let result = unsafe { driver::barrier(self.raw(), 1, &event, &mut stands) };
        // SAFETY: retained above.
        unsafe { driver::release_event(event) };
        if result == CL_SUCCESS {
            release_when_over(stands);
        }
        self.advance();
        if result == CL_SUCCESS {
            return Ok(());
        }
        self.open_all();
        Err(unsupported("clEnqueueBarrierWithWaitList", result))
    }

    fn passes_anyway(&self, block: &ControlBlock) -> bool {
        if EXITING.load(Ordering::SeqCst) || block.is_bypassed() {
            return true;
        }
        let state = self.state();
        if state.ended {
            return true;
        }
        block.is_open() && (self.runs_freely() || !state.chain.runs_ahead())
    }

    /// Whether later commands may have to run before earlier ones are over: then no open gate may
    /// wait for a mark.
    fn runs_freely(&self) -> bool {
        !self.in_order && user_events::any_unset()
    }

    /// Completes the gates that may be passed now; if the queue is closed, the keeper does it when
    /// it opens.
    pub(crate) fn advance(self: &Arc<Self>) {
        let mut state = self.state();
        let is_open = state.block.is_none_or(ControlBlock::is_open);
        let gates = match (is_open, state.ended) {
            (_, true) => state.chain.take_all(),
            (true, false) if self.runs_freely() => state.chain.take_all(),
            (true, false) => state.chain.take(),
            (false, false) => Vec::new(),
        };
        let is_armed = state.chain.is_armed();
        let calls_late = state.chain.calls_late();
        drop(state);
        complete(gates);
        match (is_armed, is_open) {
            (true, false) => keeper::get().hold(self),
            (true, true) if calls_late => keeper::get().watch(self),
            _ => {}
        }
    }

    /// Completes every gate.
    pub(crate) fn open_all(&self) {
        let gates = self.state().chain.take_all();
        complete(gates);
    }

    /// The queue ends: everything that stands in it may be passed, and the block is another's.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.block = None;
        let gates = state.chain.take_all();
        let marks = state.chain.forget_marks();
        drop(state);
        complete(gates);
        release(&marks);
    }

    // ---- marks ----

    /// Places a mark.
    pub(crate) fn mark(
        self: &Arc<Self>,
        block: &'static ControlBlock,
        value: u32,
    ) -> Result<(), HwError> {
        let covers = block.forwarded_count();
        let mut event = std::ptr::null_mut();
        // SAFETY: the program's own queue; a valid place for the event.
        let result = unsafe { driver::marker(self.raw(), 0, std::ptr::null(), &mut event) };
        if result != CL_SUCCESS {
            return Err(unsupported("clEnqueueMarkerWithWaitList", result));
        }
        // One reference for the callback, one for whoever asks for the status meanwhile.
        // SAFETY: just made.
        unsafe { driver::retain_event(event) };
        {
            let mut state = self.state();
            // Behind the call: a gate that is placed from now on stands behind this mark.
            let now = Instant::now();
            state.chain.marked(value, covers, now, event as usize);
        }
        let note = Box::into_raw(Box::new(Reached {
            gates: self.clone(),
            value,
        }));
        // SAFETY: an event that we hold; the callback matches the data.
        let result =
            unsafe { driver::event_callback(event, CL_COMPLETE, Some(on_mark), note.cast()) };
        if result == CL_SUCCESS {
            return Ok(());
        }
        // SAFETY: the callback was not taken, so the note is still ours.
        drop(unsafe { Box::from_raw(note) });
        // SAFETY: the callback's reference.
        unsafe { driver::release_event(event) };
        Err(unsupported("clSetEventCallback", result))
    }

    /// A mark was reached, and all before it.
    fn reached(self: &Arc<Self>, value: u32, told: By) {
        let mut state = self.state();
        let marks = state.chain.reach(value, Instant::now(), told);
        self.command
            .store(nanos(state.chain.command()), Ordering::Relaxed);
        // Under the lock, as the end is: afterwards the block may be another queue's.
        if let Some(block) = state.block
            && !hw::reached(block.completed(), value)
        {
            block.complete(value);
            block.wake_completed();
        }
        drop(state);
        release(&marks);
        self.advance();
    }

    /// Looks whether marks were reached, and says when to look again. `None`: not before a gate is placed, or opens, for
    /// which the keeper waits then.
    pub(crate) fn watch(self: &Arc<Self>) -> Option<Duration> {
        if EXITING.load(Ordering::SeqCst) {
            return None;
        }
        while self.poll() {}
        let mut state = self.state();
        let is_open = state.block?.is_open();
        if is_open && state.chain.calls_late() {
            return state.chain.next_look(Instant::now());
        }
        let is_held = !is_open && state.chain.is_armed();
        drop(state);
        if is_held {
            keeper::get().hold(self);
        }
        None
    }

    /// To be called now and then.
    pub(crate) fn tend(self: &Arc<Self>) {
        if !EXITING.load(Ordering::SeqCst) {
            self.poll();
        }
    }

    /// Looks whether a mark was reached whose callback did not run yet.
    fn poll(self: &Arc<Self>) -> bool {
        let next = {
            let state = self.state();
            let next = state.chain.next_mark();
            if let Some((_, event)) = next {
                // SAFETY: the chain holds a reference.
                unsafe { driver::retain_event(event as Event) };
            }
            next
        };
        let Some((value, event)) = next else {
            return false;
        };
        let is_over = driver::event_status(event as Event).is_none_or(|it| it <= CL_COMPLETE);
        // SAFETY: retained above.
        unsafe { driver::release_event(event as Event) };
        if is_over {
            self.reached(value, By::Look);
        }
        is_over
    }

    /// Returns when a mark was reached, or waiting for it could wait for ever.
    pub(crate) fn wait(self: &Arc<Self>, block: &'static ControlBlock, value: u32) {
        let is_over = |seen| {
            hw::reached(seen, value) || user_events::any_unset() || user_events::in_callback()
        };
        // Some drivers execute inside this call, and may wait there for a user event.
        if is_over(block.completed()) {
            return;
        }
        // What was not handed over yet would never get there.
        // SAFETY: the program's own queue.
        unsafe { driver::flush(self.raw()) };
        let mut step = Duration::from_micros(20);
        loop {
            let seen = block.completed();
            if is_over(seen) {
                return;
            }
            block.wait_completed(seen, step);
            self.poll();
            step = (step * 2).min(Duration::from_millis(1));
        }
    }
}

/// The callback of a mark's event.
unsafe extern "C" fn on_mark(event: Event, _: i32, data: Opaque) {
    // SAFETY: made by `mark` from a box; a callback runs once.
    let note = unsafe { Box::from_raw(data.cast::<Reached>()) };
    guarded(|| note.gates.reached(note.value, By::CallBack));
    // SAFETY: the callback's reference.
    unsafe { driver::release_event(event) };
}

/// Gives up our reference to a command's event when the command is over. Where one fails, PoCL fails
/// all behind it, and ends the process if nobody holds the event of one of them.
pub(crate) fn release_when_over(event: Event) {
    unsafe extern "C" fn release(event: Event, _: i32, _: Opaque) {
        // SAFETY: the reference that `release_when_over` was given.
        unsafe { driver::release_event(event) };
    }
    let data = std::ptr::null_mut();
    // SAFETY: an event that we hold; the callback uses no data.
    let result = unsafe { driver::event_callback(event, CL_COMPLETE, Some(release), data) };
    if result != CL_SUCCESS {
        // SAFETY: the callback was not taken, so the reference is still ours.
        unsafe { driver::release_event(event) };
    }
}

fn complete(gates: Vec<Gate>) {
    for gate in gates {
        let event = gate.event as Event;
        // SAFETY: our user event, which nobody has completed: it has just left the chain.
        unsafe { driver::set_user_event(event, CL_COMPLETE) };
        // SAFETY: the chain's reference.
        unsafe { driver::release_event(event) };
        Keeper::passed(keeper::get(), gate.number);
    }
}

fn release(events: &[usize]) {
    for &event in events {
        // SAFETY: the chain's reference to an event that has just left it.
        unsafe { driver::release_event(event as Event) };
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn unsupported(what: &str, error: i32) -> HwError {
    HwError::Unsupported(format!("{what} failed with error {error}"))
}
