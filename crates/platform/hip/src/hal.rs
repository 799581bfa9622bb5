//! `libhalhip.so`: C entry points for programs that make XQueues over their streams by themselves.
//! Names, types and numbers are upstream XSched's (its headers `xqueue.h`, `hint.h`, `types.h`).
//!
//! The XQueue of a stream is the one that the shim has for it, so launches that the shim sees and commands
//! that are submitted here go through the same gate. Without the shim the first handle makes it, and
//! only what is submitted here is scheduled. A launch on a suspended queue waits in its thread;
//! submitted commands are launched by a thread of the queue's own.

use std::{
    collections::HashMap,
    ffi::{CStr, c_void},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use xsched_agent::Agent;
use xsched_hint::{Bounded, Hint, Hints, Laxity, Priority};
use xsched_shim::{
    dlsym,
    process::PerProcess,
    state::{self, guarded},
};
use xsched_wire::{
    Level,
    env::{Scheduler, Settings},
};
use xsched_xqueue::{Error, HwQueue, Ticket, XQueue};

use crate::{
    hooks,
    stream::{Command, Stream},
    streams::{self, Lasting},
    sys::*,
};

/// `XResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Hardware = 1,
    InvalidValue = 2,
    NotFound = 3,
    NotAllowed = 4,
    NotSupported = 5,
}

const SUCCESS: i32 = 0;
/// An error of ours, which has switched scheduling off.
const UNKNOWN: i32 = 999;
/// `XQueueState`.
const IDLE: i32 = 1;
const READY: i32 = 2;
/// `kQueueSuspendFlagSyncHwQueue`: return when nothing of the queue executes.
const SUSPEND_SYNC: i64 = 1;
/// `kQueueSuspendFlagWaitAll`: let everything complete that was submitted before.
const SUSPEND_WAIT_ALL: i64 = 2;
/// `kQueueSuspendFlagWaitIdle`: the same until nothing more comes.
const SUSPEND_WAIT_IDLE: i64 = 4;
/// `kQueueResumeFlagDropCommands`: without what was submitted and not launched.
const RESUME_DROPPING: i64 = 1;
/// `hipErrorUnknown`: a program's own callback failed.
const CALLBACK_FAILED: hipError_t = 999;

/// `XPolicyType`, from 1.
const POLICIES: [&str; 11] = [
    "hpf", "hhpf", "chpf", "up", "pup", "spup", "kedf", "lax", "awf", "cfs", "mlfq",
];

type Handle = u64;
type Callback = extern "C" fn(Handle, *mut c_void) -> i32;
type Outcome = Result<(), Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Level { .. } => Refusal::NotSupported,
            Error::Window { .. } => Refusal::InvalidValue,
            Error::Hw(_) | Error::Thread(_) => Refusal::Hardware,
            Error::Ended => Refusal::NotFound,
        }
    }
}

/// What the program has handles of.
#[derive(Default)]
struct Handles {
    last: Handle,
    hw: HashMap<Handle, Lasting>,
    /// XQueues, by the handle of their own.
    x: HashMap<Handle, Over>,
    commands: HashMap<Handle, Submitted>,
}

/// An XQueue.
#[derive(Clone, Copy)]
struct Over {
    hw: Handle,
    stream: Lasting,
    /// The last command that was submitted.
    last: Option<Ticket>,
}

/// A command.
#[derive(Clone, Copy)]
struct Submitted {
    callback: Callback,
    /// The program's data; an address.
    data: usize,
    /// Where and as what it was submitted last.
    ticket: Option<(Handle, Ticket)>,
}

/// A forked child has none of its parent's streams.
static HANDLES: PerProcess<Mutex<Handles>> = PerProcess::new();

impl Handles {
    fn next(&mut self) -> Handle {
        self.last += 1;
        self.last
    }
}

fn over(xq: Handle) -> Result<Over, Refusal> {
    HANDLES.lock().x.get(&xq).copied().ok_or(Refusal::NotFound)
}

fn hardware(hwq: Handle) -> Result<Lasting, Refusal> {
    HANDLES
        .lock()
        .hw
        .get(&hwq)
        .copied()
        .ok_or(Refusal::NotFound)
}

