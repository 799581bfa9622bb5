//! `XQueue`: in place (`admit`, `launch`, `synchronize`) and explicit (`submit`, `wait`, …).

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use xsched_wire::{Attributes, Level, LevelChoice, Share, block::DrainPoint, env::LaunchConfig};

use crate::{
    admission::{Admission, Pass},
    hw::{HwError, HwQueue, Support},
    launcher::{Launcher, Ticket},
    link::{Link, Managed, Slot},
};

/// What can go wrong with a queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller asked for more than the hw queue can do.
    #[error("level {asked} is not supported by this queue, whose highest is {highest}: {reason}")]
    Level {
        /// Level asked for.
        asked: Level,
        /// Highest level.
        highest: Level,
        /// Why.
        reason: String,
    },
    /// The caller's window is impossible.
    #[error("threshold {threshold} and batch size {batch} do not fit: use 1 ≤ batch ≤ threshold")]
    Window {
        /// Threshold asked for.
        threshold: u32,
        /// Batch size asked for.
        batch: u32,
    },
    /// The hw queue reported an error.
    #[error(transparent)]
    Hw(#[from] HwError),
    /// The system refused a thread.
    #[error("cannot start the launcher thread: {0}")]
    Thread(String),
    /// The hw queue ended before the command was launched.
    #[error("the queue has ended")]
    Ended,
}

/// How a queue is managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Managing {
    /// Level that is asked for; one above the highest falls to the highest.
    pub level: LevelChoice,
    /// The window of level 1.
    pub launch: LaunchConfig,
}

/// Our handle on one hw queue.
///
/// In place, the calling thread itself passes admission and enters the driver; this is what shims
/// do. Explicitly submitted commands are buffered and launched by a thread of the queue's own,
/// which passes the same admission.
pub struct XQueue<Q: HwQueue> {
    core: Arc<Core<Q>>,
    launcher: OnceLock<Launcher<Q>>,
    /// The application has suspended it.
    suspension: Mutex<Suspension>,
}

#[derive(Default)]
struct Suspension {
    is_on: bool,
    /// How often it began.
    count: u64,
}

impl Suspension {
    /// Begins one, and gives its number; `None`: it had begun.
    fn begin(&mut self) -> Option<u64> {
        if std::mem::replace(&mut self.is_on, true) {
            return None;
        }
        self.count += 1;
        Some(self.count)
    }
}

pub(crate) struct Core<Q> {
    pub(crate) hw: Q,
    pub(crate) admission: Admission,
    link: Arc<dyn Link>,
    support: Support,
    share: Mutex<ShareState>,
    /// Why the level in force is lower than what was asked for.
    reason: Mutex<Option<String>>,
    /// Submissions at the last `tend`.
    polled: AtomicU64,
    /// It passes everything through for good.
    closed: AtomicBool,
    /// The slot was given back.
    released: AtomicBool,
}

/// The share that was asked for, and the one that the hardware has; `None`: it may be any.
struct ShareState {
    wanted: Share,
    applied: Option<Share>,
}

impl<Q: HwQueue> XQueue<Q> {
    /// A queue on `slot`; without `managing` it passes everything through.
    pub fn new(hw: Q, slot: Slot, link: Arc<dyn Link>, managing: Option<Managing>) -> Self {
        let support = hw.support();
        let launch = managing.map_or_else(LaunchConfig::default, |managing| managing.launch);
        let admission = Admission::new(slot, launch.threshold, launch.batch);
        let level = managing.map(|managing| managing.level.within(support.level));
        admission.set_level(level);
        let reason = match (managing.map(|managing| managing.level), level) {
            (Some(LevelChoice::Exactly(asked)), Some(got)) if asked == got => None,
            (Some(_), _) => support.reason.clone(),
            (None, _) => Some("not scheduled".into()),
        };
        XQueue {
            core: Arc::new(Core {
                hw,
                admission,
                link,
                support,
                share: Mutex::new(ShareState {
                    wanted: Share::Normal,
                    applied: Some(Share::Normal),
                }),
                reason: Mutex::new(reason),
                polled: AtomicU64::new(u64::MAX),
                closed: AtomicBool::new(false),
                released: AtomicBool::new(false),
            }),
            launcher: OnceLock::new(),
            suspension: Mutex::default(),
        }
    }

