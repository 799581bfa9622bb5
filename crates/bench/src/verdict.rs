//! Judges a scheduled phase against its baseline: pure functions from results to a verdict and a
//! reading.

use serde::Serialize;

use crate::results::{PhaseResult, RunFacts, StandaloneResult};
use crate::rounds::RatioSpread;

/// The scheduled P99 must stay below this share of the baseline's.
pub const P99_LIMIT: f64 = 1.10;
/// The high-priority throughput must reach this share of the requested rate.
pub const RATE_LIMIT: f64 = 0.95;
/// The low-priority throughput must exceed this share of the baseline's.
pub const LOW_LIMIT: f64 = 0.30;
/// Requests that a verdict on a P99 needs, in each phase.
pub const MIN_REQUESTS: u64 = 100;

/// From here on a P99 is "much worse" than the baseline's.
const MUCH_WORSE: f64 = 1.5;
/// From here on a throughput has "hardly changed".
const HARDLY_CHANGED: f64 = 0.9;

/// One criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Met.
    Good,
    /// Not met.
    Poor,
    /// Cannot be judged from so few requests.
    NotEnoughRequests {
        /// The smaller number of both phases.
        requests: u64,
        /// A `--duration` that gives enough, seconds.
        run_seconds: u64,
    },
}

/// The whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// Every criterion is met.
    Pass,
    /// A criterion is not met.
    Fail,
    /// None failed, one could not be judged.
    NotEnoughRequests,
}

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
    pub high_latency: Grade,
    /// Rate at least [`RATE_LIMIT`].
    pub high_throughput: Grade,
    /// Throughput above [`LOW_LIMIT`].
    pub low_throughput: Grade,
    /// Why the two phases are not what they should be: a task ran unscheduled, or outputs differ.
    /// Empty is good.
    pub faults: Vec<String>,
    /// The whole.
    pub overall: Overall,
    /// What it means.
    pub reading: Reading,
}

/// Compares.
pub fn compare(
    baseline: &PhaseResult,
    scheduled: &PhaseResult,
    standalone: Option<&StandaloneResult>,
) -> Comparison {
    let rate = scheduled.facts.rate_hz;
    let high_p99_ratio =
        scheduled.high_priority.latency_p99_ms / baseline.high_priority.latency_p99_ms;
    let share_of_rate = scheduled.high_priority.throughput_rps / rate;
    let low_ratio = scheduled.low_priority.throughput_ips / baseline.low_priority.throughput_ips;

    let requests = baseline
        .high_priority
        .requests
        .min(scheduled.high_priority.requests);
    let high_latency = judge_latency(high_p99_ratio, requests, &scheduled.facts);
    let high_throughput = judge(share_of_rate >= RATE_LIMIT);
    let low_throughput = judge(low_ratio > LOW_LIMIT);
    let unscheduled =
        scheduled.high_priority.worker.level == 0 || scheduled.low_priority.worker.level == 0;
    let faults = faults(baseline, scheduled, standalone);
    Comparison {
        high_p99_ratio,
        high_throughput_share_of_rate: share_of_rate,
        low_throughput_ratio: low_ratio,
        spread: RatioSpread::of(&baseline.by_round, &scheduled.by_round),
        useful_work: standalone.map(|alone| useful_work(baseline, scheduled, alone)),
        high_latency,
        high_throughput,
        low_throughput,
        overall: overall(
            &[high_latency, high_throughput, low_throughput],
            faults.is_empty(),
        ),
        faults,
        reading: if unscheduled {
            Reading::NotInEffect
        } else {
            read(high_p99_ratio, low_ratio)
        },
    }
}

/// Rounds of this many seconds each have enough requests together for a verdict on the P99.
pub fn seconds_needed(facts: &RunFacts) -> u64 {
    (MIN_REQUESTS as f64 / facts.rate_hz / f64::from(facts.rounds)).ceil() as u64
}

