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
pub struct Spacing {
    /// Commands, until their duration is known; ≥ 1.
    pub first: u32,
    /// Commands at most; ≥ `first`.
    pub most: u32,
    /// Time of the device.
    pub time: Duration,
}

impl Spacing {
    /// Always this many commands.
    pub const fn every(commands: u32) -> Self {
        Spacing {
            first: commands,
            most: commands,
            time: Duration::MAX,
        }
    }
}

/// A stretch has to last for this many times the spacing's time before it says anything.
const STRETCH: u32 = 4;

/// The interval in force, and what it is learnt from. Touched where a gate is due, never by the
/// rest of the hot path.
#[derive(Debug)]
pub(crate) struct Interval {
    spacing: Spacing,
    commands: AtomicU32,
    /// The stretch in hand is over: the queue was idle or held.
    broken: AtomicBool,
    /// When a stretch began, and how many commands were over then.
    stretch: Mutex<Option<(Instant, u64)>>,
}

impl Interval {
    pub(crate) fn new(spacing: Spacing) -> Self {
        Interval {
            spacing,
            commands: AtomicU32::new(spacing.first.max(1)),
            broken: AtomicBool::new(true),
            stretch: Mutex::new(None),
        }
    }

    /// Commands between two gates.
    pub(crate) fn commands(&self) -> u32 {
        self.commands.load(Ordering::Relaxed)
    }

    /// The queue was idle, or is held: time that passes meanwhile is not its commands'.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// So many commands are over now.
    pub(crate) fn observe(&self, now: Instant, done: u64) {
        if self.spacing.time == Duration::MAX {
            return;
        }
        let mut stretch = self.stretch.lock().unwrap_or_else(PoisonError::into_inner);
        let began = stretch.filter(|_| !self.broken.swap(false, Ordering::Relaxed));
        let Some((start, before)) = began else {
            *stretch = Some((now, done));
            return;
        };
        let (time, commands) = (now.duration_since(start), done.saturating_sub(before));
        if time < STRETCH * self.spacing.time || commands == 0 {
            return;
        }
        *stretch = Some((now, done));
        let fit = u128::from(commands) * self.spacing.time.as_nanos() / time.as_nanos();
        let fit =
            u32::try_from(fit).map_or(self.spacing.most, |fit| fit.clamp(1, self.spacing.most));
        self.commands.store(fit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn interval() -> Interval {
        Interval::new(Spacing {
            first: 8,
            most: 128,
            time: 500 * US,
        })
    }

    /// The interval after 1,000 marks of eight commands each, that take `each`.
    fn learnt(each: Duration) -> u32 {
        let (interval, start) = (interval(), Instant::now());
        for mark in 0..1_000 {
            interval.observe(start + 8 * mark * each, u64::from(8 * mark));
        }
        interval.commands()
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
        let (interval, start) = (interval(), Instant::now());
        interval.observe(start, 0);
        interval.observe(start + 1_000 * US, 1);
        assert_eq!(interval.commands(), 8, "too short");
        interval.break_off();
        interval.observe(start + 50_000 * US, 2);
        assert_eq!(interval.commands(), 8, "it was held meanwhile");
        interval.observe(start + 60_000 * US, 2);
        assert_eq!(interval.commands(), 8, "nothing was over");
        interval.observe(start + 70_000 * US, 102);
        assert_eq!(interval.commands(), 2, "100 commands in 20 ms");
    }

    #[test]
    fn a_set_number_stays() {
        let (interval, start) = (Interval::new(Spacing::every(1)), Instant::now());
        interval.observe(start, 0);
        interval.observe(start + 1_000_000 * US, 1_000_000);
        assert_eq!(interval.commands(), 1);
    }
}