    /// The agent's side of this queue.
    pub fn managed(&self) -> Weak<dyn Managed> {
        let weak: Weak<Core<Q>> = Arc::downgrade(&self.core);
        weak
    }

    /// The hw queue.
    pub fn hw(&self) -> &Q {
        &self.core.hw
    }

    /// Its control block.
    pub fn slot(&self) -> Slot {
        self.core.admission.slot
    }

    /// Level in force; `None`: nobody schedules this queue.
    pub fn level(&self) -> Option<Level> {
        self.core.admission.level()
    }

    /// Passes admission: returns when the command may be given to the driver. Keep the pass until
    /// the driver call has returned.
    #[inline]
    pub fn admit(&self) -> Pass {
        self.core.admit()
    }

    /// In place: admission, then the driver, in this thread.
    pub fn launch(&self, command: Q::Command) -> Result<(), Error> {
        let _pass = self.admit();
        Ok(self.core.hw.launch(command)?)
    }

    /// Waits until everything launched so far has completed; the first failure is the result. A hw queue
    /// that is about to end is not asked any more.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.core.synchronize()
    }

    /// To be called before the application synchronizes the whole hw queue by itself.
    pub fn begin_synchronize(&self) -> Option<DrainPoint> {
        self.core.admission.slot.block.drain_point()
    }

    /// To be called with its result when that synchronization has succeeded.
    pub fn end_synchronize(&self, point: Option<DrainPoint>) {
        self.core.end_synchronize(point);
    }

    /// Explicit: buffers a command for the launcher thread.
    pub fn submit(&self, command: Q::Command) -> Result<Ticket, Error> {
        self.launcher()?.submit(command)
    }

    /// Waits until a submitted command has completed.
    pub fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        self.launcher()?.wait(ticket)
    }

    /// Waits until everything submitted so far was given to the driver. In a submitted command, which
    /// would wait for itself: does not wait.
    pub fn wait_launched(&self) -> Result<(), Error> {
        let launcher = self.launcher.get();
        launcher.map_or(Ok(()), Launcher::wait_launched)
    }

    /// Waits until everything submitted and launched so far has completed.
    pub fn wait_all(&self) -> Result<(), Error> {
        self.wait_launched()?;
        self.synchronize()
    }

    /// Whether a submitted command has completed. Never waits.
    pub fn query(&self, ticket: Ticket) -> bool {
        self.launcher
            .get()
            .is_some_and(|launcher| launcher.query(ticket))
    }

    /// Whether every command that was forwarded is known to be over, by the queue's marks. Never waits; false also where
    /// no mark tells.
    pub fn is_known_over(&self) -> bool {
        self.core.is_known_over(self.slot().block.forwarded_count())
    }

    /// Enqueues a mark behind everything forwarded so far, which will tell that it is over where nobody may ask the
    /// hw queue.
    pub fn mark_last(&self) {
        self.core.mark_last();
    }

    /// Stops the queue, whatever the scheduler says: buffered commands stay, and the scheduler is
    /// told to close the gate on those in flight.
    pub fn suspend(&self) {
        let mut suspension = lock(&self.suspension);
        if suspension.begin().is_some() {
            self.hold_buffer(true);
            self.core.link.hold(self.slot(), true);
        }
    }

    /// Whether it is suspended.
    pub fn is_suspended(&self) -> bool {
        lock(&self.suspension).is_on
    }

    /// The same as [`suspend`](Self::suspend), and returns when nothing of it executes: buffered commands stay, those in the hw
    /// queue have completed. Above level 1 a closed gate would keep them there, so it closes after
    /// them; what other threads launch in place meanwhile may stand behind it. In a queue that the
    /// scheduler holds they wait for the scheduler. A queue that is suspended already is left so.
    pub fn suspend_and_wait(&self) -> Result<(), Error> {
        let mut suspension = lock(&self.suspension);
        let Some(number) = suspension.begin() else {
            return Ok(());
        };
        self.hold_buffer(true);
        let before = matches!(self.level(), None | Some(Level::Lv1));
        if before {
            self.core.link.hold(self.slot(), true);
        }
        drop(suspension);
        if let Some(launcher) = self.launcher.get() {
            launcher.wait_outside();
        }
        let result = self.synchronize();
        let suspension = lock(&self.suspension);
        // Another thread may have resumed it, and may wait in a suspension of its own.
        if suspension.is_on && suspension.count == number && !before {
            self.core.link.hold(self.slot(), true);
        }
        result
    }

    /// Undoes [`suspend`](Self::suspend).
    pub fn resume(&self) {
        self.go_on(false);
    }

    /// The same without the buffered commands: they are forgotten and count as completed. What the hw
    /// queue has already executes. A queue that was not suspended loses nothing.
    pub fn resume_dropping(&self) {
        self.go_on(true);
    }

    fn go_on(&self, drops: bool) {
        let mut suspension = lock(&self.suspension);
        if !std::mem::replace(&mut suspension.is_on, false) {
            return;
        }
        let launcher = self.launcher.get().filter(|_| drops);
        let dropped = launcher.map(Launcher::take_pending);
        self.hold_buffer(false);
        self.core.link.hold(self.slot(), false);
        drop(suspension);
        drop(dropped); // theirs, so under no lock
    }

    fn hold_buffer(&self, held: bool) {
        if let Ok(launcher) = self.launcher() {
            launcher.hold(held);
        }
    }

    /// Changes the level while running. A level that the hw queue does not support is an error and
    /// changes nothing.
    pub fn set_level(&self, level: Level) -> Result<(), Error> {
        self.core.set_level(level)
    }

    /// The window of level 1: threshold and batch size, in commands.
    pub fn window(&self) -> (u32, u32) {
        self.core.admission.window()
    }

    /// Changes the window of level 1 while running.
    pub fn set_launch_config(&self, threshold: u32, batch: u32) -> Result<(), Error> {
        let config =
            LaunchConfig::new(threshold, batch).ok_or(Error::Window { threshold, batch })?;
        self.core
            .admission
            .set_window(config.threshold, config.batch);
        Ok(())
    }

    /// The hw queue is about to end: nothing is held or marked any more, and gates open for good.
    pub fn close(&self) {
        self.core.close();
    }

    /// The hw queue ends: what was submitted and not launched is dropped, what is being launched is
    /// waited for (not in that command itself), and the slot is given back. Nothing may be launched
    /// any more; dropping the queue later does nothing further.
    pub fn retire(&self) {
        self.core.close();
        // A command that calls still has its pass; the slot is given back with the queue then.
        if self.launcher.get().is_none_or(Launcher::end) {
            self.core.release();
        }
    }

    fn launcher(&self) -> Result<&Launcher<Q>, Error> {
        if let Some(launcher) = self.launcher.get() {
            return Ok(launcher);
        }
        let fresh = Launcher::start(self.core.clone())?;
        let launcher = self.launcher.get_or_init(|| fresh);
        // Whoever ended the queue saw none to end.
        if self.core.closed.load(Ordering::SeqCst) {
            launcher.end();
        }
        Ok(launcher)
    }
}

