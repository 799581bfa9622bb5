//! The control block: what an application, its device and its scheduler share about one XQueue.
//!
//! | word | writer | reader | meaning |
//! |---|---|---|---|
//! | `gate` bit 0 | scheduler | application, device | 1 = the scheduler lets the queue execute |
//! | `gate` bit 1 | agent | application, device | 1 = bypass: the scheduler is lost, run anyway |
//! | `gate` bit 2 | agent | scheduler | 1 = a thread of the application's sleeps until the gate changes |
//! | `state` | application | scheduler | submit count and ready/idle, one word (below) |
//! | `forwarded` | application | application, scheduler | commands that the driver has received |
//! | `completed` | device | application, scheduler | the last completion mark that was reached |
//!
//! Each writer has a cache line of its own. The scheduler lives in another process (or, local,
//! another thread), so every access is atomic, and the scheduler treats what it reads as a claim.
//!
//! # The state word
//! Bit 0 is *ready*; the bits above count submissions. Three transitions exist:
//!
//! * [`publish`](ControlBlock::publish): count + 1, ready set. Reports whether the queue *became*
//!   ready, in which case the caller rings the doorbell.
//! * [`drain_point`](ControlBlock::drain_point): a snapshot, taken only while nothing stands
//!   between admission and driver, from before a synchronization that covers the whole queue.
//! * [`drained`](ControlBlock::drained): that snapshot → idle, by compare-and-swap, so that a
//!   submission in between keeps the queue ready.
//!
//! A command that was published but not yet forwarded is invisible to a synchronization, hence
//! `forwarded`: equal counts before the synchronization mean that it covered all of them.
//!
//! # Orderings
//! *R (ring)*: a transition changes `state`, then sets the slot's dirty bit, then rings; the
//! scheduler takes the ring, clears the bit, then reads `state`. `SeqCst` throughout, so a
//! transition is read or rings again, and a thread held at a closed gate was always announced.
//! *F (forwarded)*: `Release` after the driver call, `Acquire` in `drain_point`.
//! *C (completed)*: the device's store is ordered after the commands' effects by the platform;
//! `Acquire` here.
//! The loom models in `tests/loom.rs` cover R and F, and the two writers of the gate.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// `gate` bit that only the scheduler changes.
pub const GATE_OPEN: u32 = 1 << 0;
/// `gate` bit that only the agent changes.
pub const GATE_BYPASS: u32 = 1 << 1;
/// `gate` bit that only the agent changes; it opens nothing. No device reads a gate that has it.
pub const GATE_WATCHED: u32 = 1 << 2;
const OPENS: u32 = GATE_OPEN | GATE_BYPASS;

const READY: u64 = 1;
const ONE_SUBMIT: u64 = 2;

/// A value of the state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// Whether commands may be unfinished.
    pub fn is_ready(self) -> bool {
        self.0 & READY != 0
    }

    /// Commands published so far.
    pub fn submitted(self) -> u64 {
        self.0 / ONE_SUBMIT
    }
}

/// What [`ControlBlock::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a queue that became ready needs the doorbell"]
pub struct Published {
    /// Number of this command, from 1.
    pub number: u64,
    /// The queue was idle: ring the doorbell.
    pub became_ready: bool,
}

/// A moment from which a synchronization of the whole queue proves it idle.
#[derive(Clone, Copy, Debug)]
#[must_use = "pass it to `drained` after the synchronization"]
pub struct DrainPoint(u64);

impl DrainPoint {
    /// Number of the last command that the synchronization covers.
    pub fn number(self) -> u64 {
        State(self.0).submitted()
    }
}

/// The device's word, alone on its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
struct DeviceLine {
    completed: AtomicU32,
}

/// The application's words, alone on their cache line.
#[repr(C, align(64))]
#[derive(Debug)]
struct ApplicationLine {
    state: AtomicU64,
    forwarded: AtomicU64,
}

/// The gate, alone on its cache line.
#[repr(C, align(64))]
#[derive(Debug)]
struct GateLine {
    gate: AtomicU32,
}

/// One XQueue's shared words; the module's header says who writes which.
#[repr(C, align(256))]
#[derive(Debug)]
pub struct ControlBlock {
    gate: GateLine,
    application: ApplicationLine,
    device: DeviceLine,
}

