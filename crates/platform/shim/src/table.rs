//! A table that readers search without locks: open addressing over pointers to entries.
//!
//! Writers (an object comes, an object goes) hold a lock. An entry that was taken out is freed only
//! after a pause in which every hook that may still look at it has returned, or says that it
//! [keeps](Table::keep) it.

use std::{
    ops::Deref,
    sync::{
        Mutex,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::process::PerProcess;

/// Entries at most.
const PLACES: usize = 4096;
/// How long a hook may still look at an entry that was taken out, without keeping it.
const GRACE: Duration = Duration::from_secs(10);

/// Something with a key of its own.
pub trait Keyed: Send + Sync + 'static {
    /// What the application names it by.
    type Key: Key;

    /// Its key.
    fn key(&self) -> Self::Key;
}

/// What the application names something by.
pub trait Key: Copy + Eq {
    /// Its bits in one word, of which the low ones may say little (handles are addresses).
    fn bits(self) -> usize;
}

impl Key for usize {
    fn bits(self) -> usize {
        self
    }
}

/// Entries by key.
pub struct Table<E: Keyed> {
    places: [AtomicPtr<Node<E>>; PLACES],
    writer: PerProcess<Mutex<Retired<E>>>,
}

struct Node<E> {
    entry: E,
    /// Hooks that keep the entry.
    keepers: AtomicU32,
}

/// An entry that is not freed.
pub struct Kept<E: Keyed>(&'static Node<E>);

impl<E: Keyed> Deref for Kept<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.0.entry
    }
}

impl<E: Keyed> Drop for Kept<E> {
    fn drop(&mut self) {
        // Pairs with the look at it in `sweep`: uses come before the entry is freed.
        self.0.keepers.fetch_sub(1, Ordering::Release);
    }
}

/// Taken out, with the time.
struct Retired<E>(Vec<(Instant, Box<Node<E>>)>);

impl<E> Retired<E> {
    /// What nobody can look at any more. To be freed without the lock: an entry may have a thread
    /// that ends with it, and that thread may want the table.
    #[must_use = "freed when dropped"]
    fn sweep(&mut self, now: Instant) -> Vec<Box<Node<E>>> {
        let over = self.0.extract_if(.., |(since, node)| {
            now.duration_since(*since) >= GRACE && node.keepers.load(Ordering::Acquire) == 0
        });
        over.map(|(_, node)| node).collect()
    }
}

impl<E> Default for Retired<E> {
    fn default() -> Self {
        Retired(Vec::new())
    }
}

/// Marks a place whose entry was taken out: probing goes on behind it.
fn gone<E>() -> *mut Node<E> {
    std::ptr::dangling_mut()
}