impl<Q: HwQueue> Drop for XQueue<Q> {
    fn drop(&mut self) {
        // Gates open before the launcher drains its buffer through them; the slot is given back
        // when nothing can use it any more.
        self.core.close();
        drop(self.launcher.take());
        self.core.release();
    }
}

impl<Q: HwQueue> Core<Q> {
    #[inline]
    pub(crate) fn admit(&self) -> Pass {
        let slot = self.admission.slot;
        let admitted = self.admission.admit(&self.hw, || self.link.changed(slot));
        if let Some(error) = admitted.refused {
            self.fall(error);
        }
        admitted.pass
    }

    fn is_known_over(&self, commands: u64) -> bool {
        self.admission.marks.done(self.admission.slot) >= commands
    }

    #[cold]
    fn mark_last(&self) {
        if self.admission.level().is_none() {
            return; // nobody wants to know, and the stream may be about to end
        }
        let placed = self.admission.marks.place(&self.hw, self.admission.slot);
        if let Err(error) = placed {
            self.fall(error);
        }
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.admission.set_level(None);
            self.link.closing(self.admission.slot);
        }
    }

    /// Gives the slot back, once.
    fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.link.released(self.admission.slot);
        }
    }

    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Ended);
        }
        let point = self.admission.slot.block.drain_point();
        let result = self.hw.synchronize();
        // A failed command is over, too.
        self.end_synchronize(point);
        Ok(result?)
    }

    fn end_synchronize(&self, point: Option<DrainPoint>) {
        if let Some(point) = point
            && self.note_drained(point)
        {
            self.admission.drained(&self.hw, point.number());
        }
    }

    /// Whether a synchronization from that point on left the queue idle.
    fn note_drained(&self, point: DrainPoint) -> bool {
        // After closing, the block may be another queue's.
        if self.closed.load(Ordering::SeqCst) {
            return false;
        }
        // Only a queue that became idle proves that the count covers its commands: see `block`.
        let drained = self.admission.slot.block.drained(point);
        if drained {
            self.admission.marks.drained(point.number());
            self.link.changed(self.admission.slot);
        }
        drained
    }

    fn set_level(&self, level: Level) -> Result<(), Error> {
        if level > self.support.level {
            return Err(Error::Level {
                asked: level,
                highest: self.support.level,
                reason: self.support.reason.clone().unwrap_or_default(),
            });
        }
        self.change_level(level, None);
        Ok(())
    }

    fn change_level(&self, level: Level, reason: Option<String>) {
        if self.closed.load(Ordering::SeqCst) {
            return; // an ending queue holds nothing any more
        }
        self.admission.set_level(Some(level));
        *lock(&self.reason) = reason;
        self.share_hardware(None);
        self.link.level(self.admission.slot, self.attributes());
    }

    /// The hw queue refused what its level needs: one level down, or unscheduled below the first.
    #[cold]
    fn fall(&self, error: HwError) {
        match self.admission.level() {
            Some(Level::Lv3 | Level::Lv2) => self.change_level(Level::Lv1, Some(error.to_string())),
            // The CPU's gate needs nothing of the platform: only the window is lost.
            Some(Level::Lv1) => self.admission.set_window(u32::MAX, u32::MAX / 2),
            None => {}
        }
    }

    /// Brings the hardware's share in line with the level and with what was last asked for.
    fn share_hardware(&self, wanted: Option<Share>) {
        let mut share = lock(&self.share);
        if let Some(wanted) = wanted {
            share.wanted = wanted;
        }
        let target = match self.admission.level() {
            Some(Level::Lv3) => share.wanted,
            _ => Share::Normal,
        };
        if Some(target) == share.applied {
            return;
        }
        match self.hw.set_share(target) {
            Ok(()) => share.applied = Some(target),
            Err(error) if self.admission.level() == Some(Level::Lv3) => {
                share.applied = None;
                drop(share);
                self.admission.set_level(Some(Level::Lv2));
                *lock(&self.reason) = Some(error.to_string());
                self.link.level(self.admission.slot, self.attributes());
            }
            Err(_) => {}
        }
    }
}

impl<Q: HwQueue> Managed for Core<Q> {
    fn tend(&self, may_be_asked: bool) {
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        self.hw.tend();
        if !may_be_asked {
            return;
        }
        let Some(point) = self.admission.slot.block.drain_point() else {
            return;
        };
        let quiet = self.polled.swap(point.number(), Ordering::Relaxed) == point.number();
        let is_over = || match self.hw.is_told_by_marks() {
            true => self.is_known_over(point.number()),
            false => self.hw.is_drained(),
        };
        if quiet && is_over() {
            // Some time after it was: no lesson for the gates.
            self.note_drained(point);
        }
    }

    fn apply_share(&self, share: Share) {
        self.share_hardware(Some(share));
    }

    fn is_independent(&self) -> bool {
        self.support.independent
    }

    fn attributes(&self) -> Attributes {
        Attributes {
            level: self.admission.level().unwrap_or(Level::Lv1),
            max_level: self.support.level,
            one_background: self.support.one_background,
            reason: lock(&self.reason).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
