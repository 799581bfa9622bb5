//! When requests start: on a fixed schedule (open loop) or back to back (closed loop).
//!
//! In the open loop arrival `i` is at `i / rate`, whatever happened to the requests before it. One
//! that must wait for its predecessors starts late, and its latency counts from its arrival: a slow
//! phase cannot hide behind requests that were never sent (coordinated omission). Arrivals at random are
//! an open loop whose gaps are exponential. Frames are an open loop that gives a request up when the next one
//! is there before it begins.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

/// Nanoseconds.
pub(super) type Nanos = u64;

/// A second in [`Nanos`].
pub(super) const SECOND: Nanos = 1_000_000_000;

/// How long requests that have arrived may still be served after the end of the duration.
const OVERTIME: Nanos = 30 * SECOND;

/// Where time comes from.
pub(super) trait Clock {
    /// Monotonic, from any epoch.
    fn now(&mut self) -> Nanos;
    /// Sleeps until then, or until the harness says stop.
    fn wait(&mut self, until: Nanos);
    /// The harness has said stop.
    fn stopped(&mut self) -> bool;
}

/// How requests arrive, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    pub(super) arrivals: Arrivals,
    pub(super) duration: Nanos,
    /// A request is given up when the next one is there before it begins.
    pub(super) drop_late: bool,
}

/// When requests arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arrivals {
    /// Each when the one before it is done.
    Closed,
    /// At equal distances.
    Open { rate_hz: f64 },
    /// With exponential gaps that follow from the seed.
    Poisson { rate_hz: f64, seed: u64 },
}

/// One served request; times after the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) arrival: Nanos,
    pub(super) start: Nanos,
    pub(super) end: Nanos,
}

impl Request {
    /// From the arrival, not from the start.
    pub(super) fn latency(&self) -> Nanos {
        self.end - self.arrival
    }
}

/// The arrivals of an open loop in their order; none of a closed one, whose arrivals nobody knows
/// beforehand.
struct Source {
    schedule: Schedule,
    next: u64,
    random: ChaCha8Rng,
    /// The last one at random, seconds.
    last: f64,
}

impl Source {
    fn new(schedule: Schedule) -> Source {
        let seed = match schedule.arrivals {
            Arrivals::Poisson { seed, .. } => seed,
            _ => 0,
        };
        Source {
            schedule,
            next: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
            last: 0.0,
        }
    }

    /// The next arrival, if it lies inside the duration.
    fn next(&mut self) -> Option<Nanos> {
        let arrival = match self.schedule.arrivals {
            Arrivals::Closed => return None,
            Arrivals::Open { rate_hz } => (self.next as f64 * SECOND as f64 / rate_hz) as Nanos,
            Arrivals::Poisson { rate_hz, .. } => {
                let gap: f64 = Exp1.sample(&mut self.random);
                self.last += gap / rate_hz;
                (self.last * SECOND as f64) as Nanos
            }
        };
        self.next += 1;
        (arrival < self.schedule.duration).then_some(arrival)
    }
}

/// What became of a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Driven {
    /// The start on the clock.
    pub(super) epoch: Nanos,
    /// The served requests.
    pub(super) requests: Vec<Request>,
    /// How many were given up.
    pub(super) dropped: u64,
}

