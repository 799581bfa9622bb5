//! When a process's gates open over the scheduler's head.
//!
//! Task groups of one process share the driver's locks, channels and implicit synchronisation, so
//! holding one can block another: a thread of the open group inside a call that waits for the whole
//! context, or a device that lets nothing past what is held. Both end here: while a thread is inside
//! such a call, and while an open group with work makes no progress though another is closed, every
//! gate of the process is bypassed. A process with one group needs none of this: all of it is held,
//! or nothing. Pure; time is passed in.
//!
//! A device that executes one long command makes no progress, either. How long a group usually
//! stands still is therefore learnt, and it is given twice that. While nothing of the process is held,
//! groups share the device, so what one would need alone is its part of the time; while others are held,
//! what is learnt only shrinks, since standing still may be a block. Until a group first moves after others were closed, it
//! is given their parts as well: what they have before their gates runs out beside it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long an open group with work may stand still while another one is closed, at least.
pub(crate) const PATIENCE: Duration = Duration::from_millis(2);

/// A task group as its process knows it: the slot of its first queue.
pub(crate) type GroupKey = u16;

/// What one queue shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) group: GroupKey,
    pub(crate) ready: bool,
    /// By the scheduler; not one that the application itself suspended.
    pub(crate) closed: bool,
    /// Changes whenever a command reaches the driver or a mark is reached.
    pub(crate) progress: u64,
}

/// Why gates are bypassed, for the process as a whole.
#[derive(Debug, Default)]
pub(crate) struct Bypass {
    /// Threads inside calls that wait for a whole context.
    pub(crate) inside: u32,
    /// An open group stands still behind a closed one.
    stuck: bool,
    /// Since when nothing of the process is held, if so, and how many groups ran meanwhile, at most.
    free_since: Option<Instant>,
    ran: u32,
    seen: BTreeMap<GroupKey, Seen>,
}

/// How one group moves.
#[derive(Clone, Copy, Debug)]
struct Seen {
    progress: u64,
    /// When that was first seen, or the group began to run.
    since: Instant,
    /// When it was last seen.
    until: Instant,
    /// Groups that ran meanwhile, itself included, at most.
    among: u32,
    /// How long the group usually stands still with the device to itself.
    usual: Duration,
    /// Groups that were closed since it last moved.
    closed: u32,
}

/// One group, of all its queues. A scheduler that was told so by others may make several of it, which
/// shows in that some are open and some closed.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// A queue with work is open.
    runs: bool,
    /// A queue with work is closed.
    held: bool,
    /// Of the queues that are open.
    progress: u64,
}

impl Bypass {
    pub(crate) fn is_on(&self) -> bool {
        self.inside > 0 || self.stuck
    }

