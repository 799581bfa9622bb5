//! Scenario `dual-model`: an urgent ResNet-18 under a steady load next to a greedy ResNet-50,
//! unscheduled, then scheduled.

use std::io::Write;
use std::time::Duration;

use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use super::Scenario;
use super::options::{CommonOptions, Only};
use crate::console::Console;
use crate::manifest::{Manifest, stamp, timestamp};
use crate::phase::{Failure, Measurement};
use crate::report::{self, FailureNote, Record};
use crate::results::{
    HighResult, LowResult, MODE_BASELINE, MODE_SCHEDULED, MODE_STANDALONE, PhaseResult, RunFacts,
    StandaloneResult,
};
use crate::session::{Session, Settings, Stop, samples_file};
use crate::store::{Store, json_text};
use crate::task::{Arrival, TaskSpec};
use crate::verdict::{MIN_REQUESTS, Overall, compare, seconds_needed};
use crate::{Context, Outcome, UsageError};

const TEST_NAME: &str = "phase4_dual_model";

const MANIFEST: &str = "manifest.json";
const STANDALONE: &str = "standalone_result.json";
const BASELINE: &str = "baseline_result.json";
const SCHEDULED: &str = "xsched_result.json";
const REPORT: &str = "phase4_dual_model_report.md";
const LOGS: &str = "logs/";

/// Requests that every worker runs before it is ready.
const WARMUP: u32 = 10;

/// Longest time that a standalone measurement takes: back to back, and at the rate of the run.
const SHORT: Duration = Duration::from_secs(10);
const SHORT_AT_RATE: Duration = Duration::from_secs(30);

/// How the defaults of a run follow from its device.
struct Profile {
    device: &'static str,
    /// Without `--rate`: this share of the measured standalone peak.
    share_of_peak: f64,
    /// Without `--low-batch`.
    low_batch: u32,
}

/// The devices that this build supports.
const PROFILES: &[Profile] = &[Profile {
    device: "cpu",
    share_of_peak: 0.2,
    low_batch: 1,
}];

/// The low-priority batch of the document, for an accelerator.
const DOCUMENT_LOW_BATCH: u32 = 8;

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
         low-priority throughput > 30% of the baseline's. With --only there is nothing to compare: \
         exit code 0 means that the phase was measured."
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        let profile = options.check()?;
        let store = Store::open(
            options.common.out.as_deref(),
            options.common.output.as_deref(),
            &stamp(),
        )?;
        Experiment::new(&options, profile, store, context).run()
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    #[command(flatten)]
    common: CommonOptions,
    /// Requests per second of the high-priority task [default: on cpu 20% of its measured peak].
    #[arg(long, value_name = "HZ")]
    rate: Option<f64>,
    /// Images per request of the low-priority task [default: on cpu 1].
    #[arg(long, value_name = "N")]
    low_batch: Option<u32>,
}

impl Options {
    fn check(&self) -> Result<&'static Profile, UsageError> {
        let known: Vec<&str> = PROFILES.iter().map(|profile| profile.device).collect();
        let device = self.common.check(&known)?;
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= 1e6)
        {
            return Err(UsageError(format!(
                "--rate {rate}: give requests per second above 0, at most 1000000"
            )));
        }
        if self.low_batch == Some(0) {
            return Err(UsageError(
                "--low-batch 0: give at least one image per request".to_owned(),
            ));
        }
        Ok(&PROFILES[device])
    }
}

