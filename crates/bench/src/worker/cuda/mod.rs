//! The built-in CUDA workload: plain kernels of a set duration, by the driver alone. No Python, no
//! compiler.
//!
//! A request is what a server does, as in `torch.py`: copy the input to the device, run the kernels,
//! copy the output back, synchronize the stream. Each kernel works on the data of the one before it
//! ([`affine`]), so that the output proves that every round of every kernel was done.

mod affine;
pub(crate) mod driver;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::affine::Affine;
use self::driver::{BLOCK, Device, DeviceWords, Error, Graph, HostWords, Stream};
use super::{Failure, WorkerArgs, Workload};

/// Longest plain kernel, µs: longer ones look like a hang to people and watchdogs.
const LONGEST_KERNEL_US: f64 = 1e6;
/// Most kernels of one request.
const MOST_KERNELS: u32 = 10_000;
const MOST_ROUNDS: f64 = i32::MAX as f64;

/// How long the device's clocks may take to rise.
const CLOCKS_RISE: Duration = Duration::from_millis(333);
/// Length of a launch that calibration times, µs: shorter than a time slice, since other programs
/// use the device, too.
const CALIBRATION_US: f64 = 500.0;
const TRIES: u32 = 25;
const ATTEMPTS: u32 = 20;

/// Whether the model is plain kernels of a set duration.
pub(super) fn is_kernels(model: &str) -> bool {
    model.starts_with("spin:") || model.starts_with("kernels:")
}

/// Count and duration (µs) of `spin:MICROSECONDS` and `kernels:COUNTxMICROSECONDS`.
pub(super) fn parse(model: &str) -> Result<(u32, f64), String> {
    kernels(model).ok_or_else(|| {
        format!(
            "write spin:MICROSECONDS or kernels:COUNTxMICROSECONDS, 1 to {MOST_KERNELS} kernels of \
             1 to {LONGEST_KERNEL_US} µs, such as spin:10000 or kernels:20x50"
        )
    })
}

fn kernels(model: &str) -> Option<(u32, f64)> {
    let (count, duration) = match model.strip_prefix("spin:") {
        Some(duration) => ("1", duration),
        None => model.strip_prefix("kernels:")?.split_once('x')?,
    };
    // No sign, no exponent.
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !digits(count) || !digits(duration) {
        return None;
    }
    let (count, duration) = (count.parse().ok()?, duration.parse().ok()?);
    let valid =
        (1..=MOST_KERNELS).contains(&count) && (1.0..=LONGEST_KERNEL_US).contains(&duration);
    valid.then_some((count, duration))
}

/// A stream with kernels that fill the device for a set time.
pub(crate) struct Kernels {
    pub(crate) device: Device,
    pub(crate) stream: Stream,
    data: DeviceWords,
    counter: DeviceWords,
    /// Sequence of the last launch that has ended: its only word.
    pub(crate) done: HostWords,
    /// Rounds that a launch does in a µs, undisturbed.
    rounds_per_us: f64,
}

impl Kernels {
    /// Opens the device and calibrates.
    pub(crate) fn open() -> Result<Kernels, Error> {
        let mut kernels = Kernels::uncalibrated()?;
        kernels.rounds_per_us = kernels.calibrate()?;
        Ok(kernels)
    }

    /// Opens the device; nobody knows how long a round takes.
    pub(crate) fn uncalibrated() -> Result<Kernels, Error> {
        let device = Device::open()?;
        let stream = device.stream()?;
        Kernels::on(device, stream, 0.0)
    }

    /// Another stream, with kernels of its own.
    pub(crate) fn another(&self) -> Result<Kernels, Error> {
        let stream = self.device.stream()?;
        Kernels::on(self.device.clone(), stream, self.rounds_per_us)
    }

    /// The same with a stream that the driver prefers.
    pub(crate) fn urgent(&self) -> Result<Kernels, Error> {
        let stream = self.device.urgent_stream()?;
        Kernels::on(self.device.clone(), stream, self.rounds_per_us)
    }

    fn on(device: Device, stream: Stream, rounds_per_us: f64) -> Result<Kernels, Error> {
        Ok(Kernels {
            data: device.device_words(device.blocks as usize * BLOCK, stream)?,
            counter: device.device_words(1, stream)?,
            done: device.host_words(1)?,
            rounds_per_us,
            device,
            stream,
        })
    }

    /// Rounds of a kernel of this duration.
    pub(crate) fn rounds(&self, us: f64) -> u32 {
        (us * self.rounds_per_us).round().clamp(1.0, MOST_ROUNDS) as u32
    }

    /// Launches one kernel that fills the device; `done` becomes `sequence` at its end.
    pub(crate) fn launch(&self, rounds: u32, sequence: u32) -> Result<(), Error> {
        self.launch_blocks(self.device.blocks, rounds, sequence)
    }

    /// The same on one block: the shortest command that says when it ran.
    pub(crate) fn signal(&self, sequence: u32) -> Result<(), Error> {
        self.launch_blocks(1, 1, sequence)
    }

