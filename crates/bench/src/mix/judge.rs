//! Limits become judged criteria: what was measured, how far it can be trusted, and what to do where
//! that is too little.

use std::collections::HashMap;

use super::{Completion, Mix, Task};
use crate::criteria::{self, Completed, Limit};
use crate::run::{Check, Contender, Grade, Kind, Run};
use crate::stats::{Interval, P99_REQUESTS, bounds_p99, summarize};
use crate::task::Arrival;

/// How much the daemon's memory may grow: this factor and this much besides.
const MEMORY_FACTOR: f64 = 1.1;
const MEMORY_SLACK_KIB: f64 = 1024.0;

/// Raw samples of each round by contender and task, in the order of their arrival: those of
/// [`crate::phase::Measurement::samples`].
pub(super) type Samples = HashMap<(String, String), Vec<Vec<[f64; 3]>>>;

/// What is judged.
pub(super) struct Evidence<'a> {
    pub(super) mix: &'a Mix,
    pub(super) run: &'a Run,
    pub(super) samples: &'a Samples,
    /// What the daemons of the scheduled phases held in memory, a look a second: KiB.
    pub(super) memory: &'a [u64],
    /// Queues that each of them had when all programs had ended; `None` if it did not say.
    pub(super) queues_left: &'a [Option<usize>],
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
        checks.push(criteria::cost(self.run.phases_of(&ours.name)));
        checks.push(queues_check(self.queues_left));
        if self.mix.soak {
            checks.extend(memory_check(self.memory));
        }
        checks
    }

    fn judge_task(&self, task: &Task, ours: &Contender, checks: &mut Vec<Check>) {
        let limits = &task.limits;
        let latencies = self.latencies(&ours.name, &task.name);
        let about = |what: &str, limit, unit| criteria::open(Some(&task.name), what, limit, unit);
        let Some(summary) = summarize(&latencies) else {
            let note = "no request was completed: give a longer --duration";
            checks.push(Check {
                note: Some(note.to_owned()),
                ..about("requests", Limit::AtLeast(1.0).text(0), "requests")
            });
            return;
        };
        if let Some(limit) = limits.p99 {
            let limit_ms = limit.as_secs_f64() * 1e3;
            let mut check = about("P99", format!("≤ {limit_ms}"), "ms");
            check.measured = summary.p99;
            let interval = summary.p99_interval;
            // Few requests can prove a miss, and nothing else.
            let is_missed = interval.low.is_some_and(|low| low > limit_ms);
            if is_missed || bounds_p99(summary.count) {
                let limit = Limit::AtMost(limit_ms);
                check = criteria::judged(check, summary.p99, Some(interval), limit);
            } else {
                check.note = Some(self.longer(ours, task));
            }
            checks.push(check);
        }
        if let Some(limit) = limits.p99_standalone {
            let limit = Limit::AtMost(limit);
            let mut check = about("P99 ÷ standalone", limit.text(2), "×");
            let alone = self.latencies("standalone", &task.name);
            match criteria::p99_ratio(&latencies, &alone, self.mix.seed) {
                Some((ratio, interval)) => {
                    check = criteria::judged(check, ratio, Some(interval), limit);
                }
                None => {
                    let p99_alone = summarize(&alone).map_or(f64::NAN, |alone| alone.p99);
                    check.measured = summary.p99 / p99_alone;
                    check.note = Some(match latencies.len() as u64 {
                        P99_REQUESTS.. => self.longer_alone(task, alone.len()),
                        _ => self.longer(ours, task),
                    });
                }
            }
            checks.push(check);
        }
        if let Some(limit) = limits.throughput_standalone {
            let limit = Limit::AtLeast(limit * 100.0);
            let check = about("throughput ÷ standalone", limit.text(0), "%");
            let (shared, alone) = (
                self.completed(&ours.name, task),
                self.completed("standalone", task),
            );
            let seed = self.mix.seed;
            checks.push(criteria::throughput(check, &shared, &alone, limit, seed));
        }
        if let Some(limit) = limits.dropped {
            let of = |task_result: &crate::run::TaskResult| task_result.dropped;
            let dropped = self.results(&ours.name, &task.name).map(of).sum::<u64>() as f64;
            let limit = Limit::AtMost(limit as f64);
            let check = about("dropped", limit.text(0), "requests");
            checks.push(criteria::judged(check, dropped, None, limit));
        }
        if let Some(limit) = self.completion_ms(task) {
            let limit = Limit::AtMost(limit);
            let check = about("latest completion", limit.text(0), "ms");
            checks.push(criteria::judged(check, summary.max, None, limit));
        }
        if limits.p99.is_some() || limits.p99_standalone.is_some() {
            checks.extend(self.beside_native(task, &latencies));
        }
    }

    /// What the scheduler changed; shown, never a win where the intervals overlap.
    fn beside_native(&self, task: &Task, ours: &[f64]) -> Option<Check> {
        let native = self.latencies("native", &task.name);
        let (measured, interval) = criteria::p99_ratio(ours, &native, self.mix.seed + 2)?;
        let note = match interval {
            Interval {
                high: Some(high), ..
            } if high < 1.0 => "lower than native",
            Interval { low: Some(low), .. } if low > 1.0 => "higher than native",
            _ => "not distinguishable from native",
        };
        Some(Check {
            interval: Some(interval),
            note: Some(note.to_owned()),
            ..criteria::information(Some(&task.name), "P99 ÷ native", measured, "×")
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

    fn samples(&self, contender: &str, task: &str) -> &[Vec<[f64; 3]>] {
        let key = (contender.to_owned(), task.to_owned());
        self.samples.get(&key).map_or(&[], Vec::as_slice)
    }

    fn latencies(&self, contender: &str, task: &str) -> Vec<f64> {
        let samples = self.samples(contender, task).iter().flatten();
        samples.map(|[_, _, latency]| *latency).collect()
    }

    fn completed(&self, contender: &str, task: &Task) -> Completed {
        let samples = self.samples(contender, &task.name);
        Completed::new(self.throughput(contender, task), samples)
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
        criteria::needs(&format!("--duration {:.0}s", seconds.ceil()))
    }

    fn longer_alone(&self, task: &Task, completed: usize) -> String {
        let rate = self.throughput("standalone", task);
        match completed {
            0 => "the task completed nothing alone: give a longer --standalone".to_owned(),
            _ => {
                let seconds = (P99_REQUESTS as f64 / rate).ceil();
                criteria::needs(&format!("--standalone {seconds:.0}s"))
            }
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
        let commands = self.mix.tasks.iter().filter(|task| task.command.is_some());
        let commands: Vec<&str> = commands.map(|task| task.name.as_str()).collect();
        let note = match (names.is_empty(), commands.is_empty()) {
            (false, _) => Some(format!(
                "{} ran unscheduled: `xsched doctor` says why",
                names.join(", ")
            )),
            (true, false) => Some(format!(
                "whether {} used a device is not known: a command",
                commands.join(", ")
            )),
            (true, true) => None,
        };
        criteria::none_of("unscheduled tasks", names.len(), "tasks", note)
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
        criteria::none_of("tasks with other outputs", names.len(), "tasks", note)
    }
}

/// Queues must not outlive their programs.
fn queues_check(left: &[Option<usize>]) -> Check {
    let count = left.iter().flatten().sum();
    let silent = left.contains(&None);
    let note = silent.then(|| "a daemon did not answer `xsched list` at the end".to_owned());
    let check = criteria::none_of(
        "queues left after their programs' end",
        count,
        "queues",
        note,
    );
    match silent {
        true => Check {
            grade: Grade::Missed,
            ..check
        },
        false => check,
    }
}

/// The daemon's memory at the end against that after a quarter of the time; `None` for too few looks.
fn memory_check(memory: &[u64]) -> Option<Check> {
    let (early, late) = (memory.get(memory.len() / 4)?, memory.last()?);
    let limit = *early as f64 * MEMORY_FACTOR + MEMORY_SLACK_KIB;
    let limit = Limit::AtMost(limit);
    let check = criteria::open(None, "daemon's memory at the end", limit.text(0), "KiB");
    Some(criteria::judged(check, *late as f64, None, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_outlives_its_program_is_lost() {
        let check = |left: &[Option<usize>], measured, grade| {
            let check = queues_check(left);
            assert_eq!((check.measured, check.grade), (measured, grade), "{left:?}");
        };
        check(&[Some(0), Some(0)], 0.0, Grade::Met);
        check(&[Some(0), Some(2), Some(1)], 3.0, Grade::Missed);
        check(&[Some(0), None], 0.0, Grade::Missed);
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
