//! The launcher thread: buffers explicitly submitted commands and passes admission for them.
//!
//! Every explicit command is followed by a completion mark, so that `wait` means that command and
//! no later one.

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
    pending: VecDeque<C>,
    submitted: u64,
    launched: u64,
    /// Launched commands that were not seen completed, with the mark behind each; without one,
    /// only a synchronization tells.
    in_flight: VecDeque<(u64, Option<Mark>)>,
    held: bool,
    stopping: bool,
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
                launched: 0,
                in_flight: VecDeque::new(),
                held: false,
                stopping: false,
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
        buffer.pending.push_back(command);
        buffer.submitted += 1;
        self.shared.changed.notify_all();
        Ok(Ticket(buffer.submitted))
    }

    pub(crate) fn hold(&self, held: bool) {
        self.shared.lock().held = held;
        self.shared.changed.notify_all();
    }

    /// Waits until everything submitted so far was given to the driver.
    pub(crate) fn wait_launched(&self) -> Result<(), Error> {
        let mut buffer = self.shared.lock();
        let target = buffer.submitted;
        while buffer.launched < target {
            buffer = self.shared.sleep(buffer);
        }
        buffer.error.take().map_or(Ok(()), Err)
    }

    pub(crate) fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        let mut buffer = self.shared.lock();
        while buffer.launched < ticket.0 {
            buffer = self.shared.sleep(buffer);
        }
        let error = buffer.error.take();
        let launched = buffer.find(ticket);
        drop(buffer);
        let core = &self.shared.core;
        match launched {
            None => {}
            Some(Some(mark)) => core
                .admission
                .marks
                .wait(mark, &core.hw, core.admission.slot),
            Some(None) => core.synchronize()?,
        }
        error.map_or(Ok(()), Err)
    }

    pub(crate) fn query(&self, ticket: Ticket) -> bool {
        let buffer = self.shared.lock();
        let core = &self.shared.core;
        buffer.launched >= ticket.0
            && match buffer.find(ticket) {
                None => true,
                Some(Some(mark)) => core.admission.marks.is_reached(mark, core.admission.slot),
                Some(None) => core.hw.is_drained(),
            }
    }
}

impl<Q: HwQueue> Drop for Launcher<Q> {
    fn drop(&mut self) {
        let mut buffer = self.shared.lock();
        buffer.stopping = true;
        buffer.held = false;
        drop(buffer);
        self.shared.changed.notify_all();
        match self.thread.take() {
            Some(thread) if self.process == std::process::id() => drop(thread.join()),
            // In a forked child there is no such thread to join, nor one to detach.
            thread => std::mem::forget(thread),
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
        while let Some(command) = self.next() {
            self.launch(command);
        }
    }

    /// The next command that may be launched; `None`: stopped, and the buffer is empty.
    fn next(&self) -> Option<Q::Command> {
        let mut buffer = self.lock();
        loop {
            if !buffer.held
                && let Some(command) = buffer.pending.pop_front()
            {
                return Some(command);
            }
            if buffer.stopping && buffer.pending.is_empty() {
                return None;
            }
            buffer = self.sleep(buffer);
        }
    }

    fn launch(&self, command: Q::Command) {
        let core = &self.core;
        let pass = core.admit();
        let launched = core.hw.launch(command);
        drop(pass);
        let marked = core.admission.marks.place(&core.hw, core.admission.slot);

        let mut buffer = self.lock();
        while let Some(&(_, Some(mark))) = buffer.in_flight.front()
            && core.admission.marks.is_reached(mark, core.admission.slot)
        {
            buffer.in_flight.pop_front();
        }
        buffer.launched += 1;
        let ticket = buffer.launched;
        buffer
            .in_flight
            .push_back((ticket, marked.as_ref().ok().copied()));
        if let Err(error) = launched.and(marked.map(drop)) {
            buffer.error.get_or_insert(Error::Hw(error));
        }
        self.changed.notify_all();
    }
}

impl<C> Buffer<C> {
    /// A launched command that was not seen completed, with its mark.
    fn find(&self, ticket: Ticket) -> Option<Option<Mark>> {
        let found = self
            .in_flight
            .iter()
            .find(|(number, _)| *number == ticket.0);
        found.map(|&(_, mark)| mark)
    }
}
