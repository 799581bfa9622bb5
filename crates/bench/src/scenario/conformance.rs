//! Scenario `conformance`: programs that use CUDA in many ways compute the same, and end the same way,
//! with the shim as without it.
//!
//! The programs are the rows of `rows.py`. Each runs twice without the shim, which tells whether it
//! computes the same twice at all, and then scheduled, at low priority, while a high-priority neighbour
//! sends short bursts, so that its gates close again and again. Outputs must be equal bit by bit where
//! the two plain runs agree; elsewhere a third plain run is made, and they may lie no farther from a
//! plain run than twice the farthest two plain runs lie apart. Exit codes must be equal.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command as Program, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{ArgMatches, Args as _, Command, FromArgMatches};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Scenario;
use crate::brief::Brief;
use crate::daemon::Daemon;
use crate::interrupt::Interrupt;
use crate::launch::{END_GRACE, Launcher, describe_exit};
use crate::manifest::{Manifest, stamp};
use crate::peer::Peer;
use crate::phase::Failure;
use crate::store::Store;
use crate::task::Scheduling;
use crate::worker::protocol::Report;
use crate::{Context, Outcome, UsageError};

const ROWS: &str = include_str!("conformance/rows.py");

const ROWS_FILE: &str = "rows.py";

/// The neighbour: bursts of a quarter of a millisecond, this often.
const NEIGHBOUR: &str = "kernels:5x50";
const NEIGHBOUR_RATE: &str = "100";
const NEIGHBOUR_LIMIT: Duration = Duration::from_secs(60);

/// How often the neighbour's effect on the rows is looked at.
const SAMPLE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);

/// How much farther from a plain run than plain runs lie apart outputs may lie.
const SPREAD_FACTOR: f64 = 2.0;

/// The scenario.
pub(super) struct Conformance;

impl Scenario for Conformance {
    fn name(&self) -> &'static str {
        "conformance"
    }

    fn measures(&self) -> &'static str {
        "Whether CUDA programs (PyTorch models and others) compute and end the same with the shim, \
         preempted again and again, as without it"
    }

    fn passes_when(&self) -> &'static str {
        "every row computes the same and has the same exit code as without the shim; a row that \
         cannot run is left out, which is a pass only for JAX and CuPy"
    }

    fn options(&self, command: Command) -> Command {
        Options::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = Options::from_arg_matches(options)?;
        let rows = options.check(context)?;
        measure(&options, rows, context)
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Device to run on: cuda.
    #[arg(long, value_name = "NAME", default_value = "cuda")]
    device: String,
    /// These rows alone.
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Rows that run at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// How long a row may take before it counts as hung, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 180.0)]
    limit: f64,
    /// Directory of the result [default: ./results/<time stamp>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the result to this JSON file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON on standard output, and the text for people on standard error.
    #[arg(long)]
    json: bool,
}

/// A row as `rows.py --list` has it.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    name: String,
    /// It need not be there for a pass.
    optional: bool,
}

impl Options {
    /// The rows that are asked for.
    fn check(&self, context: &Context) -> anyhow::Result<Vec<Row>> {
        let refuse = |message: String| Err(UsageError(message).into());
        if self.device != "cuda" {
            return refuse(format!(
                "--device {}: the rows are CUDA programs",
                self.device
            ));
        }
        if !(1..=64).contains(&self.jobs) {
            return refuse(format!("--jobs {}: give 1 to 64", self.jobs));
        }
        if !(self.limit > 0.0 && self.limit <= 3600.0) {
            return refuse(format!(
                "--limit {}: give seconds above 0, at most 3600",
                self.limit
            ));
        }
        if context.preload.is_none() {
            return refuse(
                "no shim is installed: put libshimcuda.so beside xsched (cargo build --release -p \
                 xsched-cuda)"
                    .to_owned(),
            );
        }
        let listed = Program::new("python3")
            .args(["-c", ROWS, "--list"])
            .stdin(Stdio::null())
            .output();
        let listed = match listed {
            Ok(listed) if listed.status.success() => listed.stdout,
            Ok(listed) => {
                let words = String::from_utf8_lossy(&listed.stderr);
                let last = words.lines().last().unwrap_or_default();
                return refuse(format!(
                    "python3 cannot run the rows ({last}): Python 3.9 or later is needed"
                ));
            }
            Err(error) => {
                return refuse(format!(
                    "python3 cannot be started ({error}): install Python 3.9 or later"
                ));
            }
        };
        let rows: Vec<Row> = serde_json::from_slice(&listed)?;
        if let Some(unknown) = self
            .only
            .iter()
            .find(|name| rows.iter().all(|row| row.name != **name))
        {
            let known: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            return refuse(format!(
                "--only {unknown}: the rows are {}",
                known.join(", ")
            ));
        }
        let wanted = |row: &Row| self.only.is_empty() || self.only.contains(&row.name);
        Ok(rows.into_iter().filter(wanted).collect())
    }
}

