//! The rule by which a figure, its interval and a limit become a grade, and grades a verdict: one for
//! every scenario, so that whatever shows a run shows the same.
//!
//! A figure on the wrong side of its limit misses it. One on the right side meets it only with its
//! whole interval; else it is not distinguishable from the limit, which is never a win. An interval is
//! that of the order statistics for a P99 alone, and bootstrapped from the raw samples for a ratio
//! ([`Figure`]).

use serde::Serialize;

use crate::Outcome;
use crate::run::{Check, Grade, Phase};
use crate::stats::{Figure, Interval, P99_REQUESTS, THROUGHPUT_REQUESTS};

/// Most that scheduling may cost while tasks run, daemon and agents together: % of one core.
pub const COST_LIMIT: f64 = 3.0;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Limit {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
}

impl Limit {
    fn allows(self, figure: f64) -> bool {
        match self {
            Limit::AtMost(limit) => figure <= limit,
            Limit::Below(limit) => figure < limit,
            Limit::AtLeast(limit) => figure >= limit,
            Limit::Above(limit) => figure > limit,
        }
    }

    /// Without an interval the figure alone counts.
    pub fn grade(self, figure: f64, interval: Option<Interval>) -> Grade {
        let far_end = |interval: Interval| match self {
            Limit::AtMost(_) | Limit::Below(_) => interval.high,
            Limit::AtLeast(_) | Limit::Above(_) => interval.low,
        };
        match interval.map(far_end) {
            _ if !self.allows(figure) => Grade::Missed,
            None => Grade::Met,
            Some(Some(end)) if self.allows(end) => Grade::Met,
            Some(_) => Grade::NotDistinguishable,
        }
    }

    /// As people write it, for example `≤ 1.60`.
    pub fn text(self, digits: usize) -> String {
        let (sign, limit) = match self {
            Limit::AtMost(limit) => ("≤", limit),
            Limit::Below(limit) => ("<", limit),
            Limit::AtLeast(limit) => ("≥", limit),
            Limit::Above(limit) => (">", limit),
        };
        format!("{sign} {limit:.digits$}")
    }
}

/// The judgement of a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every criterion is met, whole intervals included.
    Pass,
    /// A criterion is missed.
    Fail,
    /// None is missed, one is met by its figure only: the interval reaches over the limit.
    NotDistinguishable,
    /// None is missed, one has too few requests.
    NotEnoughRequests,
    /// There was nothing to judge.
    Measured,
    /// The run did not come to its end.
    Incomplete,
}

impl Verdict {
    /// Of all criteria of a run.
    pub fn of(checks: &[Check], complete: bool) -> Verdict {
        let any = |grade| checks.iter().any(|check| check.grade == grade);
        if !complete {
            Verdict::Incomplete
        } else if any(Grade::Missed) {
            Verdict::Fail
        } else if any(Grade::NotEnoughRequests) {
            Verdict::NotEnoughRequests
        } else if any(Grade::NotDistinguishable) {
            Verdict::NotDistinguishable
        } else if any(Grade::Met) {
            Verdict::Pass
        } else {
            Verdict::Measured
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::NotDistinguishable => "NOT DISTINGUISHABLE",
            Verdict::NotEnoughRequests => "NOT ENOUGH REQUESTS",
            Verdict::Measured => "MEASURED, NOTHING TO JUDGE",
            Verdict::Incomplete => "INCOMPLETE",
        }
    }

    /// How the benchmark ends; a quick one is not held to what it cannot know.
    pub(crate) fn outcome(self, quick: bool) -> Outcome {
        match self {
            Verdict::Pass | Verdict::Measured => Outcome::Pass,
            Verdict::NotDistinguishable | Verdict::NotEnoughRequests if quick => Outcome::Pass,
            _ => Outcome::Fail,
        }
    }
}

/// A criterion that nobody has judged yet.
pub(crate) fn open(task: Option<&str>, what: &str, limit: String, unit: &str) -> Check {
    Check {
        task: task.map(str::to_owned),
        what: what.to_owned(),
        limit,
        measured: 0.0,
        interval: None,
        unit: unit.to_owned(),
        grade: Grade::NotEnoughRequests,
        note: None,
    }
}

/// Shown, not judged.
pub(crate) fn information(task: Option<&str>, what: &str, measured: f64, unit: &str) -> Check {
    Check {
        measured,
        grade: Grade::Information,
        ..open(task, what, "—".to_owned(), unit)
    }
}

