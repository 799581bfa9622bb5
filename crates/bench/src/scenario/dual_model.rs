//! Scenario `dual-model`: an urgent ResNet-18 under a steady load next to a greedy ResNet-50,
//! unscheduled, then scheduled.

mod load;
mod record;

use std::io::Write;
use std::time::Duration;

use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use super::Scenario;
use super::options::Only;
use crate::console::Console;
use crate::daemon::DEFAULT_POLICY;
use crate::manifest::{self, Manifest, stamp, timestamp};
use crate::phase::{Failure, Measurement};
use crate::report::{self, FailureNote, Record, html};
use crate::results::{
    HighResult, LowResult, MODE_BASELINE, MODE_SCHEDULED, MODE_STANDALONE, PhaseResult, RunFacts,
    StandaloneResult,
};
use crate::rounds::{RoundResult, Spread};
use crate::run::{self, Run};
use crate::session::{Scheduled, Session, Settings, Stop, samples_file};
use crate::stats::P99_REQUESTS;
use crate::store::{Store, json_text};
use crate::task::{Arrival, TaskSpec};
use crate::verdict::{Evidence, compare, seconds_needed};
use crate::{Context, Outcome, criteria};
use load::{DOCUMENT_LOW_BATCH, DefaultRate, MOST_ROUNDS, Options, Profile};

const TEST_NAME: &str = "phase4_dual_model";

const STANDALONE: &str = "standalone_result.json";
const BASELINE: &str = "baseline_result.json";
const SCHEDULED: &str = "xsched_result.json";
const REPORT: &str = "phase4_dual_model_report.md";
const LOGS: &str = "logs/";

/// Phases with one task.
const PEAK: &str = "standalone-peak";
const ALONE_HIGH: &str = "standalone-high";
const ALONE_LOW: &str = "standalone-low";

/// Requests that every worker runs before it is ready.
const WARMUP: u32 = 10;

/// Length of a phase unless it is asked for, and the longest that follows from what the verdict needs.
const USUAL: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(300);
/// So many times the requests that the verdict needs.
const MARGIN: f64 = 1.05;

/// Longest time of a task alone: back to back, and at the rate of the run where a verdict on its P99
/// needs no longer.
const SHORT: Duration = Duration::from_secs(10);
const SHORT_AT_RATE: Duration = Duration::from_secs(30);

/// The scenario.
pub(super) struct DualModel;

impl Scenario for DualModel {
    fn name(&self) -> &'static str {
        "dual-model"
    }

    fn measures(&self) -> &'static str {
        "An urgent ResNet-18 at a steady rate next to a back-to-back ResNet-50: without, then with \
         the scheduler"
    }

    fn passes_when(&self) -> &'static str {
        "high-priority P99 < 110% of the baseline's, its throughput >= 95% of the rate, \
         low-priority throughput > 30% of the baseline's, with their whole intervals; daemon and agents \
         take <= 3% of one core. With --only there is nothing to compare: \
         exit code 0 means that the phase was measured."
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        let profile = options.check()?;
        let open = match options.common.only {
            None => Store::open,
            Some(_) => Store::open_any,
        };
        let store = open(
            options.common.out.as_deref(),
            options.common.output.as_deref(),
            &stamp(),
        )?;
        Experiment::new(&options, profile, store, context).run()
    }
}

struct Experiment<'a> {
    options: &'a Options,
    profile: &'static Profile,
    session: Session,
    context: &'a mut Context,
    record: Record,
    /// Length of a phase.
    duration: Duration,
    /// The same run in the terms of all scenarios.
    run: Run,
    /// What the rounds so far have measured, by phase: the high-priority task, then the others.
    baseline: Vec<Vec<Measurement>>,
    scheduled: Vec<Vec<Measurement>>,
    /// The same of single tasks: before the first round the high-priority model back to back, where its peak sets the
    /// rate, then each task alone.
    alone: Vec<Vec<Measurement>>,
    peak: Option<LowResult>,
    /// When measuring began, with the time zone's offset.
    started: String,
}

