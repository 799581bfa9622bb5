//! Runs the benchmark in this process against the stand-in for `xsched`, and looks at what it
//! leaves.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use rustix::process::{Pid, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;
use xsched_bench::interrupt::Interrupt;
use xsched_bench::phase::Limits;
use xsched_bench::{BenchArgs, Context, UsageError};

/// The command line, as the command `xsched` has it.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

/// A writer whose text can be looked at.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One benchmark with the stand-in.
pub(crate) struct Bench {
    root: TempDir,
    /// What is run, `dual-model` unless set.
    pub(crate) scenario: &'static str,
    /// What the stand-ins do.
    pub(crate) behaviour: &'static str,
    /// Set for every process besides.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Ctrl-C.
    pub(crate) interrupt: Interrupt,
    /// How long each step may take.
    pub(crate) limits: Limits,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: ExitCode,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new(behaviour: &'static str) -> Bench {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("pids")).unwrap();
        Bench {
            root,
            scenario: "dual-model",
            behaviour,
            environment: Vec::new(),
            interrupt: Interrupt::default(),
            limits: Limits {
                rescue: Duration::from_millis(100),
                ..Limits::default()
            },
        }
    }

    /// Runs the scenario with these options and `--out`, and checks that no process is left.
    pub(crate) fn run(&self, options: &[&str]) -> Ended {
        let out = self.out();
        let mut words = vec!["bench", self.scenario, "--out", out.to_str().unwrap()];
        words.extend(options);
        let args = Cli::try_parse_from(&words).unwrap().bench;
        let (stdout, stderr) = (Sink::default(), Sink::default());
        let context = self.context(&words, &stdout, &stderr);
        let code = xsched_bench::run(args, context).unwrap_or_else(|error| {
            // As the command does it: one line, exit code 2.
            let usage = error.downcast::<UsageError>().unwrap();
            writeln!(stderr.clone(), "{usage}").unwrap();
            ExitCode::from(2)
        });
        self.assert_nothing_is_left();
        Ended {
            code,
            stdout: stdout.text(),
            stderr: stderr.text(),
        }
    }

    fn context(&self, words: &[&str], stdout: &Sink, stderr: &Sink) -> Context {
        let mut environment = vec![
            ("STAND_IN".into(), self.behaviour.into()),
            ("STAND_IN_PIDS".into(), self.pids().into()),
        ];
        let further = self.environment.iter();
        environment.extend(further.map(|(name, value)| (name.into(), value.into())));
        Context {
            program: env!("CARGO_BIN_EXE_xsched-stand-in").into(),
            version: "0.0.0-test".into(),
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            preload: None,
            environment,
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
            interactive: false,
            watches_others: false,
            limits: self.limits,
            interrupt: self.interrupt.clone(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.root().join("out")
    }

    pub(crate) fn pids(&self) -> PathBuf {
        self.root().join("pids")
    }

    /// The files in the output directory, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.out())
            .map(|entries| entries.collect())
            .unwrap_or_else(|_| Vec::new());
        let mut names: Vec<String> = entries
            .into_iter()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "logs")
            .collect();
        names.sort();
        names
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).unwrap()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// Every process that the stand-ins noted is gone, or a zombie that only its adopter can reap.
    fn assert_nothing_is_left(&self) {
        for entry in std::fs::read_dir(self.pids()).unwrap() {
            let path = entry.unwrap().path();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let pid = Pid::from_raw(line.parse().unwrap()).unwrap();
                while test_kill_process(pid).is_ok() && !is_zombie_or_another(pid) {
                    // A process that was sent SIGKILL may take a moment to go.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// The number may have been given to another process since.
fn is_zombie_or_another(pid: Pid) -> bool {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    let zombie =
        std::fs::read_to_string(format!("{dir}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let name = std::fs::read_to_string(format!("{dir}/comm")).unwrap_or_default();
    zombie || !(name.starts_with("sleep") || name.starts_with("xsched-stand-in"))
}