/// What a row wrote.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Written {
    /// Preemption level; 0 = unscheduled.
    level: u8,
    outputs: BTreeMap<String, Output>,
    /// Why it cannot run here.
    skipped: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Output {
    digest: String,
    /// All of its values, or a part of them.
    values: Vec<f64>,
}

/// One run of a row.
#[derive(Debug, Clone)]
struct Run {
    /// As a shell shows it: 128 + the signal.
    exit_code: i32,
    /// For people.
    ending: String,
    /// `None` if it did not get that far.
    written: Option<Written>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "reason")]
enum Status {
    /// Bit by bit.
    Equal,
    /// Plain runs differ among themselves, and it lies within their spread.
    WithinSpread,
    Failed(String),
    /// It cannot run here.
    Skipped(String),
}

#[derive(Debug, Serialize)]
struct RowResult {
    row: String,
    optional: bool,
    #[serde(flatten)]
    status: Status,
    /// Of the plain run and the scheduled one.
    exit_codes: [i32; 2],
    /// Of the scheduled run.
    level: u8,
}

#[derive(Debug, Serialize)]
struct ConformanceResult {
    test_name: &'static str,
    device: &'static str,
    passed: bool,
    failed: usize,
    skipped: usize,
    /// Times that a row's gate was seen to close while it had work.
    preemptions: u64,
    /// Bursts of the neighbour meanwhile.
    bursts: u64,
    rows: Vec<RowResult>,
    manifest: Manifest,
}

struct Bench<'a> {
    options: &'a Options,
    launcher: Launcher,
    interrupt: Interrupt,
    store: &'a Store,
}

fn measure(options: &Options, rows: Vec<Row>, context: &mut Context) -> anyhow::Result<Outcome> {
    let store = Store::open(options.out.as_deref(), options.output.as_deref(), &stamp())?;
    let name = Conformance.name();
    let manifest = Manifest::now(name, context.command.clone(), &context.version);
    let brief = Brief::begin(store, &manifest)?;
    let store = brief.store();
    store.write_text(ROWS_FILE, ROWS)?;
    let bench = Bench {
        options,
        launcher: context.launcher(store.path("logs")),
        interrupt: context.interrupt.clone(),
        store,
    };
    let plain = |number: u32| bench.all(&rows, &Scheduling::Off, &format!("plain-{number}"));
    let (first, second) = (plain(1)?, plain(2)?);
    let mut spread: Vec<Vec<Run>> = first
        .into_iter()
        .zip(second)
        .map(|(one, two)| vec![one, two])
        .collect();
    let differ: Vec<usize> = (0..rows.len())
        .filter(|&index| !is_deterministic(&spread[index]))
        .collect();
    let again: Vec<Row> = differ.iter().map(|&index| rows[index].clone()).collect();
    let third = bench.all(&again, &Scheduling::Off, "plain-3")?;
    for (index, run) in differ.into_iter().zip(third) {
        spread[index].push(run);
    }

    let (scheduled, preemptions, bursts) = bench.scheduled(&rows)?;
    let results: Vec<RowResult> = rows
        .iter()
        .zip(spread.iter().zip(&scheduled))
        .map(|(row, (plain, scheduled))| RowResult {
            row: row.name.clone(),
            optional: row.optional,
            status: compare(plain, scheduled),
            exit_codes: [plain[0].exit_code, scheduled.exit_code],
            level: scheduled
                .written
                .as_ref()
                .map_or(0, |written| written.level),
        })
        .collect();
    let count = |wanted: fn(&RowResult) -> bool| results.iter().filter(|row| wanted(row)).count();
    let failed = count(|row| matches!(row.status, Status::Failed(_)));
    let skipped = count(|row| matches!(row.status, Status::Skipped(_)));
    let missing = count(|row| !row.optional && matches!(row.status, Status::Skipped(_)));
    let ran = results.len() - skipped;
    let result = ConformanceResult {
        test_name: "conformance",
        device: "cuda",
        passed: failed == 0 && missing == 0 && ran > 0 && preemptions > 0,
        failed,
        skipped,
        preemptions,
        bursts,
        rows: results,
        manifest,
    };
    brief.end(options.json, &result, |file| result.text(file), context)?;
    Ok(if result.passed {
        Outcome::Pass
    } else {
        Outcome::Fail
    })
}

