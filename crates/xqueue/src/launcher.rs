//! The launcher thread: buffers explicitly submitted commands and passes admission for them.
//!
//! Every explicit command is followed by a completion mark, so that `wait` means that command and
//! no later one. Commands run in the thread, so whoever waits for it is asked whether they are it.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use crate::{
    hw::HwQueue,
    marks::Mark,
    queue::{Core, Error},
};

/// A submitted command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

pub(crate) struct Launcher<Q: HwQueue> {
    shared: Arc<Shared<Q>>,
    thread: Option<JoinHandle<()>>,
    /// The process that the thread belongs to.
    process: u32,
}

struct Shared<Q: HwQueue> {
    core: Arc<Core<Q>>,
    buffer: Mutex<Buffer<Q::Command>>,
    /// Signalled on every change of the buffer.
    changed: Condvar,
}

struct Buffer<C> {
    /// Commands that the thread has not taken yet, with their numbers.
    pending: VecDeque<(u64, C)>,
    submitted: u64,
    /// The command that the thread has taken.
    taken: Option<u64>,
    /// It is being given to the driver.
    inside: bool,
    /// Commands up to this one are not launched any more.
    dropped: u64,
    /// Launched commands that were not seen completed, with the mark behind each; without one,
    /// only a synchronization tells.
    in_flight: VecDeque<(u64, Option<Mark>)>,
    held: bool,
    stopping: bool,
    /// The hw queue has ended.
    ended: bool,
    /// The first failure to launch since the last wait.
    error: Option<Error>,
}

impl<Q: HwQueue> Launcher<Q> {
    pub(crate) fn start(core: Arc<Core<Q>>) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            core,
            buffer: Mutex::new(Buffer {
                pending: VecDeque::new(),
                submitted: 0,
                taken: None,
                inside: false,
                dropped: 0,
                in_flight: VecDeque::new(),
                held: false,
                stopping: false,
                ended: false,
                error: None,
            }),
            changed: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("xsched-launch".into())
            .spawn({
                let shared = shared.clone();
                move || shared.run()
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Launcher {
            shared,
            thread: Some(thread),
            process: std::process::id(),
        })
    }

    pub(crate) fn submit(&self, command: Q::Command) -> Result<Ticket, Error> {
        let mut buffer = self.shared.lock();
        if buffer.ended {
            return Err(Error::Ended);
        }
        buffer.submitted += 1;
        let number = buffer.submitted;
        buffer.pending.push_back((number, command));
        self.shared.changed.notify_all();
        Ok(Ticket(number))
    }

    pub(crate) fn hold(&self, held: bool) {
        self.shared.lock().held = held;
        self.shared.changed.notify_all();
    }

    /// Takes out every command that has not entered the driver yet: it counts as completed.
    pub(crate) fn take_pending(&self) -> VecDeque<(u64, Q::Command)> {
        let mut buffer = self.shared.lock();
        buffer.dropped = buffer.submitted;
        let pending = std::mem::take(&mut buffer.pending);
        drop(buffer);
        self.shared.changed.notify_all();
        pending
    }

    /// The hw queue ends: what is pending is dropped, and nothing is launched any more. True: nor is
    /// anything being launched; false: the caller is what is being launched.
    pub(crate) fn end(&self) -> bool {
        let mut buffer = self.shared.lock();
        buffer.ended = true;
        buffer.held = false;
        let pending = std::mem::take(&mut buffer.pending);
        if !pending.is_empty() {
            buffer.error.get_or_insert(Error::Ended);
        }
        self.shared.changed.notify_all();
        while buffer.taken.is_some() && !self.is_own_thread() {
            buffer = self.shared.sleep(buffer);
        }
        let is_over = buffer.taken.is_none();
        drop(buffer);
        drop(pending);
        is_over
    }

    /// Waits until the thread is not in the driver; while it is held it does not enter it again.
    pub(crate) fn wait_outside(&self) {
        let mut buffer = self.shared.lock();
        while buffer.inside && !self.is_own_thread() {
            buffer = self.shared.sleep(buffer);
        }
    }

    /// Waits until everything submitted so far was given to the driver. In a command, which would
    /// wait for itself: does not wait.
    pub(crate) fn wait_launched(&self) -> Result<(), Error> {
        let mut buffer = self.shared.lock();
        let target = buffer.submitted;
        while buffer.launched() < target && !self.is_own_thread() {
            buffer = self.shared.sleep(buffer);
        }
        buffer.error.take().map_or(Ok(()), Err)
    }