/// Uses a queue, whose stream must not have ended.
fn with<T>(stream: Lasting, body: impl FnOnce(&XQueue<Stream>) -> T) -> Result<T, Refusal> {
    stream.with(body).ok_or(Refusal::NotFound)
}

/// Writes a result to the program's place.
fn give<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return Err(Refusal::InvalidValue);
    }
    // SAFETY: not null, so valid by the program's promise.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

fn level(number: i64) -> Result<Level, Refusal> {
    match number {
        1 => Ok(Level::Lv1),
        2 => Ok(Level::Lv2),
        3 => Ok(Level::Lv3),
        _ => Err(Refusal::InvalidValue),
    }
}

/// The same function in a library that stands before this one: the preloaded shim's. Asked once.
struct Elsewhere {
    name: &'static CStr,
    /// 0: not asked yet; 1: nowhere.
    address: AtomicUsize,
}

impl Elsewhere {
    const fn new(name: &'static CStr) -> Self {
        Elsewhere {
            name,
            address: AtomicUsize::new(0),
        }
    }

    fn get(&self, own: *const c_void) -> Option<*mut c_void> {
        let mut address = self.address.load(Ordering::Relaxed);
        if address == 0 {
            // SAFETY: a pseudo-handle.
            let found = unsafe { dlsym::real(libc::RTLD_DEFAULT, self.name) };
            let is_other = !found.is_null() && found.cast_const() != own;
            address = if is_other { found as usize } else { 1 };
            self.address.store(address, Ordering::Relaxed);
        }
        (address != 1).then_some(address as *mut c_void)
    }
}

