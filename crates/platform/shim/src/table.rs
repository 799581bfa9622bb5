//! A table that readers search without locks: open addressing over pointers to entries.
//!
//! Writers (an object comes, an object goes) hold a lock. An entry that was taken out is freed only
//! after a pause in which every hook that may still look at it has returned.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicPtr, Ordering},
    },
    time::{Duration, Instant},
};

use crate::process::PerProcess;

/// Entries at most.
const PLACES: usize = 4096;
/// How long a hook may still look at an entry that was taken out.
const GRACE: Duration = Duration::from_secs(10);

/// Something with a key of its own.
pub trait Keyed: Send + Sync + 'static {
    /// What the application names it by.
    fn key(&self) -> usize;
}

/// Entries by key.
pub struct Table<E: Keyed> {
    places: [AtomicPtr<E>; PLACES],
    writer: PerProcess<Mutex<Retired<E>>>,
}

/// Taken out, with the time.
struct Retired<E>(Vec<(Instant, Box<E>)>);

impl<E> Default for Retired<E> {
    fn default() -> Self {
        Retired(Vec::new())
    }
}

/// Marks a place whose entry was taken out: probing goes on behind it.
fn gone<E>() -> *mut E {
    std::ptr::dangling_mut()
}

fn start(key: usize) -> usize {
    // Handles are addresses: their low bits say little.
    ((key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

impl<E: Keyed> Table<E> {
    /// Empty.
    #[allow(clippy::new_without_default, reason = "always a static")]
    pub const fn new() -> Self {
        Table {
            places: [const { AtomicPtr::new(std::ptr::null_mut()) }; PLACES],
            writer: PerProcess::new(),
        }
    }

    fn probe(&self, key: usize) -> impl Iterator<Item = &AtomicPtr<E>> {
        let start = start(key);
        (0..PLACES).map(move |step| &self.places[(start + step) % PLACES])
    }

    /// The entry of this key. Valid for the duration of a hook.
    #[inline]
    pub fn get(&self, key: usize) -> Option<&'static E> {
        for place in self.probe(key) {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() {
                return None;
            }
            if pointer != gone() {
                // SAFETY: entries are published complete by `insert`, and freed GRACE after they
                // were taken out by `remove`.
                let entry = unsafe { &*pointer };
                if entry.key() == key {
                    return Some(entry);
                }
            }
        }
        None
    }

    /// Every entry. Valid for the duration of a hook.
    pub fn all(&self) -> impl Iterator<Item = &'static E> {
        self.places.iter().filter_map(|place| {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() || pointer == gone() {
                return None;
            }
            // SAFETY: as in `get`.
            Some(unsafe { &*pointer })
        })
    }

    fn lock(&self) -> MutexGuard<'static, Retired<E>> {
        let mutex = self.writer.get();
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes an entry, in the place of one with the same key. False: the table is full.
    pub fn insert(&self, entry: E) -> bool {
        let mut retired = self.lock();
        self.take(entry.key(), &mut retired);
        let free = self.probe(entry.key()).find(|place| {
            let pointer = place.load(Ordering::Relaxed);
            pointer.is_null() || pointer == gone()
        });
        let Some(place) = free else { return false };
        place.store(Box::into_raw(Box::new(entry)), Ordering::Release);
        true
    }

    /// Takes an entry out; it stays valid for the duration of a hook.
    pub fn remove(&self, key: usize) {
        let mut retired = self.lock();
        self.take(key, &mut retired);
        let now = Instant::now();
        retired
            .0
            .retain(|(since, _)| now.duration_since(*since) < GRACE);
    }

    fn take(&self, key: usize, retired: &mut Retired<E>) {
        for place in self.probe(key) {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() {
                return;
            }
            // SAFETY: in the table, so not freed; the lock keeps other writers away.
            if pointer != gone() && unsafe { &*pointer }.key() == key {
                place.store(gone(), Ordering::Release);
                // SAFETY: made by `insert` from a box, and just taken out by this thread alone.
                let entry = unsafe { Box::from_raw(pointer) };
                retired.0.push((Instant::now(), entry));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(usize, u32);

    impl Keyed for Named {
        fn key(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn entries_come_go_and_come_again() {
        static TABLE: Table<Named> = Table::new();
        let value = |key| TABLE.get(key).map(|entry| entry.1);
        for key in 1..=1000 {
            assert!(TABLE.insert(Named(key * 16, 1)));
        }
        assert_eq!(
            (value(16), value(16_000), value(8)),
            (Some(1), Some(1), None)
        );
        assert!(TABLE.insert(Named(16, 2)));
        assert_eq!(value(16), Some(2), "the same handle again");
        assert_eq!(TABLE.all().count(), 1000);
        for key in 1..=1000 {
            TABLE.remove(key * 16);
        }
        assert_eq!(TABLE.all().count(), 0);
        assert_eq!(value(16), None);
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        static TABLE: Table<Named> = Table::new();
        for key in 1..=PLACES {
            assert!(TABLE.insert(Named(key, 0)));
        }
        assert!(!TABLE.insert(Named(PLACES + 1, 0)));
        assert!(TABLE.get(PLACES).is_some() && TABLE.get(PLACES + 1).is_none());
    }
}
