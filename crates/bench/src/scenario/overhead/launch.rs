//! A process that measures its own kernel launches: on request, the host's time for one, by the shim's
//! hook and by the driver's own function, in turns. Processes differ by more than a hook costs, so that
//! the two are compared within one.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use xsched_wire::env;

use crate::clock::now_ns;
use crate::stats::median;
use crate::worker::cuda::driver::{Device, Error, Stream, level_in_force};

/// Launches of each kind that are timed one by one between two waits for the device: so few that the
/// stream's queue never fills.
const BATCH: usize = 8;
const BATCHES: usize = 1000;

/// How long the scheduler may take until it knows this process.
const SCHEDULED_LIMIT: Duration = Duration::from_secs(10);

/// The host's time for a launch in one process, ns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Costs {
    /// By the driver's own function.
    pub(super) bare: f64,
    /// As the program finds it.
    pub(super) hooked: f64,
}

impl Costs {
    /// What [`program`] has written.
    pub(super) fn parse(line: &str) -> anyhow::Result<Costs> {
        let (bare, hooked) = line
            .trim()
            .split_once(' ')
            .context("two figures expected")?;
        Ok(Costs {
            bare: bare.parse()?,
            hooked: hooked.parse()?,
        })
    }
}

/// Says its level when it is ready, and to each line its medians.
pub(super) fn program() -> anyhow::Result<()> {
    let device = Device::open()?;
    let stream = device.stream()?;
    measure(&device, stream, BATCHES / 10)?;
    let off = env::DISABLE.get().is_some_and(|value| value != "0");
    let deadline = Instant::now() + SCHEDULED_LIMIT;
    while !off && level_in_force() == 0 {
        if Instant::now() >= deadline {
            bail!("nobody schedules this process: `xsched doctor` says why");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    say(level_in_force())?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let Costs { bare, hooked } = measure(&device, stream, BATCHES)?;
        say(format!("{bare} {hooked}"))?;
    }
    Ok(())
}

/// Medians over single launches. A launch is over when the next one begins: its last store rings the
/// device, and whatever has to wait for that belongs to it. One in some has a gate and a mark behind it,
/// and the median is of the others.
fn measure(device: &Device, stream: Stream, batches: usize) -> anyhow::Result<Costs> {
    let mut bare = Vec::with_capacity(batches * BATCH);
    let mut hooked = Vec::with_capacity(batches * BATCH);
    for batch in 0..batches {
        // The first one makes the queue ready, which its scheduler is told.
        device.empty(stream)?;
        // The row behind that one takes longer, whichever it is.
        if batch % 2 == 1 {
            row(&mut hooked, || device.empty(stream))?;
        }
        row(&mut bare, || device.empty_unhooked(stream))?;
        if batch % 2 == 0 {
            row(&mut hooked, || device.empty(stream))?;
        }
        device.synchronize(stream)?;
    }
    Ok(Costs {
        bare: median(bare).context("no launch")?,
        hooked: median(hooked).context("no launch")?,
    })
}

/// [`BATCH`] launches that follow launches of their own kind.
fn row(times: &mut Vec<f64>, launch: impl Fn() -> Result<(), Error>) -> anyhow::Result<()> {
    launch()?;
    let mut before = now_ns();
    for _ in 0..BATCH {
        launch()?;
        let after = now_ns();
        times.push((after - before) as f64);
        before = after;
    }
    Ok(())
}

fn say(figure: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{figure}")?;
    Ok(out.flush()?)
}
