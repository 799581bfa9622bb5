//! Which command an event stands behind, so that a wait for the event can prove a stream idle.
//!
//! A fixed table without locks: an event that finds no place is not tracked, and idleness is then
//! found by the agent instead. A place is (event, stream, command number); the writer takes the
//! event away first and puts it in last, a reader looks at it before and after.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::{
    streams::{self, Flavour, Key, Scheduled},
    sys::*,
};

const PLACES: usize = 4096;
const PROBES: usize = 8;
/// A place that is being written; no event has this handle.
const TAKEN: usize = 1;

struct Place {
    event: AtomicUsize,
    context: AtomicUsize,
    raw: AtomicUsize,
    thread: AtomicUsize,
    /// Which stream of that key: handles are used again.
    id: AtomicU64,
    number: AtomicU64,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        event: AtomicUsize::new(0),
        context: AtomicUsize::new(0),
        raw: AtomicUsize::new(0),
        thread: AtomicUsize::new(0),
        id: AtomicU64::new(0),
        number: AtomicU64::new(0),
    }
}; PLACES];

fn places(event: CUevent) -> impl Iterator<Item = &'static Place> {
    let start = (event as usize >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..PROBES).map(move |probe| &TABLE[(start + probe) % PLACES])
}

/// Around the recording of an event.
pub(crate) fn record(
    event: CUevent,
    stream: CUstream,
    flavour: Flavour,
    call: impl FnOnce() -> CUresult,
) -> CUresult {
    // What it stood behind before, perhaps in another stream, it no longer does.
    forget(event);
    let point = streams::find(stream, flavour).and_then(|Scheduled { entry, queue }| {
        // Before the call: a command that is submitted meanwhile may stand behind the event, and so
        // may one that is on its way to the driver.
        let number = queue.slot().block.last_forwarded()?;
        Some((entry.key, entry.id, number))
    });
    let result = call();
    if result == CUDA_SUCCESS
        && let Some((key, id, number)) = point
    {
        note(event, key, id, number);
    }
    result
}

/// Around the end of an event, whose handle may be that of the next one.
pub(crate) fn destroy(event: CUevent, call: impl FnOnce() -> CUresult) -> CUresult {
    forget(event);
    call()
}

fn forget(event: CUevent) {
    let handle = event as usize;
    for place in places(event) {
        // Another thread may be writing there: then it is no longer this event's.
        let _ = place
            .event
            .compare_exchange(handle, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}

fn note(event: CUevent, key: Key, id: u64, number: u64) {
    let handle = event as usize;
    let own = places(event).find(|place| place.event.load(Ordering::Relaxed) == handle);
    let free = || {
        places(event).find(|place| {
            let taken = place
                .event
                .compare_exchange(0, TAKEN, Ordering::SeqCst, Ordering::Relaxed);
            taken.is_ok()
        })
    };
    // With no room the oldest knowledge of this corner goes.
    let Some(place) = own.or_else(free).or_else(|| places(event).next()) else {
        return;
    };
    place.event.store(TAKEN, Ordering::SeqCst);
    place.context.store(key.context, Ordering::SeqCst);
    place.raw.store(key.raw, Ordering::SeqCst);
    place.thread.store(key.thread, Ordering::SeqCst);
    place.id.store(id, Ordering::SeqCst);
    place.number.store(number, Ordering::SeqCst);
    place.event.store(handle, Ordering::SeqCst);
}

/// Around a wait for, or a look at, an event.
pub(crate) fn reached(event: CUevent, call: impl FnOnce() -> CUresult) -> CUresult {
    // Taken before the call, as every drain point must be.
    let point = lookup(event).and_then(|(key, id, number)| {
        let stream = streams::by_key(key).filter(|stream| stream.entry.id == id)?;
        let point = stream.queue.begin_synchronize()?;
        (point.number() == number).then(|| Some((stream.keep()?, point)))?
    });
    let result = call();
    if result == CUDA_SUCCESS
        && let Some((queue, point)) = point
    {
        queue.end_synchronize(Some(point));
    }
    result
}

fn lookup(event: CUevent) -> Option<(Key, u64, u64)> {
    let handle = event as usize;
    let place = places(event).find(|place| place.event.load(Ordering::SeqCst) == handle)?;
    let key = Key {
        context: place.context.load(Ordering::SeqCst),
        raw: place.raw.load(Ordering::SeqCst),
        thread: place.thread.load(Ordering::SeqCst),
    };
    let id = place.id.load(Ordering::SeqCst);
    let number = place.number.load(Ordering::SeqCst);
    (place.event.load(Ordering::SeqCst) == handle).then_some((key, id, number))
}
