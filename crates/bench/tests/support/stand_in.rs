//! Stands in for the command `xsched` in the tests of the harness: workers that behave, hang, die
//! or run out of memory.
//!
//! `bench …` is the benchmark. `run … --name NAME -- CMD` becomes CMD. `serve --socket PATH` listens,
//! `list` says what it has. `worker …` speaks the worker protocol; its figures are made up from its
//! options, so that the tests know them. What it does is looked up in `STAND_IN`, a list `PHASE/NAME=BEHAVIOUR;…` with the phases `off` and
//! `scheduled`; what is not listed behaves well and at once. The value `real` makes every worker a
//! real one. Every other process leaves its number, and that of a child which outlives it if nobody
//! ends it, in the directory `STAND_IN_PIDS`.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen, socket};
use xsched_bench::worker::WorkerArgs;
use xsched_bench::worker::protocol::{ErrorKind, Instruction, Report};

/// The command line of the real worker.
#[derive(Parser)]
struct RealWorker {
    #[command(flatten)]
    worker: WorkerArgs,
}

/// The command line of `xsched bench`.
#[derive(Parser)]
enum RealCommand {
    Bench(xsched_bench::BenchArgs),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let real = std::env::var("STAND_IN").is_ok_and(|value| value == "real");
    match words.first().map(String::as_str) {
        Some("run") => run(&words),
        Some("bench") => bench(),
        Some("serve") => serve(&words),
        Some("list") => list(),
        Some("worker") if real => {
            let args = RealWorker::parse_from(&words).worker;
            xsched_bench::worker::run(args).expect("somebody listens")
        }
        Some("worker") => work(&words),
        _ => ExitCode::from(2),
    }
}

