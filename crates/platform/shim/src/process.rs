//! What belongs to one process and must start afresh in a forked child.
//!
//! A child inherits memory, but no thread but its own: a lock may be held for ever, a thread that
//! was to do something is gone. So such things hang on a generation, which a fork raises in the
//! child; what the parent had stays in memory, unused.

use std::sync::{
    Mutex, MutexGuard, Once, PoisonError,
    atomic::{AtomicPtr, AtomicU32, Ordering},
};

static GENERATION: AtomicU32 = AtomicU32::new(1);

/// Differs between a process and the parents that it was forked from.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

fn watch_forks() {
    static WATCHED: Once = Once::new();
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    WATCHED.call_once(|| {
        // SAFETY: the handler lives as long as this code is mapped; a shim is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// A value that each process makes for itself at its first use, and never drops.
pub struct PerProcess<T> {
    cell: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    generation: u32,
    value: T,
}

impl<T: Default + Sync + 'static> PerProcess<T> {
    /// None yet.
    #[allow(clippy::new_without_default, reason = "always a static")]
    pub const fn new() -> Self {
        PerProcess {
            cell: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// This process's value, if it was made.
    #[inline]
    pub fn peek(&self) -> Option<&'static T> {
        let pointer = self.cell.load(Ordering::Acquire);
        // SAFETY: null, or published complete by `make` and never freed.
        let owned = unsafe { pointer.as_ref() }?;
        (owned.generation == generation()).then_some(&owned.value)
    }

    /// This process's value.
    #[inline]
    pub fn get(&self) -> &'static T {
        self.peek().unwrap_or_else(|| self.make())
    }

    #[cold]
    fn make(&self) -> &'static T {
        watch_forks();
        let before = self.cell.load(Ordering::Acquire);
        if let Some(value) = self.peek() {
            return value;
        }
        let fresh = Box::into_raw(Box::new(Owned {
            generation: generation(),
            value: T::default(),
        }));
        let published =
            self.cell
                .compare_exchange(before, fresh, Ordering::AcqRel, Ordering::Acquire);
        let winner = match published {
            Ok(_) => fresh,
            Err(other) => {
                // SAFETY: made above and not published.
                drop(unsafe { Box::from_raw(fresh) });
                other
            }
        };
        // SAFETY: published, and never freed.
        unsafe { &(*winner).value }
    }
}

impl<T: Send + 'static> PerProcess<Mutex<T>>
where
    Mutex<T>: Default,
{
    /// This process's value, locked. A panic of whoever had it locked changes nothing.
    pub fn lock(&self) -> MutexGuard<'static, T> {
        self.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_value_is_made_once() {
        static VALUE: PerProcess<AtomicU32> = PerProcess::new();
        assert!(VALUE.peek().is_none());
        VALUE.get().store(7, Ordering::Relaxed);
        assert_eq!(VALUE.get().load(Ordering::Relaxed), 7);
        assert!(VALUE.peek().is_some());
    }
}
