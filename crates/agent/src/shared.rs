//! What the application's threads and the agent's thread share: queues, doorbell, outbox, bypass.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI32, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, eventfd};
use xsched_wire::{
    Attributes, Hints, QueueInfo, Share, ToScheduler, endpoint,
    env::{Scheduler, Settings},
    message::MAX_TEXT,
    segment::{Layout, OwnSegment, SLOTS},
};
use xsched_xqueue::{Link, Managed, Slot};

use crate::{
    AttachError,
    bypass::{self, Bypass, GroupKey, Sight},
    log,
};

/// How often heartbeat, progress and idleness are looked at: quiet, and while a queue has work.
pub(crate) const TICK: Duration = Duration::from_millis(100);
const TICK_BUSY: Duration = Duration::from_millis(10);
/// The same while groups of one process may block each other.
const TICK_SEVERAL: Duration = bypass::PATIENCE.checked_div(2).unwrap();
/// No session socket.
pub(crate) const NO_FD: i32 = -1;

/// What the agent's own thread needs of the environment is read before it starts: a C program's
/// threads may be changing that at any time.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// Where a daemon may listen, best first.
    pub(crate) sockets: Vec<PathBuf>,
    /// The user's own daemon's.
    pub(crate) user_socket: PathBuf,
    segment: OwnSegment,
    /// The scheduler's doorbell.
    doorbell: OwnedFd,
    /// Wakes the agent's thread for its outbox.
    wake: OwnedFd,
    state: Mutex<State>,
    thread_claimed: AtomicBool,
    scheduled: AtomicBool,
    /// Slots that were ever handed out: all below this one.
    used: AtomicU16,
    /// In a forked child: nothing here may be used any more.
    dead: AtomicBool,
    /// The process is exiting: the bypass stays on.
    exiting: AtomicBool,
    /// More than one task group has a queue here.
    several: AtomicBool,
    /// The session's socket, so that a forked child can close it.
    pub(crate) session_fd: AtomicI32,
}

struct State {
    /// Free slots, longest free first: what a device still writes to an old one is over by then.
    free: VecDeque<u16>,
    live: BTreeMap<u16, Entry>,
    /// What the scheduler is yet to be told.
    outbox: VecDeque<ToScheduler>,
    /// A scheduler listens. While none does nothing is noted: it will be told of all queues.
    listening: bool,
    /// Hints of all queues without ones of their own.
    hints: Hints,
    bypass: Bypass,
    /// Levels that were lower than what was asked for, with the reason, as they were said.
    said: BTreeSet<String>,
    /// When the queues were last tended.
    tended: Instant,
}

