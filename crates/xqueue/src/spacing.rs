//! How many commands go between two gates: as many as keep the device busy for a set time.
//!
//! A gate costs the device some µs, whatever the commands take, so what is held constant is time, not a
//! number. How long commands take is learnt from *bursts*: from the moment when the queue became ready
//! until a synchronization found it drained. Such a time contains pauses of the host and holds that nobody
//! noticed, so that less counts at once, and more little by little.
//!
//! A queue that is not drained for long tells by the marks that stand with its gates, between *looks* at
//! them with no pause in between: it had work all the time, and was not held. Where it is held so often
//! that there are no two such looks, its gates stand too far apart, and come closer.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
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

/// Time that has to be seen before it says anything, in times of the spacing's.
const ENOUGH: u32 = 4;

/// By this part commands may seem longer from one lesson to the next.
const GROWTH: u64 = 4;

/// What happened to the queue since the last look.
const WORKED: u8 = 0;
const IDLE: u8 = 1;
const HELD: u8 = 2;

/// What was learnt about the duration of a queue's commands. Touched where a gate is due, never by
/// the rest of the hot path.
#[derive(Debug)]
pub(crate) struct Interval {
    /// Device time of a command, ns; 0: not known yet.
    each_ns: AtomicU64,
    /// [`WORKED`], [`IDLE`] or [`HELD`]; the last one stays.
    since_look: AtomicU8,
    /// Never waited for: another thread's lesson is as good.
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    /// When it was, and how many commands were over then.
    last: Option<(Instant, u64)>,
    /// It was not the first one after a pause.
    paired: bool,
    seen: Seen,
    /// Of the burst in progress: when it began, and how many commands came before it.
    began: Option<(Instant, u64)>,
    bursts: Seen,
    /// How long the last burst took. Looks say nothing new until another has gone on for twice as long:
    /// at its beginning the device is behind the host, and commands differ.
    last_burst: Duration,
}

/// Time and commands since something was learnt from them.
#[derive(Debug, Default)]
struct Seen {
    time: Duration,
    commands: u64,
}

impl Seen {
    /// What a command takes, ns, if there is enough to say so.
    fn add(&mut self, time: Duration, commands: u64, wanted: Duration) -> Option<u64> {
        self.time += time;
        self.commands += commands;
        if self.time < ENOUGH * wanted || self.commands == 0 {
            return None;
        }
        let each = (nanos(self.time) / self.commands).max(1);
        *self = Seen::default();
        Some(each)
    }
}

impl Default for Interval {
    fn default() -> Self {
        Interval {
            each_ns: AtomicU64::new(0),
            since_look: AtomicU8::new(IDLE),
            looks: Mutex::default(),
        }
    }
}

impl Interval {
    /// Commands between two gates, ≥ 1.
    pub(crate) fn commands(&self, spacing: Spacing) -> u32 {
        match spacing {
            Spacing::Commands(commands) => commands.max(1),
            Spacing::Time { time, first, most } => match self.each_ns.load(Ordering::Relaxed) {
                0 => first.max(1),
                each => {
                    let fit = u32::try_from(nanos(time) / each).unwrap_or(u32::MAX);
                    fit.min(most).max(1)
                }
            },
        }
    }

    /// The queue was idle, and becomes ready with the command behind so many.
    pub(crate) fn begins(&self, now: Instant, before: u64) {
        self.since_look.fetch_max(IDLE, Ordering::Relaxed);
        if let Ok(mut looks) = self.looks.try_lock() {
            looks.began = Some((now, before));
        }
    }

    /// The queue is drained of so many commands, as a synchronization has just found.
    pub(crate) fn drained(&self, spacing: Spacing, now: Instant, commands: u64) {
        let Spacing::Time { time: wanted, .. } = spacing else {
            return;
        };
        let Ok(mut looks) = self.looks.try_lock() else {
            return;
        };
        let Some((then, before)) = looks.began.take() else {
            return;
        };
        let took = now.saturating_duration_since(then);
        looks.last_burst = took;
        let commands = commands.saturating_sub(before);
        let Some(each) = looks.bursts.add(took, commands, wanted) else {
            return;
        };
        let known = self.each_ns.load(Ordering::Relaxed);
        let each = if known == 0 {
            each
        } else {
            each.min(known + known / GROWTH + 1)
        };
        self.each_ns.store(each, Ordering::Relaxed);
    }

    /// The queue is held.
    pub(crate) fn held(&self) {
        self.since_look.fetch_max(HELD, Ordering::Relaxed);
    }

