//! The starvation guard of one device: a minimal share for every ready group that the policy does not run.
//!
//! A group that has waited for `patience` is due a *piece*: it has the device to itself for at most 5 ms, and is due the
//! next after another `wait`. Those that are due are served in the order in which they became so, and from the start of one
//! piece to the next so much time passes that all pieces together never take more than the cap (25 %). What the policy
//! gives a group pays for its waiting at the same rate (5 ms for `wait`), so one that runs regularly never becomes due: an
//! urgent request of a quarter of a second is left alone where the others have the device between two. One that the policy
//! runs for the moment, but that is due all the same, has its piece like the others: theirs would close it, in each of its
//! moments if they come in step.
//!
//! Why that keeps the promise of min(min_share, ½ cap ÷ n) over any window in which at most n groups wait: a *rotation*
//! is a tenth of the window at most, and pieces are so small that serving all n groups once, within the cap, takes no longer.
//! Whatever a group had before, its first piece comes in a window of ten rotations after 2.67 of them (`patience`), the others
//! 0.72 apart (`wait` and the piece), or one where the cap binds. Where it does not, a piece is late by less than half a
//! rotation, and ten of them, each a tenth of what is promised, end within ten rotations. Where it binds the first may come
//! one rotation late: six are left, each a fifth of what is promised. So some milliseconds are in hand for late timers, also
//! since what the policy gives pays for a little less than its part of the waiting.

use crate::ids::{GroupId, Nanos};

/// No piece is worth less than this, nor charged less: switching costs some 100 µs. With more groups waiting than such
/// pieces fit into a rotation, rotations become longer and the promise holds over a window so much longer.
const SHORTEST_PIECE: Nanos = 500_000;

/// The figures that the configuration comes down to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    min_share: f64,
    /// The most that all pieces together take of the device.
    cap: f64,
    rotation: f64,
    longest_piece: Nanos,
    /// How long a group waits before it is due its first piece, and from one to the next.
    patience: Nanos,
    wait: Nanos,
    /// So many ns of waiting does 1 ns of service pay for.
    worth: u64,
}

impl Rules {
    /// None where the guard is off.
    pub(crate) fn new(min_share: f64, cap: f64, window: Nanos, piece: Nanos) -> Option<Rules> {
        // A NaN turns it off, too.
        let on = min_share > 0.0 && cap > 0.0 && window > 0 && piece > 0;
        if !on {
            return None;
        }
        let cap = cap.min(0.5);
        let min_share = min_share.min(cap);
        let rotation = (window as f64 / 10.0).min(piece as f64 / min_share);
        let longest_piece =
            ((min_share * rotation) as Nanos).clamp(SHORTEST_PIECE.min(piece), piece);
        let wait = (0.67 * rotation) as Nanos;
        Some(Rules {
            min_share,
            cap,
            rotation,
            longest_piece,
            patience: wait + (2.0 * rotation) as Nanos,
            wait,
            worth: (wait / longest_piece).max(1),
        })
    }

    /// The share of the device that each of so many waiting groups is promised.
    pub(crate) fn promise(&self, waiting: usize) -> f64 {
        self.min_share.min(0.5 * self.cap / waiting.max(1) as f64)
    }

    /// The waiting of a group that does not wait now which nothing has paid for.
    fn unpaid(&self, times: Times, credit: &Credit) -> Nanos {
        let served = times.served - credit.then.served;
        // It was closed for the pieces of others, although the policy ran it.
        let waited = times.waiting - credit.then.waiting;
        let idle = (times.now - credit.then.now).saturating_sub(served + waited);
        // Service pays for waiting; idle time lets it be forgotten one for one.
        let paid = served.saturating_mul(self.worth).saturating_add(idle);
        (credit.waited + waited).saturating_sub(paid)
    }

    fn piece(&self, waiting: usize) -> Nanos {
        let fair = (self.cap * self.rotation / waiting.max(1) as f64) as Nanos;
        fair.clamp(SHORTEST_PIECE.min(self.longest_piece), self.longest_piece)
    }
}

