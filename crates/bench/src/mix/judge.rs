//! Limits become judged criteria: what was measured, how far it can be trusted, and what to do where
//! that is too little.

use std::collections::HashMap;

use super::{Completion, Mix, Task};
use crate::run::{Check, Contender, Grade, Kind, Run};
use crate::stats::{Figure, Interval, P99_REQUESTS, THROUGHPUT_REQUESTS, bounds_p99, summarize};
use crate::task::Arrival;

/// Most that scheduling may cost while tasks run, share of one core.
const COST_LIMIT: f64 = 0.03;
/// How much the daemon's memory may grow: this factor and this much besides.
const MEMORY_FACTOR: f64 = 1.1;
const MEMORY_SLACK_KIB: f64 = 1024.0;

/// Raw samples of all rounds by contender and task, in the order of their arrival: those of
/// [`crate::phase::Measurement::samples`].
pub(super) type Samples = HashMap<(String, String), Vec<[f64; 3]>>;

/// What the daemons of the scheduled phases held in memory, a look a second: KiB.
pub(super) type Memory = Vec<u64>;

/// What is judged.
pub(super) struct Evidence<'a> {
    pub(super) mix: &'a Mix,
    pub(super) run: &'a Run,
    pub(super) samples: &'a Samples,
    pub(super) memory: &'a Memory,
}