/// A figure against a limit.
pub(crate) fn judged(
    check: Check,
    measured: f64,
    interval: Option<Interval>,
    limit: Limit,
) -> Check {
    Check {
        measured,
        interval,
        grade: limit.grade(measured, interval),
        ..check
    }
}

/// Something of which a run must have none.
pub(crate) fn none_of(what: &str, count: usize, unit: &str, note: Option<String>) -> Check {
    let limit = Limit::AtMost(0.0);
    let check = open(None, what, limit.text(0), unit);
    Check {
        note,
        ..judged(check, count as f64, None, limit)
    }
}

/// A P99 ÷ another, from latencies in the order of their arrival; `None` where one of them has too few
/// for an interval with two ends.
pub(crate) fn p99_ratio(
    latencies: &[f64],
    reference: &[f64],
    seed: u64,
) -> Option<(f64, Interval)> {
    let figure = Figure::p99(latencies, seed)?;
    Some(figure.over(&Figure::p99(reference, seed.wrapping_add(1))?))
}

/// What a task completed: its throughput over whole phases, and how long after the one before each
/// request was complete, in seconds.
pub(crate) struct Completed {
    pub(crate) per_s: f64,
    pub(crate) gaps_s: Vec<f64>,
}

impl Completed {
    /// From each round's `[arrival, start, latency]` in ms since its start, in the order of completion.
    pub(crate) fn new(per_s: f64, rounds: &[Vec<[f64; 3]>]) -> Completed {
        let gaps = |round: &Vec<[f64; 3]>| {
            let ends = round.iter().map(|[arrival, _, latency]| arrival + latency);
            let before = std::iter::once(0.0).chain(ends.clone());
            let gaps = ends.zip(before).map(|(end, before)| (end - before) / 1e3);
            gaps.collect::<Vec<f64>>()
        };
        Completed {
            per_s,
            gaps_s: rounds.iter().flat_map(gaps).collect(),
        }
    }
}

/// A throughput ÷ another, and the interval of that where both have enough requests. How far the figure
/// can be off is that of the gaps.
pub(crate) fn throughput_ratio(
    ours: &Completed,
    reference: &Completed,
    seed: u64,
) -> (f64, Option<Interval>) {
    let ratio = ours.per_s / reference.per_s;
    let figures = Figure::throughput(&ours.gaps_s, seed)
        .zip(Figure::throughput(&reference.gaps_s, seed.wrapping_add(1)));
    let interval = figures.map(|(ours, reference)| {
        let (of_gaps, interval) = ours.over(&reference);
        let scale = |end: Option<f64>| end.map(|end| end / of_gaps * ratio);
        Interval {
            low: scale(interval.low),
            high: scale(interval.high),
        }
    });
    (ratio, interval)
}

/// The criterion that a throughput is at least (or above) a share of another; the limit is in %.
pub(crate) fn throughput(
    check: Check,
    ours: &Completed,
    reference: &Completed,
    limit: Limit,
    seed: u64,
) -> Check {
    let (ratio, interval) = throughput_ratio(ours, reference, seed);
    let percent = |end: Option<f64>| end.map(|end| end * 100.0);
    match interval {
        Some(Interval { low, high }) => {
            let interval = Interval {
                low: percent(low),
                high: percent(high),
            };
            judged(check, ratio * 100.0, Some(interval), limit)
        }
        None => Check {
            measured: ratio * 100.0,
            grade: Grade::NotEnoughRequests,
            note: Some(format!(
                "an interval needs {THROUGHPUT_REQUESTS} requests on both sides: give a longer \
                 --duration"
            )),
            ..check
        },
    }
}

/// What scheduling cost over all rounds: daemon and agents together, % of one core.
pub(crate) fn cost<'a>(scheduled: impl Iterator<Item = &'a Phase>) -> Check {
    let limit = Limit::AtMost(COST_LIMIT);
    let check = open(None, COST, limit.text(0), "%");
    let total = scheduled.map(|phase| Some((phase.scheduler_cpu_s?, phase.duration_s)));
    let total = total.reduce(|sum, phase| {
        let ((cost, time), (more, longer)) = (sum?, phase?);
        Some((cost + more, time + longer))
    });
    match total.flatten() {
        Some((cost, time)) if time > 0.0 => judged(check, cost / time * 100.0, None, limit),
        _ => Check {
            grade: Grade::Information,
            note: Some("not measured".to_owned()),
            ..check
        },
    }
}

/// The same, not judged; `None` where it was not measured.
pub(crate) fn cost_shown<'a>(scheduled: impl Iterator<Item = &'a Phase>) -> Option<Check> {
    let cost = cost(scheduled);
    (cost.grade != Grade::Information).then(|| information(None, COST, cost.measured, "%"))
}