/// What one group is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit {
    /// While it waits: when it is due a piece.
    pub(crate) due: Nanos,
    /// While it does not: the waiting that was not paid for, and how its time stood when that was counted.
    waited: Nanos,
    then: Times,
}

impl Credit {
    /// Nothing is owed yet.
    pub(crate) fn new(times: Times) -> Credit {
        Credit {
            due: 0,
            waited: 0,
            then: times,
        }
    }
}

/// How a group's time has passed so far; what remains to `now` it was idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) now: Nanos,
    /// Ready and open.
    pub(crate) served: Nanos,
    /// Ready and closed.
    pub(crate) waiting: Nanos,
}

/// The pieces of one device.
#[derive(Debug)]
pub(crate) struct Guard {
    rules: Option<Rules>,
    piece: Option<Piece>,
    /// When the next piece may start.
    free_at: Nanos,
    /// No waiting group is due before this.
    earliest_due: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    group: GroupId,
    start: Nanos,
    end: Nanos,
}

impl Guard {
    pub(crate) fn new(rules: Option<Rules>) -> Guard {
        Guard {
            rules,
            piece: None,
            free_at: 0,
            earliest_due: Nanos::MAX,
        }
    }

    /// Who has the device to itself now.
    pub(crate) fn holder(&self) -> Option<GroupId> {
        self.piece.map(|piece| piece.group)
    }

    /// When [`Guard::piece_is_over`] or [`Guard::may_grant`] will next say yes, if so many groups go on waiting.
    pub(crate) fn next(&self, waiting: usize) -> Option<Nanos> {
        match self.piece {
            Some(piece) => Some(piece.end),
            None if waiting > 0 && self.earliest_due < Nanos::MAX => {
                Some(self.earliest_due.max(self.free_at))
            }
            None => None,
        }
    }

    /// The share of the device that each of so many waiting groups is promised.
    pub(crate) fn promise(&self, waiting: usize) -> f64 {
        self.rules.map_or(0.0, |rules| rules.promise(waiting))
    }

    /// A group begins to wait by the policy's decision.
    pub(crate) fn start_waiting(&mut self, times: Times, credit: &mut Credit) {
        let Some(rules) = self.rules else { return };
        credit.waited = rules.unpaid(times, credit);
        credit.due = (times.now + rules.patience).saturating_sub(credit.waited);
        self.earliest_due = self.earliest_due.min(credit.due);
    }

    /// When a group that the policy runs would have become due, if it waited: not after now.
    pub(crate) fn due_since(&self, times: Times, credit: &Credit) -> Option<Nanos> {
        let rules = self.rules?;
        let due = (times.now + rules.patience).saturating_sub(rules.unpaid(times, credit));
        (due <= times.now).then_some(due)
    }

    /// A group no longer waits: the policy runs it, or it has no work.
    pub(crate) fn stop_waiting(&mut self, times: Times, credit: &mut Credit) {
        let Some(rules) = self.rules else { return };
        credit.waited = (times.now + rules.patience).saturating_sub(credit.due);
        credit.then = times;
    }

    /// Whether the piece in progress has run out.
    pub(crate) fn piece_is_over(&self, now: Nanos) -> bool {
        self.piece.is_some_and(|piece| now >= piece.end)
    }

    /// Ends the piece in progress, early or late, and charges for it. The holder may be gone.
    pub(crate) fn end_piece(&mut self, now: Nanos, credit: Option<&mut Credit>) {
        let (Some(piece), Some(rules)) = (self.piece.take(), self.rules) else {
            return;
        };
        let whole = piece.end - piece.start;
        let used = (now - piece.start).max(SHORTEST_PIECE.min(whole));
        self.free_at = piece.start + (used as f64 / rules.cap) as Nanos;
        if let Some(credit) = credit {
            let period = (rules.wait + rules.longest_piece) as f64;
            // Not before now, or one that was served late for long would come before all newcomers.
            credit.due = now.max(credit.due + (period * used as f64 / whole as f64) as Nanos);
            self.earliest_due = self.earliest_due.min(credit.due);
        }
    }

