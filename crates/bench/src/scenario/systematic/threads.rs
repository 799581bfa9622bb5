//! The process of one case: its threads, a queue each.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use xsched_wire::{Priority, env};

use super::Options;
use crate::commands::{self, Commands};

const HIGH: i32 = 100;
const LOW: i32 = -100;

/// How long the scheduler may take until it knows this process.
const SCHEDULED_LIMIT: Duration = Duration::from_secs(10);

/// How many threads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    high: u32,
    low: u32,
    /// Length of a command in the device's own measure: the same for every process.
    rounds: u64,
    /// The high threads' queues have the driver's own highest priority.
    by_driver: bool,
}

/// What [`Shape`]'s text ends with where `by_driver` is set.
pub(super) const BY_DRIVER: &str = ":driver";

impl Shape {
    /// `HIGH+LOW:ROUNDS` or `HIGH+LOW:ROUNDS:driver`.
    pub(super) fn parse(text: &str) -> Option<Shape> {
        let bare = text.strip_suffix(BY_DRIVER);
        let (threads, rounds) = bare.unwrap_or(text).split_once(':')?;
        let (high, low) = threads.split_once('+')?;
        Some(Shape {
            high: high.parse().ok().filter(|&high| high > 0)?,
            low: low.parse().ok()?,
            rounds: rounds.parse().ok()?,
            by_driver: bare.is_some(),
        })
    }
}

/// What the threads did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Done {
    /// 0: unscheduled.
    pub(super) level: u8,
    /// Of each high thread, each task's time in ms.
    pub(super) high_ms: Vec<Vec<f64>>,
    /// Of all low threads together.
    pub(super) low_tasks: u64,
    pub(super) seconds: f64,
}

/// Says how long a command of the options' length is in the device's own measure.
pub(super) fn calibrate(options: &Options) -> anyhow::Result<()> {
    say(commands::open(options.device, options.command_us)?.rounds())
}

/// Says when it is ready, and to a line what the threads did.
pub(super) fn run(options: &Options, shape: Shape) -> anyhow::Result<()> {
    let first = commands::open_equal(options.device, shape.rounds)?;
    let mut queues = Vec::new();
    for index in 0..shape.high + shape.low {
        queues.push(match index {
            _ if shape.by_driver && index < shape.high => first.urgent()?,
            0 => first.clone(),
            _ => first.another()?,
        });
    }
    let off = env::DISABLE.get().is_some_and(|value| value != "0");
    for (queue, index) in queues.iter().zip(0..) {
        queue.signal(1)?;
        queue.synchronize()?;
        if !off {
            let priority = if index < shape.high { HIGH } else { LOW };
            queue.set_priority(Priority::new(priority)?)?;
        }
    }
    let deadline = Instant::now() + SCHEDULED_LIMIT;
    while !off && queues.iter().any(|queue| queue.level() == 0) {
        if Instant::now() >= deadline {
            bail!("the process's own scheduler does not answer: `xsched doctor` says why");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    say("ready")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() != "start" {
        return Ok(());
    }
    let done = together(options, shape, &queues)?;
    say(serde_json::to_string(&done)?)
}

/// What the threads share.
struct Team {
    tasks: u32,
    commands: u32,
    start: Barrier,
    /// High threads that have tasks left.
    at_work: AtomicU32,
    low_tasks: AtomicU64,
    failed: AtomicBool,
}

impl Team {
    /// Each task's time, ms.
    fn high(&self, queue: &dyn Commands) -> anyhow::Result<Vec<f64>> {
        let entered = queue.enter();
        self.start.wait();
        let times = entered.and_then(|()| self.tasks_of(queue));
        self.at_work.fetch_sub(1, Ordering::Relaxed);
        times
    }

    fn tasks_of(&self, queue: &dyn Commands) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(self.tasks as usize);
        while times.len() < self.tasks as usize && !self.failed.load(Ordering::Relaxed) {
            let start = Instant::now();
            task(queue, self.commands)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }

    /// Works until the high threads are done.
    fn low(&self, queue: &dyn Commands) -> anyhow::Result<()> {
        let entered = queue.enter();
        self.start.wait();
        let end = entered.and_then(|()| {
            while self.at_work.load(Ordering::Relaxed) > 0 {
                task(queue, self.commands)?;
                self.low_tasks.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        self.failed.fetch_or(end.is_err(), Ordering::Relaxed);
        end
    }
}

fn together(options: &Options, shape: Shape, queues: &[Arc<dyn Commands>]) -> anyhow::Result<Done> {
    let team = Team {
        tasks: options.tasks,
        commands: options.commands,
        start: Barrier::new(queues.len()),
        at_work: AtomicU32::new(shape.high),
        low_tasks: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let (high, low) = queues.split_at(shape.high as usize);
    let start = Instant::now();
    let high_ms = std::thread::scope(|scope| {
        let team = &team;
        let low: Vec<_> = low
            .iter()
            .map(|queue| scope.spawn(|| team.low(&**queue)))
            .collect();
        let high: Vec<_> = high
            .iter()
            .map(|queue| scope.spawn(|| team.high(&**queue)))
            .collect();
        for thread in low {
            thread.join().ok().context("a low thread panicked")??;
        }
        let times = high.into_iter().map(|thread| thread.join());
        let times = times.map(|times| times.ok().context("a high thread panicked")?);
        times.collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(Done {
        level: queues.iter().map(|queue| queue.level()).min().unwrap_or(0),
        high_ms,
        low_tasks: team.low_tasks.into_inner(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// A series of commands, and the wait for them.
fn task(queue: &dyn Commands, count: u32) -> anyhow::Result<()> {
    for sequence in 1..=count {
        queue.launch(sequence)?;
    }
    queue.synchronize()
}

fn say(what: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_a_high_thread() {
        let shape = |high, low, rounds| {
            Some(Shape {
                high,
                low,
                rounds,
                by_driver: false,
            })
        };
        assert_eq!(Shape::parse("3+13:7"), shape(3, 13, 7));
        assert_eq!(Shape::parse("1+0:900000"), shape(1, 0, 900_000));
        let by_driver = Shape::parse("1+15:7:driver");
        assert!(by_driver.is_some_and(|shape| shape.by_driver && shape.rounds == 7));
        for wrong in ["0+3:1", "3:1", "3+:1", "+3:1", "a+b:1", "1+1", "1+1:"] {
            assert_eq!(Shape::parse(wrong), None, "{wrong}");
        }
    }
}
