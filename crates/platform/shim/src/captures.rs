//! Stream captures in progress: what is captured is not executed, and may be spoiled by a question.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use crate::process::PerProcess;

/// The streams that captures began in, as often as they did.
pub struct Captures<O: Send + 'static> {
    /// How many; while there are none, nobody asks.
    count: AtomicU32,
    /// Held while a driver is asked what a capture would be spoiled by; none begins meanwhile.
    origins: PerProcess<Mutex<Vec<O>>>,
}

impl<O: Send + 'static> Captures<O> {
    /// None.
    #[allow(clippy::new_without_default, reason = "always a static")]
    pub const fn new() -> Self {
        Captures {
            count: AtomicU32::new(0),
            origins: PerProcess::new(),
        }
    }

    /// Whether there may be any.
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Asks a driver, unless any stream of the process is being captured.
    pub fn unless_any<T>(&self, ask: impl FnOnce() -> T) -> Option<T> {
        let _none_begins = self.origins.lock();
        (self.count.load(Ordering::SeqCst) == 0).then(ask)
    }

    /// Whether one began in a stream like this.
    pub fn has(&self, matches: impl Fn(&O) -> bool) -> bool {
        self.origins.lock().iter().any(matches)
    }

    /// Before a capture begins: the stream captures from inside the driver's call on.
    pub fn begin(&self, origin: O) {
        let mut origins = self.origins.lock();
        origins.push(origin);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// The capture that began last in a stream like this, if one did, is over.
    pub fn end_last(&self, matches: impl Fn(&O) -> bool) {
        let mut origins = self.origins.lock();
        if let Some(index) = origins.iter().rposition(matches) {
            origins.remove(index);
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Captures that nobody can end any more are over.
    pub fn end_all(&self, matches: impl Fn(&O) -> bool) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut origins = self.origins.lock();
        let before = origins.len();
        origins.retain(|origin| !matches(origin));
        let ended = (before - origins.len()) as u32;
        self.count.fetch_sub(ended, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_begin_and_end() {
        static CAPTURES: Captures<u32> = Captures::new();
        assert_eq!(CAPTURES.unless_any(|| 7), Some(7));
        for origin in [1, 2, 1, 3] {
            CAPTURES.begin(origin);
        }
        assert!(CAPTURES.any() && CAPTURES.has(|own| *own == 3));
        assert_eq!(CAPTURES.unless_any(|| 7), None);
        CAPTURES.end_last(|own| *own == 9);
        CAPTURES.end_last(|own| *own == 1);
        assert!(CAPTURES.has(|own| *own == 1), "it began twice");
        CAPTURES.end_all(|own| *own < 3);
        assert!(CAPTURES.any() && !CAPTURES.has(|own| *own < 3));
        CAPTURES.end_all(|_| true);
        assert_eq!(CAPTURES.unless_any(|| 7), Some(7));
    }
}