/// Serves requests one at a time in the order of their arrival until the schedule ends, the harness
/// says stop, or a request fails. `progress` hears the number of completed requests and the time
/// about once a second.
pub(super) fn drive<E>(
    schedule: Schedule,
    clock: &mut impl Clock,
    mut serve: impl FnMut() -> Result<(), E>,
    mut progress: impl FnMut(u64, Nanos) -> Result<(), E>,
) -> Result<Driven, E> {
    let epoch = clock.now();
    let (mut requests, mut dropped) = (Vec::new(), 0);
    let mut next_progress = SECOND;
    let closed = schedule.arrivals == Arrivals::Closed;
    let mut source = Source::new(schedule);
    let (mut due, mut successor) = (source.next(), source.next());
    loop {
        let mut now = clock.now() - epoch;
        if closed {
            due = (now < schedule.duration).then_some(now);
        }
        let arrival = due;
        // After the last arrival the run still lasts its duration.
        let until = arrival.unwrap_or(schedule.duration);
        while !clock.stopped() {
            if now >= next_progress {
                progress(requests.len() as u64, now)?;
                next_progress = now - now % SECOND + SECOND;
            }
            if now >= until {
                break;
            }
            clock.wait(epoch + until.min(next_progress));
            now = clock.now() - epoch;
        }
        let Some(mut arrival) = arrival else { break };
        if clock.stopped() || now >= schedule.duration + OVERTIME {
            break;
        }
        while let Some(next) = successor.filter(|next| schedule.drop_late && *next <= now) {
            dropped += 1;
            (arrival, successor) = (next, source.next());
        }
        (due, successor) = (successor, source.next());
        serve()?;
        requests.push(Request {
            arrival,
            start: now,
            end: clock.now() - epoch,
        });
    }
    Ok(Driven {
        epoch,
        requests,
        dropped,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    const MS: Nanos = 1_000_000;
    const EPOCH: Nanos = 77 * SECOND;

    /// Time that passes only when somebody waits or works; stops at `stop_at`.
    struct Virtual<'a> {
        now: &'a Cell<Nanos>,
        stop_at: Nanos,
        waits: u64,
    }

    impl Clock for Virtual<'_> {
        fn now(&mut self) -> Nanos {
            self.now.get()
        }

        fn wait(&mut self, until: Nanos) {
            self.waits += 1;
            self.now.set(self.now.get().max(until.min(self.stop_at)));
        }

        fn stopped(&mut self) -> bool {
            self.now.get() >= self.stop_at
        }
    }

    struct Run {
        requests: Vec<Request>,
        dropped: u64,
        progress: Vec<(u64, Nanos)>,
        end: Nanos,
        waits: u64,
    }

    /// Runs a schedule whose requests take `service(index)`; all times in ms.
    fn run(
        rate_hz: Option<f64>,
        duration: Nanos,
        stop_at: Nanos,
        service: impl Fn(u64) -> Nanos,
    ) -> Run {
        let arrivals = rate_hz.map_or(Arrivals::Closed, |rate_hz| Arrivals::Open { rate_hz });
        let schedule = Schedule {
            arrivals,
            duration: duration * MS,
            drop_late: false,
        };
        play(schedule, stop_at, service)
    }

    fn play(schedule: Schedule, stop_at: Nanos, service: impl Fn(u64) -> Nanos) -> Run {
        let now = Cell::new(EPOCH);
        let mut clock = Virtual {
            now: &now,
            stop_at: EPOCH.saturating_add(stop_at.saturating_mul(MS)),
            waits: 0,
        };
        let (mut served, mut progress) = (0, Vec::new());
        let serve = || {
            now.set(now.get() + service(served) * MS);
            served += 1;
            Ok::<(), Infallible>(())
        };
        let report = |completed, elapsed| {
            progress.push((completed, elapsed / MS));
            Ok(())
        };
        let Ok(Driven {
            epoch,
            requests,
            dropped,
        }) = drive(schedule, &mut clock, serve, report);
        assert_eq!(epoch, EPOCH);
        Run {
            requests,
            dropped,
            progress,
            end: (now.get() - EPOCH) / MS,
            waits: clock.waits,
        }
    }

    fn check(requests: &[Request], expect: &[[Nanos; 3]]) {
        let actual: Vec<_> = requests
            .iter()
            .map(|request| {
                [
                    request.arrival / MS,
                    request.start / MS,
                    request.latency() / MS,
                ]
            })
            .collect();
        assert_eq!(actual, expect);
    }

    #[test]
    fn requests_that_are_fast_enough_start_at_their_arrival() {
        let run = run(Some(10.0), 400, u64::MAX, |_| 20);
        let expect = [[0, 0, 20], [100, 100, 20], [200, 200, 20], [300, 300, 20]];
        check(&run.requests, &expect);
        // Three waits for an arrival, one for the end of the duration.
        assert_eq!((run.waits, run.end), (4, 400));
    }

    #[test]
    fn a_late_start_counts_until_the_backlog_is_worked_off() {
        let run = run(
            Some(10.0),
            700,
            u64::MAX,
            |index| if index == 1 { 350 } else { 20 },
        );
        let expect = [
            [0, 0, 20],
            [100, 100, 350],
            [200, 450, 270],
            [300, 470, 190],
            [400, 490, 110],
            [500, 510, 30],
            [600, 600, 20],
        ];
        check(&run.requests, &expect);
    }

    #[test]
    fn arrivals_do_not_drift_and_the_end_is_exclusive() {
        let run = run(Some(3.0), 10_000, u64::MAX, |_| 1);
        assert_eq!(run.requests.len(), 30);
        assert_eq!(run.requests[29].arrival, 29 * SECOND / 3);
    }

    #[test]
    fn overload_serves_every_arrival_of_the_duration() {
        let run = run(Some(10.0), 1000, u64::MAX, |_| 200);
        assert_eq!(run.requests.len(), 10);
        assert_eq!(run.requests[9].latency() / MS, 2000 - 900);
    }

    #[test]
    fn overtime_ends_after_thirty_seconds() {
        let run = run(Some(10.0), 1000, u64::MAX, |_| 8000);
        // The fourth starts at 24 s, the fifth would at 32 s.
        assert_eq!(run.requests.len(), 4);
        assert_eq!(run.end, 32_000);
    }

    #[test]
    fn closed_loop_is_back_to_back_and_starts_none_after_the_duration() {
        let run = run(None, 1000, u64::MAX, |_| 300);
        let expect = [
            [0, 0, 300],
            [300, 300, 300],
            [600, 600, 300],
            [900, 900, 300],
        ];
        check(&run.requests, &expect);
        assert_eq!(run.waits, 0);
    }

    #[test]
    fn stop_keeps_what_was_measured() {
        check(
            &run(Some(10.0), 1000, 150, |_| 20).requests,
            &[[0, 0, 20], [100, 100, 20]],
        );
        check(
            &run(None, 1000, 250, |_| 100).requests,
            &[[0, 0, 100], [100, 100, 100], [200, 200, 100]],
        );
        assert!(run(Some(10.0), 1000, 0, |_| 20).requests.is_empty());
    }

    #[test]
    fn a_frame_is_dropped_when_the_next_one_is_there_before_it_begins() {
        let schedule = Schedule {
            arrivals: Arrivals::Open { rate_hz: 10.0 },
            duration: 700 * MS,
            drop_late: true,
        };
        let run = play(
            schedule,
            u64::MAX,
            |index| if index == 1 { 350 } else { 20 },
        );
        // At 450 ms the frames of 200 and 300 ms are old; that of 400 ms is late, but the newest.
        let expect = [
            [0, 0, 20],
            [100, 100, 350],
            [400, 450, 70],
            [500, 500, 20],
            [600, 600, 20],
        ];
        check(&run.requests, &expect);
        assert_eq!((run.dropped, run.end), (2, 700));
    }

    #[test]
    fn random_arrivals_follow_from_their_seed_and_have_their_rate() {
        let arrivals = |seed| {
            let schedule = Schedule {
                arrivals: Arrivals::Poisson {
                    rate_hz: 100.0,
                    seed,
                },
                duration: 100 * SECOND,
                drop_late: false,
            };
            play(schedule, u64::MAX, |_| 0).requests
        };
        let first = arrivals(1);
        assert_eq!(first, arrivals(1));
        assert_ne!(first, arrivals(2));
        // 10000 are expected with a standard deviation of 100; of exponential gaps 1 - 1/e are
        // shorter than their mean.
        assert!((9_500..10_500).contains(&first.len()), "{}", first.len());
        let gaps = first
            .windows(2)
            .map(|pair| pair[1].arrival - pair[0].arrival);
        let short = gaps.filter(|gap| *gap < 10 * MS).count() as f64 / first.len() as f64;
        assert!((0.60..0.66).contains(&short), "{short}");
    }

    #[test]
    fn progress_comes_once_a_second_even_without_requests() {
        let run = run(Some(0.25), 5000, u64::MAX, |_| 1500);
        // The first request ends at 1.5 s, the second arrives at 4 s and ends at 5.5 s.
        assert_eq!(
            run.progress,
            [(1, 1500), (1, 2000), (1, 3000), (1, 4000), (2, 5500)]
        );
    }
}
