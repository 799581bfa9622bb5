//! Judges a scheduled phase against its baseline: pure functions from results and samples to the
//! criteria, a verdict and a reading.

use serde::Serialize;

use crate::criteria::{self, Completed, Limit, Verdict};
use crate::results::{PhaseResult, RunFacts, StandaloneResult};
use crate::rounds::RatioSpread;
use crate::run::Check;
use crate::stats::P99_REQUESTS;

/// The scheduled P99 must stay below this share of the baseline's.
pub const P99_LIMIT: f64 = 1.10;
/// The high-priority throughput must reach this share of the requested rate.
pub const RATE_LIMIT: f64 = 0.95;
/// The low-priority throughput must exceed this share of the baseline's.
pub const LOW_LIMIT: f64 = 0.30;

/// From here on a P99 is "much worse" than the baseline's.
const MUCH_WORSE: f64 = 1.5;
/// From here on a throughput has "hardly changed".
const HARDLY_CHANGED: f64 = 0.9;

/// What the figures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The high-priority task is hardly affected or faster, the low-priority one goes on.
    Ideal,
    /// The high-priority P99 is more than 10 % worse.
    Overhead,
    /// The figures are those of a run without priorities.
    NotInEffect,
    /// The low-priority task gets too little.
    Starvation,
}

/// Work done per time, in units of what each task does alone: the sum over tasks of throughput ÷
/// standalone throughput.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct UsefulWork {
    /// Without the scheduler.
    pub baseline: f64,
    /// With it.
    pub xsched: f64,
    /// `xsched` ÷ `baseline`.
    pub ratio: f64,
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Both tasks unscheduled.
    pub baseline: &'a PhaseResult,
    /// Both tasks scheduled.
    pub scheduled: &'a PhaseResult,
    /// The tasks alone.
    pub standalone: Option<&'a StandaloneResult>,
    /// Raw samples of the high-priority task alone, where it was measured.
    pub alone: &'a [[f64; 3]],
    /// Raw samples of all rounds, unscheduled.
    pub before: &'a Samples,
    /// Raw samples of all rounds, scheduled.
    pub after: &'a Samples,
    /// The criterion on what scheduling cost.
    pub cost: &'a Check,
}

/// Raw samples of one phase, all rounds: those of [`crate::phase::Measurement::samples`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// Of the high-priority task, in the order of arrival.
    pub high: Vec<[f64; 3]>,
    /// Of all copies of the low-priority task, by round, in the order of completion.
    pub low: Vec<Vec<[f64; 3]>>,
}

/// A scheduled phase compared with its baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// P99 ÷ the baseline's.
    pub high_p99_ratio: f64,
    /// Throughput ÷ the requested rate.
    pub high_throughput_share_of_rate: f64,
    /// Throughput ÷ the baseline's.
    pub low_throughput_ratio: f64,
    /// How far the rounds lie apart; absent when there is but one.
    pub spread: Option<RatioSpread>,
    /// Present when the tasks were measured alone, too.
    pub useful_work: Option<UsefulWork>,
    /// P99 below [`P99_LIMIT`].
    pub high_latency: Check,
    /// Rate at least [`RATE_LIMIT`].
    pub high_throughput: Check,
    /// Throughput above [`LOW_LIMIT`].
    pub low_throughput: Check,
    /// What scheduling cost.
    pub cost: Check,
    /// Why the two phases are not what they should be: a task ran unscheduled, or outputs differ.
    /// Empty is good.
    pub faults: Vec<String>,
    /// The whole.
    pub verdict: Verdict,
    /// What it means.
    pub reading: Reading,
    /// P99 ÷ that alone, for information.
    pub high_p99_to_standalone: Option<Check>,
}

