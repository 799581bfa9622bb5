//! The programs of the fault tests: real processes with a real agent and queue, told by lines on
//! their stdin what to do. [`Guest`] is the test's end, [`serve`] the program's.
//!
//! | line | what the program does | its answer |
//! |---|---|---|
//! | `run` | launches commands of 2 ms, always with some to spare | `running` |
//! | `pause` | stops that and synchronizes | `paused` |
//! | `once` | launches one command and synchronizes | `finished` |
//! | `hold` | launches a command that ends at `release` | `holding` |
//! | `release` | | `released` |
//! | `counts` | | commands launched and done, or `none` without a queue |
//! | `fork` | forks a child with a queue of its own that runs | the child's pid |
//! | `clone` | the same without fork handlers, so the child keeps every descriptor | the child's pid |
//! | `exec` | becomes this program anew | |
//! | `exit N` | exits with that code | |
//!
//! The queue is made by the first line that needs it. At the end of its stdin a program ends.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead, BufReader, Write, stdin, stdout},
    os::unix::process::CommandExt,
    process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_server::api::Queue;
use xsched_wire::{Level, env};
use xsched_xqueue::XQueue;

use super::common::{Daemon, PATIENCE, Program, clean, signal, wait_until};

/// The test that is the program's `main`, if this variable is set.
const ROLE: &str = "guest_process";
pub(crate) const ROLE_VARIABLE: &str = "XSCHED_TEST_GUEST";
const COMMAND: Duration = Duration::from_millis(2);
/// Commands that a running program keeps launched. More than a busy machine keeps its thread from
/// adding to, so that it never turns idle; fewer than admission lets through behind a gate.
pub(crate) const AHEAD: u64 = 64;
const ANSWER: &str = "= ";

/// A program, ended with this guard.
pub(crate) struct Guest {
    program: Program,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What a program counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Commands whose launch has returned.
    pub(crate) launched: u64,
    /// Commands that were executed.
    pub(crate) done: u64,
}

impl Guest {
    /// Starts one that will register with this daemon.
    pub(crate) fn start(daemon: &Daemon, name: &str, priority: i32, level: Level) -> Guest {
        Guest::start_with(daemon, name, priority, level, &[])
    }

    /// Starts one that runs commands back to back, and waits until the daemon knows it.
    #[allow(dead_code)] // not every test needs it
    #[track_caller]
    pub(crate) fn running(daemon: &Daemon, name: &str, level: Level) -> Guest {
        let mut guest = Guest::start(daemon, name, 0, level);
        guest.ask("run");
        guest.advance(1);
        // Its agent registers in its own time.
        wait_until(|| guest.queue(daemon).is_some(), PATIENCE);
        guest
    }

    /// Starts one with more in its environment.
    pub(crate) fn start_with(
        daemon: &Daemon,
        name: &str,
        priority: i32,
        level: Level,
        variables: &[(&str, &str)],
    ) -> Guest {
        let mut command = clean(std::env::current_exe().unwrap());
        command
            .args(["--exact", ROLE, "--nocapture"])
            .env(ROLE_VARIABLE, "1")
            .env(env::SOCKET.name, daemon.socket())
            .env(env::NAME.name, name)
            .env(env::PRIORITY.name, priority.to_string())
            .env(env::LEVEL.name, level.to_string())
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(daemon.program_log());
        let mut program = Program::start(&mut command);
        let stdin = program.child().stdin.take();
        let stdout = program.child().stdout.take().unwrap();
        Guest {
            program,
            stdin,
            stdout: BufReader::new(stdout),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub(crate) fn signal(&self, number: Signal) {
        self.program.signal(number);
    }

    /// Says a line that is not answered.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("not dismissed yet");
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Says a line and returns the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        loop {
            let mut said = String::new();
            if self.stdout.buffer().is_empty() {
                let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
                let found = poll(&mut fds, Some(&timespec(PATIENCE))).unwrap();
                assert!(found > 0, "no answer to '{line}' within {PATIENCE:?}");
            }
            self.stdout.read_line(&mut said).unwrap();
            assert!(!said.is_empty(), "the program ended at '{line}'");
            // Between the answers are lines of the test harness.
            if let Some(answer) = said.strip_prefix(ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }

    #[track_caller]
    pub(crate) fn counts(&mut self) -> Counts {
        let answer = self.ask("counts");
        let (launched, done) = answer.split_once(' ').expect("it has a queue");
        Counts {
            launched: launched.parse().unwrap(),
            done: done.parse().unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn done(&mut self) -> u64 {
        self.counts().done
    }

    /// Waits until so many more commands were executed.
    #[track_caller]
    pub(crate) fn advance(&mut self, commands: u64) {
        let target = self.done() + commands;
        wait_until(|| self.done() >= target, PATIENCE);
    }

    /// Its queue, as the daemon lists it.
    pub(crate) fn queue(&self, daemon: &Daemon) -> Option<Queue> {
        queue_of(daemon, self.pid())
    }

    /// Lets it end in order, without waiting for it.
    pub(crate) fn dismiss(&mut self) {
        self.stdin = None;
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.program.wait()
    }
}

/// The queue of a process, as the daemon lists it.
#[track_caller]
pub(crate) fn queue_of(daemon: &Daemon, pid: u32) -> Option<Queue> {
    let mut queues = daemon.queues();
    queues.retain(|queue| queue.pid == pid);
    assert!(queues.len() <= 1, "{queues:?}");
    queues.pop()
}

/// A process that is nobody's child here, ended with this guard.
pub(crate) struct Orphan(pub(crate) u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::KILL);
    }
}

fn timespec(duration: Duration) -> Timespec {
    duration.try_into().expect("not for ever")
}

// ---- the program's end ----

/// The program: obeys until its stdin ends, then exits.
pub(crate) fn serve() {
    let mut work: Option<Arc<Work>> = None;
    while let Some(line) = read_line() {
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "counts" => answer(&work.as_ref().map_or("none".into(), |work| work.counts())),
            "exec" => become_anew(),
            "exit" => std::process::exit(argument.parse().unwrap()),
            _ => {
                let work = work.get_or_insert_with(Work::start);
                answer(&work.obey(verb));
            }
        }
    }
    if let Some(work) = &work {
        work.obey("release");
    }
    std::process::exit(0);
}

/// Byte by byte, so that what comes after a line is left to whoever takes this program's place.
fn read_line() -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while rustix::io::read(stdin(), &mut byte).is_ok_and(|count| count == 1) {
        if byte == *b"\n" {
            return Some(String::from_utf8(line).unwrap());
        }
        line.push(byte[0]);
    }
    None
}

fn answer(text: &str) {
    // The test harness may have left an unfinished line.
    let line = format!("\n{ANSWER}{text}\n");
    rustix::io::write(stdout(), line.as_bytes()).unwrap();
}

/// A queue and the thread that launches.
struct Work {
    queue: XQueue<CpuQueue>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    /// The thread is between looking at `running` and counting what it launched.
    launching: bool,
    released: bool,
    launched: u64,
    done: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Sleeps until `holds`.
    fn wait(&self, mut holds: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.lock();
        self.changed
            .wait_while(state, |state| !holds(state))
            .unwrap()
    }
}

impl Work {
    fn start() -> Arc<Work> {
        static TEARDOWN: OnceLock<Arc<Work>> = OnceLock::new();
        /// A driver waits for its queues before the process may end.
        extern "C" fn teardown() {
            if let Some(work) = TEARDOWN.get() {
                work.shared.change(|state| state.running = false);
                work.queue.synchronize().unwrap();
            }
        }
        // SAFETY: a function without arguments that stays mapped. Before the agent's handler, so
        // that it runs after that.
        unsafe { libc::atexit(teardown) };
        let agent = Agent::from_env().unwrap();
        let queue = agent
            .attach(CpuQueue::new(1).unwrap(), xsched_cpu::DEVICE)
            .unwrap();
        let work = Arc::new(Work {
            queue,
            shared: Arc::default(),
        });
        thread::spawn({
            let work = work.clone();
            move || work.launch_for_ever()
        });
        // A forked child has its parent's already, and never runs it.
        let _ = TEARDOWN.set(work.clone());
        work
    }