    fn launch_blocks(&self, blocks: u32, rounds: u32, sequence: u32) -> Result<(), Error> {
        let work = driver::Work {
            data: self.data,
            counter: self.counter,
            done: self.done,
            blocks,
            rounds,
            sequence,
        };
        self.device.work(work, self.stream)
    }

    /// The last launch that has ended.
    pub(crate) fn ended(&self) -> u32 {
        self.done.words[0].load(Ordering::Acquire)
    }

    /// The difference of two lengths leaves out what a launch costs; the fastest of several tries
    /// was not disturbed.
    fn calibrate(&self) -> Result<f64, Error> {
        let fastest = |rounds: u32, tries: u32| {
            let mut least = f64::INFINITY;
            for _ in 0..tries {
                let us = self.device.time(self.stream, || self.launch(rounds, 0))?;
                least = least.min(us);
            }
            Ok(least)
        };
        let mut rounds = 1024;
        let deadline = Instant::now() + CLOCKS_RISE;
        while Instant::now() < deadline {
            if fastest(rounds, 5)? < CALIBRATION_US && rounds < 1 << 29 {
                rounds *= 2;
            }
        }
        for _ in 0..ATTEMPTS {
            let (once, twice) = (fastest(rounds, TRIES)?, fastest(2 * rounds, TRIES)?);
            // Otherwise disturbed throughout, by a program that holds the device.
            if twice > 1.5 * once {
                return Ok(f64::from(rounds) / (twice - once));
            }
        }
        Err(Error::Missing(
            "the duration of a kernel could not be measured: end other programs on the device"
                .to_owned(),
        ))
    }
}

/// The model, its input and output.
pub(super) struct CudaWorkload {
    kernels: Kernels,
    count: u32,
    rounds: u32,
    input: HostWords,
    output: HostWords,
    graph: Option<Graph>,
}

impl CudaWorkload {
    pub(super) fn new(args: &WorkerArgs) -> Result<CudaWorkload, Failure> {
        let (count, us) = parse(&args.model).map_err(Failure::usage)?;
        let kernels = Kernels::open()?;
        let rounds = kernels.rounds(us);
        eprintln!(
            "xsched worker: {}: {us} µs are {rounds} rounds of {} blocks",
            kernels.device.name, kernels.device.blocks
        );
        let (input, output) = (
            kernels.device.host_words(BLOCK)?,
            kernels.device.host_words(BLOCK)?,
        );
        for (thread, word) in (0..).zip(input.words) {
            word.store((args.seed as u32).wrapping_add(thread), Ordering::Relaxed);
        }
        let mut workload = CudaWorkload {
            kernels,
            count,
            rounds,
            input,
            output,
            graph: None,
        };
        if args.cuda_graph {
            // Loaded before it is captured.
            workload.request()?;
            let Kernels { device, stream, .. } = &workload.kernels;
            workload.graph = Some(device.capture(*stream, || workload.compute())?);
        }
        Ok(workload)
    }

    fn compute(&self) -> Result<(), Error> {
        for _ in 0..self.count {
            self.kernels.launch(self.rounds, 0)?;
        }
        Ok(())
    }

    fn request(&self) -> Result<(), Error> {
        let Kernels {
            device,
            stream,
            data,
            ..
        } = &self.kernels;
        device.copy_in(*data, self.input, *stream)?;
        match &self.graph {
            Some(graph) => device.replay(graph, *stream)?,
            None => self.compute()?,
        }
        device.copy_out(self.output, *data, *stream)?;
        device.synchronize(*stream)
    }
}

impl Workload for CudaWorkload {
    fn commands(&self) -> usize {
        let compute = if self.graph.is_some() { 1 } else { self.count };
        // And the two copies.
        compute as usize + 2
    }

    fn level(&self) -> u8 {
        driver::level_in_force()
    }

    /// The output with all rounds undone, which is the input however many there were.
    fn infer(&mut self) -> Result<Vec<u8>, Failure> {
        self.request()?;
        let undo = Affine::ROUND
            .repeated(u64::from(self.count) * u64::from(self.rounds))
            .inverse();
        let words = self.output.words.iter();
        Ok(words
            .flat_map(|word| undo.apply(word.load(Ordering::Relaxed)).to_le_bytes())
            .collect())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Missing(message) => Failure::usage(message),
            Error::OutOfMemory(_) => {
                Failure::out_of_memory(format!("{error}; end other programs on the device"))
            }
            Error::Code { .. } => Failure::device(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_a_count_and_a_duration() {
        let check = |model, expect| assert_eq!(kernels(model), expect, "{model}");
        check("spin:10000", Some((1, 10_000.0)));
        check("spin:0.5", None);
        check("spin:1000001", None);
        check("spin:1e3", None);
        check("spin:", None);
        check("spin:.", None);
        check("spin:-5", None);
        check("kernels:20x50", Some((20, 50.0)));
        check("kernels:20x12.5", Some((20, 12.5)));
        for model in [
            "kernels:0x50",
            "kernels:20",
            "kernels:x50",
            "kernels:2.5x50",
            "kernels:+2x50",
        ] {
            check(model, None);
        }
    }
}
