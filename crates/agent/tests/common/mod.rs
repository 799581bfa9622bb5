//! Agents with settings given in the test, on real queues.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_wire::{
    Hints, LevelChoice,
    env::{LaunchConfig, Scheduler, Settings},
};
use xsched_xqueue::XQueue;

pub fn agent(scheduler: Scheduler) -> Agent {
    Agent::new(Settings {
        scheduler,
        level: LevelChoice::Auto,
        launch: LaunchConfig::default(),
        hints: Hints::default(),
        name: "test".into(),
        job: 0,
        warnings: Vec::new(),
    })
    .unwrap()
}

/// A queue that is its own task group.
pub fn queue(agent: &Agent, priority: i32) -> XQueue<CpuQueue> {
    let hints = Hints {
        priority: Some(xsched_wire::Priority::new(priority).unwrap()),
        ..Hints::default()
    };
    agent
        .attach_with(CpuQueue::new(1).unwrap(), "cpu:0", hints)
        .unwrap()
}

pub fn counting(counter: &Arc<AtomicUsize>) -> xsched_cpu::Command {
    let counter = counter.clone();
    Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

/// Far longer than anything takes: only a hang gets here.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const ROLE: &str = "XSCHED_TEST_ROLE";

/// Runs a test of the same file in a process of its own; a hang ends it and is a failure.
pub fn run(role: &str, environment: &[(&str, &Path)]) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture"])
        .env(ROLE, role)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(30) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{role} hung");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn has_role(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|value| value == role)
}