/// What the criterion on the cost is called.
pub const COST: &str = "processor time of daemon and agents, of one core";

/// What to give so that there are enough requests for a verdict on a P99.
pub(crate) fn needs(option: &str) -> String {
    format!("a P99 verdict needs {P99_REQUESTS} requests: {option} or longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grade_follows_from_figure_interval_and_limit() {
        let check = |limit: Limit, figure, low, high, expect| {
            let grade = limit.grade(figure, Some(Interval { low, high }));
            assert_eq!(grade, expect, "{limit:?} {figure} {low:?} {high:?}");
        };
        use Grade::{Met, Missed, NotDistinguishable};
        use Limit::{Above, AtLeast, AtMost, Below};
        check(AtMost(1.6), 1.0, Some(0.9), Some(1.6), Met);
        check(AtMost(1.6), 1.5, Some(1.2), Some(1.7), NotDistinguishable);
        check(AtMost(1.6), 1.7, Some(1.5), Some(1.9), Missed);
        check(AtMost(1.6), 1.0, Some(0.9), None, NotDistinguishable);
        check(Below(1.1), 1.0, None, Some(1.1), NotDistinguishable);
        check(Below(1.1), 1.1, None, Some(1.1), Missed);
        check(AtLeast(0.2), 0.5, Some(0.2), Some(0.6), Met);
        check(AtLeast(0.2), 0.3, Some(0.1), None, NotDistinguishable);
        check(AtLeast(0.2), 0.1, Some(0.0), Some(0.6), Missed);
        check(Above(30.0), 31.0, Some(30.0), None, NotDistinguishable);
        check(Above(30.0), f64::NAN, None, None, Missed);
        assert_eq!(Limit::AtMost(1.6).grade(1.6, None), Met);
        assert_eq!(
            [Below(1.1).text(2), AtLeast(95.0).text(0)],
            ["< 1.10", "≥ 95"]
        );
    }

    #[test]
    fn a_ratio_is_judged_with_the_interval_of_both_sides() {
        let steady = |gap_ms: f64, count: usize| {
            let samples: Vec<[f64; 3]> = (0..count)
                .map(|i| [i as f64 * gap_ms, 0.0, gap_ms])
                .collect();
            Completed::new(1e3 / gap_ms, &[samples])
        };
        let open = || open(None, "throughput", "> 30".to_owned(), "%");
        let limit = Limit::Above(30.0);
        let good = throughput(open(), &steady(20.0, 400), &steady(10.0, 400), limit, 1);
        assert_eq!((good.measured, good.grade), (50.0, Grade::Met));
        let few = throughput(open(), &steady(20.0, 9), &steady(10.0, 400), limit, 1);
        assert_eq!((few.measured, few.grade), (50.0, Grade::NotEnoughRequests));
        // A round of one request may end later than the one before it.
        let alone = [2000.0, 2050.0, 2100.0].map(|end| vec![[0.0, 0.0, end]]);
        assert_eq!(Completed::new(0.5, &alone).gaps_s, [2.0, 2.05, 2.1]);
        assert!(p99_ratio(&[1.0; 368], &[2.0; 367], 1).is_none());
        assert_eq!(p99_ratio(&[1.0; 368], &[2.0; 368], 1).unwrap().0, 0.5);
    }

    #[test]
    fn the_cost_is_that_of_all_rounds_or_unknown() {
        let phase = |scheduler_cpu_s| Phase {
            contender: "xsched".into(),
            round: 1,
            timestamp: String::new(),
            duration_s: 10.0,
            tasks: Vec::new(),
            scheduler_cpu_s,
            samples_file: String::new(),
            trace_file: None,
        };
        let check = |cpu_s: &[Option<f64>], measured: f64, grade| {
            let phases: Vec<Phase> = cpu_s.iter().copied().map(phase).collect();
            let check = cost(phases.iter());
            assert!((check.measured - measured).abs() < 1e-9, "{cpu_s:?}");
            assert_eq!(check.grade, grade, "{cpu_s:?}");
        };
        check(&[Some(0.1), Some(0.2)], 1.5, Grade::Met);
        check(&[Some(0.1), Some(0.8)], 4.5, Grade::Missed);
        check(&[Some(0.1), None], 0.0, Grade::Information);
        check(&[], 0.0, Grade::Information);
        let shown = cost_shown([phase(Some(0.8))].iter()).unwrap();
        assert_eq!(Verdict::of(&[shown], true), Verdict::Measured);
        assert_eq!(cost_shown([phase(None)].iter()), None);
    }
}