    /// Whether it is time to look for a group that is due.
    pub(crate) fn may_grant(&self, now: Nanos) -> bool {
        self.piece.is_none() && now >= self.earliest_due.max(self.free_at)
    }

    /// Gives a piece to the group that was due first, if any is.
    pub(crate) fn grant(&mut self, now: Nanos, waiting: &[Waiter]) {
        let Some(rules) = self.rules else { return };
        match waiting.iter().min() {
            Some(first) if first.due <= now => {
                self.piece = Some(Piece {
                    group: first.group,
                    start: now,
                    end: now + rules.piece(waiting.len()),
                });
                // Others may be due already: look again when the next piece may start.
                self.earliest_due = 0;
            }
            first => self.earliest_due = first.map_or(Nanos::MAX, |first| first.due),
        }
    }
}

/// A group that waits, and since when it is due a piece. Small, since all of them are looked at for each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    pub(crate) due: Nanos,
    pub(crate) group: GroupId,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn rules(min_share: f64) -> Option<Rules> {
        Rules::new(min_share, 0.25, 1_000 * MS, 5 * MS)
    }

    #[track_caller]
    fn check_rules(min_share: f64, waiting: usize, promise: f64, piece: Nanos) {
        let rules = rules(min_share).expect("the guard is on");
        assert!(
            (rules.promise(waiting) - promise).abs() < 1e-9,
            "{}",
            rules.promise(waiting)
        );
        assert!(
            rules.piece(waiting).abs_diff(piece) <= 1,
            "{}",
            rules.piece(waiting)
        );
    }

    #[test]
    fn pieces_shrink_as_more_groups_wait() {
        check_rules(0.05, 1, 0.05, 5 * MS);
        check_rules(0.05, 2, 0.05, 5 * MS);
        check_rules(0.05, 4, 0.03125, 5 * MS);
        check_rules(0.05, 5, 0.025, 5 * MS);
        check_rules(0.05, 10, 0.0125, 2_500_000);
        check_rules(0.05, 1_000, 0.000125, SHORTEST_PIECE);
        check_rules(0.9, 1, 0.125, 5 * MS);
        check_rules(0.001, 1, 0.001, SHORTEST_PIECE);
    }

    #[test]
    fn nothing_or_nonsense_turns_it_off() {
        for share in [0.0, -1.0, f64::NAN] {
            assert!(rules(share).is_none(), "{share}");
        }
        assert!(Rules::new(0.05, 0.0, 1_000 * MS, 5 * MS).is_none());
        assert!(Rules::new(0.05, 0.25, 0, 5 * MS).is_none());
        assert!(Rules::new(0.05, 0.25, 1_000 * MS, 0).is_none());
    }

    /// Waits, is served, is idle for the given times in turn; gives how long it must still wait for a piece.
    #[track_caller]
    fn check_credit(rounds: &[(Nanos, Nanos, Nanos)], expect: i64) {
        let mut guard = Guard::new(rules(0.05));
        let mut times = Times {
            now: 1_000 * MS,
            served: 300 * MS,
            waiting: 400 * MS,
        };
        let mut credit = Credit::new(times);
        for &(wait, serve, idle) in rounds {
            guard.start_waiting(times, &mut credit);
            times.now += wait * MS;
            times.waiting += wait * MS;
            guard.stop_waiting(times, &mut credit);
            times.now += (serve + idle) * MS;
            times.served += serve * MS;
        }
        guard.start_waiting(times, &mut credit);
        assert_eq!((credit.due as i64 - times.now as i64) / MS as i64, expect);
    }

    #[test]
    fn service_pays_for_waiting() {
        check_credit(&[], 267);
        check_credit(&[(60, 0, 0)], 207);
        check_credit(&[(60, 0, 15)], 222);
        check_credit(&[(60, 2, 0)], 233);
        check_credit(&[(250, 4, 0), (50, 4, 0), (60, 10, 0)], 141);
        check_credit(&[(250, 20, 0)], 267);
        check_credit(&[(140, 1, 0), (140, 1, 0)], 13);
        check_credit(&[(400, 0, 0)], -133);
        check_credit(&[(400, 1, 0)], -120);
    }
}