    fn launch_for_ever(&self) {
        loop {
            let is_wanted =
                |state: &State| state.running && state.launched < state.done.saturating_add(AHEAD);
            self.shared.wait(is_wanted).launching = true;
            self.launch(|_| thread::sleep(COMMAND));
            self.shared.change(|state| state.launching = false);
        }
    }

    fn launch(&self, command: impl FnOnce(&Shared) + Send + 'static) {
        let shared = self.shared.clone();
        let command = Box::new(move || {
            command(&shared);
            shared.change(|state| state.done += 1);
            Ok(())
        });
        self.queue.launch(command).unwrap();
        self.shared.change(|state| state.launched += 1);
    }

    fn obey(&self, verb: &str) -> String {
        match verb {
            "run" => {
                self.shared.change(|state| state.running = true);
                "running".into()
            }
            "pause" => {
                self.shared.change(|state| state.running = false);
                drop(self.shared.wait(|state| !state.launching));
                self.queue.synchronize().unwrap();
                "paused".into()
            }
            "once" => {
                self.launch(|_| ());
                self.queue.synchronize().unwrap();
                "finished".into()
            }
            "hold" => {
                self.shared.change(|state| state.released = false);
                self.launch(|shared| drop(shared.wait(|state| state.released)));
                "holding".into()
            }
            "release" => {
                self.shared.change(|state| state.released = true);
                "released".into()
            }
            "fork" => self.fork().to_string(),
            "clone" => clone_with_everything().to_string(),
            other => panic!("'{other}' is no line of this program"),
        }
    }

    fn counts(&self) -> String {
        let state = self.shared.lock();
        format!("{} {}", state.launched, state.done)
    }

    /// Returns in the parent, once the child has passed the inherited queue's admission.
    fn fork(&self) -> i32 {
        let (passed, passing) = rustix::pipe::pipe().unwrap();
        // SAFETY: no other thread of this program holds a lock that the child uses, but those of
        // the allocator, which fork itself takes care of.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(self.queue.admit());
            rustix::io::write(&passing, b"1").unwrap();
            Work::start().obey("run");
            outlive_parent();
        }
        drop(passing);
        let count = rustix::io::read(&passed, &mut [0]).unwrap();
        assert_eq!(count, 1, "the child ended at the inherited queue");
        pid
    }
}

/// A child that no fork handler has seen; all it does are system calls.
fn clone_with_everything() -> i64 {
    let none: libc::c_long = 0;
    let flags = libc::c_long::from(libc::SIGCHLD);
    // SAFETY: as fork does it: neither memory nor stack is shared, nothing is stored anywhere.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    if pid == 0 {
        outlive_parent();
    }
    pid
}

/// A child's life: until the test, which has the other end of the stdin, is over.
fn outlive_parent() -> ! {
    let stdin = stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
    while poll(&mut fds, None).is_err() {}
    // SAFETY: ends the process without its parent's exit handlers.
    unsafe { libc::_exit(0) }
}

fn become_anew() {
    let error = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .exec();
    panic!("exec: {error}");
}

/// Prints how long something took since `start`, which decides no test.
pub(crate) fn print_time(what: &str, start: Instant) {
    println!("{what}: {} ms", start.elapsed().as_millis());
}