impl Comparison {
    /// All criteria, as the record of the run has them, and what is worth knowing beside them.
    pub fn checks(&self) -> Vec<Check> {
        let (what, note) = (
            "tasks unscheduled in a scheduled phase or the reverse, outputs that differ",
            (!self.faults.is_empty()).then(|| self.faults.join("; ")),
        );
        let mut checks = vec![
            self.high_latency.clone(),
            self.high_throughput.clone(),
            self.low_throughput.clone(),
            criteria::none_of(what, self.faults.len(), "faults", note),
            self.cost.clone(),
        ];
        checks.extend(self.high_p99_to_standalone.clone());
        checks.extend(self.useful_work.map(|work| {
            let what = "useful work (sum of throughput ÷ standalone) ÷ native";
            criteria::information(None, what, work.ratio * 100.0, "%")
        }));
        checks
    }
}

/// Compares.
pub fn compare(evidence: &Evidence) -> Comparison {
    let Evidence {
        baseline,
        scheduled,
        standalone,
        ..
    } = *evidence;
    let high_latency = high_latency(evidence);
    let low_throughput = low_throughput(evidence);
    let share_of_rate = scheduled.high_priority.throughput_rps / scheduled.facts.rate_hz;
    let limit = Limit::AtLeast(RATE_LIMIT * 100.0);
    let high = Some(scheduled.high_priority.task.as_str());
    let high_throughput = criteria::judged(
        criteria::open(high, "throughput ÷ rate asked for", limit.text(0), "%"),
        share_of_rate * 100.0,
        None,
        limit,
    );
    let unscheduled =
        scheduled.high_priority.worker.level == 0 || scheduled.low_priority.worker.level == 0;
    let (p99_ratio, low_ratio) = (high_latency.measured, low_throughput.measured / 100.0);
    let mut comparison = Comparison {
        high_p99_ratio: p99_ratio,
        high_throughput_share_of_rate: share_of_rate,
        low_throughput_ratio: low_ratio,
        spread: RatioSpread::of(&baseline.by_round, &scheduled.by_round),
        useful_work: standalone.map(|alone| useful_work(baseline, scheduled, alone)),
        high_latency,
        high_throughput,
        low_throughput,
        cost: evidence.cost.clone(),
        faults: faults(baseline, scheduled, standalone),
        verdict: Verdict::Measured,
        reading: if unscheduled {
            Reading::NotInEffect
        } else {
            read(p99_ratio, low_ratio)
        },
        high_p99_to_standalone: standalone.map(|alone| {
            let p99 = |latency: &crate::results::HighResult| latency.latency_p99_ms;
            let ratio = p99(&scheduled.high_priority) / p99(&alone.high_priority);
            let seed = scheduled.facts.seed.wrapping_add(4);
            let interval = p99_ratio_of(&evidence.after.high, evidence.alone, seed);
            Check {
                interval: interval.map(|(_, interval)| interval),
                ..criteria::information(high, "P99 ÷ standalone", ratio, "×")
            }
        }),
    };
    comparison.verdict = Verdict::of(&comparison.checks(), true);
    comparison
}

/// Rounds of this many seconds each have enough requests together for a verdict on the P99.
pub fn seconds_needed(facts: &RunFacts) -> u64 {
    (P99_REQUESTS as f64 / facts.rate_hz / f64::from(facts.rounds)).ceil() as u64
}

fn high_latency(evidence: &Evidence) -> Check {
    let (before, after) = (
        &evidence.baseline.high_priority,
        &evidence.scheduled.high_priority,
    );
    let facts = &evidence.scheduled.facts;
    let limit = Limit::Below(P99_LIMIT);
    let check = criteria::open(Some(&after.task), "P99 ÷ native", limit.text(2), "×");
    let ratio = after.latency_p99_ms / before.latency_p99_ms;
    match p99_ratio_of(&evidence.after.high, &evidence.before.high, facts.seed) {
        Some((_, interval)) => criteria::judged(check, ratio, Some(interval), limit),
        None => Check {
            measured: ratio,
            note: Some(format!(
                "{} requests a phase, {}",
                before.requests.min(after.requests),
                criteria::needs(&format!("--duration {}", seconds_needed(facts)))
            )),
            ..check
        },
    }
}

fn p99_ratio_of(
    samples: &[[f64; 3]],
    reference: &[[f64; 3]],
    seed: u64,
) -> Option<(f64, crate::stats::Interval)> {
    let latencies = |samples: &[[f64; 3]]| -> Vec<f64> {
        samples.iter().map(|[_, _, latency]| *latency).collect()
    };
    criteria::p99_ratio(&latencies(samples), &latencies(reference), seed)
}

