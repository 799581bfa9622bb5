//! User events and callbacks of the application's own.
//!
//! While the application holds a user event that is not complete, a command may wait for something
//! that the application does only later; so nothing of ours may then wait for a command to be over.
//! The same in a callback: the driver's thread that runs it may be the one that reports the mark.
//!
//! An event that the application has let go of can no longer be completed. One that no command waits
//! for is gone then; otherwise that command waits for ever, and so would we.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    driver::{self, EventCallback, Outcome},
    hooks::WaitList,
    sys::*,
};
use xsched_shim::{events, process::PerProcess, state};

/// The application's user events that are not complete.
static UNSET: PerProcess<Unset> = PerProcess::new();

#[derive(Default)]
struct Unset {
    /// Also those that the application has let go of while a command waits for them.
    count: AtomicU32,
    known: Mutex<HashMap<usize, Known>>,
}

/// A user event that the application holds.
struct Known {
    /// Which of those that have had this handle.
    serial: u32,
    /// The application's.
    references: u32,
    is_waited_for: bool,
}

impl Unset {
    fn known(&self) -> MutexGuard<'_, HashMap<usize, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the event of this handle, if it is still the same one.
    fn take(&self, event: Event, serial: u32) -> bool {
        let mut known = self.known();
        let is_same = |known: &Known| known.serial == serial;
        known.get(&(event as usize)).is_some_and(is_same)
            && known.remove(&(event as usize)).is_some()
    }

    fn one_less(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the application holds a user event that is not complete.
#[inline]
pub(crate) fn any_unset() -> bool {
    unset().is_some()
}

/// Those that are not complete, if there are any.
#[inline]
fn unset() -> Option<&'static Unset> {
    UNSET
        .peek()
        .filter(|unset| unset.count.load(Ordering::SeqCst) != 0)
}

/// Whether this thread runs a callback of the application's.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.try_with(Cell::get).unwrap_or(false)
}

/// Around the creation of a user event.
pub(crate) fn create(call: impl FnOnce() -> Event) -> Event {
    // Counted before: nothing may wait from the moment on at which it exists.
    let unset = UNSET.get();
    unset.count.fetch_add(1, Ordering::SeqCst);
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let event = call();
    if event.succeeded() {
        events::forget(event as usize);
        let known = Known {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            references: 1,
            is_waited_for: false,
        };
        unset.known().insert(event as usize, known);
    } else {
        unset.one_less();
    }
    event
}

/// Around its completion.
pub(crate) fn set(event: Event, call: impl FnOnce() -> i32) -> i32 {
    let serial = |unset: &Unset| {
        unset
            .known()
            .get(&(event as usize))
            .map(|known| known.serial)
    };
    // Before: a callback inside the call may let go of the event, and another one get its handle.
    let serial = unset().and_then(serial);
    let result = call();
    if result == CL_SUCCESS
        && let (Some(serial), Some(unset)) = (serial, unset())
        && unset.take(event, serial)
    {
        unset.one_less();
    }
    result
}

/// Around one reference more to an event of any kind.
#[inline]
pub(crate) fn retain(event: Event, call: impl FnOnce() -> i32) -> i32 {
    let result = call();
    if result == CL_SUCCESS
        && let Some(unset) = unset()
        && let Some(known) = unset.known().get_mut(&(event as usize))
    {
        known.references += 1;
    }
    result
}

/// Around one reference less to an event of any kind.
#[inline]
pub(crate) fn release(event: Event, call: impl FnOnce() -> i32) -> i32 {
    if let Some(unset) = unset() {
        // Before the driver may use the handle again.
        let_go(unset, event);
    }
    call()
}

#[cold]
fn let_go(unset: &Unset, event: Event) {
    let mut lock = unset.known();
    let Some(known) = lock.get_mut(&(event as usize)) else {
        return;
    };
    known.references -= 1;
    if known.references > 0 {
        return;
    }
    let is_waited_for = known.is_waited_for;
    lock.remove(&(event as usize));
    drop(lock);
    // Its completion may be under way, in a callback of which this happens.
    let is_over = || driver::event_status(event).is_some_and(|status| status <= CL_COMPLETE);
    if !is_waited_for || is_over() {
        unset.one_less();
    }
}

/// A command is about to wait for these events.
#[inline]
pub(crate) fn waited_for((count, list): WaitList) {
    if count != 0
        && !list.is_null()
        && let Some(unset) = unset()
    {
        note_waited_for(unset, (count, list));
    }
}

#[cold]
fn note_waited_for(unset: &Unset, (count, list): WaitList) {
    // SAFETY: the program's own list of this length, which lasts as long as its call.
    let list = unsafe { std::slice::from_raw_parts(list, count as usize) };
    let mut known = unset.known();
    for &event in list {
        if let Some(known) = known.get_mut(&(event as usize)) {
            known.is_waited_for = true;
        }
    }
}

/// A callback of the application's, and its data.
struct Wrapped {
    callback: EventCallback,
    data: Opaque,
}

/// Around the registration of a callback: `call` gets what to register instead.
pub(crate) fn set_callback(
    callback: Option<EventCallback>,
    data: Opaque,
    call: impl FnOnce(Option<EventCallback>, Opaque) -> i32,
) -> i32 {
    let Some(known) = callback.filter(|_| state::is_active()) else {
        return call(callback, data);
    };
    let wrapped = Box::into_raw(Box::new(Wrapped {
        callback: known,
        data,
    }));
    let result = call(Some(run), wrapped.cast());
    if result != CL_SUCCESS {
        // SAFETY: not registered, so it never runs and is still ours.
        drop(unsafe { Box::from_raw(wrapped) });
    }
    result
}

/// Runs the application's callback in its place.
unsafe extern "C" fn run(event: Event, status: i32, data: Opaque) {
    // SAFETY: made by `set_callback` from a box; a callback runs once.
    let wrapped = unsafe { Box::from_raw(data.cast::<Wrapped>()) };
    let outer = IN_CALLBACK.replace(true);
    // SAFETY: the application's own callback with its own data.
    unsafe { (wrapped.callback)(event, status, wrapped.data) };
    IN_CALLBACK.set(outer);
}