/// Defines entry points that give an `XResult`.
macro_rules! entries {
    ($($(#[doc = $doc:literal])+ fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[doc = $doc])+
            ///
            /// # Safety
            /// Places for results are valid or null; a callback may be called with its data until
            /// what was submitted with them has completed.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, reason = "upstream's name")]
            pub unsafe extern "C" fn $name($($arg: $kind),*) -> i32 {
                const NAME: &CStr = match CStr::from_bytes_with_nul(
                    concat!(stringify!($name), "\0").as_bytes(),
                ) {
                    Ok(name) => name,
                    Err(_) => panic!("a name without its end"),
                };
                static OTHER: Elsewhere = Elsewhere::new(NAME);
                type Entry = unsafe extern "C" fn($($kind),*) -> i32;
                if let Some(other) = OTHER.get($name as *const c_void) {
                    // SAFETY: the function of this name in another copy of this code.
                    let other = unsafe { std::mem::transmute::<*mut c_void, Entry>(other) };
                    // SAFETY: the caller's arguments, passed on.
                    return unsafe { other($($arg),*) };
                }
                let body = || -> Outcome { $body };
                match guarded(|| streams::inside(body)) {
                    Some(Ok(())) => SUCCESS,
                    Some(Err(refusal)) => refusal as i32,
                    None => UNKNOWN,
                }
            }
        )*

        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

entries! {
    /// A handle of a stream. The null stream is that of the calling thread's device, also when the handle
    /// is used in a thread of another device. `hipStreamPerThread` is not supported: what is submitted
    /// is launched by another thread, where it would be that thread's stream.
    fn HipQueueCreate(hwq: *mut Handle, stream: hipStream_t) {
        if hwq.is_null() {
            return Err(Refusal::InvalidValue);
        }
        if stream as usize == HIP_STREAM_PER_THREAD {
            return Err(Refusal::NotSupported);
        }
        let stream = Lasting::new(stream).ok_or(Refusal::NotAllowed)?;
        let mut handles = HANDLES.lock();
        if handles.hw.values().any(|known| *known == stream) {
            return Err(Refusal::NotAllowed);
        }
        let handle = handles.next();
        handles.hw.insert(handle, stream);
        give(hwq, handle)
    }
    /// Gives a handle up; its XQueue has to be destroyed before.
    fn HwQueueDestroy(hwq: Handle) {
        let mut handles = HANDLES.lock();
        if handles.x.values().any(|over| over.hw == hwq) {
            return Err(Refusal::NotAllowed);
        }
        let stream = handles.hw.remove(&hwq).ok_or(Refusal::NotFound)?;
        drop(handles);
        // The shim needs the queue further, and sees the end of the stream. Without it nobody does.
        if !hooks::are_in_front() {
            stream.give_up();
        }
        Ok(())
    }
    /// Launches a command in the calling thread, when the queue's gate lets it. On a null stream the
    /// command finds the stream's device current; the thread has its own again afterwards.
    fn HwQueueLaunch(hwq: Handle, command: Handle) {
        let stream = hardware(hwq)?;
        let submitted = HANDLES.lock().commands.get(&command).copied().ok_or(Refusal::NotFound)?;
        let call: Command = Box::new(move || submitted.run(hwq));
        Ok(with(stream, |queue| queue.hw().on_device(|| queue.launch(call)))??)
    }
    /// Waits for everything that the stream has.
    fn HwQueueSynchronize(hwq: Handle) {
        Ok(with(hardware(hwq)?, XQueue::synchronize)??)
    }
    /// A command that calls back, in the thread that launches it.
    fn HwCommandCreateCallback(command: *mut Handle, callback: Option<Callback>, data: *mut c_void) {
        let callback = callback.ok_or(Refusal::InvalidValue)?;
        let mut handles = HANDLES.lock();
        let handle = handles.next();
        give(command, handle)?;
        handles.commands.insert(handle, Submitted { callback, data: data as usize, ticket: None });
        Ok(())
    }
    /// Gives a command up; one that was submitted is launched all the same.
    fn HwCommandDestroy(command: Handle) {
        HANDLES.lock().commands.remove(&command).map(drop).ok_or(Refusal::NotFound)
    }

    /// An XQueue over a stream, with a level that it has to support.
    fn XQueueCreate(xq: *mut Handle, hwq: Handle, number: i64, flags: i64) {
        if xq.is_null() {
            return Err(Refusal::InvalidValue);
        }
        if flags != 0 {
            return Err(Refusal::NotSupported);
        }
        let level = level(number)?;
        // One lock: of several that come at once for one stream, one makes it.
        let mut handles = HANDLES.lock();
        let stream = handles.hw.get(&hwq).copied().ok_or(Refusal::NotFound)?;
        if handles.x.values().any(|over| over.hw == hwq) {
            return Err(Refusal::NotAllowed);
        }
        with(stream, |queue| queue.set_level(level))??;
        let handle = handles.next();
        handles.x.insert(handle, Over { hw: hwq, stream, last: None });
        give(xq, handle)
    }
    /// Ends an XQueue: what it held is released, and what was submitted is launched when this returns. In
    /// a command of the queue, which cannot wait for itself, it is launched afterwards. Failures that
    /// nobody has waited for are not reported any more.
    fn XQueueDestroy(xq: Handle) {
        let over = HANDLES.lock().x.remove(&xq).ok_or(Refusal::NotFound)?;
        // A stream that has ended holds nothing.
        over.stream.with(|queue| {
            queue.resume();
            let _reported_to_nobody = queue.wait_launched();
        });
        Ok(())
    }
    /// The XQueue over a stream.
    fn XQueueGet(xq: *mut Handle, hwq: Handle) {
        let found = HANDLES.lock().x.iter().find(|(_, over)| over.hw == hwq).map(|(handle, _)| *handle);
        give(xq, found.ok_or(Refusal::NotFound)?)
    }
    /// Changes the level while running.
    fn XQueueSetPreemptLevel(xq: Handle, number: i64) {
        let (level, over) = (level(number)?, over(xq)?);
        Ok(with(over.stream, |queue| queue.set_level(level))??)
    }
    /// Changes the window of level 1, in commands, while running. A number that is not positive keeps what
    /// there is.
    fn XQueueSetLaunchConfig(xq: Handle, threshold: i64, batch: i64) {
        let number = |value: i64, now: u32| match value {
            ..=0 => Ok(now),
            value => u32::try_from(value).map_err(|_| Refusal::InvalidValue),
        };
        with(over(xq)?.stream, |queue| {
            let now = queue.window();
            let (threshold, batch) = (number(threshold, now.0)?, number(batch, now.1)?);
            Ok(queue.set_launch_config(threshold, batch)?)
        })?
    }
    /// Gives the queue's own thread a command to launch.
    fn XQueueSubmit(xq: Handle, command: Handle) {
        let over = over(xq)?;
        let submitted = HANDLES.lock().commands.get(&command).copied().ok_or(Refusal::NotFound)?;
        let call: Command = Box::new(move || streams::inside(|| submitted.run(over.hw)));
        let ticket = with(over.stream, |queue| queue.submit(call))??;
        let mut handles = HANDLES.lock();
        if let Some(over) = handles.x.get_mut(&xq) {
            over.last = over.last.max(Some(ticket));
        }
        if let Some(command) = handles.commands.get_mut(&command) {
            command.ticket = Some((xq, ticket));
        }
        Ok(())
    }
    /// Waits until a command has completed.
    fn XQueueWait(xq: Handle, command: Handle) {
        let over = over(xq)?;
        let submitted = HANDLES.lock().commands.get(&command).and_then(|command| command.ticket);
        let (on, ticket) = submitted.ok_or(Refusal::NotFound)?;
        if on != xq {
            return Err(Refusal::NotFound);
        }
        Ok(with(over.stream, |queue| queue.wait(ticket))??)
    }
    /// Waits until everything has completed.
    fn XQueueWaitAll(xq: Handle) {
        Ok(with(over(xq)?.stream, XQueue::wait_all)??)
    }
    /// Whether the queue has work.
    fn XQueueQuery(xq: Handle, place: *mut i32) {
        let over = over(xq)?;
        let is_busy = with(over.stream, |queue| {
            let is_over = over.last.is_none_or(|ticket| queue.query(ticket));
            // A mark is a command of the stream itself, which is drained a moment after the mark is reached.
            let is_idle = || queue.is_known_over() || queue.hw().is_drained();
            !is_over || (queue.slot().block.state().is_ready() && !is_idle())
        })?;
        give(place, if is_busy { READY } else { IDLE })
    }
    /// Stops a queue, whatever the scheduler says; nothing happens to one that is stopped. Flags may be
    /// added: 1, return when nothing of the queue executes (above level 1 what was launched completes
    /// for that, since nothing can be taken out of a stream); 2, let everything complete first that
    /// was submitted before, buffered commands included; 4, the same until nothing more comes. In a queue
    /// that the scheduler holds they wait for the scheduler.
    fn XQueueSuspend(xq: Handle, flags: i64) {
        if flags & !(SUSPEND_SYNC | SUSPEND_WAIT_ALL | SUSPEND_WAIT_IDLE) != 0 {
            return Err(Refusal::NotSupported);
        }
        let suspend = |queue: &XQueue<Stream>| -> Result<(), Refusal> {
            if queue.is_suspended() {
                return Ok(());
            }
            let waited = match flags & (SUSPEND_WAIT_ALL | SUSPEND_WAIT_IDLE) {
                0 => Ok(()),
                SUSPEND_WAIT_ALL => queue.wait_all(),
                _ => wait_idle(queue),
            };
            let waited = match flags & SUSPEND_SYNC {
                0 => {
                    queue.suspend();
                    waited
                }
                _ => waited.and(queue.suspend_and_wait()),
            };
            // Destroyed meanwhile: nobody could resume it.
            over(xq).inspect_err(|_| queue.resume())?;
            Ok(waited?)
        };
        with(over(xq)?.stream, suspend)?
    }
    /// Undoes that. With flag 1 without the commands that were submitted and not launched: they count as
    /// completed. Commands that the stream has already execute; nothing takes them out.
    fn XQueueResume(xq: Handle, flags: i64) {
        if flags & !RESUME_DROPPING != 0 {
            return Err(Refusal::NotSupported);
        }
        with(over(xq)?.stream, |queue| match flags {
            RESUME_DROPPING => queue.resume_dropping(),
            _ => queue.resume(),
        })
    }
    /// Commands that went through the queue so far, launched by whomever.
    fn XQueueProfileHwCommandCount(xq: Handle, count: *mut i64) {
        let submitted = with(over(xq)?.stream, |queue| queue.slot().block.state().submitted())?;
        give(count, i64::try_from(submitted).unwrap_or(i64::MAX))
    }

    /// Who schedules this process; to be called before its first launch. `policy` counts for a scheduler
    /// inside the process.
    fn XHintSetScheduler(scheduler: i32, policy: i32) {
        let scheduler = match scheduler {
            1 => Scheduler::Application,
            2 => {
                let policy = usize::try_from(policy).ok().and_then(|number| number.checked_sub(1));
                let policy = policy.and_then(|index| POLICIES.get(index));
                Scheduler::Local(Some((*policy.ok_or(Refusal::InvalidValue)?).to_owned()))
            }
            3 => Scheduler::Global,
            _ => return Err(Refusal::InvalidValue),
        };
        if Agent::current().is_some() {
            return Err(Refusal::NotAllowed);
        }
        // The environment's switch stays what it is.
        let settings = || match Settings::from_env() {
            settings if settings.scheduler == Scheduler::Off => settings,
            settings => Settings { scheduler, ..settings },
        };
        Agent::from_settings(settings).map(drop).map_err(|_| Refusal::Hardware)
    }
    /// Which queue goes first.
    fn XHintPriority(xq: Handle, priority: i32) {
        let priority = Priority::new(priority).map_err(|_| Refusal::InvalidValue)?;
        hint(xq, Hint::Priority(priority))
    }
    /// Share of the device in percent.
    fn XHintUtilization(xq: Handle, percent: i32) {
        hint(xq, Hint::Utilization(bounded(i64::from(percent))?))
    }
    /// Length of a turn in µs, for the whole process.
    fn XHintTimeslice(micros: i64) {
        hint_process(Hint::TimeSlice(bounded(micros)?))
    }
    /// For how long, in µs, the queue can be put off, and its priorities until then and from then on.
    fn XHintLaxity(xq: Handle, micros: i64, lax: i32, critical: i32) {
        let priority = |number| Priority::new(number).map_err(|_| Refusal::InvalidValue);
        let laxity = Laxity {
            laxity: bounded(micros)?,
            lax: priority(lax)?,
            critical: priority(critical)?,
        };
        if !laxity.lax.runs() || !laxity.critical.runs() {
            return Err(Refusal::InvalidValue);
        }
        hint(xq, Hint::Laxity(laxity))
    }
    /// Time in µs to get done in.
    fn XHintDeadline(xq: Handle, micros: i64) {
        hint(xq, Hint::Deadline(bounded(micros)?))
    }
    /// How many of the earliest deadlines execute at once.
    fn XHintKDeadline(count: usize) {
        hint_process(Hint::KDeadline(bounded(i64::try_from(count).unwrap_or(i64::MAX))?))
    }
}

/// Waits until no command of the queue is left.
fn wait_idle(queue: &XQueue<Stream>) -> Result<(), Error> {
    let state = || queue.slot().block.state();
    loop {
        let before = state().submitted();
        queue.wait_all()?;
        if state().submitted() == before {
            return Ok(());
        }
    }
}

impl Submitted {
    fn run(&self, hwq: Handle) -> hipError_t {
        match (self.callback)(hwq, self.data as *mut c_void) {
            SUCCESS => HIP_SUCCESS,
            _ => CALLBACK_FAILED,
        }
    }
}

fn bounded<const MIN: u64, const MAX: u64>(value: i64) -> Result<Bounded<MIN, MAX>, Refusal> {
    let value = u64::try_from(value).map_err(|_| Refusal::InvalidValue)?;
    Bounded::new(value).map_err(|_| Refusal::InvalidValue)
}

fn one(hint: Hint) -> Hints {
    let mut hints = Hints::default();
    hints.set(hint);
    hints
}

/// A hint for one queue, which becomes its own task group. Every stream waits for a default stream
/// and that for it, so its hints are those of all without hints of their own.
fn hint(xq: Handle, hint: Hint) -> Outcome {
    let stream = over(xq)?.stream;
    if stream.is_default() {
        return hint_process(hint);
    }
    let agent = state::agent().ok_or(Refusal::Hardware)?;
    with(stream, |queue| agent.hint(queue, one(hint)))
}

fn hint_process(hint: Hint) -> Outcome {
    let agent = state::agent().ok_or(Refusal::Hardware)?;
    agent.hint_process(one(hint));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_point_is_exported_and_nothing_else_is() {
        let map = include_str!("../hal.map");
        let global = map.split("global:").nth(1).unwrap();
        let global = global.split("local:").next().unwrap();
        let exported = global
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';'));
        let mut entries = NAMES.to_vec();
        entries.sort_unstable();
        assert_eq!(exported.collect::<Vec<_>>(), entries);
    }
}
