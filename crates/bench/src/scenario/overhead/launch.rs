//! A process that measures its own kernel launches: on request, the host's time for one.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::bail;
use xsched_wire::env;

use crate::clock::now_ns;
use crate::worker::cuda::driver::{Device, Stream, level_in_force};

/// Launches that are timed together: so few that most batches meet no gate and no mark, which come
/// every 16 commands or less often.
const BATCH: u32 = 4;
const BATCHES: usize = 4000;

/// How long the scheduler may take until it knows this process.
const SCHEDULED_LIMIT: Duration = Duration::from_secs(10);

/// Says its level when it is ready, and to each line its median, ns.
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
    say(f64::from(level_in_force()))?;
    for line in std::io::stdin().lock().lines() {
        line?;
        say(measure(&device, stream, BATCHES)?)?;
    }
    Ok(())
}

/// The median over the batches of the host's time for a launch, ns.
fn measure(device: &Device, stream: Stream, batches: usize) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(batches);
    for _ in 0..batches {
        // The first one makes the queue ready, which its scheduler is told.
        device.empty(stream)?;
        let start = now_ns();
        for _ in 0..BATCH {
            device.empty(stream)?;
        }
        times.push(now_ns() - start);
        device.synchronize(stream)?;
    }
    times.sort_unstable();
    Ok(times[batches / 2] as f64 / f64::from(BATCH))
}

fn say(figure: f64) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{figure}")?;
    Ok(out.flush()?)
}