impl ControlBlock {
    /// A block that no scheduler watches: idle, bypassed.
    #[allow(
        clippy::new_without_default,
        reason = "a block starts in a state worth naming"
    )]
    pub fn new() -> Self {
        ControlBlock {
            gate: GateLine {
                gate: AtomicU32::new(GATE_BYPASS),
            },
            application: ApplicationLine {
                state: AtomicU64::new(0),
                forwarded: AtomicU64::new(0),
            },
            device: DeviceLine {
                completed: AtomicU32::new(0),
            },
        }
    }

    /// Agent, before the slot is registered: back to idle and bypassed, counts at zero.
    pub fn reset(&self) {
        self.application.state.store(0, Ordering::SeqCst);
        self.application.forwarded.store(0, Ordering::SeqCst);
        self.device.completed.store(0, Ordering::SeqCst);
        self.gate.gate.fetch_or(GATE_BYPASS, Ordering::SeqCst);
        self.gate.gate.fetch_and(GATE_BYPASS, Ordering::SeqCst);
    }

    // ---- application ----

    /// Announces one more command (ordering R).
    #[inline]
    pub fn publish(&self) -> Published {
        let before = State(
            self.application
                .state
                .fetch_add(ONE_SUBMIT, Ordering::SeqCst),
        );
        Published {
            number: before.submitted() + 1,
            became_ready: !before.is_ready() && self.set_ready(),
        }
    }

    #[cold]
    fn set_ready(&self) -> bool {
        let before = self.application.state.fetch_or(READY, Ordering::SeqCst);
        !State(before).is_ready()
    }

    /// The driver has received a published command (ordering F).
    #[inline]
    pub fn forwarded(&self) {
        self.application.forwarded.fetch_add(1, Ordering::Release);
    }

    /// Commands that the driver has received (ordering F).
    pub fn forwarded_count(&self) -> u64 {
        self.application.forwarded.load(Ordering::Acquire)
    }

    /// Published commands that the driver has not received yet: threads held in admission.
    pub fn waiting(&self) -> u64 {
        let forwarded = self.forwarded_count();
        self.state().submitted().saturating_sub(forwarded)
    }

    /// The number of the last command, if the driver has them all. To be taken before an event is recorded: then
    /// the event stands behind that command.
    pub fn last_forwarded(&self) -> Option<u64> {
        let submitted = self.state().submitted();
        // Loaded after `state`, as in `drain_point`.
        (self.forwarded_count() == submitted).then_some(submitted)
    }

    /// To be taken before a synchronization; `None` if the queue is idle already, or a command
    /// is on its way to the driver, so that a synchronization would prove nothing.
    pub fn drain_point(&self) -> Option<DrainPoint> {
        let state = self.state();
        // Loaded after `state`: a later command can only make the compare-and-swap fail.
        let forwarded = self.application.forwarded.load(Ordering::Acquire);
        (state.is_ready() && forwarded == state.submitted()).then_some(DrainPoint(state.0))
    }

    /// To be called after that synchronization. True: the queue became idle, ring the doorbell.
    #[must_use = "a queue that became idle needs the doorbell"]
    pub fn drained(&self, point: DrainPoint) -> bool {
        self.application
            .state
            .compare_exchange(
                point.0,
                point.0 & !READY,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok()
    }

    /// Whether commands may execute, by the scheduler's word or by bypass.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.gate.gate.load(Ordering::SeqCst) & OPENS != 0
    }

    // ---- device ----

    /// A completion mark was reached. For devices that are threads; real ones store by command.
    pub fn complete(&self, mark: u32) {
        self.device.completed.store(mark, Ordering::Release);
    }

    /// The last completion mark reached (ordering C); counts wrap at 2³².
    #[inline]
    pub fn completed(&self) -> u32 {
        self.device.completed.load(Ordering::Acquire)
    }

    // ---- scheduler, and agent for the bypass ----

    /// The state word as it stands.
    #[inline]
    pub fn state(&self) -> State {
        State(self.application.state.load(Ordering::SeqCst))
    }

    /// Sets or clears one gate bit. True, wake the waiters: the gate went from closed to open, or was
    /// closed and is watched.
    fn set_gate_bit(&self, bit: u32, set: bool) -> bool {
        if set {
            self.gate.gate.fetch_or(bit, Ordering::SeqCst) & OPENS == 0
        } else {
            self.gate.gate.fetch_and(!bit, Ordering::SeqCst) & GATE_WATCHED != 0
        }
    }

    /// Scheduler: opens the gate. True: it was closed, wake the waiters.
    #[must_use = "waiters must be woken when the gate opened"]
    pub fn open_gate(&self) -> bool {
        self.set_gate_bit(GATE_OPEN, true)
    }

    /// Scheduler: closes the gate. From here on commands stop at the next gate. True: somebody
    /// watches the gate, wake the waiters.
    #[must_use = "watchers must be woken when the gate closed"]
    pub fn close_gate(&self) -> bool {
        self.set_gate_bit(GATE_OPEN, false)
    }

    /// Agent: whether whoever sleeps on the gate word is to be woken when the gate closes, too.
    pub fn watch_gate(&self, on: bool) {
        match on {
            true => self.gate.gate.fetch_or(GATE_WATCHED, Ordering::SeqCst),
            false => self.gate.gate.fetch_and(!GATE_WATCHED, Ordering::SeqCst),
        };
    }

    /// The gate word as it stands.
    pub fn gate(&self) -> u32 {
        self.gate.gate.load(Ordering::SeqCst)
    }

    /// Whether the scheduler lets the queue execute, whatever the bypass says.
    pub fn is_allowed(&self) -> bool {
        self.gate.gate.load(Ordering::SeqCst) & GATE_OPEN != 0
    }

    /// Agent: sets or clears the bypass. True, wake the waiters: the gate went from closed to open,
    /// or the bypass is off and the gate watched.
    #[must_use = "waiters must be woken when the gate opened"]
    pub fn set_bypass(&self, on: bool) -> bool {
        self.set_gate_bit(GATE_BYPASS, on)
    }

    /// Whether the bypass is on.
    pub fn is_bypassed(&self) -> bool {
        self.gate.gate.load(Ordering::SeqCst) & GATE_BYPASS != 0
    }
}

