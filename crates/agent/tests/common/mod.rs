//! Agents with settings given in the test, on real queues.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_agent::Agent;
use xsched_cpu::{Command, CpuQueue};
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

pub fn counting(counter: &Arc<AtomicUsize>) -> Command {
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