impl Bench<'_> {
    /// Runs rows, several at a time; the results are in their order.
    fn all(&self, rows: &[Row], scheduling: &Scheduling, how: &str) -> anyhow::Result<Vec<Run>> {
        let next = AtomicUsize::new(0);
        let runs: Vec<Mutex<Option<anyhow::Result<Run>>>> =
            rows.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs.min(rows.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::SeqCst);
                        let Some(row) = rows.get(index) else { return };
                        let run = self.one(row, scheduling, how);
                        *runs[index].lock().expect("nobody panics with it") = Some(run);
                    }
                });
            }
        });
        runs.into_iter()
            .map(|run| {
                let run = run.into_inner().expect("nobody panics with it");
                run.expect("every row was taken")
            })
            .collect()
    }

    fn one(&self, row: &Row, scheduling: &Scheduling, how: &str) -> anyhow::Result<Run> {
        let name = format!("{}-{how}", row.name);
        let file = self.store.path(&format!("logs/{name}.json"));
        // Of an earlier run into the same folder.
        self.store.forget(&[&format!("logs/{name}.json")])?;
        let mut command = self
            .launcher
            .run_command(scheduling, None, "low", &row.name);
        command
            .arg("python3")
            .arg(self.store.path(ROWS_FILE))
            .arg(&row.name)
            .arg(&file);
        let mut process = self.launcher.spawn(command, &name)?;
        process.close_stdin();
        let deadline = Instant::now() + Duration::from_secs_f64(self.options.limit);
        let status = loop {
            if let Some(status) = process.poll_exit() {
                break Some(status);
            }
            if let Some(signal) = self.interrupt.received() {
                return Err(Failure::Interrupted(signal).into());
            }
            if Instant::now() >= deadline {
                process.end(END_GRACE);
                break None;
            }
            std::thread::sleep(POLL);
        };
        let words = process.last_words().unwrap_or_default();
        let ending = match status {
            Some(status) if status.success() => "exit code 0".to_owned(),
            Some(status) => format!("{} ({words})", describe_exit(status)),
            None => format!("a hang: it was ended after {} s", self.options.limit),
        };
        Ok(Run {
            exit_code: status.map_or(-1, exit_code),
            ending,
            written: std::fs::read(&file)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        })
    }

    /// All rows under a daemon, beside the neighbour; how often their gates were seen to close, and the
    /// neighbour's bursts.
    fn scheduled(&self, rows: &[Row]) -> anyhow::Result<(Vec<Run>, u64, u64)> {
        let mut daemon = Daemon::start(&self.launcher, &self.interrupt)?;
        let scheduling = Scheduling::Daemon(daemon.socket().to_owned());
        let mut command = self
            .launcher
            .run_command(&scheduling, None, "high", "neighbour");
        command
            .arg(&self.launcher.program)
            .args(["worker", "--device", "cuda", "--model", NEIGHBOUR])
            .args(["--arrival", "open", "--rate", NEIGHBOUR_RATE])
            .args(["--duration", "86400"]);
        let mut neighbour = Peer::start(&self.launcher, command, "neighbour", &self.interrupt)?;
        match serde_json::from_str(&neighbour.read(NEIGHBOUR_LIMIT)?)? {
            Report::Ready { level: 0, .. } => {
                bail!("nobody schedules the neighbour: `xsched doctor` says why")
            }
            Report::Ready { .. } => {}
            Report::Error { message, .. } => bail!("the neighbour reports: {message}"),
            other => bail!("the neighbour is not ready: {other:?}"),
        }
        neighbour.tell("start");

        let done = AtomicUsize::new(0);
        let (runs, preemptions) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut seen = BTreeMap::new();
                while done.load(Ordering::SeqCst) == 0 {
                    self.look(daemon.socket(), &mut seen);
                    std::thread::sleep(SAMPLE);
                }
                seen.values().sum::<u64>()
            });
            let runs = self.all(rows, &scheduling, "scheduled");
            done.store(1, Ordering::SeqCst);
            (runs, sampler.join().unwrap_or(0))
        });
        let runs = runs?;

        neighbour.tell("stop");
        let bursts = loop {
            match serde_json::from_str(&neighbour.read(NEIGHBOUR_LIMIT)?)? {
                Report::Progress { .. } => {}
                Report::Result {
                    completed,
                    digests_equal: true,
                    ..
                } => break completed,
                other => bail!("the neighbour failed: {other:?}"),
            }
        };
        neighbour.finish()?;
        daemon.check()?;
        Ok((runs, preemptions, bursts))
    }

    /// Notes how often each process's group was preempted so far.
    fn look(&self, socket: &std::path::Path, seen: &mut BTreeMap<u64, u64>) {
        let listed = Program::new(&self.launcher.program)
            .args(["list", "--json"])
            .env(xsched_wire::env::SOCKET.name, socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        // A look that fails is one fewer.
        let Ok(listed) = listed else { return };
        let Ok(list) = serde_json::from_slice::<Value>(&listed.stdout) else {
            return;
        };
        for queue in list["queues"].as_array().into_iter().flatten() {
            if queue["name"] == "neighbour" {
                continue;
            }
            if let (Some(pid), Some(count)) = (queue["pid"].as_u64(), queue["preemptions"].as_u64())
            {
                let most = seen.entry(pid).or_default();
                *most = count.max(*most);
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    let signal = || 128 + status.signal().unwrap_or(0);
    status.code().unwrap_or_else(signal)
}

/// Whether two plain runs wrote the same.
fn is_deterministic(plain: &[Run]) -> bool {
    match (&plain[0].written, &plain[1].written) {
        (Some(one), Some(two)) => digests(one) == digests(two),
        // There is nothing to compare.
        _ => true,
    }
}

fn digests(written: &Written) -> Vec<(&str, &str)> {
    let outputs = written.outputs.iter();
    outputs
        .map(|(name, output)| (name.as_str(), output.digest.as_str()))
        .collect()
}

/// Judges a scheduled run by the plain ones, two or three.
fn compare(plain: &[Run], scheduled: &Run) -> Status {
    for run in plain {
        match &run.written {
            Some(written) => {
                if let Some(reason) = &written.skipped {
                    return Status::Skipped(reason.clone());
                }
                if run.exit_code != plain[0].exit_code {
                    return Status::Skipped("its exit code changes without the shim, too".into());
                }
            }
            None => {
                let ending = &run.ending;
                return Status::Skipped(format!("it fails without the shim, too: {ending}"));
            }
        }
    }
    if scheduled.exit_code != plain[0].exit_code {
        return Status::Failed(format!(
            "it ended with {} instead of {}",
            scheduled.ending, plain[0].ending
        ));
    }
    let Some(written) = &scheduled.written else {
        return Status::Failed("it wrote no result".into());
    };
    if let Some(reason) = &written.skipped {
        return Status::Failed(format!("it cannot run with the shim: {reason}"));
    }
    if written.level == 0 {
        return Status::Failed("it ran unscheduled".into());
    }
    let references: Vec<&Written> = plain
        .iter()
        .filter_map(|run| run.written.as_ref())
        .collect();
    if is_deterministic(plain) {
        let expected = digests(references[0]);
        if expected.is_empty() {
            return Status::Failed("it recorded nothing".into());
        }
        return match digests(written) == expected {
            true => Status::Equal,
            false => Status::Failed(format!(
                "outputs differ, though two plain runs agree: {}",
                differing(references[0], written)
            )),
        };
    }
    for name in references[0].outputs.keys() {
        let values = |of: &Written| of.outputs.get(name).map(|output| output.values.clone());
        let Some(got) = values(written) else {
            return Status::Failed(format!("output {name} is missing"));
        };
        let known: Vec<Vec<f64>> = references.iter().filter_map(|one| values(one)).collect();
        let pairs = (0..known.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let spread = pairs
            .map(|(i, j)| distance(&known[i], &known[j]))
            .fold(0.0, f64::max);
        let nearest = known
            .iter()
            .map(|one| distance(one, &got))
            .fold(f64::INFINITY, f64::min);
        // Not a number is no distance within a limit.
        if nearest.is_nan() || nearest > SPREAD_FACTOR * spread {
            return Status::Failed(format!(
                "output {name} lies {nearest:.3e} from the plain runs, which lie {spread:.3e} apart"
            ));
        }
    }
    Status::WithinSpread
}

fn differing(expected: &Written, got: &Written) -> String {
    let differs = |(name, output): &(&String, &Output)| {
        got.outputs
            .get(*name)
            .is_none_or(|other| other.digest != output.digest)
    };
    let names = expected.outputs.iter().filter(differs);
    names
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Euclidean; infinite between outputs of different length.
fn distance(one: &[f64], two: &[f64]) -> f64 {
    if one.len() != two.len() {
        return f64::INFINITY;
    }
    let squares = one.iter().zip(two).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

impl ConformanceResult {
    fn text(&self, file: &str) -> String {
        let mut text = format!(
            "Conformance, {} rows, each twice without the shim and once scheduled beside {} bursts of \
             a neighbour\n",
            self.rows.len(),
            self.bursts
        );
        for row in &self.rows {
            let (mark, what) = match &row.status {
                Status::Equal => ("✅", format!("equal bit by bit, level {}", row.level)),
                Status::WithinSpread => (
                    "✅",
                    format!("within the spread of plain runs, level {}", row.level),
                ),
                Status::Failed(reason) => ("❌", reason.clone()),
                Status::Skipped(reason) => ("⏭ ", format!("skipped: {reason}")),
            };
            text.push_str(&format!("  {mark} {:<24} {what}\n", row.row));
        }
        let ran = self.rows.len() - self.skipped;
        text.push_str(&format!(
            "{} of {ran} rows conform, {} skipped; gates were seen to close {} times\n",
            ran - self.failed,
            self.skipped,
            self.preemptions
        ));
        if self.preemptions == 0 && ran > 0 {
            text.push_str("  ❌ no gate closed: the rows were not preempted\n");
        }
        let verdict = match (self.passed, self.failed) {
            (true, _) => "✅ PASS",
            (false, 0) => "❌ INCOMPLETE",
            (false, _) => "❌ FAIL",
        };
        text.push_str(&format!("{verdict}\nresult: {file}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exit_code: i32, outputs: &[(&str, &[f64])]) -> Run {
        let output = |values: &[f64]| Output {
            digest: format!("{values:?}"),
            values: values.to_vec(),
        };
        Run {
            exit_code,
            ending: format!("exit code {exit_code}"),
            written: Some(Written {
                level: 3,
                outputs: outputs
                    .iter()
                    .map(|(name, values)| ((*name).to_owned(), output(values)))
                    .collect(),
                skipped: None,
            }),
        }
    }

    #[track_caller]
    fn fails(plain: &[Run], scheduled: &Run, says: &str) {
        match compare(plain, scheduled) {
            Status::Failed(reason) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_deterministic_must_be_equal() {
        let plain = vec![run(0, &[("x", &[1.0, 2.0])]); 2];
        assert_eq!(compare(&plain, &plain[0]), Status::Equal);
        fails(&plain, &run(0, &[("x", &[1.0, 2.0001])]), "differ");
        fails(&plain, &run(0, &[]), "differ");
        fails(&plain, &run(139, &[("x", &[1.0, 2.0])]), "instead of");
        fails(&vec![run(0, &[]); 2], &run(0, &[]), "recorded nothing");
        let mut unscheduled = plain[0].clone();
        unscheduled.written.as_mut().unwrap().level = 0;
        fails(&plain, &unscheduled, "unscheduled");
        let mut silent = plain[0].clone();
        silent.written = None;
        fails(&plain, &silent, "no result");
    }

    #[test]
    fn what_is_not_must_lie_within_the_spread() {
        let plain: Vec<Run> = [1.0, 1.1, 1.2].map(|x| run(0, &[("x", &[x])])).into();
        let with = |x: f64| run(0, &[("x", &[x])]);
        assert_eq!(compare(&plain, &with(1.15)), Status::WithinSpread);
        assert_eq!(compare(&plain, &with(1.5)), Status::WithinSpread);
        fails(&plain, &with(1.7), "apart");
        fails(&plain, &with(f64::NAN), "apart");
        fails(&plain, &run(0, &[("x", &[1.1, 1.1])]), "apart");
        fails(&plain, &run(0, &[]), "missing");
    }

    #[test]
    fn what_fails_without_the_shim_is_skipped() {
        let mut broken = run(1, &[]);
        broken.written = None;
        let status = compare(&[broken.clone(), broken.clone()], &broken);
        assert!(matches!(status, Status::Skipped(reason) if reason.contains("fails without")));
        let mut missing = run(0, &[]);
        missing.written.as_mut().unwrap().skipped = Some("jax not installed".into());
        let status = compare(&[missing.clone(), missing.clone()], &missing);
        assert_eq!(status, Status::Skipped("jax not installed".into()));
    }
}