impl Evidence<'_> {
    /// All criteria, of the first scheduled contender.
    pub(super) fn judge(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let scheduled = self.run.contenders.iter();
        let Some(ours) = scheduled.clone().find(|one| one.kind == Kind::Scheduled) else {
            return checks;
        };
        for task in &self.mix.tasks {
            self.judge_task(task, ours, &mut checks);
        }
        checks.push(self.unscheduled(ours));
        checks.push(self.outputs());
        checks.push(self.cost(ours));
        if self.mix.soak {
            checks.extend(memory_check(self.memory));
        }
        checks
    }

    fn judge_task(&self, task: &Task, ours: &Contender, checks: &mut Vec<Check>) {
        let limits = &task.limits;
        let latencies = self.latencies(&ours.name, &task.name);
        let about = |what: &str, limit: String, unit: &str| Check {
            task: Some(task.name.clone()),
            what: what.to_owned(),
            limit,
            measured: 0.0,
            interval: None,
            unit: unit.to_owned(),
            grade: Grade::Missed,
            note: None,
        };
        let Some(summary) = summarize(&latencies) else {
            let note = "no request was completed: give a longer --duration";
            checks.push(Check {
                note: Some(note.to_owned()),
                grade: Grade::NotEnoughRequests,
                ..about("requests", "≥ 1".to_owned(), "requests")
            });
            return;
        };
        if let Some(limit) = limits.p99 {
            let limit = limit.as_secs_f64() * 1e3;
            let mut check = about("P99", format!("≤ {limit} ms"), "ms");
            check.measured = summary.p99;
            if bounds_p99(summary.count) {
                check.interval = Some(summary.p99_interval);
                check.grade = at_most(summary.p99, summary.p99_interval, limit);
            } else {
                check.grade = Grade::NotEnoughRequests;
                check.note = Some(self.longer(ours, task));
            }
            checks.push(check);
        }
        if let Some(limit) = limits.p99_standalone {
            let mut check = about("P99 ÷ standalone", format!("≤ {limit:.2}"), "×");
            let alone = self.latencies("standalone", &task.name);
            let p99_alone = summarize(&alone).map_or(f64::NAN, |alone| alone.p99);
            check.measured = summary.p99 / p99_alone;
            let seed = self.mix.seed;
            match (Figure::p99(&latencies, seed), Figure::p99(&alone, seed + 1)) {
                (Some(shared), Some(alone)) => {
                    let (ratio, interval) = shared.over(&alone);
                    (check.measured, check.interval) = (ratio, Some(interval));
                    check.grade = at_most(ratio, interval, limit);
                }
                (None, _) => {
                    check.grade = Grade::NotEnoughRequests;
                    check.note = Some(self.longer(ours, task));
                }
                (_, None) => {
                    check.grade = Grade::NotEnoughRequests;
                    check.note = Some(self.longer_alone(task, alone.len()));
                }
            }
            checks.push(check);
        }
        if let Some(limit) = limits.throughput_standalone {
            let limit_text = format!("≥ {:.0}", limit * 100.0);
            let mut check = about("throughput ÷ standalone", limit_text, "%");
            let ratio = self.throughput(&ours.name, task) / self.throughput("standalone", task);
            check.measured = ratio * 100.0;
            let gaps = |contender: &str| self.gaps(contender, &task.name);
            let seed = self.mix.seed;
            let shared = Figure::throughput(&gaps(&ours.name), seed);
            let alone = Figure::throughput(&gaps("standalone"), seed + 1);
            match (shared, alone) {
                (Some(shared), Some(alone)) => {
                    // The figure is over the whole phase; how far it can be off is that of the gaps.
                    let (of_gaps, interval) = shared.over(&alone);
                    let scale = |end: Option<f64>| end.map(|end| end / of_gaps * ratio * 100.0);
                    let interval = Interval {
                        low: scale(interval.low),
                        high: scale(interval.high),
                    };
                    check.interval = Some(interval);
                    check.grade = at_least(check.measured, interval, limit * 100.0);
                }
                _ => {
                    check.grade = Grade::NotEnoughRequests;
                    let note = format!(
                        "an interval needs {THROUGHPUT_REQUESTS} requests, alone and beside the \
                         others: give a longer --duration and --standalone"
                    );
                    check.note = Some(note);
                }
            }
            checks.push(check);
        }
        if let Some(limit) = limits.dropped {
            let mut check = about("dropped", format!("≤ {limit}"), "requests");
            let of = |task_result: &crate::run::TaskResult| task_result.dropped;
            check.measured = self.results(&ours.name, &task.name).map(of).sum::<u64>() as f64;
            check.grade = plain(check.measured <= limit as f64);
            checks.push(check);
        }
        if let Some(limit) = self.completion_ms(task) {
            let mut check = about("latest completion", format!("≤ {limit:.0}"), "ms");
            check.measured = summary.max;
            check.grade = plain(summary.max <= limit);
            checks.push(check);
        }
        if limits.p99.is_some() || limits.p99_standalone.is_some() {
            checks.extend(self.beside_native(task, &latencies));
        }
    }

    /// What the scheduler changed; shown, never a win where the intervals overlap.
    fn beside_native(&self, task: &Task, ours: &[f64]) -> Option<Check> {
        let native = self.latencies("native", &task.name);
        let seed = self.mix.seed;
        let (ours, native) = (
            Figure::p99(ours, seed + 2)?,
            Figure::p99(&native, seed + 3)?,
        );
        let (measured, interval) = ours.over(&native);
        let note = match interval {
            Interval {
                high: Some(high), ..
            } if high < 1.0 => "lower than native",
            Interval { low: Some(low), .. } if low > 1.0 => "higher than native",
            _ => "not distinguishable from native",
        };
        Some(Check {
            task: Some(task.name.clone()),
            what: "P99 ÷ native".to_owned(),
            limit: "shown".to_owned(),
            measured,
            interval: Some(interval),
            unit: "×".to_owned(),
            grade: Grade::Information,
            note: Some(note.to_owned()),
        })
    }

    fn results<'a>(
        &'a self,
        contender: &'a str,
        task: &'a str,
    ) -> impl Iterator<Item = &'a crate::run::TaskResult> {
        let phases = self.run.phases_of(contender);
        let results = phases.flat_map(|phase| &phase.tasks);
        results.filter(move |result| result.task == task)
    }

    fn samples(&self, contender: &str, task: &str) -> &[[f64; 3]] {
        let key = (contender.to_owned(), task.to_owned());
        self.samples.get(&key).map_or(&[], Vec::as_slice)
    }

    fn latencies(&self, contender: &str, task: &str) -> Vec<f64> {
        let samples = self.samples(contender, task).iter();
        samples.map(|[_, _, latency]| *latency).collect()
    }

    /// Seconds from completion to completion; a new round begins with its start.
    fn gaps(&self, contender: &str, task: &str) -> Vec<f64> {
        let mut last = 0.0;
        let gap = |&[arrival, _, latency]: &[f64; 3]| {
            let end = arrival + latency;
            let since = if end > last { last } else { 0.0 };
            last = end;
            (end - since) / 1e3
        };
        self.samples(contender, task).iter().map(gap).collect()
    }

    /// Requests per second over all rounds.
    fn throughput(&self, contender: &str, task: &Task) -> f64 {
        let (mut completed, mut seconds) = (0, 0.0);
        for result in self.results(contender, &task.name) {
            completed += result.completed;
            seconds += result.elapsed_s;
        }
        completed as f64 / seconds
    }

    fn rate(&self, task: &Task) -> Option<f64> {
        let known = self.run.tasks.iter().find(|known| known.name == task.name);
        match known?.arrival {
            Arrival::Open { rate_hz } | Arrival::Poisson { rate_hz } => Some(rate_hz),
            Arrival::Closed => None,
        }
    }

    fn completion_ms(&self, task: &Task) -> Option<f64> {
        match task.limits.completion? {
            Completion::Within(time) => Some(time.as_secs_f64() * 1e3),
            Completion::Period => self.rate(task).map(|rate| 1e3 / rate),
        }
    }

    /// How long the phases must be for a verdict on the P99.
    fn longer(&self, ours: &Contender, task: &Task) -> String {
        let rate = self.throughput(&ours.name, task);
        let seconds = P99_REQUESTS as f64 / rate / f64::from(self.mix.rounds);
        needs("--duration", seconds)
    }

    fn longer_alone(&self, task: &Task, completed: usize) -> String {
        let rate = self.throughput("standalone", task);
        match completed {
            0 => "the task completed nothing alone: give a longer --standalone".to_owned(),
            _ => needs("--standalone", P99_REQUESTS as f64 / rate),
        }
    }

    /// Tasks that our scheduler did not hold; of a command nobody knows.
    fn unscheduled(&self, ours: &Contender) -> Check {
        let is_command = |name: &str| {
            let mut tasks = self.mix.tasks.iter();
            tasks.any(|task| task.name == name && task.command.is_some())
        };
        let results = self
            .run
            .phases_of(&ours.name)
            .flat_map(|phase| &phase.tasks);
        let mut names: Vec<&str> = results
            .filter(|result| result.level == 0 && !is_command(&result.task))
            .map(|result| result.task.as_str())
            .collect();
        names.dedup();
        let note = (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!("{names} ran unscheduled: `xsched doctor` says why")
        });
        whole("unscheduled tasks", names.len(), note)
    }

    /// Tasks whose outputs are not the same in every phase and request.
    fn outputs(&self) -> Check {
        let differs = |task: &&Task| {
            let all = self.run.phases.iter().flat_map(|phase| &phase.tasks);
            let mut all = all.filter(|result| result.task == task.name && result.completed > 0);
            let first = all.clone().next().map(|result| &result.output_digest);
            all.any(|result| !result.outputs_equal || Some(&result.output_digest) != first)
        };
        let names: Vec<&str> = self
            .mix
            .tasks
            .iter()
            .filter(differs)
            .map(|task| task.name.as_str())
            .collect();
        let note = (!names.is_empty()).then(|| format!("{} computed other bits", names.join(", ")));
        whole("tasks with other outputs", names.len(), note)
    }

    /// Daemon and agents, share of one core over all scheduled phases.
    fn cost(&self, ours: &Contender) -> Check {
        let mut phases = self.run.phases_of(&ours.name);
        let total = phases.try_fold((0.0, 0.0), |(cost, time), phase| {
            Some((cost + phase.scheduler_cpu_s?, time + phase.duration_s))
        });
        let mut check = whole("scheduling, of one core", 0, None);
        check.limit = format!("≤ {:.0}", COST_LIMIT * 100.0);
        check.unit = "%".to_owned();
        match total {
            Some((cost, time)) if time > 0.0 => {
                check.measured = cost / time * 100.0;
                check.grade = plain(cost / time <= COST_LIMIT);
            }
            _ => {
                check.grade = Grade::Information;
                check.note = Some("not measured".to_owned());
            }
        }
        check
    }
}

