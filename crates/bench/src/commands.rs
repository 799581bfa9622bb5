//! Queues of commands of a set duration, on either device, in this process.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_wire::segment::{Layout, PeerSegment, SLOTS};
use xsched_wire::{ControlBlock, Hints, Priority};
use xsched_xqueue::XQueue;

use crate::worker::Device;
use crate::worker::cuda::Kernels;
use crate::worker::cuda::driver::{self, HostWords};

/// One hw queue of this process, in order.
pub(crate) trait Commands: Send + Sync {
    /// A command of the set duration that fills the device; `ended` is `sequence` from its end on.
    fn launch(&self, sequence: u32) -> anyhow::Result<()>;

    /// The shortest command that says when it ran; likewise.
    fn signal(&self, sequence: u32) -> anyhow::Result<()>;

    /// The last command that has ended. A load from memory.
    fn ended(&self) -> u32;

    /// A command that takes no time of the device and lasts until `release`.
    fn hold(&self, sequence: u32) -> anyhow::Result<()>;

    /// Lets it end.
    fn release(&self, sequence: u32) -> anyhow::Result<()>;

    /// Waits until all have ended.
    fn synchronize(&self) -> anyhow::Result<()>;

    /// Preemption level in force; 0 = unscheduled.
    fn level(&self) -> u8;

    /// The queue's control block, once it has had a command.
    fn block(&self) -> anyhow::Result<&'static ControlBlock>;

    /// To be called once in each further thread that uses this.
    fn enter(&self) -> anyhow::Result<()>;

    /// Another queue, of commands of the same length.
    fn another(&self) -> anyhow::Result<Arc<dyn Commands>>;

    /// The same, a queue that the driver itself prefers to the others; an error where it has no such thing.
    fn urgent(&self) -> anyhow::Result<Arc<dyn Commands>>;

    /// Length of a command in the device's own measure.
    fn rounds(&self) -> u64;

    /// Makes the queue a task group of its own, -255 to 255, larger is more urgent.
    fn set_priority(&self, priority: Priority) -> anyhow::Result<()>;
}

/// A queue of commands of `us` µs.
pub(crate) fn open(device: Device, us: f64) -> anyhow::Result<Arc<dyn Commands>> {
    Ok(match device {
        Device::Cpu => Arc::new(OnCpu::open(us)?),
        Device::Cuda => Arc::new(OnCuda::open(us)?),
        Device::OpenCl => anyhow::bail!("an OpenCL device does not say when it stopped"),
    })
}

/// The same, of commands that are so long in the device's own measure as [`Commands::rounds`] has it: equal
/// work in several processes.
pub(crate) fn open_equal(device: Device, rounds: u64) -> anyhow::Result<Arc<dyn Commands>> {
    Ok(match device {
        Device::Cpu => Arc::new(OnCpu::with(Agent::from_env()?, rounds)?),
        Device::Cuda => Arc::new(OnCuda::with(
            u32::try_from(rounds)?,
            Kernels::uncalibrated()?,
        )?),
        Device::OpenCl => bail!("an OpenCL device does not say when it stopped"),
    })
}

struct OnCpu {
    agent: Agent,
    queue: XQueue<CpuQueue>,
    rounds: u64,
    ended: Arc<AtomicU32>,
    /// Ends what `hold` launched.
    release: Mutex<Option<Sender<()>>>,
}

impl OnCpu {
    fn open(us: f64) -> anyhow::Result<OnCpu> {
        OnCpu::with(Agent::from_env()?, (us * rounds_per_us()) as u64)
    }

    fn with(agent: Agent, rounds: u64) -> anyhow::Result<OnCpu> {
        let queue = agent.attach(CpuQueue::new(1)?, xsched_cpu::DEVICE)?;
        Ok(OnCpu {
            agent,
            queue,
            rounds,
            ended: Arc::default(),
            release: Mutex::default(),
        })
    }

    fn work(&self, rounds: u64, sequence: u32) -> anyhow::Result<()> {
        let ended = self.ended.clone();
        Ok(self.queue.launch(Box::new(move || {
            spin(rounds);
            ended.store(sequence, Ordering::Release);
            Ok(())
        }))?)
    }
}