/// The benchmark itself, so that it can be killed like any process.
fn bench() -> ExitCode {
    let RealCommand::Bench(args) = RealCommand::parse();
    let context = xsched_bench::Context::current("0.0.0-test").expect("signals can be taken");
    xsched_bench::run(args, context).unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

fn run(words: &[String]) -> ExitCode {
    let end = words
        .iter()
        .position(|word| word == "--")
        .expect("a command after --");
    let name = option(words, "--name").expect("--name");
    let error = Command::new(&words[end + 1])
        .args(&words[end + 2..])
        .env("STAND_IN_NAME", name)
        .exec();
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve(words: &[String]) -> ExitCode {
    leave_traces("daemon");
    if let Some(trace) = option(words, "--trace") {
        std::fs::write(trace, "{\"traceEvents\":[]}").expect("a writable directory");
    }
    let path = option(words, "--socket").expect("--socket");
    let address = SocketAddrUnix::new(path).expect("a short path");
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    bind(&listener, &address).expect("a free path");
    listen(&listener, 16).expect("a listening socket");
    match behaviour("daemon").as_deref() {
        Some("die") => {
            accept(&listener).expect("the harness connects");
            eprintln!("stand-in daemon gives up");
            ExitCode::FAILURE
        }
        _ => loop {
            accept(&listener).expect("clients connect");
        },
    }
}

/// A daemon that loses queues has one for ever.
fn list() -> ExitCode {
    match behaviour("daemon").as_deref() {
        Some("lose-queue") => println!(r#"{{"queues": [{{"id": 1}}]}}"#),
        _ => println!(r#"{{"queues": []}}"#),
    }
    ExitCode::SUCCESS
}

fn work(words: &[String]) -> ExitCode {
    let name = std::env::var("STAND_IN_NAME").expect("started through run");
    let off = std::env::var("XSCHED_DISABLE").is_ok_and(|value| value == "1");
    let phase = if off { "off" } else { "scheduled" };
    let behaviour = behaviour(&format!("{phase}/{name}")).unwrap_or_default();
    leave_traces(&format!("{phase}-{name}"));

    match behaviour.as_str() {
        "out-of-memory" => {
            let message = "no room for 8 images".to_owned();
            report(&Report::Error {
                kind: ErrorKind::OutOfMemory,
                message,
            });
            return ExitCode::FAILURE;
        }
        "never-ready" => sleep_for_ever(),
        "garbage" => println!("hello"),
        _ => {}
    }
    let level = if off || behaviour == "unscheduled" {
        0
    } else {
        3
    };
    let model = option(words, "--model").expect("--model").to_owned();
    let batch = option(words, "--batch")
        .expect("--batch")
        .parse()
        .expect("a number");
    report(&Report::Ready {
        model: model.clone(),
        batch,
        commands: 20,
        setup_ms: 1.0,
        level,
    });

    let mut instructions = io::stdin().lock().lines().map_while(Result::ok);
    if instructions.next().as_deref() != Some(Instruction::Start.as_str()) {
        return ExitCode::SUCCESS;
    }
    match behaviour.as_str() {
        "hang" => {
            report(&Report::Progress {
                completed: 7,
                elapsed_ms: 1000.0,
            });
            sleep_for_ever()
        }
        "die" => return give_up(),
        // In the second round of its phase.
        "die-2" if traces(&format!("{phase}-{name}-")) == 2 => return give_up(),
        // Until it is told to stop.
        "steady" => drop(instructions.next()),
        "outlive-daemon" => wait_until_the_daemon_has_ended(),
        _ => {}
    }
    let mut figures = figures(words, &model, level);
    if let ("uncertain", Report::Result { samples, .. }) = (behaviour.as_str(), &mut figures) {
        // So many slow ones that another run might have them in its P99.
        samples
            .iter_mut()
            .step_by(120)
            .for_each(|one| one[2] = 80.0);
    }
    report(&figures);
    match behaviour.as_str() {
        "crash-at-exit" => std::process::abort(),
        "stay" => sleep_for_ever(),
        _ => ExitCode::SUCCESS,
    }
}

/// A result that follows from the options: scheduled, the open loop has half the latency, the
/// closed one 3/4 of the throughput.
fn figures(words: &[String], model: &str, level: u8) -> Report {
    let number = |name| option(words, name).map(|value| value.parse::<f64>().expect("a number"));
    let duration = number("--duration").expect("--duration");
    let (gap_ms, latency_ms) = match (number("--rate"), level) {
        (Some(rate), 0) => (1000.0 / rate, 40.0),
        (Some(rate), _) => (1000.0 / rate, 20.0),
        (None, 0) => (15.0, 15.0),
        (None, _) => (20.0, 20.0),
    };
    let count = (duration * 1000.0 / gap_ms).ceil() as u64;
    Report::Result {
        completed: count,
        elapsed_ms: (count as f64 * gap_ms).max(duration * 1000.0),
        start_ns: 1,
        samples: (0..count)
            .map(|i| [i as f64 * gap_ms, i as f64 * gap_ms, latency_ms])
            .collect(),
        digest: format!("{:016x}", model.len()),
        digests_equal: true,
        dropped: 0,
    }
}

/// Starts a child that nobody here ends, and writes both numbers down.
#[expect(
    clippy::zombie_processes,
    reason = "the harness has to end it, whatever its parent does"
)]
fn leave_traces(name: &str) {
    let child = Command::new("sleep")
        .arg("100000")
        .spawn()
        .expect("sleep is there");
    let dir = std::env::var("STAND_IN_PIDS").expect("STAND_IN_PIDS");
    let text = format!("{}\n{}\n", std::process::id(), child.id());
    let file = Path::new(&dir).join(format!("{name}-{}", std::process::id()));
    std::fs::write(file.with_extension("tmp"), text).expect("a writable directory");
    std::fs::rename(file.with_extension("tmp"), file).expect("a writable directory");
}

/// How many processes have left traces under such a name.
fn traces(start: &str) -> usize {
    let dir = std::env::var("STAND_IN_PIDS").expect("STAND_IN_PIDS");
    let entries = std::fs::read_dir(dir).expect("a readable directory");
    let names = entries.map(|entry| entry.expect("a readable entry").file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with(start))
        .count()
}

fn give_up() -> ExitCode {
    eprintln!("stand-in worker gives up");
    ExitCode::from(3)
}

fn wait_until_the_daemon_has_ended() {
    let dir = std::env::var("STAND_IN_PIDS").expect("STAND_IN_PIDS");
    let traces = std::fs::read_dir(dir).expect("a readable directory");
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let trace = traces
        .map(|entry| entry.expect("a readable entry").path())
        .find(|path| name(path).to_string_lossy().starts_with("daemon-"))
        .expect("the daemon was started first");
    let pids = std::fs::read_to_string(trace).expect("a readable file");
    let stat = format!("/proc/{}/stat", pids.lines().next().expect("a number"));
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn behaviour(key: &str) -> Option<String> {
    let all = std::env::var("STAND_IN").unwrap_or_default();
    all.split(';')
        .filter_map(|entry| entry.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, what)| what.into())
}

fn option<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).map(String::as_str)
}

fn report(report: &Report) {
    println!(
        "{}",
        serde_json::to_string(report).expect("a report is valid JSON")
    );
    io::stdout().flush().expect("the harness listens");
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}