/// A criterion of the whole run that nothing may count against.
fn whole(what: &str, count: usize, note: Option<String>) -> Check {
    Check {
        task: None,
        what: what.to_owned(),
        limit: "≤ 0".to_owned(),
        measured: count as f64,
        interval: None,
        unit: "tasks".to_owned(),
        grade: plain(count == 0),
        note,
    }
}

/// The daemon's memory at the end against that after a quarter of the time; `None` for too few looks.
fn memory_check(memory: &[u64]) -> Option<Check> {
    let (early, late) = (memory.get(memory.len() / 4)?, memory.last()?);
    let limit = *early as f64 * MEMORY_FACTOR + MEMORY_SLACK_KIB;
    let mut check = whole("daemon's memory at the end", 0, None);
    check.limit = format!("≤ {limit:.0}");
    check.unit = "KiB".to_owned();
    check.measured = *late as f64;
    check.grade = plain(check.measured <= limit);
    Some(check)
}

fn needs(option: &str, seconds: f64) -> String {
    format!(
        "a P99 verdict needs {P99_REQUESTS} requests: {option} {:.0}s or longer",
        seconds.ceil()
    )
}

fn plain(met: bool) -> Grade {
    if met { Grade::Met } else { Grade::Missed }
}

fn at_most(measured: f64, interval: Interval, limit: f64) -> Grade {
    match interval.high {
        _ if measured > limit => Grade::Missed,
        Some(high) if high <= limit => Grade::Met,
        _ => Grade::NotDistinguishable,
    }
}