fn low_throughput(evidence: &Evidence) -> Check {
    let (before, after) = (
        &evidence.baseline.low_priority,
        &evidence.scheduled.low_priority,
    );
    let limit = Limit::Above(LOW_LIMIT * 100.0);
    let (task, what) = match after.copies_throughput_ips.len() {
        1 => (Some(after.task.as_str()), "throughput ÷ native".to_owned()),
        copies => (
            None,
            format!("throughput of {copies} × {} together ÷ native", after.task),
        ),
    };
    criteria::throughput(
        criteria::open(task, &what, limit.text(0), "%"),
        &Completed::new(after.throughput_ips, &evidence.after.low),
        &Completed::new(before.throughput_ips, &evidence.before.low),
        limit,
        evidence.scheduled.facts.seed.wrapping_add(2),
    )
}

fn read(p99_ratio: f64, low_ratio: f64) -> Reading {
    if p99_ratio < P99_LIMIT {
        return if low_ratio > LOW_LIMIT {
            Reading::Ideal
        } else {
            Reading::Starvation
        };
    }
    if p99_ratio >= MUCH_WORSE && low_ratio >= HARDLY_CHANGED {
        Reading::NotInEffect
    } else {
        Reading::Overhead
    }
}

fn useful_work(
    baseline: &PhaseResult,
    scheduled: &PhaseResult,
    alone: &StandaloneResult,
) -> UsefulWork {
    let work = |phase: &PhaseResult| {
        phase.high_priority.throughput_rps / alone.high_priority.throughput_rps
            + phase.low_priority.throughput_ips / alone.low_priority.throughput_ips
    };
    let (baseline, xsched) = (work(baseline), work(scheduled));
    UsefulWork {
        baseline,
        xsched,
        ratio: xsched / baseline,
    }
}

fn faults(
    baseline: &PhaseResult,
    scheduled: &PhaseResult,
    standalone: Option<&StandaloneResult>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let workers = |phase: &PhaseResult| {
        let (high, low) = (&phase.high_priority, &phase.low_priority);
        [
            (high.task.clone(), high.worker.clone()),
            (low.task.clone(), low.worker.clone()),
        ]
    };
    for (task, worker) in workers(scheduled) {
        if worker.level == 0 {
            faults.push(format!(
                "Scheduling: NOT IN EFFECT ({task} ran unscheduled in the scheduled phase)"
            ));
        }
    }
    for (task, worker) in workers(baseline) {
        if worker.highest_level != 0 {
            faults.push(format!(
                "Baseline: SCHEDULED ({task} ran under level {} in the baseline)",
                worker.highest_level
            ));
        }
    }
    let alone = standalone.map(|alone| [&alone.high_priority.worker, &alone.low_priority.worker]);
    for (index, ((task, before), (_, after))) in workers(baseline)
        .iter()
        .zip(workers(scheduled).iter())
        .enumerate()
    {
        let all = [Some(before), Some(after), alone.map(|alone| alone[index])];
        let known: Vec<_> = all.into_iter().flatten().collect();
        let equal = known
            .iter()
            .all(|worker| worker.outputs_equal && worker.output_digest == before.output_digest);
        if !equal {
            faults.push(format!(
                "Outputs: DIFFERENT ({task} computed other bits in another phase or request)"
            ));
        }
    }
    faults
}

