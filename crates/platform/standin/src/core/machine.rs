//! All devices of this process, the threads that drive them, and waiting for completion.

use std::{
    cell::Cell,
    fs::File,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    engine::{Engine, LaneId},
    share::Share,
    work::{Callback, Token},
};

/// The clock of all devices on this host, in ns.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

thread_local! {
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is the one that runs host functions.
pub(crate) fn in_host_function() -> bool {
    IN_HOST_FUNCTION.get()
}

#[derive(Debug)]
pub(crate) struct Machine {
    engines: Mutex<Engines>,
    /// Something was submitted, or completed on another device.
    work: Condvar,
    /// Something completed.
    done: Condvar,
    file: Option<Arc<File>>,
    /// Place of each device in the shared file.
    places: Vec<usize>,
    /// Connections of a device.
    connections: usize,
}

#[derive(Debug, Default)]
struct Engines {
    /// Started with the first use of the device.
    devices: Vec<Option<Engine>>,
    calls: Option<Sender<(usize, LaneId, Callback)>>,
}

impl Machine {
    /// Devices at `places` of `file`, or of this process alone.
    pub(crate) fn new(file: Option<Arc<File>>, places: Vec<usize>, connections: usize) -> Self {
        let devices = places.iter().map(|_| None).collect();
        Self {
            engines: Mutex::new(Engines {
                devices,
                calls: None,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
            file,
            places,
            connections,
        }
    }

    /// Changes a device (open and close lanes, submit), then lets it execute.
    pub(crate) fn edit<R>(
        &'static self,
        device: usize,
        change: impl FnOnce(&mut Engine, u64) -> R,
    ) -> io::Result<R> {
        let mut engines = self.lock();
        let engine = match &mut engines.devices[device] {
            Some(engine) => engine,
            empty @ None => {
                let share = Share::attach(self.file.as_ref(), self.places[device])?;
                thread::Builder::new()
                    .name(format!("standin-{device}"))
                    .spawn(move || self.drive(device))?;
                empty.insert(Engine::new(share, self.connections))
            }
        };
        let result = change(engine, now());
        drop(engines);
        self.work.notify_all();
        Ok(result)
    }

    /// Waits until every one of `tokens` is complete.
    pub(crate) fn wait(&self, tokens: &[Arc<Token>]) {
        let is_pending = |_: &mut Engines| tokens.iter().any(|token| !token.is_done());
        let wait = self.done.wait_while(self.lock(), is_pending);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until fewer than `limit` commands are in a lane.
    pub(crate) fn wait_for_room(&self, device: usize, lane: LaneId, limit: usize) {
        let is_full = |engines: &mut Engines| {
            let engine = &engines.devices[device];
            engine
                .as_ref()
                .is_some_and(|engine| engine.queued(lane) >= limit)
        };
        let wait = self.done.wait_while(self.lock(), is_full);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Body of a device's thread.
    fn drive(&'static self, device: usize) {
        let mut engines = self.lock();
        loop {
            let engine = engines.devices[device]
                .as_mut()
                .expect("the thread's engine");
            let wake = engine.run(now());
            let completed = std::mem::take(&mut engine.completed);
            let calls = std::mem::take(&mut engine.calls);
            for (lane, callback) in calls {
                self.call(&mut engines, device, lane, callback);
            }
            if completed {
                self.done.notify_all();
                if engines.devices.len() > 1 {
                    self.work.notify_all();
                }
            }
            engines = if let Some(wake) = wake {
                // At least a moment, so that others get the lock.
                let wait = Duration::from_nanos(wake.saturating_sub(now()).max(1_000));
                let wait = self.work.wait_timeout(engines, wait);
                wait.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let wait = self.work.wait(engines);
                wait.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Host functions run one after another in a thread of their own.
    fn call(&'static self, engines: &mut Engines, device: usize, lane: LaneId, callback: Callback) {
        let sender = engines.calls.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel::<(usize, LaneId, Callback)>();
            let serve = move || {
                for (device, lane, callback) in receiver {
                    IN_HOST_FUNCTION.set(true);
                    callback.call();
                    let mut engines = self.lock();
                    if let Some(engine) = &mut engines.devices[device] {
                        engine.returned(lane, now());
                    }
                    drop(engines);
                    self.done.notify_all();
                    self.work.notify_all();
                }
            };
            let thread = thread::Builder::new().name("standin-host".into());
            thread.spawn(serve).expect("a thread for host functions");
            sender
        });
        sender
            .send((device, lane, callback))
            .expect("the thread for host functions runs for ever");
    }

    fn lock(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