fn judge(met: bool) -> Grade {
    if met { Grade::Good } else { Grade::Poor }
}

fn judge_latency(p99_ratio: f64, requests: u64, facts: &RunFacts) -> Grade {
    if requests < MIN_REQUESTS {
        let run_seconds = seconds_needed(facts);
        return Grade::NotEnoughRequests {
            requests,
            run_seconds,
        };
    }
    judge(p99_ratio < P99_LIMIT)
}

fn overall(grades: &[Grade], sound: bool) -> Overall {
    if !sound || grades.contains(&Grade::Poor) {
        Overall::Fail
    } else if grades.iter().all(|grade| *grade == Grade::Good) {
        Overall::Pass
    } else {
        Overall::NotEnoughRequests
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::examples;

    /// Verdict for a P99 ratio, a share of the rate, a share of the low throughput, and a number of
    /// requests.
    fn check(p99: f64, rate: f64, low: f64, requests: u64) -> Comparison {
        let mut baseline = examples::baseline();
        baseline.high_priority.latency_p99_ms = 100.0;
        baseline.low_priority.throughput_ips = 20.0;
        let mut scheduled = examples::scheduled();
        scheduled.high_priority.latency_p99_ms = 100.0 * p99;
        scheduled.high_priority.throughput_rps = 10.0 * rate;
        scheduled.high_priority.requests = requests;
        scheduled.low_priority.throughput_ips = 20.0 * low;
        compare(&baseline, &scheduled, None)
    }

    #[test]
    fn the_limits_are_the_documents() {
        assert_eq!(check(1.09, 0.95, 0.31, 600).overall, Overall::Pass);
        assert_eq!(check(1.10, 0.95, 0.31, 600).high_latency, Grade::Poor);
        assert_eq!(check(1.10, 0.95, 0.31, 600).overall, Overall::Fail);
        assert_eq!(check(1.09, 0.94, 0.31, 600).high_throughput, Grade::Poor);
        assert_eq!(check(1.09, 0.94, 0.31, 600).overall, Overall::Fail);
        assert_eq!(check(1.09, 0.95, 0.30, 600).low_throughput, Grade::Poor);
        assert_eq!(check(1.09, 0.95, 0.30, 600).overall, Overall::Fail);
    }

    #[test]
    fn few_requests_are_no_pass() {
        let few = check(0.5, 1.0, 0.8, 99);
        assert_eq!(
            few.high_latency,
            Grade::NotEnoughRequests {
                requests: 99,
                run_seconds: 10
            }
        );
        assert_eq!(few.overall, Overall::NotEnoughRequests);
        let three = RunFacts {
            rounds: 3,
            ..examples::facts()
        };
        assert_eq!(seconds_needed(&three), 4);
        assert_eq!(check(0.5, 1.0, 0.8, 100).overall, Overall::Pass);
        // What can be judged still fails.
        assert_eq!(check(0.5, 1.0, 0.1, 99).overall, Overall::Fail);
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
            (comparison.overall, comparison.reading),
            (Overall::Fail, Reading::NotInEffect)
        );
        assert!(comparison.faults[0].contains("resnet50-low"));

        let mut baseline = examples::baseline();
        // In one of several rounds.
        baseline.high_priority.worker.highest_level = 3;
        let comparison = compare(&baseline, &examples::scheduled(), None);
        assert_eq!(comparison.overall, Overall::Fail);
        assert!(comparison.faults[0].contains("resnet18-high"));
    }

    #[test]
    fn outputs_must_not_differ() {
        let alone = examples::standalone();
        assert_eq!(
            compare(&examples::baseline(), &examples::scheduled(), Some(&alone)).overall,
            Overall::Pass
        );
        let check = |spoil: fn(&mut PhaseResult)| {
            let mut scheduled = examples::scheduled();
            spoil(&mut scheduled);
            let comparison = compare(&examples::baseline(), &scheduled, Some(&alone));
            assert_eq!(comparison.overall, Overall::Fail);
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