struct Entry {
    device: String,
    hints: Hints,
    /// The application suspended it.
    held: bool,
    /// The scheduler has its gate.
    handed_over: bool,
    /// Holding it blocks no other queue.
    independent: bool,
    /// It has no commands: its gate stands for all queues of the process on its device.
    common: bool,
    group: GroupKey,
    managed: Weak<dyn Managed>,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, AttachError> {
        log::read_environment();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Shared {
            sockets: endpoint::candidates(),
            user_socket: endpoint::user_socket(),
            segment: OwnSegment::create()?,
            doorbell: eventfd(0, flags).map_err(io::Error::from)?,
            wake: eventfd(0, flags).map_err(io::Error::from)?,
            state: Mutex::new(State {
                free: (0..SLOTS as u16).collect(),
                live: BTreeMap::new(),
                outbox: VecDeque::new(),
                listening: false,
                hints: settings.hints,
                bypass: Bypass::default(),
                said: BTreeSet::new(),
                tended: Instant::now(),
            }),
            settings,
            thread_claimed: AtomicBool::new(false),
            scheduled: AtomicBool::new(false),
            used: AtomicU16::new(0),
            dead: AtomicBool::new(false),
            exiting: AtomicBool::new(false),
            several: AtomicBool::new(false),
            session_fd: AtomicI32::new(NO_FD),
        })
    }

    pub(crate) fn layout(&self) -> &'static Layout {
        self.segment.layout()
    }

    pub(crate) fn segment_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }

    pub(crate) fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- queues ----

    pub(crate) fn reserve(&self) -> Result<Slot, AttachError> {
        if self.is_dead() {
            return Err(AttachError::Forked);
        }
        let index = self
            .state()
            .free
            .pop_front()
            .ok_or(AttachError::TooManyQueues)?;
        let block = self
            .layout()
            .block(index)
            .ok_or(AttachError::TooManyQueues)?;
        self.used.fetch_max(index + 1, Ordering::SeqCst);
        block.reset();
        if self.settings.scheduler == Scheduler::Application {
            let _ = block.open_gate();
            let _ = block.set_bypass(false);
        }
        Ok(Slot { index, block })
    }

    pub(crate) fn register(
        &self,
        slot: Slot,
        device: &str,
        hints: Hints,
        common: bool,
        managed: Weak<dyn Managed>,
    ) {
        let attributes = managed.upgrade().map(|managed| managed.attributes());
        let entry = Entry {
            device: device.to_owned(),
            hints,
            held: false,
            handed_over: self.settings.scheduler == Scheduler::Application,
            independent: managed
                .upgrade()
                .is_none_or(|managed| managed.is_independent()),
            common,
            group: slot.index,
            managed,
        };
        let mut state = self.state();
        if let Some(info) = entry.info(slot.index) {
            state.note(ToScheduler::CreateQueue(info));
        }
        state.live.insert(slot.index, entry);
        self.regroup(&mut state);
        let said = attributes.and_then(|attributes| state.explain(&attributes));
        drop(state);
        if let Some(said) = said {
            log::info(&said);
        }
        self.wake();
    }

    /// Changes something about a live queue and tells the scheduler of it.
    fn change(&self, slot: Slot, change: impl FnOnce(&mut Entry), message: ToScheduler) {
        if self.is_dead() {
            return;
        }
        let mut state = self.state();
        let Some(entry) = state.live.get_mut(&slot.index) else {
            return;
        };
        change(entry);
        state.note(message);
        drop(state);
        self.wake();
    }

    pub(crate) fn hint(&self, slot: Slot, hints: Hints) {
        if self.is_dead() {
            return;
        }
        let message = ToScheduler::Hint {
            slot: Some(slot.index),
            hints,
        };
        self.change(slot, |entry| entry.hints.extend(hints.iter()), message);
        self.regroup(&mut self.state());
    }

    pub(crate) fn hint_process(&self, hints: Hints) {
        if self.is_dead() {
            return;
        }
        let mut state = self.state();
        state.hints.extend(hints.iter());
        state.note(ToScheduler::Hint { slot: None, hints });
        drop(state);
        self.wake();
    }

    /// Hints of all queues without ones of their own.
    pub(crate) fn process_hints(&self) -> Hints {
        self.state().hints
    }

    /// All queues as messages, for a scheduler that knows none and listens from now on; before them
    /// the process's hints, if it was `told` others.
    pub(crate) fn announce_all(&self, told: Hints) -> Vec<ToScheduler> {
        let mut state = self.state();
        state.outbox.clear();
        state.listening = true;
        let mut messages = Vec::new();
        if state.hints != told {
            let hints = state.hints;
            messages.push(ToScheduler::Hint { slot: None, hints });
        }
        for (&slot, entry) in &state.live {
            if let Some(info) = entry.info(slot) {
                messages.push(ToScheduler::CreateQueue(info));
                if entry.held {
                    messages.push(ToScheduler::Hold { slot, held: true });
                }
            }
        }
        messages
    }

    pub(crate) fn unsent(&self) -> usize {
        self.state().outbox.len()
    }

    pub(crate) fn take_outbox(&self) -> VecDeque<ToScheduler> {
        std::mem::take(&mut self.state().outbox)
    }

    /// Every queue that still exists.
    pub(crate) fn for_each_queue(&self, mut visit: impl FnMut(Slot, &dyn Managed)) {
        // Collected first: `visit` may come back here.
        let live: Vec<_> = {
            let state = self.state();
            state
                .live
                .iter()
                .map(|(&index, entry)| (index, entry.managed.clone()))
                .collect()
        };
        for (index, managed) in live {
            if let (Some(block), Some(managed)) = (self.layout().block(index), managed.upgrade()) {
                visit(Slot { index, block }, &*managed);
            }
        }
    }

    pub(crate) fn managed(&self, slot: u16) -> Option<std::sync::Arc<dyn Managed>> {
        self.state().live.get(&slot)?.managed.upgrade()
    }

    /// When the agent's thread should next look after the queues.
    pub(crate) fn tick(&self) -> Duration {
        let state = self.state();
        let mut blocking = BTreeSet::new();
        let mut tick = TICK;
        for (&slot, entry) in &state.live {
            let block = self.layout().block(slot);
            if block.is_some_and(|block| block.state().is_ready()) {
                tick = TICK_BUSY;
                if !entry.independent {
                    blocking.insert(entry.group);
                }
            }
        }
        if blocking.len() > 1 {
            TICK_SEVERAL
        } else {
            tick
        }
    }

    /// Ends what blocks groups of this process behind each other, and, now and then, tends every
    /// queue.
    pub(crate) fn look_after(&self, now: Instant) {
        let mut state = self.state();
        let mut any_closed = false;
        let sights: Vec<Sight> = state
            .live
            .iter()
            .filter(|(_, entry)| !entry.independent)
            .filter_map(|(&slot, entry)| {
                let block = self.layout().block(slot)?;
                any_closed |= !block.is_open() && !entry.held;
                Some(Sight {
                    group: entry.group,
                    // One that the application itself suspended stands still for nobody.
                    ready: block.state().is_ready() && !entry.held,
                    closed: entry.handed_over && !block.is_allowed() && !entry.held,
                    progress: block.forwarded_count() + u64::from(block.completed()),
                })
            })
            .collect();
        if state.bypass.look(now, sights.into_iter()) {
            self.settle(&state);
        }
        if now.duration_since(state.tended) < TICK_BUSY {
            return;
        }
        state.tended = now;
        drop(state);
        self.for_each_queue(|_, managed| managed.tend(!any_closed));
    }

    /// Finds out anew which queues make a group: those of one device without hints of their own.
    fn regroup(&self, state: &mut State) {
        let mut groups: BTreeMap<&str, GroupKey> = BTreeMap::new();
        let mut keys: BTreeSet<GroupKey> = BTreeSet::new();
        let mut members = Vec::with_capacity(state.live.len());
        for (&slot, entry) in &state.live {
            let key = match entry.hints == Hints::default() {
                true => *groups.entry(&entry.device).or_insert(slot),
                false => slot,
            };
            if !entry.common && !entry.independent {
                keys.insert(key);
            }
            members.push(key);
        }
        for (entry, key) in state.live.values_mut().zip(members) {
            entry.group = key;
        }
        self.several.store(keys.len() > 1, Ordering::SeqCst);
        self.settle(state);
    }

    /// Whether more than one task group has a queue here.
    pub(crate) fn has_several_groups(&self) -> bool {
        self.several.load(Ordering::SeqCst)
    }

    // ---- who decides ----

    /// The scheduler has this queue's gate now.
    pub(crate) fn hand_over(&self, slot: u16) {
        let mut state = self.state();
        if let Some(entry) = state.live.get_mut(&slot) {
            entry.handed_over = true;
            self.settle(&state);
        }
    }

    /// A thread enters a call that waits for a whole context, or (`entered` false) leaves it.
    pub(crate) fn inside_call(&self, entered: bool) {
        if self.is_dead() {
            return;
        }
        let mut state = self.state();
        let inside = &mut state.bypass.inside;
        *inside = match entered {
            true => *inside + 1,
            false => inside.saturating_sub(1),
        };
        self.settle(&state);
    }

    /// Sets every bypass as it should be. Under the lock, as the end of a queue is, or its bypass
    /// could be cleared after it was set.
    fn settle(&self, state: &State) {
        for (&index, entry) in &state.live {
            let Some(block) = self.layout().block(index) else {
                continue;
            };
            let slot = Slot { index, block };
            let common = entry.common && self.has_several_groups();
            let bypass = !entry.handed_over || state.bypass.is_on() || common;
            match (block.is_bypassed(), bypass) {
                (false, true) => open_by_bypass(slot),
                (true, false) => {
                    if block.set_bypass(false) {
                        block.wake_gate();
                    }
                    // Exit takes no lock: either it comes after the line above, or it is seen here.
                    if self.exiting.load(Ordering::SeqCst) {
                        open_by_bypass(slot);
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn set_scheduled(&self, scheduled: bool) {
        self.scheduled.store(scheduled, Ordering::SeqCst);
    }

    pub(crate) fn is_scheduled(&self) -> bool {
        self.scheduled.load(Ordering::SeqCst)
    }

    /// The scheduler is lost: every gate opens, every hardware share is as nobody had touched it.
    pub(crate) fn release_all(&self) {
        self.set_scheduled(false);
        let mut state = self.state();
        state.listening = false;
        state.outbox.clear();
        for entry in state.live.values_mut() {
            entry.handed_over = false;
        }
        self.settle(&state);
        drop(state);
        self.for_each_queue(|_, managed| managed.apply_share(Share::Normal));
    }

    /// As `release_all`, at process exit, when the lock may be held for ever.
    pub(crate) fn release_at_exit(&self) {
        if self.is_dead() {
            return;
        }
        self.exiting.store(true, Ordering::SeqCst);
        for index in 0..self.used() {
            if let Some(block) = self.layout().block(index) {
                open_by_bypass(Slot { index, block });
            }
        }
        if let Ok(state) = self.state.try_lock() {
            let live: Vec<_> = state
                .live
                .values()
                .map(|entry| entry.managed.clone())
                .collect();
            drop(state);
            for managed in live.iter().filter_map(Weak::upgrade) {
                managed.apply_share(Share::Normal);
            }
        }
    }

    /// Slots that were ever handed out.
    pub(crate) fn used(&self) -> u16 {
        self.used.load(Ordering::SeqCst)
    }

    /// True for the one caller who starts the agent's thread.
    pub(crate) fn claim_thread(&self) -> bool {
        !self.thread_claimed.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn mark_dead(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    fn wake(&self) {
        if !self.is_dead() {
            ring(self.wake.as_fd());
        }
    }
}

impl State {
    fn note(&mut self, message: ToScheduler) {
        if self.listening {
            self.outbox.push_back(message);
        }
    }

    /// Why a level is no higher, once a reason; to be logged without the lock.
    fn explain(&mut self, attributes: &Attributes) -> Option<String> {
        let reason = attributes.reason.as_ref()?;
        let is_new = self.said.insert(reason.clone());
        is_new.then(|| format!("level {} in force: {reason}", attributes.level))
    }
}

impl Entry {
    fn info(&self, slot: u16) -> Option<QueueInfo> {
        Some(QueueInfo {
            slot,
            device: short(&self.device),
            hints: self.hints,
            attributes: shortened(self.managed.upgrade()?.attributes()),
        })
    }
}

impl Link for Shared {
    fn changed(&self, slot: Slot) {
        if !self.is_dead() && self.layout().set_dirty(slot.index) {
            ring(self.doorbell.as_fd());
        }
    }

    fn hold(&self, slot: Slot, held: bool) {
        match self.settings.scheduler {
            Scheduler::Off => {}
            Scheduler::Application => {
                let wake = match held {
                    true => slot.block.close_gate(),
                    false => slot.block.open_gate(),
                };
                if wake {
                    slot.block.wake_gate();
                }
            }
            Scheduler::Global | Scheduler::Local(_) => {
                let index = slot.index;
                let message = ToScheduler::Hold { slot: index, held };
                self.change(slot, |entry| entry.held = held, message);
            }
        }
    }

    fn level(&self, slot: Slot, attributes: Attributes) {
        if self.is_dead() {
            return;
        }
        let said = self.state().explain(&attributes);
        if let Some(said) = said {
            log::info(&said);
        }
        let message = ToScheduler::Level {
            slot: slot.index,
            attributes: shortened(attributes),
        };
        self.change(slot, |_| (), message);
    }

    fn closing(&self, slot: Slot) {
        if self.is_dead() {
            return;
        }
        let mut state = self.state();
        if state.live.remove(&slot.index).is_some() {
            state.note(ToScheduler::DestroyQueue { slot: slot.index });
            self.regroup(&mut state);
        }
        // Gates that are still in the hw queue must not hold what was launched.
        open_by_bypass(slot);
        drop(state);
        self.wake();
    }

    fn released(&self, slot: Slot) {
        if !self.is_dead() {
            self.state().free.push_back(slot.index);
        }
    }
}

/// As much of a text as a message may carry.
pub(crate) fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn shortened(attributes: Attributes) -> Attributes {
    Attributes {
        reason: attributes.reason.as_deref().map(short),
        ..attributes
    }
}

/// Opens a gate for good and wakes whoever sleeps there: also when it is open already, since a
/// scheduler may have died between its store and its wake.
fn open_by_bypass(slot: Slot) {
    let _ = slot.block.set_bypass(true);
    slot.block.wake_gate();
}

/// Adds one to an eventfd. Full means that it rings already.
fn ring(eventfd: BorrowedFd<'_>) {
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

/// Takes what an eventfd has.
pub(crate) fn hush(eventfd: BorrowedFd<'_>) {
    let _ = rustix::io::read(eventfd, &mut [0_u8; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_gives_hints_to_nobody_and_waits_for_no_lock() {
        let settings = Settings::read(|_| None);
        let shared = Shared::new(settings).unwrap();
        let slot = shared.reserve().unwrap();
        let (said, done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            // As a thread that only the parent has may have left it.
            let state = shared.state();
            shared.mark_dead();
            scope.spawn(|| {
                shared.hint_process(Hints::default());
                shared.hint(slot, Hints::default());
                said.send(())
            });
            let end = done.recv_timeout(Duration::from_secs(20));
            drop(state);
            end.expect("no lock is waited for");
        });
    }
}