impl<'a> Experiment<'a> {
    fn new(
        options: &'a Options,
        profile: &'static Profile,
        store: Store,
        context: &'a mut Context,
    ) -> Experiment<'a> {
        let common = &options.common;
        let people = if common.json {
            &mut context.stderr
        } else {
            &mut context.stdout
        };
        let people = std::mem::replace(people, Box::new(std::io::sink()));
        let console = Console::new(people, context.interactive, 5);
        let settings = Settings {
            device: profile.device.name().to_owned(),
            seed: common.seed,
            warmup: WARMUP,
            level: common.level.number(),
        };
        let limits = common.limits(context.limits);
        let mut session = Session::new(context, console, store, settings, limits);
        session.trace = common.trace;
        let manifest = Manifest::now(DualModel.name(), context.command.clone(), &context.version);
        let run = record::start(manifest.clone(), profile.device.name(), common.only);
        let duration = common.duration.unwrap_or(USUAL);
        let record = Record {
            manifest,
            duration: duration.as_secs_f64(),
            only: common.only.map(|only| only.name().to_owned()),
            facts: None,
            notes: Vec::new(),
            standalone: None,
            baseline: None,
            scheduled: None,
            comparison: None,
            failure: None,
            files: Vec::new(),
        };
        Experiment {
            options,
            profile,
            session,
            context,
            record,
            duration,
            run,
            baseline: Vec::new(),
            scheduled: Vec::new(),
            alone: Vec::new(),
            peak: None,
            started: timestamp(),
        }
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        self.forget_earlier_run()?;
        self.session.keep(manifest::FILE, &self.record.manifest)?;
        self.session.keep(run::FILE, &self.run)?;
        let stopped = match self.measure() {
            Ok(()) => None,
            Err(Stop::Phase(failed)) => Some(failed),
            Err(Stop::Error(error)) => return Err(error),
        };
        let interrupted = stopped.as_ref().is_some_and(|failed| failed.interrupted);
        self.run.failure = stopped.as_ref().map(|failed| run::Failure {
            phase: failed.phase.clone(),
            message: failed.message.clone(),
            partial_samples: failed.partial_samples.clone(),
        });
        self.record.failure = stopped.map(|failed| FailureNote {
            phase: failed.phase,
            message: failed.message,
            missing: self.missing(),
            partial_samples: failed.partial_samples,
        });
        self.compare();
        self.end_record()?;
        self.write_report()?;
        Ok(match interrupted {
            true => Outcome::Interrupted,
            false => self.record.verdict().outcome(self.options.common.quick),
        })
    }

    /// The phases that have a result file, whether this run includes them, how many of their rounds
    /// it has finished, and how many there are.
    fn phases(&self) -> [(&'static str, &'static str, bool, u32, u32); 3] {
        let (common, record) = (&self.options.common, &self.record);
        let rounds = self.options.rounds;
        let finished = |result: &Option<PhaseResult>| {
            let result = result.as_ref();
            result.map_or(0, |result| result.by_round.len() as u32)
        };
        // Each round has a phase of either task.
        let alone = self.run.phases_of(record::STANDALONE).count() as u32 / 2;
        let (before, after) = (finished(&record.baseline), finished(&record.scheduled));
        let (baseline, scheduled) = (common.runs(Only::Baseline), common.runs(Only::Scheduled));
        [
            (
                "standalone",
                STANDALONE,
                common.only.is_none(),
                alone,
                rounds,
            ),
            ("baseline", BASELINE, baseline, before, rounds),
            ("scheduled", SCHEDULED, scheduled, after, rounds),
        ]
    }

    /// Phases of this run that have no result, or not of all their rounds.
    fn missing(&self) -> Vec<String> {
        let phases = self.phases().into_iter();
        let missing = phases.filter(|(_, _, included, finished, all)| *included && finished < all);
        missing
            .map(|(name, _, _, finished, all)| match finished {
                0 => name.to_owned(),
                _ => format!("{name} after round {finished} of {all}"),
            })
            .collect()
    }

    /// Removes the files that this run is going to write; those of a phase that it leaves out stay.
    fn forget_earlier_run(&self) -> anyhow::Result<()> {
        self.session
            .store
            .forget(&[manifest::FILE, REPORT, run::FILE, html::FILE])?;
        for (phase, result, ..) in self.phases().into_iter().filter(|phase| phase.2) {
            self.session.store.forget(&[result])?;
            self.session.forget_samples(phase)?;
            for round in 1..=MOST_ROUNDS {
                self.session.forget_samples(&round_name(phase, round))?;
            }
        }
        self.session.forget_samples(PEAK)
    }

    fn measure(&mut self) -> Result<(), Stop> {
        let facts = self.prepare()?;
        // In turn, so that whatever changes slowly on the machine changes all.
        for round in 1..=facts.rounds {
            if self.options.common.only.is_none() {
                self.round_alone(round, &facts)?;
            }
            for (stage, phase) in [(2, Only::Baseline), (3, Only::Scheduled)] {
                if self.options.common.runs(phase) {
                    self.announce(stage, phase, round);
                    self.round(phase, round, &facts)?;
                } else if round == 1 {
                    let only = self.options.common.only.map_or("", Only::name);
                    let text = format!("{}: left out (--only {only})", phase.name());
                    self.session.console.stage(stage, &text);
                }
            }
        }
        Ok(())
    }

    fn announce(&mut self, stage: usize, phase: Only, round: u32) {
        let round = self.numbered(round);
        let seconds = self.duration.as_secs_f64();
        let tasks = match self.options.low_copies {
            1 => "both tasks".to_owned(),
            copies => format!("all {} tasks", copies + 1),
        };
        let how = match phase {
            Only::Baseline => "unscheduled",
            Only::Scheduled => "under XSched",
        };
        let text = format!("{}: {seconds} s, {tasks} {how}{round}", phase.name());
        self.session.console.stage(stage, &text);
    }

    /// Which round it is, where there are several.
    fn numbered(&self, round: u32) -> String {
        match self.options.rounds {
            1 => String::new(),
            rounds => format!(" (round {round} of {rounds})"),
        }
    }

    /// Settles rate, batch and the length of a phase.
    fn prepare(&mut self) -> Result<RunFacts, Stop> {
        let dir = self.session.store.dir().display().to_string();
        self.session
            .console
            .stage(1, "prepare: rate, batch and length of a phase");
        self.session
            .console
            .line(&format!("      results go to {dir}"));
        let (rate_hz, rate_origin) = match (self.options.rate, &self.profile.rate) {
            (Some(rate), _) => (rate, "as given by --rate".to_owned()),
            (None, DefaultRate::Hz(rate)) => (*rate, "the default".to_owned()),
            (None, DefaultRate::ShareOfPeak(share)) => {
                let peak = self.peak()?;
                let rate = two_digits(peak.throughput_ips * share);
                let origin = format!(
                    "{:.0}% of the measured standalone peak of {:.2} requests/s, as the device \
                     is {}",
                    share * 100.0,
                    peak.throughput_ips,
                    self.profile.device.name()
                );
                (rate, origin)
            }
        };
        let facts = RunFacts {
            device: self.profile.device.name().to_owned(),
            seed: self.options.common.seed,
            warmup: WARMUP,
            rate_hz,
            rate_origin,
            low_batch: self.options.low_batch(self.profile),
            low_copies: self.options.low_copies,
            cuda_graph: self.options.cuda_graph,
            rounds: self.options.rounds,
        };
        self.record.facts = Some(facts.clone());
        self.extend(&facts);
        self.note_defaults(&facts);
        let high = self.options.high_task(Arrival::Open { rate_hz });
        let low = self.options.low_tasks(facts.low_batch);
        self.run.tasks = std::iter::once(&high)
            .chain(&low)
            .map(record::task)
            .collect();
        Ok(facts)
    }

    /// Makes the phases as long as the verdict on the P99 needs, unless their length is asked for.
    fn extend(&mut self, facts: &RunFacts) {
        let needed = P99_REQUESTS as f64 * MARGIN / facts.rate_hz / f64::from(facts.rounds);
        let needed = Duration::from_secs_f64(needed.ceil().min(LONGEST.as_secs_f64()));
        if self.options.common.duration.is_none() && needed > self.duration {
            self.duration = needed;
            self.record.duration = needed.as_secs_f64();
            let note = format!(
                "Phases of {} s, as the verdict on the P99 needs {P99_REQUESTS} requests.",
                needed.as_secs()
            );
            self.session.console.line(&format!("      {note}"));
            self.record.notes.push(note);
        }
    }

    /// How long the high-priority task runs alone at its rate, in all rounds together: until its P99 is known as well as
    /// that of the phases, but no longer than all rounds of one.
    fn alone_for(&self, facts: &RunFacts) -> Duration {
        let short = SHORT_AT_RATE.min(self.duration / 3);
        if self.options.common.quick {
            return short;
        }
        let needed = (P99_REQUESTS as f64 * MARGIN / facts.rate_hz).ceil();
        let needed = needed.min(LONGEST.as_secs_f64());
        let most = short.max(self.duration * facts.rounds);
        Duration::from_secs_f64(needed).clamp(short, most)
    }

    /// How long a task runs alone and back to back, in all rounds together.
    fn short(&self) -> Duration {
        SHORT.min(self.duration / 3)
    }

    /// What the high-priority model reaches alone and back to back.
    fn peak(&mut self) -> Result<LowResult, Stop> {
        let duration = self.short();
        let measured = self.alone(PEAK, self.options.peak_task(), duration)?;
        let result = LowResult::new(
            &measured.task.name,
            &[std::slice::from_ref(&measured)],
            duration,
        );
        let result = self.some(PEAK, result)?;
        self.alone.push(vec![measured]);
        self.peak = Some(result.clone());
        Ok(result)
    }

    /// Runs one task alone and unscheduled.
    fn alone(
        &mut self,
        name: &str,
        task: TaskSpec,
        duration: Duration,
    ) -> Result<Measurement, Stop> {
        let mut measured = self.session.unscheduled(name, vec![task], duration)?;
        self.session.keep_log(name, &measured)?;
        let measured = measured
            .pop()
            .expect("a finished phase has a result of every task");
        match measured.completed {
            0 => Err(self.session.reject(name, Failure::Nothing)),
            _ => Ok(measured),
        }
    }

    /// A round of each task alone.
    fn round_alone(&mut self, round: u32, facts: &RunFacts) -> Result<(), Stop> {
        let text = format!("standalone: each task alone{}", self.numbered(round));
        self.session.console.stage(1, &text);
        let rate_hz = facts.rate_hz;
        let high = self.options.high_task(Arrival::Open { rate_hz });
        let low = self.options.low_tasks(facts.low_batch).into_iter().next();
        let low = low.expect("there is a low-priority task");
        let names = [high.name.clone(), low.name.clone()];
        let longer = high.arrival.whole(self.alone_for(facts) / facts.rounds);
        let short = self.short() / facts.rounds;
        if self.alone.len() < round as usize {
            self.alone.push(Vec::new());
        }
        for (phase, task, duration) in [(ALONE_HIGH, high, longer), (ALONE_LOW, low, short)] {
            let started = timestamp();
            let one = [self.alone(&self.phase_name(phase, round), task, duration)?];
            self.alone[round as usize - 1].extend_from_slice(&one);
            let contender = record::STANDALONE;
            self.session.keep_samples(contender, &self.alone)?;
            self.note_phase(contender, round, started, duration, &one, None, contender)?;
        }
        let [high, low] = names.each_ref().map(|name| of_task(&self.alone, name));
        let high = HighResult::new(&high.collect::<Vec<_>>(), longer);
        let low: Vec<&[Measurement]> = low.map(std::slice::from_ref).collect();
        let low = LowResult::new(&self.options.low_task(facts.low_batch).name, &low, short);
        let result = StandaloneResult {
            test_name: TEST_NAME.into(),
            mode: MODE_STANDALONE.into(),
            duration: longer.as_secs_f64() * f64::from(round),
            timestamp: self.started.clone(),
            high_priority_peak: self.peak.clone(),
            high_priority: self.some(ALONE_HIGH, high)?,
            low_priority: self.some(ALONE_LOW, low)?,
            facts: facts.clone(),
            samples_file: samples_file(record::STANDALONE),
        };
        self.session.keep(STANDALONE, &result)?;
        self.record.standalone = Some(result);
        Ok(())
    }

    /// Name of a phase in a round: its number is left out where there is but one.
    fn phase_name(&self, phase: &str, round: u32) -> String {
        match self.options.rounds {
            1 => phase.to_owned(),
            _ => round_name(phase, round),
        }
    }

    /// Writes the record with one more phase, whose samples are kept already.
    #[allow(clippy::too_many_arguments)]
    fn note_phase(
        &mut self,
        contender: &str,
        round: u32,
        started: String,
        duration: Duration,
        measured: &[Measurement],
        scheduler_cpu_s: Option<f64>,
        samples: &str,
    ) -> anyhow::Result<()> {
        let file = samples_file(samples);
        let mut phase = record::phase(
            contender,
            round,
            started,
            duration,
            measured,
            scheduler_cpu_s,
            file,
        );
        phase.trace_file = self.session.trace_file.take();
        self.run.phases.push(phase);
        self.run.failure = Some(run::Failure::unfinished(&format!(
            "after {samples}, round {round}"
        )));
        self.record.notes.append(&mut self.session.notes);
        self.run.notes.clone_from(&self.record.notes);
        self.session.keep(run::FILE, &self.run)
    }

    /// Writes the record of a run that has ended.
    fn end_record(&mut self) -> anyhow::Result<()> {
        self.run.notes.clone_from(&self.record.notes);
        self.run.checks = match &self.record.comparison {
            Some(comparison) => comparison.checks(),
            // A phase alone is not judged, but what scheduling cost is known.
            None => {
                let scheduled = self.run.phases_of(record::contender(Only::Scheduled));
                criteria::cost_shown(scheduled).into_iter().collect()
            }
        };
        self.session.keep(run::FILE, &self.run)?;
        Ok(())
    }

    /// Runs all tasks at once, and writes what this round and those before have measured.
    fn round(&mut self, phase: Only, round: u32, facts: &RunFacts) -> Result<(), Stop> {
        let started = timestamp();
        let duration = self.duration;
        let rate_hz = facts.rate_hz;
        let mut tasks = vec![self.options.high_task(Arrival::Open { rate_hz })];
        tasks.extend(self.options.low_tasks(facts.low_batch));
        let name = self.phase_name(phase.name(), round);
        let (mode, file) = match phase {
            Only::Baseline => (MODE_BASELINE, BASELINE),
            Only::Scheduled => (MODE_SCHEDULED, SCHEDULED),
        };
        let (measured, scheduler_cpu_s) = match phase {
            Only::Baseline => (self.session.unscheduled(&name, tasks, duration)?, None),
            Only::Scheduled => {
                let session = &mut self.session;
                let Scheduled {
                    measured,
                    scheduler_cpu_s,
                    ..
                } = session.scheduled(&name, tasks, duration, DEFAULT_POLICY)?;
                (measured, scheduler_cpu_s)
            }
        };
        let log = round_name(phase.name(), round);
        self.session.keep_log(&log, &measured)?;
        let (rounds, earlier) = match phase {
            Only::Baseline => (&mut self.baseline, &self.record.baseline),
            Only::Scheduled => (&mut self.scheduled, &self.record.scheduled),
        };
        rounds.push(measured);
        let low_name = self.options.low_task(facts.low_batch).name;
        let (high, low) = pool(&low_name, &rounds[rounds.len() - 1..], duration);
        let pooled = pool(&low_name, rounds, duration);
        let (mut by_round, first_started) = match earlier {
            Some(earlier) => (earlier.by_round.clone(), earlier.timestamp.clone()),
            None => (Vec::new(), started.clone()),
        };
        self.session.keep_samples(phase.name(), rounds)?;
        let measured = rounds.last().expect("it was pushed just now").clone();
        self.note_phase(
            record::contender(phase),
            round,
            started,
            duration,
            &measured,
            scheduler_cpu_s,
            phase.name(),
        )?;

        let (high, low) = (self.some(&name, high)?, self.some(&name, low)?);
        by_round.push(RoundResult::new(&high, &low));
        let result = PhaseResult {
            test_name: TEST_NAME.into(),
            mode: mode.into(),
            duration: duration.as_secs_f64(),
            timestamp: first_started,
            high_priority: self.some(&name, pooled.0)?,
            low_priority: self.some(&name, pooled.1)?,
            facts: facts.clone(),
            spread: Spread::of(&by_round),
            by_round,
            samples_file: samples_file(phase.name()),
        };
        self.session.keep(file, &result)?;
        match phase {
            Only::Baseline => self.record.baseline = Some(result),
            Only::Scheduled => self.record.scheduled = Some(result),
        }
        Ok(())
    }

    /// A result, or the failure that the task completed nothing.
    fn some<T>(&mut self, phase: &str, result: Option<T>) -> Result<T, Stop> {
        result.ok_or_else(|| self.session.reject(phase, Failure::Nothing))
    }

    /// Says how the defaults were scaled, and whether the duration is enough for a verdict.
    fn note_defaults(&mut self, facts: &RunFacts) {
        let RunFacts {
            rate_hz,
            rate_origin,
            low_batch,
            device,
            rounds,
            ..
        } = facts;
        let mut notes = Vec::new();
        let scaled = matches!(self.profile.rate, DefaultRate::ShareOfPeak(_));
        if self.options.rate.is_none() && scaled {
            notes.push(format!(
                "Rate {rate_hz} requests/s: {rate_origin} (--rate sets it)."
            ));
            if self.options.common.only.is_some() {
                notes.push(format!(
                    "Compare with another phase at the same rate only: --rate {rate_hz}."
                ));
            }
        }
        let by_default = self.options.low_batch.is_none() && self.options.low_has_batch();
        if by_default && *low_batch != DOCUMENT_LOW_BATCH {
            notes.push(format!(
                "Low-priority batch {low_batch} instead of {DOCUMENT_LOW_BATCH}, as the device is \
                 {device} (--low-batch sets it)."
            ));
        }
        let task = self.options.high_task(Arrival::Open { rate_hz: *rate_hz });
        let due = task.requests_due(self.duration);
        let due = due.unwrap_or(0) * u64::from(*rounds);
        if due < P99_REQUESTS {
            let times = match rounds {
                1 => String::new(),
                _ => format!("{rounds} times "),
            };
            notes.push(format!(
                "A phase of {times}{} s has {due} requests; {}.",
                self.duration.as_secs_f64(),
                criteria::needs(&format!("--duration {}", seconds_needed(facts)))
            ));
        }
        for note in &notes {
            self.session.console.line(&format!("      {note}"));
        }
        self.record.notes.extend(notes);
    }

    fn compare(&mut self) {
        let (record, console) = (&mut self.record, &mut self.session.console);
        let complete = record.failure.is_none();
        let (Some(baseline), Some(scheduled), true) =
            (&record.baseline, &record.scheduled, complete)
        else {
            let why = if complete {
                "one phase alone"
            } else {
                "a phase is missing"
            };
            console.stage(4, &format!("compare: nothing to compare, {why}"));
            for phase in [&record.baseline, &record.scheduled].into_iter().flatten() {
                console.line(&format!("\n{}", report::phase(phase)));
            }
            return;
        };
        console.stage(4, "compare");
        let alone: Vec<[f64; 3]> = of_task(&self.alone, &baseline.high_priority.task)
            .flat_map(|measured| measured.samples.iter().copied())
            .collect();
        let evidence = Evidence {
            baseline,
            scheduled,
            standalone: record.standalone.as_ref(),
            alone: &alone,
            before: &record::samples(&self.baseline),
            after: &record::samples(&self.scheduled),
            cost: &criteria::cost(self.run.phases_of(record::contender(Only::Scheduled))),
        };
        let comparison = compare(&evidence);
        let table = report::comparison(baseline, scheduled, &comparison);
        console.line(&format!("\n{table}"));
        record.comparison = Some(comparison);
        console.line(&report::findings(record));
    }

    fn write_report(&mut self) -> anyhow::Result<()> {
        let Session {
            console,
            store,
            files,
            ..
        } = &mut self.session;
        console.stage(5, &format!("report: {}", store.path(REPORT).display()));
        self.record.files = std::mem::take(files);
        self.record.files.push(LOGS.to_owned());
        let document = report::document(&self.record)?;
        store.write_text(REPORT, &report::markdown(&self.record)?)?;
        store.write_output(&document)?;
        let page = html::write(store.dir())?;
        console.line(&format!("      {}", page.display()));
        if let Some(failure) = &self.record.failure {
            let missing = failure.missing.join(", ");
            console.line(&format!(
                "      incomplete: {} (missing: {missing})",
                failure.message
            ));
        }
        if self.options.common.json {
            self.context
                .stdout
                .write_all(json_text(&document)?.as_bytes())?;
            self.context.stdout.flush()?;
        }
        Ok(())
    }
}

