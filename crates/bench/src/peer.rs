//! A program that the harness talks to, line by line: it is told what to do and answers. Ended, with
//! everything that it started, when dropped.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;
use crate::launch::{END_GRACE, Launcher, Process, describe_exit};
use crate::phase::Failure;

/// How often a wait looks at signals.
const POLL: Duration = Duration::from_millis(50);

/// How long a program may take to end once its input has ended.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// One such program.
pub(crate) struct Peer {
    name: String,
    process: Process,
    lines: Receiver<String>,
    interrupt: Interrupt,
}

impl Peer {
    /// Starts a program; its standard error goes to the log `name`.
    pub(crate) fn start(
        launcher: &Launcher,
        command: Command,
        name: &str,
        interrupt: &Interrupt,
    ) -> Result<Peer, Failure> {
        let started = launcher.spawn(command, name);
        let mut process = started.map_err(|error| Failure::Start {
            task: name.to_owned(),
            reason: error.to_string(),
        })?;
        let stdout = process.take_stdout().expect("spawned with a pipe");
        let (sender, lines) = mpsc::channel();
        // Never joined: a stray descendant may hold the pipe open.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Peer {
            name: name.to_owned(),
            process,
            lines,
            interrupt: interrupt.clone(),
        })
    }

    /// Sends a line.
    pub(crate) fn tell(&mut self, what: &str) {
        self.process.send(what);
    }

    /// The next line, which must come within `limit`.
    pub(crate) fn read(&mut self, limit: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(POLL) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(signal) = self.interrupt.received() {
                return Err(Failure::Interrupted(signal));
            }
            if Instant::now() >= deadline {
                return Err(Failure::Silent {
                    task: self.name.clone(),
                    seconds: limit.as_secs_f64(),
                    log: self.process.log().display().to_string(),
                });
            }
        }
    }

    /// Sends a line and reads the answer.
    pub(crate) fn ask(&mut self, what: &str, limit: Duration) -> Result<String, Failure> {
        self.tell(what);
        self.read(limit)
    }

    /// Ends the program's input, and expects it to end well.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.process.close_stdin();
        let deadline = Instant::now() + EXIT_LIMIT;
        loop {
            let (task, log) = (self.name.clone(), self.process.log().display().to_string());
            match self.process.poll_exit() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::DiedAtExit {
                        task,
                        how: describe_exit(status),
                        words: self.words(),
                        log,
                    });
                }
                None if Instant::now() >= deadline => {
                    let seconds = EXIT_LIMIT.as_secs_f64();
                    return Err(Failure::HungAtExit { task, seconds, log });
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn died(&mut self) -> Failure {
        self.process.end(END_GRACE);
        let how = self
            .process
            .poll_exit()
            .map_or_else(|| "an unknown status".to_owned(), describe_exit);
        Failure::Died {
            task: self.name.clone(),
            how,
            words: self.words(),
            log: self.process.log().display().to_string(),
        }
    }

    fn words(&self) -> String {
        let words = self.process.last_words();
        words.map_or_else(String::new, |words| format!(" ({words})"))
    }
}
