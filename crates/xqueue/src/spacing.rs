//! How many commands go between two gates: as many as keep the device busy for a set time.
//!
//! A gate costs the device a few µs, whatever the commands take, so what is held constant is time,
//! not a number. How long commands take is seen from the marks that stand with the gates, over
//! stretches in which the queue had work and was not held.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// What a platform wants between two gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// This many commands, ≥ 1.
    Commands(u32),
    /// As many commands as keep the device busy for a time.
    Time {
        /// That time.
        time: Duration,
        /// Commands until their duration is known; ≥ 1.
        first: u32,
        /// Commands at most.
        most: u32,
    },
}

/// A stretch has to last for this many times the spacing's time before it says anything.
const STRETCH: u32 = 4;

/// What was learnt about the duration of a queue's commands. Touched where a gate is due, never by
/// the rest of the hot path.
#[derive(Debug)]
pub(crate) struct Interval {
    /// Commands that fill the time between two gates; 0: not known yet.
    learnt: AtomicU32,
    /// The stretch in hand is over: the queue was idle or held.
    broken: AtomicBool,
    /// When a stretch began, and how many commands were over then.
    stretch: Mutex<Option<(Instant, u64)>>,
}

impl Default for Interval {
    fn default() -> Self {
        Interval {
            learnt: AtomicU32::new(0),
            broken: AtomicBool::new(true),
            stretch: Mutex::new(None),
        }
    }
}

impl Interval {
    /// Commands between two gates, ≥ 1.
    pub(crate) fn commands(&self, spacing: Spacing) -> u32 {
        match spacing {
            Spacing::Commands(commands) => commands.max(1),
            Spacing::Time { first, most, .. } => match self.learnt.load(Ordering::Relaxed) {
                0 => first.max(1),
                learnt => learnt.min(most).max(1),
            },
        }
    }

    /// The queue was idle, or is held: time that passes meanwhile is not its commands'.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// So many commands are over now.
    pub(crate) fn observe(&self, spacing: Spacing, now: Instant, done: u64) {
        let Spacing::Time { time: wanted, .. } = spacing else {
            return;
        };
        let mut stretch = self.stretch.lock().unwrap_or_else(PoisonError::into_inner);
        let began = stretch.filter(|_| !self.broken.swap(false, Ordering::Relaxed));
        let Some((start, before)) = began else {
            *stretch = Some((now, done));
            return;
        };
        let (time, commands) = (now.duration_since(start), done.saturating_sub(before));
        if time < STRETCH * wanted || commands == 0 {
            return;
        }
        *stretch = Some((now, done));
        let fit = u128::from(commands) * wanted.as_nanos() / time.as_nanos();
        let fit = u32::try_from(fit).unwrap_or(u32::MAX).max(1);
        self.learnt.store(fit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    const SPACING: Spacing = Spacing::Time {
        time: Duration::from_micros(500),
        first: 8,
        most: 128,
    };

    /// The interval after 1,000 marks of eight commands each, that take `each`.
    fn learnt(each: Duration) -> u32 {
        let (interval, start) = (Interval::default(), Instant::now());
        for mark in 0..1_000 {
            interval.observe(SPACING, start + 8 * mark * each, u64::from(8 * mark));
        }
        interval.commands(SPACING)
    }

    #[test]
    fn the_time_between_gates_is_what_stays_the_same() {
        for (each_us, expect) in [
            (1, 128),
            (5, 100),
            (50, 10),
            (200, 2),
            (500, 1),
            (10_000, 1),
        ] {
            assert_eq!(learnt(each_us * US), expect, "{each_us} µs");
        }
    }

    #[test]
    fn nothing_is_learnt_from_a_stretch_that_is_short_or_broken_off() {
        let (interval, start) = (Interval::default(), Instant::now());
        interval.observe(SPACING, start, 0);
        interval.observe(SPACING, start + 1_000 * US, 1);
        assert_eq!(interval.commands(SPACING), 8, "too short");
        interval.break_off();
        interval.observe(SPACING, start + 50_000 * US, 2);
        assert_eq!(interval.commands(SPACING), 8, "it was held meanwhile");
        interval.observe(SPACING, start + 60_000 * US, 2);
        assert_eq!(interval.commands(SPACING), 8, "nothing was over");
        interval.observe(SPACING, start + 70_000 * US, 102);
        assert_eq!(interval.commands(SPACING), 2, "100 commands in 20 ms");
    }

    #[test]
    fn a_set_number_stays() {
        let (interval, start) = (Interval::default(), Instant::now());
        let one = Spacing::Commands(1);
        interval.observe(one, start, 0);
        interval.observe(one, start + 1_000_000 * US, 1_000_000);
        assert_eq!(interval.commands(one), 1);
    }
}