/// Samples with fixed figures, for the tests of everything that is built on a comparison.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;
    use crate::results::examples::{baseline, scheduled, standalone};

    /// Of a result: every request takes as long as its P99.
    pub(crate) fn samples(of: &PhaseResult) -> Samples {
        let row = |count: u64, gap_ms: f64, latency_ms: f64| {
            let arrivals = (0..count).map(|i| i as f64 * gap_ms);
            arrivals.map(|at| [at, at, latency_ms]).collect()
        };
        let (high, low) = (&of.high_priority, &of.low_priority);
        let gap_ms = 1e3 / low.throughput_ips;
        Samples {
            high: row(high.requests, 100.0, high.latency_p99_ms),
            low: vec![row(low.iterations, gap_ms, gap_ms)],
        }
    }

    pub(crate) fn cost(percent: f64) -> Check {
        let limit = Limit::AtMost(criteria::COST_LIMIT);
        let check = criteria::open(None, criteria::COST, limit.text(0), "%");
        criteria::judged(check, percent, None, limit)
    }

    /// Compares results with samples to match; scheduling has cost 1 % of a core.
    pub(crate) fn compare(
        baseline: &PhaseResult,
        scheduled: &PhaseResult,
        standalone: Option<&StandaloneResult>,
    ) -> Comparison {
        super::compare(&Evidence {
            baseline,
            scheduled,
            standalone,
            alone: &[],
            before: &samples(baseline),
            after: &samples(scheduled),
            cost: &cost(1.0),
        })
    }

    /// The document's example.
    pub(crate) fn document() -> Comparison {
        compare(&baseline(), &scheduled(), Some(&standalone()))
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{compare, cost, samples};
    use super::*;
    use crate::results::examples;
    use crate::run::Grade;

    /// Two phases with a P99 ratio, a share of the rate, a share of the low throughput, and a number of
    /// requests.
    fn phases(p99: f64, rate: f64, low: f64, requests: u64) -> (PhaseResult, PhaseResult) {
        let mut baseline = examples::baseline();
        baseline.high_priority.latency_p99_ms = 100.0;
        baseline.low_priority.throughput_ips = 20.0;
        let mut scheduled = examples::scheduled();
        scheduled.high_priority.latency_p99_ms = 100.0 * p99;
        scheduled.high_priority.throughput_rps = 10.0 * rate;
        scheduled.high_priority.requests = requests;
        scheduled.low_priority.throughput_ips = 20.0 * low;
        (baseline, scheduled)
    }

    fn check(p99: f64, rate: f64, low: f64, requests: u64) -> Comparison {
        let (baseline, scheduled) = phases(p99, rate, low, requests);
        compare(&baseline, &scheduled, None)
    }

    #[test]
    fn the_limits_are_the_documents() {
        let fails = |comparison: Comparison| {
            assert_eq!(comparison.verdict, Verdict::Fail);
            comparison
        };
        assert_eq!(check(1.09, 0.95, 0.31, 600).verdict, Verdict::Pass);
        let comparison = fails(check(1.10, 0.95, 0.31, 600));
        assert_eq!(comparison.high_latency.grade, Grade::Missed);
        let comparison = fails(check(1.09, 0.94, 0.31, 600));
        assert_eq!(comparison.high_throughput.grade, Grade::Missed);
        let comparison = fails(check(1.09, 0.95, 0.30, 600));
        assert_eq!(comparison.low_throughput.grade, Grade::Missed);
    }

    #[test]
    fn few_requests_are_no_pass() {
        let few = check(0.5, 1.0, 0.8, 367);
        assert_eq!(few.high_latency.grade, Grade::NotEnoughRequests);
        let says =
            "367 requests a phase, a P99 verdict needs 368 requests: --duration 37 or longer";
        assert_eq!(few.high_latency.note.as_deref(), Some(says));
        assert_eq!(few.verdict, Verdict::NotEnoughRequests);
        let three = RunFacts {
            rounds: 3,
            ..examples::facts()
        };
        assert_eq!(seconds_needed(&three), 13);
        assert_eq!(check(0.5, 1.0, 0.8, 368).verdict, Verdict::Pass);
        // What can be judged still fails.
        assert_eq!(check(0.5, 1.0, 0.1, 367).verdict, Verdict::Fail);
    }

    #[test]
    fn an_interval_that_reaches_over_the_limit_is_no_win() {
        let (baseline, scheduled) = phases(1.05, 1.0, 0.5, 600);
        let (before, mut after) = (samples(&baseline), samples(&scheduled));
        // The slowest ones, of which another run might have as many as make its P99.
        for sample in after.high.iter_mut().step_by(120) {
            sample[2] = 130.0;
        }
        let comparison = super::compare(&Evidence {
            baseline: &baseline,
            scheduled: &scheduled,
            standalone: None,
            alone: &[],
            before: &before,
            after: &after,
            cost: &cost(1.0),
        });
        assert_eq!(comparison.high_latency.grade, Grade::NotDistinguishable);
        assert_eq!(comparison.verdict, Verdict::NotDistinguishable);
        // Whatever shows the run shows this verdict.
        assert_eq!(Verdict::of(&comparison.checks(), true), comparison.verdict);
    }

    #[test]
    fn scheduling_that_costs_too_much_is_no_pass() {
        let (baseline, scheduled) = phases(0.5, 1.0, 0.8, 600);
        let (before, after) = (samples(&baseline), samples(&scheduled));
        let check = |percent, expect| {
            let comparison = super::compare(&Evidence {
                baseline: &baseline,
                scheduled: &scheduled,
                standalone: None,
                alone: &[],
                before: &before,
                after: &after,
                cost: &cost(percent),
            });
            assert_eq!(comparison.verdict, expect, "{percent}");
        };
        check(3.0, Verdict::Pass);
        check(3.1, Verdict::Fail);
    }

    #[test]
    fn readings() {
        assert_eq!(check(1.05, 1.0, 0.5, 600).reading, Reading::Ideal);
        assert_eq!(check(0.6, 1.0, 0.8, 600).reading, Reading::Ideal);
        assert_eq!(check(1.2, 1.0, 0.5, 600).reading, Reading::Overhead);
        assert_eq!(check(1.2, 1.0, 0.95, 600).reading, Reading::Overhead);
        assert_eq!(check(2.0, 1.0, 0.5, 600).reading, Reading::Overhead);
        assert_eq!(check(2.0, 1.0, 0.95, 600).reading, Reading::NotInEffect);
        assert_eq!(check(0.9, 1.0, 0.1, 600).reading, Reading::Starvation);
    }

    #[test]
    fn an_unscheduled_task_fails_however_good_the_figures() {
        let mut scheduled = examples::scheduled();
        scheduled.low_priority.worker.level = 0;
        let comparison = compare(&examples::baseline(), &scheduled, None);
        assert_eq!(
            (comparison.verdict, comparison.reading),
            (Verdict::Fail, Reading::NotInEffect)
        );
        assert!(comparison.faults[0].contains("resnet50-low"));

        let mut baseline = examples::baseline();
        // In one of several rounds.
        baseline.high_priority.worker.highest_level = 3;
        let comparison = compare(&baseline, &examples::scheduled(), None);
        assert_eq!(comparison.verdict, Verdict::Fail);
        assert!(comparison.faults[0].contains("resnet18-high"));
    }

    #[test]
    fn outputs_must_not_differ() {
        let alone = examples::standalone();
        assert_eq!(
            compare(&examples::baseline(), &examples::scheduled(), Some(&alone)).verdict,
            Verdict::Pass
        );
        let check = |spoil: fn(&mut PhaseResult)| {
            let mut scheduled = examples::scheduled();
            spoil(&mut scheduled);
            let comparison = compare(&examples::baseline(), &scheduled, Some(&alone));
            assert_eq!(comparison.verdict, Verdict::Fail);
            assert_eq!(comparison.faults.len(), 1);
        };
        check(|phase| phase.high_priority.worker.outputs_equal = false);
        check(|phase| phase.low_priority.worker.output_digest = "ffffffffffffffff".into());
    }

    #[test]
    fn useful_work_is_in_units_of_the_tasks_alone() {
        let mut alone = examples::standalone();
        alone.high_priority.throughput_rps = 10.0;
        alone.low_priority.throughput_ips = 24.56;
        let comparison = compare(&examples::baseline(), &examples::scheduled(), Some(&alone));
        let work = comparison.useful_work.unwrap();
        assert!((work.baseline - 1.998).abs() < 1e-9);
        assert!((work.xsched - (0.995 + 12.34 / 24.56)).abs() < 1e-9);
        assert!((work.ratio - work.xsched / work.baseline).abs() < 1e-12);
    }
}