    /// Waits until a command has completed. In a command, which would wait for itself: not for those
    /// that are not launched yet.
    pub(crate) fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        let mut buffer = self.shared.lock();
        while buffer.launched() < ticket.0 && !self.is_own_thread() {
            buffer = self.shared.sleep(buffer);
        }
        let error = buffer.error.take();
        let launched = buffer.find(ticket);
        let ended = buffer.ended;
        drop(buffer);
        let core = &self.shared.core;
        match launched {
            None => {}
            Some(Some(mark)) => core
                .admission
                .marks
                .wait(mark, &core.hw, core.admission.slot),
            Some(None) if ended => return Err(Error::Ended),
            Some(None) => core.synchronize()?,
        }
        error.map_or(Ok(()), Err)
    }

    /// Whether a command of this queue calls.
    fn is_own_thread(&self) -> bool {
        let own = self.thread.as_ref().map(|thread| thread.thread().id());
        own == Some(std::thread::current().id())
    }

    pub(crate) fn query(&self, ticket: Ticket) -> bool {
        let buffer = self.shared.lock();
        let core = &self.shared.core;
        buffer.launched() >= ticket.0
            && match buffer.find(ticket) {
                None => true,
                Some(Some(mark)) => core.admission.marks.is_reached(mark, core.admission.slot),
                Some(None) => core.hw.is_drained(),
            }
    }
}

impl<Q: HwQueue> Drop for Launcher<Q> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // In a forked child there is no such thread to join, nor one to detach, and whoever held
            // the lock is gone, too.
            std::mem::forget(self.thread.take());
            return;
        }
        let mut buffer = self.shared.lock();
        buffer.stopping = true;
        buffer.held = false;
        drop(buffer);
        self.shared.changed.notify_all();
        if !self.is_own_thread()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

impl<Q: HwQueue> Shared<Q> {
    fn lock(&self) -> MutexGuard<'_, Buffer<Q::Command>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(
        &self,
        buffer: MutexGuard<'a, Buffer<Q::Command>>,
    ) -> MutexGuard<'a, Buffer<Q::Command>> {
        self.changed
            .wait(buffer)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((number, command)) = self.next() {
            self.launch(number, command);
        }
    }

    /// The next command that may be launched; `None`: stopped, and the buffer is empty.
    fn next(&self) -> Option<(u64, Q::Command)> {
        let mut buffer = self.lock();
        loop {
            if !buffer.held
                && let Some((number, command)) = buffer.pending.pop_front()
            {
                buffer.taken = Some(number);
                return Some((number, command));
            }
            if buffer.stopping && buffer.pending.is_empty() {
                return None;
            }
            buffer = self.sleep(buffer);
        }
    }

    fn launch(&self, number: u64, command: Q::Command) {
        let core = &self.core;
        core.hw.enter_thread();
        let pass = core.admit();
        if !self.enter(number) {
            drop(command); // theirs, so not under the lock
            drop(pass);
            self.lock().taken = None;
            self.changed.notify_all();
            return;
        }
        let launched = core.hw.launch(command);
        drop(pass);
        // The command itself may have ended the queue.
        let is_over = self.lock().ended;
        let marked = (!is_over).then(|| core.admission.marks.place(&core.hw, core.admission.slot));
        let mark = marked.transpose();

        let mut buffer = self.lock();
        while let Some(&(_, Some(mark))) = buffer.in_flight.front()
            && core.admission.marks.is_reached(mark, core.admission.slot)
        {
            buffer.in_flight.pop_front();
        }
        buffer.taken = None;
        buffer.inside = false;
        let known = mark.as_ref().ok().copied().flatten();
        buffer.in_flight.push_back((number, known));
        if let Err(error) = launched.and(mark.map(drop)) {
            buffer.error.get_or_insert(Error::Hw(error));
        }
        self.changed.notify_all();
    }

    /// Whether a command that was admitted goes to the driver. One that was held or dropped while it
    /// waited for admission does not, or not yet.
    fn enter(&self, number: u64) -> bool {
        let mut buffer = self.lock();
        loop {
            if buffer.ended {
                buffer.error.get_or_insert(Error::Ended);
                return false;
            }
            if number <= buffer.dropped {
                return false;
            }
            if !buffer.held {
                buffer.inside = true;
                return true;
            }
            buffer = self.sleep(buffer);
        }
    }
}

impl<C> Buffer<C> {
    /// Up to this one every command was launched or dropped.
    fn launched(&self) -> u64 {
        let next = self.pending.front().map(|&(number, _)| number);
        let first = self.taken.or(next);
        first.map_or(self.submitted, |first| first - 1)
    }

    /// A launched command that was not seen completed, with its mark.
    fn find(&self, ticket: Ticket) -> Option<Option<Mark>> {
        let found = self
            .in_flight
            .iter()
            .find(|(number, _)| *number == ticket.0);
        found.map(|&(_, mark)| mark)
    }
}