#[inline]
fn start(key: impl Key) -> usize {
    ((key.bits() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
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

    #[inline]
    fn probe(&self, key: E::Key) -> impl Iterator<Item = &AtomicPtr<Node<E>>> {
        let start = start(key);
        (0..PLACES).map(move |step| &self.places[(start + step) % PLACES])
    }

    /// The entry of this key. Valid for the duration of a hook that does not wait.
    #[inline]
    pub fn get(&self, key: E::Key) -> Option<&'static E> {
        self.find(key).map(|node| &node.entry)
    }

    /// The entry of this key, for a hook that uses it after a wait in the driver, which may last
    /// longer than the pause.
    #[inline]
    pub fn keep(&self, key: E::Key) -> Option<Kept<E>> {
        let node = self.find(key)?;
        node.keepers.fetch_add(1, Ordering::Relaxed);
        Some(Kept(node))
    }

    #[inline]
    fn find(&self, key: E::Key) -> Option<&'static Node<E>> {
        for place in self.probe(key) {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() {
                return None;
            }
            if pointer != gone() {
                // SAFETY: entries are published complete by `insert`, and are freed GRACE after they
                // were taken out by `remove`, if nobody keeps them.
                let node = unsafe { &*pointer };
                if node.entry.key() == key {
                    return Some(node);
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
            // SAFETY: as in `find`.
            Some(&unsafe { &*pointer }.entry)
        })
    }

    /// Publishes an entry, in the place of one with the same key. False: the table is full.
    pub fn insert(&self, entry: E) -> bool {
        let mut retired = self.writer.lock();
        self.take(entry.key(), &mut retired);
        let free = self.probe(entry.key()).find(|place| {
            let pointer = place.load(Ordering::Relaxed);
            pointer.is_null() || pointer == gone()
        });
        let Some(place) = free else { return false };
        let node = Node {
            entry,
            keepers: AtomicU32::new(0),
        };
        place.store(Box::into_raw(Box::new(node)), Ordering::Release);
        true
    }

    /// Takes an entry out; it stays valid for the duration of a hook.
    pub fn remove(&self, key: E::Key) {
        self.remove_if(key, |_| true);
    }

    /// Takes this entry out, and none that has come in its place meanwhile.
    pub fn remove_same(&self, entry: &'static E) {
        self.remove_if(entry.key(), |other| std::ptr::eq(other, entry));
    }

    fn remove_if(&self, key: E::Key, is_meant: impl Fn(&E) -> bool) {
        let mut retired = self.writer.lock();
        if self.get(key).is_some_and(is_meant) {
            self.take(key, &mut retired);
        }
        let over = retired.sweep(Instant::now());
        drop(retired);
        drop(over);
    }

    fn take(&self, key: E::Key, retired: &mut Retired<E>) {
        for place in self.probe(key) {
            let pointer = place.load(Ordering::Acquire);
            if pointer.is_null() {
                return;
            }
            // SAFETY: in the table, so not freed; the lock keeps other writers away.
            if pointer != gone() && unsafe { &*pointer }.entry.key() == key {
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
        type Key = usize;

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
    fn what_a_hook_keeps_is_freed_when_it_lets_go() {
        static TABLE: Table<Counted> = Table::new();
        static FREED: AtomicU32 = AtomicU32::new(0);
        struct Counted(usize);
        impl Keyed for Counted {
            type Key = usize;

            fn key(&self) -> usize {
                self.0
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                FREED.fetch_add(1, Ordering::Relaxed);
            }
        }
        let freed_at = |now: Instant| {
            let over = TABLE.writer.lock().sweep(now);
            drop(over);
            FREED.load(Ordering::Relaxed)
        };
        let (start, later) = (Instant::now(), || Instant::now() + 2 * GRACE);
        assert!(TABLE.insert(Counted(1)) && TABLE.insert(Counted(2)));
        let first = TABLE.keep(1).unwrap();
        let second = TABLE.keep(1).unwrap();
        TABLE.remove(1);
        TABLE.remove(2);
        assert!(TABLE.keep(1).is_none());
        assert_eq!(freed_at(later()), 1, "only what nobody keeps");
        drop(first);
        assert_eq!(freed_at(later()), 1, "one still keeps it");
        assert_eq!(second.key(), 1);
        drop(second);
        assert_eq!(freed_at(start), 1, "a hook may just look at it");
        assert_eq!(freed_at(later()), 2);
    }

    #[test]
    fn an_entry_is_freed_without_the_lock() {
        static TABLE: Table<Ending> = Table::new();
        static FREED: AtomicU32 = AtomicU32::new(0);
        struct Ending(usize);
        impl Keyed for Ending {
            type Key = usize;

            fn key(&self) -> usize {
                self.0
            }
        }
        impl Drop for Ending {
            fn drop(&mut self) {
                // What a thread of the entry's would do while it is joined.
                let writer = TABLE.writer.get();
                FREED.fetch_add(u32::from(writer.try_lock().is_ok()), Ordering::Relaxed);
            }
        }
        assert!(TABLE.insert(Ending(1)) && TABLE.insert(Ending(2)));
        TABLE.remove(1);
        for (since, _) in &mut TABLE.writer.lock().0 {
            *since = since.checked_sub(2 * GRACE).unwrap();
        }
        TABLE.remove(2);
        assert_eq!(FREED.load(Ordering::Relaxed), 1);
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
