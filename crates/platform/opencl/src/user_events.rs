//! User events and callbacks of the application's own.
//!
//! While the application holds a user event that is not complete, a command may wait for something
//! that the application does only later; so nothing of ours may then wait for a command to be over.
//! The same in a callback: the driver's thread that runs it may be the one that reports the mark.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    driver::{EventCallback, Outcome},
    sys::*,
};
use xsched_shim::{events, state};

/// The application's user events that are not complete.
static UNSET: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the application holds a user event that is not complete.
pub(crate) fn any_unset() -> bool {
    UNSET.load(Ordering::SeqCst) != 0
}

/// Whether this thread runs a callback of the application's.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.try_with(Cell::get).unwrap_or(false)
}

/// Around the creation of a user event.
pub(crate) fn create(call: impl FnOnce() -> Event) -> Event {
    // Counted before: nothing may wait from the moment on at which it exists.
    UNSET.fetch_add(1, Ordering::SeqCst);
    let event = call();
    if event.succeeded() {
        events::forget(event as usize);
    } else {
        UNSET.fetch_sub(1, Ordering::SeqCst);
    }
    event
}

/// Around its completion.
pub(crate) fn set(call: impl FnOnce() -> i32) -> i32 {
    let result = call();
    if result == CL_SUCCESS {
        let _ = UNSET.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            count.checked_sub(1)
        });
    }
    result
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