struct Experiment<'a> {
    options: &'a Options,
    profile: &'static Profile,
    session: Session,
    context: &'a mut Context,
    record: Record,
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
            device: profile.device.to_owned(),
            seed: common.seed,
            warmup: WARMUP,
            level: common.level.number(),
        };
        let limits = common.limits(context.limits);
        let session = Session::new(context, console, store, settings, limits);
        let record = Record {
            manifest: Manifest::now(DualModel.name(), context.command.clone(), &context.version),
            duration: common.duration,
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
        }
    }

    fn run(mut self) -> anyhow::Result<Outcome> {
        self.forget_earlier_run()?;
        self.session.keep(MANIFEST, &self.record.manifest)?;
        let stopped = match self.measure() {
            Ok(()) => None,
            Err(Stop::Phase(failed)) => Some(failed),
            Err(Stop::Error(error)) => return Err(error),
        };
        let interrupted = stopped.as_ref().is_some_and(|failed| failed.interrupted);
        self.record.failure = stopped.map(|failed| FailureNote {
            phase: failed.phase,
            message: failed.message,
            missing: self.missing(),
            partial_samples: failed.partial_samples,
        });
        self.compare();
        self.write_report()?;
        let passed = match &self.record.comparison {
            Some(comparison) => comparison.overall == Overall::Pass,
            None => self.record.failure.is_none(),
        };
        Ok(match (interrupted, passed) {
            (true, _) => Outcome::Interrupted,
            (false, true) => Outcome::Pass,
            (false, false) => Outcome::Fail,
        })
    }

    /// The phases that have a result file, whether this run includes them, whether it has finished
    /// them.
    fn phases(&self) -> [(&'static str, &'static str, bool, bool); 3] {
        let (common, record) = (&self.options.common, &self.record);
        let (baseline, scheduled) = (common.runs(Only::Baseline), common.runs(Only::Scheduled));
        [
            (
                "standalone",
                STANDALONE,
                common.only.is_none(),
                record.standalone.is_some(),
            ),
            ("baseline", BASELINE, baseline, record.baseline.is_some()),
            (
                "scheduled",
                SCHEDULED,
                scheduled,
                record.scheduled.is_some(),
            ),
        ]
    }

    /// Phases of this run that have no result.
    fn missing(&self) -> Vec<String> {
        let phases = self.phases().into_iter();
        let missing = phases.filter(|(.., included, finished)| *included && !finished);
        missing.map(|(name, ..)| name.to_owned()).collect()
    }

    /// Removes the files that this run is going to write; those of a phase that it leaves out stay.
    fn forget_earlier_run(&self) -> anyhow::Result<()> {
        self.session.store.forget(&[MANIFEST, REPORT])?;
        for (phase, result, ..) in self.phases().into_iter().filter(|phase| phase.2) {
            self.session.store.forget(&[result])?;
            self.session.forget_samples(phase)?;
        }
        for phase in ["standalone-peak", "standalone-high", "standalone-low"] {
            self.session.forget_samples(phase)?;
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<(), Stop> {
        let facts = self.prepare()?;
        let seconds = self.options.common.duration;
        if self.options.common.runs(Only::Baseline) {
            self.session
                .console
                .stage(2, &format!("baseline: {seconds} s, both tasks unscheduled"));
            let result = self.both("baseline", &facts)?;
            self.session.keep(BASELINE, &result)?;
            self.record.baseline = Some(result);
        } else {
            self.session
                .console
                .stage(2, "baseline: left out (--only scheduled)");
        }
        if self.options.common.runs(Only::Scheduled) {
            self.session.console.stage(
                3,
                &format!("scheduled: {seconds} s, both tasks under XSched"),
            );
            let result = self.both("scheduled", &facts)?;
            self.session.keep(SCHEDULED, &result)?;
            self.record.scheduled = Some(result);
        } else {
            self.session
                .console
                .stage(3, "scheduled: left out (--only baseline)");
        }
        Ok(())
    }

    /// Settles rate and batch, and measures each task alone.
    fn prepare(&mut self) -> Result<RunFacts, Stop> {
        let dir = self.session.store.dir().display().to_string();
        self.session
            .console
            .stage(1, "prepare: rate, batch and standalone figures");
        self.session
            .console
            .line(&format!("      results go to {dir}"));
        let timestamp = timestamp();
        let short = SHORT.min(self.options.common.duration() / 3);
        let mut measured = Vec::new();

        let mut high_priority_peak = None;
        let (rate_hz, rate_origin) = match self.options.rate {
            Some(rate) => (rate, "as given by --rate".to_owned()),
            None => {
                let peak = self.peak(short, &mut measured)?;
                let rate = two_digits(peak.throughput_ips * self.profile.share_of_peak);
                let origin = format!(
                    "{:.0}% of the measured standalone peak of {:.2} requests/s, as the device \
                     is {}",
                    self.profile.share_of_peak * 100.0,
                    peak.throughput_ips,
                    self.profile.device
                );
                high_priority_peak = Some(peak);
                (rate, origin)
            }
        };
        let facts = RunFacts {
            device: self.profile.device.to_owned(),
            seed: self.options.common.seed,
            warmup: WARMUP,
            rate_hz,
            rate_origin,
            low_batch: self.options.low_batch.unwrap_or(self.profile.low_batch),
        };
        self.record.facts = Some(facts.clone());
        self.note_defaults(&facts);
        if self.options.common.only.is_some() {
            return Ok(facts);
        }

        let longer = SHORT_AT_RATE.min(self.options.common.duration() / 3);
        let task = high_task(Arrival::Open { rate_hz });
        let high = self.alone("standalone-high", task, longer, &mut measured)?;
        let low = self.alone(
            "standalone-low",
            low_task(facts.low_batch),
            short,
            &mut measured,
        )?;
        let result = StandaloneResult {
            test_name: TEST_NAME.into(),
            mode: MODE_STANDALONE.into(),
            duration: longer.as_secs_f64(),
            timestamp,
            high_priority_peak,
            high_priority: self.some("standalone-high", HighResult::new(&high, longer))?,
            low_priority: self.some("standalone-low", LowResult::new(&low, short))?,
            facts: facts.clone(),
            samples_file: samples_file("standalone"),
        };
        self.session.keep_samples("standalone", &measured)?;
        self.session.keep(STANDALONE, &result)?;
        self.record.standalone = Some(result);
        Ok(facts)
    }

    /// What the high-priority model reaches alone and back to back.
    fn peak(&mut self, duration: Duration, all: &mut Vec<Measurement>) -> Result<LowResult, Stop> {
        let task = TaskSpec {
            name: "resnet18-peak".into(),
            ..high_task(Arrival::Closed)
        };
        let measured = self.alone("standalone-peak", task, duration, all)?;
        self.some("standalone-peak", LowResult::new(&measured, duration))
    }

    /// Runs one task alone and unscheduled.
    fn alone(
        &mut self,
        name: &str,
        task: TaskSpec,
        duration: Duration,
        all: &mut Vec<Measurement>,
    ) -> Result<Measurement, Stop> {
        let mut measured = self.session.unscheduled(name, vec![task], duration)?;
        let measurement = measured
            .pop()
            .expect("a finished phase has a result of every task");
        all.push(measurement.clone());
        Ok(measurement)
    }

    /// Runs both tasks at once and writes their samples.
    fn both(&mut self, name: &str, facts: &RunFacts) -> Result<PhaseResult, Stop> {
        let timestamp = timestamp();
        let duration = self.options.common.duration();
        let high = high_task(Arrival::Open {
            rate_hz: facts.rate_hz,
        });
        let tasks = vec![high, low_task(facts.low_batch)];
        let (mode, measured) = match name {
            "baseline" => (
                MODE_BASELINE,
                self.session.unscheduled(name, tasks, duration)?,
            ),
            _ => (
                MODE_SCHEDULED,
                self.session.scheduled(name, tasks, duration)?,
            ),
        };
        self.session.keep_samples(name, &measured)?;
        let [high, low] = measured.as_slice() else {
            unreachable!("a finished phase has a result of every task")
        };
        Ok(PhaseResult {
            test_name: TEST_NAME.into(),
            mode: mode.into(),
            duration: self.options.common.duration,
            timestamp,
            high_priority: self.some(name, HighResult::new(high, duration))?,
            low_priority: self.some(name, LowResult::new(low, duration))?,
            facts: facts.clone(),
            samples_file: samples_file(name),
        })
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
            ..
        } = facts;
        let mut notes = Vec::new();
        if self.options.rate.is_none() {
            notes.push(format!(
                "Rate {rate_hz} requests/s: {rate_origin} (--rate sets it)."
            ));
            if self.options.common.only.is_some() {
                notes.push(format!(
                    "Compare with another phase at the same rate only: --rate {rate_hz}."
                ));
            }
        }
        if self.options.low_batch.is_none() && *low_batch != DOCUMENT_LOW_BATCH {
            notes.push(format!(
                "Low-priority batch {low_batch} instead of {DOCUMENT_LOW_BATCH}, as the device is \
                 {device} (--low-batch sets it)."
            ));
        }
        let task = high_task(Arrival::Open { rate_hz: *rate_hz });
        let due = task
            .requests_due(self.options.common.duration())
            .unwrap_or(0);
        if due < MIN_REQUESTS {
            notes.push(format!(
                "A phase of {} s has {due} requests; a P99 verdict needs {MIN_REQUESTS}: \
                 --duration {} or longer.",
                self.options.common.duration,
                seconds_needed(*rate_hz)
            ));
        }
        for note in &notes {
            self.session.console.line(&format!("      {note}"));
        }
        self.record.notes.extend(notes);
    }

    fn compare(&mut self) {
        let (record, console) = (&mut self.record, &mut self.session.console);
        let (Some(baseline), Some(scheduled)) = (&record.baseline, &record.scheduled) else {
            let complete = record.failure.is_none();
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
        let comparison = compare(baseline, scheduled, record.standalone.as_ref());
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

fn high_task(arrival: Arrival) -> TaskSpec {
    TaskSpec {
        name: "resnet18-high".into(),
        class: "high".into(),
        model: "resnet18".into(),
        batch: 1,
        arrival,
        batch_option: None,
    }
}

fn low_task(batch: u32) -> TaskSpec {
    TaskSpec {
        name: "resnet50-low".into(),
        class: "low".into(),
        model: "resnet50".into(),
        batch,
        arrival: Arrival::Closed,
        batch_option: Some("--low-batch"),
    }
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