    /// Looks whether an open group stands still. True: that has changed.
    pub(crate) fn look(&mut self, now: Instant, sights: impl Iterator<Item = Sight>) -> bool {
        let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
        for sight in sights {
            let group = groups.entry(sight.group).or_default();
            if sight.closed {
                group.held |= sight.ready;
                continue;
            }
            group.runs |= sight.ready;
            group.progress = group.progress.wrapping_add(sight.progress);
        }
        self.seen.retain(|key, _| groups.contains_key(key));
        let is_held = groups.values().any(|group| group.held);
        let among = groups.values().filter(|group| group.runs).count().max(1) as u32;
        // How long a group stood still before anything was closed does not count.
        let begins = is_held && !self.stuck && self.free_since.is_some();
        let mut stuck = false;
        for (&key, group) in &groups {
            let fresh = Seen {
                progress: group.progress,
                since: now,
                until: now,
                among,
                usual: Duration::ZERO,
                closed: 0,
            };
            let seen = self.seen.entry(key).or_insert(fresh);
            let usual = seen.usual;
            if !group.runs {
                *seen = Seen { usual, ..fresh };
            } else if seen.progress != group.progress {
                let from = |since| seen.until.saturating_duration_since(since);
                let slowly = usual * 7 / 8;
                let usual = match self.free_since {
                    Some(free) if free > seen.since => usual.max(from(free) / seen.among),
                    Some(_) => slowly.max(from(seen.since) / seen.among),
                    None => usual.min(slowly.max(from(seen.since))),
                };
                *seen = Seen { usual, ..fresh };
            } else {
                seen.until = now;
                seen.among = seen.among.max(among);
                let patience = PATIENCE.max(2 * usual) + usual * seen.closed;
                stuck |= is_held && !begins && now.duration_since(seen.since) >= patience;
            }
        }
        if is_held && !stuck {
            if self.free_since.take().is_some() {
                let closed = std::mem::take(&mut self.ran).saturating_sub(among);
                for seen in self.seen.values_mut() {
                    (seen.since, seen.until, seen.closed) = (now, now, closed);
                }
            }
        } else {
            self.free_since = self.free_since.or(Some(now));
            // A bypass lets run what is held.
            let held = groups.values().filter(|group| group.held && !group.runs);
            self.ran = self.ran.max(among + held.count() as u32);
        }
        std::mem::replace(&mut self.stuck, stuck) != stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sight(group: GroupKey, ready: bool, closed: bool, progress: u64) -> Sight {
        Sight {
            group,
            ready,
            closed,
            progress,
        }
    }

    /// The state after looks 1 ms apart.
    fn after(looks: &[&[Sight]]) -> bool {
        let (mut bypass, start) = (Bypass::default(), Instant::now());
        for (look, sights) in looks.iter().enumerate() {
            bypass.look(start + look as u32 * MS, sights.iter().copied());
        }
        bypass.is_on()
    }

    #[test]
    fn an_open_group_that_stands_still_opens_what_is_closed() {
        let look: &[Sight] = &[sight(1, true, false, 7), sight(2, true, true, 3)];
        assert!(!after(&[look, look]), "one ms is nothing");
        assert!(after(&[look, look, look]));
    }

    #[test]
    fn patience_begins_when_something_is_closed() {
        let runs: &[Sight] = &[sight(1, true, false, 7), sight(2, true, false, 3)];
        let look: &[Sight] = &[sight(1, true, false, 7), sight(2, true, true, 3)];
        assert!(!after(&[runs, runs, runs, runs, look]));
        assert!(!after(&[runs, runs, runs, runs, look, look]));
        assert!(after(&[runs, runs, runs, runs, look, look, look]));
    }

    #[test]
    fn a_group_of_which_some_is_closed_is_several() {
        let look: &[Sight] = &[sight(1, true, false, 7), sight(1, true, true, 3)];
        assert!(after(&[look, look, look]));
        let more_behind: &[Sight] = &[sight(1, true, false, 7), sight(1, true, true, 4)];
        assert!(after(&[look, look, more_behind]), "that is no progress");
    }

    #[test]
    fn progress_or_idleness_ends_it() {
        let look: &[Sight] = &[sight(1, true, false, 7), sight(2, true, true, 3)];
        let moved: &[Sight] = &[sight(1, true, false, 8), sight(2, true, true, 3)];
        let idle: &[Sight] = &[sight(1, false, false, 7), sight(2, true, true, 3)];
        assert!(!after(&[look, look, look, moved]));
        assert!(!after(&[look, look, look, idle]));
        assert!(!after(&[look, look, moved, look, moved, look]));
        assert!(after(&[look, moved, moved, moved]), "still again");
    }

    #[test]
    fn a_process_that_is_held_or_runs_as_a_whole_stays_so() {
        let held: &[Sight] = &[sight(1, true, true, 7), sight(1, true, true, 3)];
        let runs: &[Sight] = &[sight(1, true, false, 7), sight(2, true, false, 3)];
        let others_idle: &[Sight] = &[sight(1, true, false, 7), sight(2, false, true, 3)];
        for look in [held, runs, others_idle] {
            assert!(!after(&[look; 5]), "{look:?}");
        }
    }

    #[test]
    fn long_commands_are_told_from_a_block_once_they_are_known() {
        let (mut bypass, start) = (Bypass::default(), Instant::now());
        // A command takes 10 ms; the other group has work and is closed.
        let mut on = |ms: u32| {
            let sights = [
                sight(1, true, false, (ms / 10).into()),
                sight(2, true, true, 0),
            ];
            bypass.look(start + ms * MS, sights.into_iter());
            bypass.is_on()
        };
        let first: Vec<u32> = (0..10).filter(|&ms| on(ms)).collect();
        assert_eq!(first, [2, 3, 4, 5, 6, 7, 8, 9], "nothing is known yet");
        let later: Vec<u32> = (10..100).filter(|&ms| on(ms)).collect();
        assert_eq!(later, [0; 0]);
        // A real block.
        let mut still = |ms: u32| {
            let sights = [sight(1, true, false, 9), sight(2, true, true, 0)];
            bypass.look(start + ms * MS, sights.into_iter());
            bypass.is_on()
        };
        assert_eq!(
            (100..130).find(|&ms| still(ms)),
            Some(104),
            "twice what is usual"
        );
    }

    /// Sixteen groups run for 400 ms, and each command takes 100 ms; then all but the first are held, and that one moves
    /// at the given times. Gives when the gates open, in ms since then.
    fn held_after_sharing(moves: &[u32]) -> Option<u32> {
        let (mut bypass, start) = (Bypass::default(), Instant::now());
        let mut look = |ms: u32, closed: bool, progress: u32| {
            let others = (2..=16).map(|group| sight(group, true, closed, (ms / 100).into()));
            let first = sight(1, true, false, progress.into());
            bypass.look(start + ms * MS, others.chain([first]));
            bypass.is_on()
        };
        for ms in 0..400 {
            assert!(!look(ms, false, ms / 100));
        }
        let moved = |ms| moves.iter().filter(|&&at| at <= ms).count() as u32;
        (0..300).find(|&ms| look(400 + ms, true, 4 + moved(ms)))
    }

    #[test]
    fn what_is_learnt_among_others_is_a_part_of_the_time() {
        // Once it has moved: twice a sixteenth of 99 ms.
        assert_eq!(held_after_sharing(&[50]), Some(63));
    }

    #[test]
    fn what_others_have_before_their_gates_runs_out_first() {
        assert_eq!(
            held_after_sharing(&[]),
            Some(106),
            "a sixteenth for each of them, and two"
        );
        // Likewise after a bypass.
        let (mut bypass, start) = (Bypass::default(), Instant::now());
        let mut look = |ms: u32, progress: u64| {
            let others = (2..=5).map(|group| sight(group, true, true, 0));
            bypass.look(
                start + ms * MS,
                others.chain([sight(1, true, false, progress)]),
            );
            bypass.is_on()
        };
        assert_eq!((0..100).find(|&ms| look(ms, 0)), Some(2));
        assert!((3..12).all(|ms| look(ms, 0)), "freed for 10 ms");
        let opened = (12..100).find(|&ms| look(ms, 1));
        assert_eq!(opened, Some(12 + 54), "9 ms for each, and two");
    }

    #[test]
    fn what_is_learnt_shrinks_while_others_are_held() {
        let (mut bypass, start) = (Bypass::default(), Instant::now());
        let mut look = |ms: u32, closed: bool, progress: u32| {
            let sights = [
                sight(1, true, false, progress.into()),
                sight(2, true, closed, 0),
            ];
            bypass.look(start + ms * MS, sights.into_iter());
            bypass.is_on()
        };
        for ms in 0..400 {
            look(ms, false, ms / 100);
        }
        // Commands of 4 ms while the other one is held.
        for ms in 400..600 {
            assert!(!look(ms, true, ms / 4), "{ms}");
        }
        let opened = (600..700).find(|&ms| look(ms, true, 150));
        assert_eq!(opened, Some(606), "twice 3 ms, since looks are 1 ms apart");
    }

    #[test]
    fn one_moving_queue_is_progress_of_its_group() {
        let look = |progress| {
            [
                sight(1, true, false, 7),
                sight(1, true, false, progress),
                sight(2, true, true, 0),
            ]
        };
        let looks: Vec<[Sight; 3]> = (0..6).map(look).collect();
        let looks: Vec<&[Sight]> = looks.iter().map(<[Sight; 3]>::as_slice).collect();
        assert!(!after(&looks));
    }
}