#[cfg(not(loom))]
mod waiting {
    //! Sleeping on the words; shared futexes, since the waker may be another process.

    use std::time::Duration;

    use rustix::{thread::futex, time::Timespec};

    use super::ControlBlock;
    use crate::sync::AtomicU32;

    impl ControlBlock {
        /// Wakes whoever sleeps in [`wait_open`](Self::wait_open), or on a watched gate, in any process.
        pub fn wake_gate(&self) {
            wake(&self.gate.gate);
        }

        /// Sleeps until the gate is open.
        pub fn wait_open(&self) {
            loop {
                let seen = self.gate();
                if seen & super::OPENS != 0 {
                    return;
                }
                wait(&self.gate.gate, seen, None);
            }
        }

        /// Wakes whoever sleeps in [`wait_completed`](Self::wait_completed). A real device cannot.
        pub fn wake_completed(&self) {
            wake(&self.device.completed);
        }

        /// Sleeps until the completion word differs from `seen`, at most `timeout`.
        pub fn wait_completed(&self, seen: u32, timeout: Duration) {
            wait(&self.device.completed, seen, Some(timeout));
        }

        /// Address of the gate word, for devices that poll it themselves.
        pub fn gate_address(&self) -> *const u32 {
            self.gate.gate.as_ptr()
        }

        /// Address of the completion word, for devices that write it themselves.
        pub fn completed_address(&self) -> *const u32 {
            self.device.completed.as_ptr()
        }
    }

    fn wake(word: &AtomicU32) {
        // Fails only for a bad address, which a reference cannot be.
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    }

    fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        // EAGAIN (changed), EINTR and ETIMEDOUT all mean: look again, which callers do.
        let _ = futex::wait(word, futex::Flags::empty(), expected, timeout.as_ref());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn layout_is_pinned() {
        assert_eq!(size_of::<ControlBlock>(), 256);
        assert_eq!(align_of::<ControlBlock>(), 256);
        assert_eq!(std::mem::offset_of!(ControlBlock, gate), 0);
        assert_eq!(std::mem::offset_of!(ControlBlock, application), 64);
        assert_eq!(std::mem::offset_of!(ControlBlock, device), 128);
        assert_eq!(std::mem::offset_of!(ApplicationLine, forwarded), 8);
    }

    #[test]
    fn becomes_ready_once_and_idle_only_when_drained() {
        let block = ControlBlock::new();
        let first = block.publish();
        assert_eq!((first.number, first.became_ready), (1, true));
        assert!(block.drain_point().is_none(), "on its way to the driver");
        block.forwarded();
        assert!(!block.publish().became_ready);
        block.forwarded();

        let stale = block.drain_point().expect("all forwarded");
        let _ = block.publish();
        block.forwarded();
        assert!(!block.drained(stale), "a command came after");
        let point = block.drain_point().expect("all forwarded");
        assert_eq!(point.number(), 3);
        assert!(block.drained(point));
        assert!(!block.state().is_ready());
        assert!(block.publish().became_ready);
    }

    #[test]
    fn a_watched_gate_is_open_or_closed_as_any_other() {
        let block = ControlBlock::new();
        assert!(!block.set_bypass(false));
        block.watch_gate(true);
        assert!(!block.is_open(), "watching opens nothing");
        assert!(block.open_gate() && block.is_open());
        assert!(block.close_gate(), "the watcher is to be woken");
        assert!(block.set_bypass(true) && block.is_open());
        assert!(block.set_bypass(false), "the watcher is to be woken");
        block.watch_gate(false);
        assert!(!block.close_gate());
    }

    #[test]
    fn gate_bits_belong_to_their_writers() {
        let block = ControlBlock::new();
        assert!(block.is_open() && block.is_bypassed());
        assert!(!block.open_gate(), "bypass had it open");
        assert!(!block.set_bypass(false));
        assert!(block.is_open());
        assert!(!block.close_gate(), "nobody watches");
        assert!(!block.is_open());
        assert!(block.set_bypass(true), "closed to open");
        assert!(!block.open_gate());
    }

    #[test]
    fn opening_wakes_a_sleeper() {
        let block = std::sync::Arc::new(ControlBlock::new());
        let _ = block.set_bypass(false);
        let sleeper = std::thread::spawn({
            let block = block.clone();
            move || block.wait_open()
        });
        if block.open_gate() {
            block.wake_gate();
        }
        sleeper.join().unwrap();
    }
}
