//! The two programs of a trial: the low one keeps its queue full and watches its gate, the high one
//! becomes ready and idle on request. Both stamp CLOCK_MONOTONIC.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use xsched_wire::ControlBlock;

use crate::clock::now_ns;
use crate::commands::{self, Commands};
use crate::worker::Device;

/// Commands that the low program keeps in its queue: more than any window, and than commands of this
/// length between two gates.
const DEPTH: u32 = 32;

/// How long the scheduler may take until it knows a program.
const SCHEDULED_LIMIT: Duration = Duration::from_secs(10);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Becomes ready and idle.
    High,
    /// Keeps its queue full.
    Low,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::High => "high",
            Role::Low => "low",
        }
    }
}

/// Runs one of them: instructions on standard input, an answer a line.
pub(super) fn run(role: Role, device: Device, us: f64) -> anyhow::Result<()> {
    let queue = commands::open(device, us)?;
    queue.signal(1)?;
    queue.synchronize()?;
    let deadline = Instant::now() + SCHEDULED_LIMIT;
    while queue.level() == 0 || queue.block()?.is_bypassed() {
        if Instant::now() >= deadline {
            bail!("nobody schedules this program: `xsched doctor` says why");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match role {
        Role::High => high(&*queue),
        Role::Low => low(&queue, us),
    }
}

fn high(queue: &dyn Commands) -> anyhow::Result<()> {
    say(queue.level())?;
    let mut sequence = 1;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "hold" => {
                sequence += 1;
                queue.hold(sequence)?;
                say("holding")?;
            }
            "release" => {
                queue.release(sequence)?;
                queue.synchronize()?;
                say("idle")?;
            }
            // From the submission to the moment that the command has run, ns.
            "start" => {
                sequence += 1;
                let submitted = now_ns();
                queue.signal(sequence)?;
                while queue.ended() != sequence {
                    std::hint::spin_loop();
                }
                let ran = now_ns();
                queue.synchronize()?;
                say(ran - submitted)?;
            }
            other => bail!("unknown instruction '{other}'"),
        }
    }
    Ok(())
}

fn low(queue: &Arc<dyn Commands>, us: f64) -> anyhow::Result<()> {
    let block = queue.block()?;
    let stop = Arc::new(AtomicBool::new(false));
    let feeder = std::thread::spawn({
        let (queue, stop) = (queue.clone(), stop.clone());
        move || feed(&*queue, &stop, us)
    });
    say(queue.level())?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "watch" => {
                // The daemon may still be about to open it after the trial before.
                while !block.is_open() {
                    std::thread::sleep(Duration::from_micros(50));
                }
                say("open")?;
                say(watch(&**queue, block, us))?;
            }
            other => bail!("unknown instruction '{other}'"),
        }
        if feeder.is_finished() {
            break;
        }
    }
    stop.store(true, Ordering::SeqCst);
    match feeder.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread that launches panicked"),
    }
}

/// Keeps the queue full.
fn feed(queue: &dyn Commands, stop: &AtomicBool, us: f64) -> anyhow::Result<()> {
    queue.enter()?;
    let pause = Duration::from_secs_f64(us / 1e6).min(Duration::from_millis(1)) / 2;
    let mut sequence = 1_u32;
    while !stop.load(Ordering::SeqCst) {
        if sequence.wrapping_sub(queue.ended()) >= DEPTH {
            std::thread::sleep(pause);
            continue;
        }
        sequence = sequence.wrapping_add(1);
        queue.launch(sequence)?;
    }
    queue.synchronize()
}

/// What the low program saw of one trial.
pub(super) enum Seen {
    /// The gate closed.
    Closed {
        /// From no later than the store that closed it to no earlier than the end of the last
        /// command that still completed, ns; 0 if none did.
        latency_ns: u64,
        /// Commands that still completed.
        commands: u32,
    },
    /// The gate opened again before the end could be told.
    Reopened,
}

impl Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seen::Closed {
                latency_ns,
                commands,
            } => write!(f, "{latency_ns} {commands}"),
            Seen::Reopened => f.write_str("reopened"),
        }
    }
}

impl Seen {
    pub(super) fn parse(line: &str) -> Option<Seen> {
        if line == "reopened" {
            return Some(Seen::Reopened);
        }
        let (latency, commands) = line.split_once(' ')?;
        Some(Seen::Closed {
            latency_ns: latency.parse().ok()?,
            commands: commands.parse().ok()?,
        })
    }
}

/// How long no command has ended when none will any more, ns.
fn quiet(us: f64) -> u64 {
    (3.0 * us * 1e3) as u64 + 2_000_000
}

/// Spins until the gate closes, and on until no command ends any more.
fn watch(queue: &dyn Commands, block: &ControlBlock, us: f64) -> Seen {
    let quiet = quiet(us);
    // Stamped before the load that found the gate open: the store came later.
    let mut closed = now_ns();
    loop {
        let before = now_ns();
        if !block.is_open() {
            break;
        }
        closed = before;
    }
    let first = queue.ended();
    let (mut last, mut last_ended) = (first, closed);
    loop {
        let ended = queue.ended();
        let now = now_ns();
        if ended != last {
            (last, last_ended) = (ended, now);
        } else if now - last_ended > quiet {
            return Seen::Closed {
                latency_ns: last_ended - closed,
                commands: last.wrapping_sub(first),
            };
        }
        if block.is_open() {
            return Seen::Reopened;
        }
    }
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
    fn what_was_seen_survives_the_line() {
        let seen = Seen::Closed {
            latency_ns: 1234,
            commands: 8,
        };
        assert!(matches!(
            Seen::parse(&seen.to_string()),
            Some(Seen::Closed {
                latency_ns: 1234,
                commands: 8
            })
        ));
        assert!(matches!(
            Seen::parse(&Seen::Reopened.to_string()),
            Some(Seen::Reopened)
        ));
        assert!(Seen::parse("soon").is_none());
    }
}