fn at_least(measured: f64, interval: Interval, limit: f64) -> Grade {
    match interval.low {
        _ if measured < limit => Grade::Missed,
        Some(low) if low >= limit => Grade::Met,
        _ => Grade::NotDistinguishable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grade_follows_from_figure_interval_and_limit() {
        let interval = |low, high| Interval {
            low: Some(low),
            high: Some(high),
        };
        assert_eq!(at_most(1.0, interval(0.9, 1.1), 1.6), Grade::Met);
        assert_eq!(
            at_most(1.5, interval(1.2, 1.7), 1.6),
            Grade::NotDistinguishable
        );
        assert_eq!(at_most(1.7, interval(1.5, 1.9), 1.6), Grade::Missed);
        assert_eq!(at_least(0.5, interval(0.4, 0.6), 0.2), Grade::Met);
        assert_eq!(
            at_least(0.3, interval(0.1, 0.6), 0.2),
            Grade::NotDistinguishable
        );
        assert_eq!(at_least(0.1, interval(0.0, 0.6), 0.2), Grade::Missed);
        let open = Interval {
            low: None,
            high: None,
        };
        assert_eq!(at_most(1.0, open, 1.6), Grade::NotDistinguishable);
    }

    #[test]
    fn memory_is_flat_when_its_end_is_no_higher_than_its_beginning() {
        let grade = |memory: &[u64]| memory_check(memory).map(|check| check.grade);
        assert_eq!(grade(&[]), None);
        let mut memory = vec![8_000; 40];
        assert_eq!(grade(&memory), Some(Grade::Met));
        memory.push(12_000);
        assert_eq!(grade(&memory), Some(Grade::Missed));
    }
}