/// Name of one round of a phase; also the stem of its files.
fn round_name(phase: &str, round: u32) -> String {
    format!("{phase}-{round}")
}

/// What one task did, by round.
fn of_task<'a>(
    rounds: &'a [Vec<Measurement>],
    task: &'a str,
) -> impl Iterator<Item = &'a Measurement> {
    let all = rounds.iter().flatten();
    all.filter(move |measured| measured.task.name == task)
}

/// All rounds of a phase together: the first task of each is the high-priority one, the others are
/// the copies of the low-priority one, which is called `low_name`.
fn pool(
    low_name: &str,
    rounds: &[Vec<Measurement>],
    duration: Duration,
) -> (Option<HighResult>, Option<LowResult>) {
    let high: Vec<&Measurement> = rounds.iter().map(|round| &round[0]).collect();
    let low: Vec<&[Measurement]> = rounds.iter().map(|round| &round[1..]).collect();
    (
        HighResult::new(&high, duration),
        LowResult::new(low_name, &low, duration),
    )
}

/// Rounded down to two digits after the point, or two significant ones where it is smaller: a rate
/// that one can type.
fn two_digits(value: f64) -> f64 {
    let scale = 10f64.powi(if value >= 0.1 {
        2
    } else {
        1 - value.log10().floor() as i32
    });
    (value * scale).floor() / scale
}

#[cfg(test)]
mod tests {
    use super::two_digits;

    #[test]
    fn rates_can_be_typed() {
        assert_eq!(two_digits(13.3333), 13.33);
        assert_eq!(two_digits(0.4567), 0.45);
        assert_eq!(two_digits(0.012345), 0.012);
    }
}
