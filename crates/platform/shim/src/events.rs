//! Which command an event stands behind, so that a wait for the event can prove a queue idle.
//!
//! A fixed table without locks: an event that finds no place is not tracked, and idleness is then
//! found by the agent instead. A place is (event, queue, command number); the writer takes the
//! event away first and puts it in last, a reader looks at it before and after.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const PLACES: usize = 4096;
const PROBES: usize = 8;
/// A place that is being written; no event has this handle.
const TAKEN: usize = 1;

/// What an event stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Key of the queue.
    pub key: usize,
    /// Which queue of that key: handles are used again.
    pub id: u64,
    /// The command's number.
    pub number: u64,
}

struct Place {
    event: AtomicUsize,
    key: AtomicUsize,
    id: AtomicU64,
    number: AtomicU64,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        event: AtomicUsize::new(0),
        key: AtomicUsize::new(0),
        id: AtomicU64::new(0),
        number: AtomicU64::new(0),
    }
}; PLACES];

fn places(event: usize) -> impl Iterator<Item = &'static Place> {
    let start = (event >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..PROBES).map(move |probe| &TABLE[(start + probe) % PLACES])
}

/// Remembers what an event stands behind.
#[inline]
pub fn note(event: usize, note: Note) {
    let own = places(event).find(|place| place.event.load(Ordering::Relaxed) == event);
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
    place.key.store(note.key, Ordering::SeqCst);
    place.id.store(note.id, Ordering::SeqCst);
    place.number.store(note.number, Ordering::SeqCst);
    place.event.store(event, Ordering::SeqCst);
}

/// An event of this handle stands behind nothing any more.
pub fn forget(event: usize) {
    for place in places(event) {
        let _ = place
            .event
            .compare_exchange(event, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}

/// What an event stands behind, if that is known.
#[inline]
pub fn look_up(event: usize) -> Option<Note> {
    let place = places(event).find(|place| place.event.load(Ordering::SeqCst) == event)?;
    let note = Note {
        key: place.key.load(Ordering::SeqCst),
        id: place.id.load(Ordering::SeqCst),
        number: place.number.load(Ordering::SeqCst),
    };
    (place.event.load(Ordering::SeqCst) == event).then_some(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_counts_and_forgetting_works() {
        let of = |number| Note {
            key: 32,
            id: 1,
            number,
        };
        note(0x1000, of(1));
        note(0x1000, of(2));
        assert_eq!(look_up(0x1000), Some(of(2)));
        forget(0x1000);
        assert_eq!(look_up(0x1000), None);
    }
}