/// Work, not a wait for a clock: time switched out does not count.
fn spin(rounds: u64) {
    let mut word = 1_u32;
    for _ in 0..rounds {
        word = black_box(word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    }
}

fn rounds_per_us() -> f64 {
    const ROUNDS: u64 = 200_000;
    let time = || {
        let start = Instant::now();
        spin(ROUNDS);
        start.elapsed()
    };
    let fastest = (0..50).map(|_| time()).min().unwrap_or(Duration::MAX);
    ROUNDS as f64 / (fastest.as_secs_f64() * 1e6)
}

impl Commands for OnCpu {
    fn launch(&self, sequence: u32) -> anyhow::Result<()> {
        self.work(self.rounds, sequence)
    }

    fn signal(&self, sequence: u32) -> anyhow::Result<()> {
        self.work(1, sequence)
    }

    fn ended(&self) -> u32 {
        self.ended.load(Ordering::Acquire)
    }

    fn hold(&self, _sequence: u32) -> anyhow::Result<()> {
        let (sender, receiver) = channel();
        *self.release.lock().expect("nobody panics with it") = Some(sender);
        Ok(self.queue.launch(Box::new(move || {
            let _ = receiver.recv();
            Ok(())
        }))?)
    }

    fn release(&self, _sequence: u32) -> anyhow::Result<()> {
        // The other end hears that this one is gone.
        drop(self.release.lock().expect("nobody panics with it").take());
        Ok(())
    }

    fn synchronize(&self) -> anyhow::Result<()> {
        Ok(self.queue.synchronize()?)
    }

    fn level(&self) -> u8 {
        let level = self.queue.level().filter(|_| self.agent.is_scheduled());
        level.map_or(0, |level| level as u8)
    }

    fn block(&self) -> anyhow::Result<&'static ControlBlock> {
        Ok(self.queue.slot().block)
    }

    fn enter(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn another(&self) -> anyhow::Result<Arc<dyn Commands>> {
        Ok(Arc::new(OnCpu::with(self.agent.clone(), self.rounds)?))
    }

    fn urgent(&self) -> anyhow::Result<Arc<dyn Commands>> {
        bail!("queues of the CPU have no priorities of their own")
    }

    fn rounds(&self) -> u64 {
        self.rounds
    }

    fn set_priority(&self, priority: Priority) -> anyhow::Result<()> {
        let hints = Hints {
            priority: Some(priority),
            ..Hints::default()
        };
        self.agent.hint(&self.queue, hints);
        Ok(())
    }
}

/// Kernels by the driver, as any program launches them; a preloaded shim schedules them.
struct OnCuda {
    kernels: Kernels,
    rounds: u32,
    /// What `hold` waits for.
    released: HostWords,
    block: OnceLock<&'static ControlBlock>,
}

impl OnCuda {
    fn open(us: f64) -> anyhow::Result<OnCuda> {
        let kernels = Kernels::open()?;
        OnCuda::with(kernels.rounds(us), kernels)
    }

    fn with(rounds: u32, kernels: Kernels) -> anyhow::Result<OnCuda> {
        Ok(OnCuda {
            rounds,
            released: kernels.device.host_words(1)?,
            block: OnceLock::new(),
            kernels,
        })
    }
}

impl Commands for OnCuda {
    fn launch(&self, sequence: u32) -> anyhow::Result<()> {
        Ok(self.kernels.launch(self.rounds, sequence)?)
    }

    fn signal(&self, sequence: u32) -> anyhow::Result<()> {
        Ok(self.kernels.signal(sequence)?)
    }

    fn ended(&self) -> u32 {
        self.kernels.ended()
    }

    /// The stream's front end waits, and behind it a command that makes the queue ready.
    fn hold(&self, sequence: u32) -> anyhow::Result<()> {
        let Kernels { device, stream, .. } = &self.kernels;
        device.wait_for(self.released, sequence, *stream)?;
        self.signal(sequence)
    }

    fn release(&self, sequence: u32) -> anyhow::Result<()> {
        self.released.words[0].store(sequence, Ordering::Release);
        Ok(())
    }

    fn synchronize(&self) -> anyhow::Result<()> {
        Ok(self.kernels.device.synchronize(self.kernels.stream)?)
    }

    fn level(&self) -> u8 {
        driver::level_in_force()
    }

    /// The shim's: found among this process's files, as the daemon finds it among those it is given.
    fn block(&self) -> anyhow::Result<&'static ControlBlock> {
        if let Some(block) = self.block.get() {
            return Ok(block);
        }
        let layout = own_segment()?;
        let blocks = (0..SLOTS as u16).filter_map(|slot| layout.block(slot));
        let used: Vec<_> = blocks
            .filter(|block| block.state().submitted() > 0)
            .collect();
        match used.as_slice() {
            [block] => Ok(self.block.get_or_init(|| block)),
            other => bail!("{} queues have commands, one was expected", other.len()),
        }
    }

    fn enter(&self) -> anyhow::Result<()> {
        Ok(self.kernels.device.enter()?)
    }

    fn another(&self) -> anyhow::Result<Arc<dyn Commands>> {
        Ok(Arc::new(OnCuda::with(
            self.rounds,
            self.kernels.another()?,
        )?))
    }

    fn urgent(&self) -> anyhow::Result<Arc<dyn Commands>> {
        Ok(Arc::new(OnCuda::with(self.rounds, self.kernels.urgent()?)?))
    }

    fn rounds(&self) -> u64 {
        self.rounds.into()
    }

    fn set_priority(&self, priority: Priority) -> anyhow::Result<()> {
        Ok(driver::set_priority(self.kernels.stream, priority.get())?)
    }
}

/// The segment that a shim in this process has made.
fn own_segment() -> anyhow::Result<&'static Layout> {
    for entry in std::fs::read_dir("/proc/self/fd").context("cannot list this process's files")? {
        let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(file) = driver::duplicate(number) else {
            continue; // the listing's own, closed by now
        };
        if let Ok(segment) = PeerSegment::open(file.as_fd()) {
            return Ok(Box::leak(Box::new(segment)).layout());
        }
    }
    bail!("no shim schedules this process: check that libshimcuda.so stands beside xsched")
}