    /// So many commands are over now. To be called while the queue is not held.
    pub(crate) fn look(&self, spacing: Spacing, now: Instant, done: u64) {
        let Spacing::Time { time: wanted, .. } = spacing else {
            return;
        };
        let Ok(mut looks) = self.looks.try_lock() else {
            return;
        };
        let since = self.since_look.swap(WORKED, Ordering::Relaxed);
        let last = looks.last.replace((now, done));
        let told = |(began, _)| now < began + 2 * looks.last_burst;
        if looks.began.is_some_and(told) {
            looks.paired = false;
            return;
        }
        let Some((then, before)) = last.filter(|_| since == WORKED) else {
            if since == HELD && !looks.paired {
                let apart = u64::from(self.commands(spacing));
                let each = (2 * nanos(wanted) / apart).min(nanos(wanted));
                self.each_ns.store(each, Ordering::Relaxed);
                looks.seen = Seen::default();
            }
            looks.paired = false;
            return;
        };
        looks.paired = true;
        let time = now.saturating_duration_since(then);
        let commands = done.saturating_sub(before);
        if let Some(each) = looks.seen.add(time, commands, wanted) {
            self.each_ns.store(each, Ordering::Relaxed);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
            interval.look(SPACING, start + 8 * mark * each, u64::from(8 * mark));
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
    fn nothing_is_learnt_from_little_time_or_over_a_pause() {
        let (interval, start) = (Interval::default(), Instant::now());
        interval.look(SPACING, start, 0);
        interval.look(SPACING, start + 1_000 * US, 1);
        assert_eq!(interval.commands(SPACING), 8, "too little");
        interval.begins(start + 49_000 * US, 2);
        interval.look(SPACING, start + 50_000 * US, 2);
        assert_eq!(interval.commands(SPACING), 8, "it was idle meanwhile");
        interval.look(SPACING, start + 50_500 * US, 2);
        assert_eq!(interval.commands(SPACING), 8, "still too little");
        interval.look(SPACING, start + 60_000 * US, 53);
        assert_eq!(interval.commands(SPACING), 2, "52 commands in 11 ms");
    }

    /// A queue of commands of `each` that is open for `open` and then held, again and again; a look at
    /// every due gate.
    fn held_again_and_again(each: Duration, open: Duration) -> u32 {
        let interval = Interval::default();
        let (mut now, mut done, mut due) = (Instant::now(), 0, 0);
        for _ in 0..200 {
            let closes = now + open;
            while now < closes {
                if done >= due {
                    interval.look(SPACING, now, done);
                    due = done + u64::from(interval.commands(SPACING));
                }
                now += each;
                done += 1;
            }
            interval.held();
            now += 1_000 * US;
        }
        interval.commands(SPACING)
    }

    #[test]
    fn gates_come_closer_where_a_queue_is_held_too_often_to_learn_from() {
        for (each_us, open_us, expect) in [
            (500, 1_500, 1..=1),
            (500, 400, 1..=1),
            (200, 1_500, 2..=2),
            (50, 3_000, 8..=12),
            (5, 3_000, 50..=101),
        ] {
            let commands = held_again_and_again(each_us * US, open_us * US);
            assert!(expect.contains(&commands), "{each_us} µs: {commands}");
        }
    }

    /// The interval after bursts of so many commands that take so long, the host looking `early` only.
    #[track_caller]
    fn check_bursts(bursts: &[(u64, u64)], early: u64, expect: u32) {
        let interval = Interval::default();
        let (mut now, mut before) = (Instant::now(), 0);
        for &(commands, took_us) in bursts {
            interval.begins(now, before);
            for look in 0..early {
                interval.look(SPACING, now + look as u32 * 200 * US, before + look / 4);
            }
            before += commands;
            now += took_us as u32 * US;
            interval.drained(SPACING, now, before);
            now += 10_000 * US;
        }
        assert_eq!(interval.commands(SPACING), expect, "{bursts:?}");
    }

    #[test]
    fn bursts_tell_how_long_commands_take() {
        check_bursts(&[(160, 16_000)], 0, 5);
        check_bursts(&[(160, 16_000); 3], 20, 5);
        // Short ones, together.
        check_bursts(&[(17, 60); 30], 0, 8);
        check_bursts(&[(17, 60); 40], 0, 128);
        // Held for long once, and from then on.
        check_bursts(&[(160, 16_000), (160, 160_000)], 0, 3);
        check_bursts(&[(160, 16_000), (160, 160_000), (160, 16_000)], 0, 5);
        let mut long = vec![(160, 16_000)];
        long.resize(20, (160, 160_000));
        check_bursts(&long, 0, 1);
    }

    #[test]
    fn another_spacing_needs_no_new_lesson() {
        let (interval, start) = (Interval::default(), Instant::now());
        interval.look(SPACING, start, 0);
        interval.look(SPACING, start + 5_000 * US, 100);
        let wider = Spacing::Time {
            time: 2_000 * US,
            first: 8,
            most: 128,
        };
        assert_eq!(
            (interval.commands(SPACING), interval.commands(wider)),
            (10, 40)
        );
    }

    #[test]
    fn a_set_number_stays() {
        let (interval, start) = (Interval::default(), Instant::now());
        let one = Spacing::Commands(1);
        interval.look(one, start, 0);
        interval.look(one, start + 1_000_000 * US, 1_000_000);
        assert_eq!(interval.commands(one), 1);
    }
}
