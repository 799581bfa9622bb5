//! The workload process behind `xsched worker`: serves one model's requests and reports how long
//! they took.
//!
//! The harness starts it through `xsched run` and speaks [`protocol`] with it. A new device is an arm
//! of [`Device`] and a file: a `Workload` like `cpu.rs`, or like `torch.rs` another program that
//! this process becomes and that speaks the protocol itself. With CUDA both exist: plain kernels are
//! built in (`cuda`), other models are PyTorch's.

mod command;
mod cpu;
pub(crate) mod cuda;
mod opencl;
mod pace;
pub mod protocol;
mod torch;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use clap::ValueEnum;

use crate::clock::now_ns;
use crate::models::Architecture;
use pace::{Arrivals, Clock, Driven, Nanos, SECOND, Schedule};
use protocol::{ErrorKind, Instruction, Report};

/// What to run, and how requests arrive.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Model to run: resnet18, resnet50, mobilenet_v2, vit_b_16, deeplabv3_resnet50 or
    /// whisper_base_encoder; with OpenCL resnet18 or resnet50; with CUDA also any other of torchvision, gpt2-small (a decode loop), or
    /// plain kernels as spin:MICROSECONDS or kernels:COUNTxMICROSECONDS.
    #[arg(long)]
    pub model: String,
    /// Images per request.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Where to run it.
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// On a fixed schedule (open), at random (poisson) or back to back (closed).
    #[arg(long)]
    pub arrival: Arrival,
    /// Give a request up when the next one is there before it begins.
    #[arg(long)]
    pub drop_late: bool,
    /// Requests per second, unless they come back to back.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds in which requests arrive.
    #[arg(long)]
    pub duration: f64,
    /// Requests before the measurement.
    #[arg(long, default_value_t = 10)]
    pub warmup: u32,
    /// Fixes weights and images.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads that compute on the CPU; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Number format of weights and images.
    #[arg(long, default_value = "fp32")]
    pub precision: Precision,
    /// Capture the model once and replay it as a CUDA graph.
    #[arg(long)]
    pub cuda_graph: bool,
    /// Measure this often, each time from a start to a result.
    #[arg(long, hide = true, default_value_t = 1)]
    pub repeat: u32,
    /// Let every other request pass the shim unscheduled, the first one among them.
    #[arg(long, hide = true)]
    pub in_turns: bool,
    /// Side of the images in pixels, by default 224; of whisper_base_encoder the frames of a clip, by
    /// default 3000.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// With --model command: a request is one run of this command, which must end with exit code 0.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The CPU as an XPU.
    Cpu,
    /// An NVIDIA GPU: plain kernels by the driver alone, models by the user's python3 with torch and
    /// torchvision.
    Cuda,
    /// The first device of the first OpenCL platform that has one.
    #[value(name = "opencl")]
    OpenCl,
}

impl Device {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => xsched_cpu::DEVICE_KIND,
            Device::Cuda => "cuda",
            Device::OpenCl => "opencl",
        }
    }

    /// Refuses a model that this device cannot have, in one line. Whether torchvision knows a name
    /// is seen only there.
    pub fn check_model(self, model: &str) -> Result<(), String> {
        match self {
            _ if model == COMMAND => Ok(()),
            Device::Cpu => architecture(model).map(drop),
            Device::OpenCl => opencl::check_model(model),
            Device::Cuda if is_kernels(model) => cuda::parse(model).map(drop),
            Device::Cuda => torch::check_model(model),
        }
    }
}

/// The model of a worker that runs a command of the user's.
pub const COMMAND: &str = "command";

/// Whether a model is plain kernels, which have no batch.
pub fn is_kernels(model: &str) -> bool {
    cuda::is_kernels(model)
}

/// Number format of weights and images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits.
    Fp32,
    /// 16 bits, on a GPU only.
    Fp16,
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrival {
    /// On a fixed schedule, ready or not.
    Open,
    /// At random times, ready or not: a Poisson process that follows from the seed.
    Poisson,
    /// Each when the one before it is done.
    Closed,
}

/// Runs a worker on standard input and output. A failure is reported on standard output and makes
/// the exit code 1; an error here means that nobody listens there any more.
pub fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    // The input is left to the program that this process becomes.
    let torch = !is_kernels(&args.model) && args.model != COMMAND;
    let outcome = if args.device == Device::Cuda && torch {
        schedule(&args).and_then(|_| Err(torch::become_python(&args)))
    } else {
        let instructions = read_instructions(BufReader::new(io::stdin()));
        work(&args, instructions, &mut output)
    };
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(&mut output)?;
            ExitCode::FAILURE
        }
    })
}

/// A model on a device: what a request does.
trait Workload {
    /// Commands per request.
    fn commands(&self) -> usize;
    /// Preemption level in force; 0 = unscheduled.
    fn level(&self) -> u8;
    /// Serves one request: launches its commands, waits for them, returns the output's bytes.
    fn infer(&mut self) -> Result<Vec<u8>, Failure>;
}

/// Why a worker gave up.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    fn usage(message: impl Display) -> Failure {
        Failure::new(ErrorKind::Usage, message)
    }

    fn out_of_memory(message: impl Display) -> Failure {
        Failure::new(ErrorKind::OutOfMemory, message)
    }

    fn device(error: impl Display) -> Failure {
        Failure::new(ErrorKind::Device, error)
    }

    fn other(error: impl Display) -> Failure {
        Failure::new(ErrorKind::Other, error)
    }

    fn new(kind: ErrorKind, message: impl Display) -> Failure {
        // A report is one line, and so is what it quotes.
        let message = message.to_string().replace('\n', " ");
        Failure { kind, message }
    }

    fn report(self, output: &mut impl Write) -> io::Result<()> {
        let Failure { kind, message } = self;
        write_report(output, &Report::Error { kind, message })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::other(error)
    }
}

fn work(
    args: &WorkerArgs,
    instructions: Receiver<Instruction>,
    output: &mut impl Write,
) -> Result<(), Failure> {
    let mut clock = RealClock {
        instructions,
        stopped: false,
    };
    let began = clock.now();
    let schedule = schedule(args)?;
    let mut workload: Box<dyn Workload> = match args.device {
        _ if args.model == COMMAND => Box::new(command::CommandWorkload::new(args)),
        Device::Cpu => Box::new(cpu::CpuWorkload::new(args)?),
        Device::Cuda => Box::new(cuda::CudaWorkload::new(args)?),
        Device::OpenCl => Box::new(opencl::OpenClWorkload::new(args)?),
    };
    let mut outputs = Outputs::default();
    // A run of a command has its own start-up in it: one warms the files up.
    let warmup = match args.model.as_str() {
        COMMAND => args.warmup.min(1),
        _ => args.warmup,
    };
    for _ in 0..warmup {
        outputs.check(&workload.infer()?);
    }
    let ready = Report::Ready {
        model: args.model.clone(),
        batch: args.batch,
        commands: workload.commands(),
        setup_ms: milliseconds(clock.now() - began),
        level: workload.level(),
    };
    write_report(output, &ready)?;

    for _ in 0..args.repeat {
        clock.wait_for_start();
        let mut scheduled = true;
        let serve = || {
            if args.in_turns {
                scheduled = !scheduled;
                cuda::driver::set_enabled(scheduled).map_err(Failure::other)?;
            }
            workload.infer().map(|bytes| outputs.check(&bytes))
        };
        let progress = |completed, elapsed| {
            let elapsed_ms = milliseconds(elapsed);
            Ok(write_report(
                output,
                &Report::Progress {
                    completed,
                    elapsed_ms,
                },
            )?)
        };
        let Driven {
            epoch,
            requests,
            dropped,
        } = pace::drive(schedule, &mut clock, serve, progress)?;
        if args.in_turns {
            cuda::driver::set_enabled(true).map_err(Failure::other)?;
        }
        let sample = |request: &pace::Request| {
            [request.arrival, request.start, request.latency()].map(milliseconds)
        };
        let result = Report::Result {
            completed: requests.len() as u64,
            elapsed_ms: milliseconds(clock.now() - epoch),
            start_ns: epoch,
            samples: requests.iter().map(sample).collect(),
            digest: outputs.digest(),
            digests_equal: outputs.equal,
            dropped,
        };
        write_report(output, &result)?;
        if clock.stopped {
            break;
        }
    }
    Ok(())
}

fn architecture(model: &str) -> Result<Architecture, String> {
    Architecture::from_str(model, false).map_err(|_| {
        let known: Vec<&str> = Architecture::value_variants()
            .iter()
            .map(|known| known.name())
            .collect();
        format!("this device has the models {}", known.join(", "))
    })
}

/// The schedule, and a refusal of options that make no sense.
fn schedule(args: &WorkerArgs) -> Result<Schedule, Failure> {
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(Failure::usage(format!(
                "--{name} {value} must be a positive number"
            )))
        }
    };
    let at_least_one = |name: &str, value: usize| match value {
        0 => Err(Failure::usage(format!("--{name} 0 must be at least 1"))),
        _ => Ok(()),
    };
    at_least_one("batch", args.batch)?;
    at_least_one("image-size", args.image_size.unwrap_or(1))?;
    at_least_one("threads", args.threads.unwrap_or(1))?;
    let model = &args.model;
    if let Err(reason) = args.device.check_model(model) {
        return Err(Failure::usage(format!("--model {model}: {reason}")));
    }
    if let (Ok(architecture), Some(size)) = (architecture(model), args.image_size)
        && let Err(reason) = architecture.check_size(size)
    {
        return Err(Failure::usage(format!("--image-size {size} {reason}")));
    }
    if (model == COMMAND) == args.command.is_empty() {
        return Err(Failure::usage(
            "--model command goes with -- CMD, and only that",
        ));
    }
    if args.device != Device::Cuda && args.cuda_graph {
        return Err(Failure::usage("--cuda-graph needs --device cuda"));
    }
    if args.in_turns && (args.device != Device::Cuda || args.arrival != Arrival::Closed) {
        return Err(Failure::usage(
            "--in-turns needs --device cuda and --arrival closed",
        ));
    }
    if args.device != Device::Cuda && args.precision != Precision::Fp32 {
        return Err(Failure::usage("--precision fp16 needs --device cuda"));
    }
    if is_kernels(model) && args.batch != 1 {
        let batch = args.batch;
        return Err(Failure::usage(format!(
            "--batch {batch}: {model} has no batch"
        )));
    }
    let arrivals = match (args.arrival, args.rate) {
        (Arrival::Open, Some(rate)) => Arrivals::Open {
            rate_hz: positive("rate", rate)?,
        },
        (Arrival::Poisson, Some(rate)) => Arrivals::Poisson {
            rate_hz: positive("rate", rate)?,
            seed: args.seed,
        },
        (Arrival::Open | Arrival::Poisson, None) => {
            return Err(Failure::usage("--arrival open and poisson need --rate"));
        }
        (Arrival::Closed, None) => Arrivals::Closed,
        (Arrival::Closed, Some(_)) => {
            return Err(Failure::usage("--rate is not for --arrival closed"));
        }
    };
    let duration = (positive("duration", args.duration)? * SECOND as f64) as Nanos;
    Ok(Schedule {
        arrivals,
        duration,
        drop_late: args.drop_late,
    })
}

/// The first output, and whether the others are the same.
struct Outputs {
    first: Option<u64>,
    equal: bool,
}

impl Default for Outputs {
    fn default() -> Outputs {
        Outputs {
            first: None,
            equal: true,
        }
    }
}

impl Outputs {
    fn check(&mut self, output: &[u8]) {
        // A command's output is not looked at.
        if output.is_empty() {
            return;
        }
        let digest = fnv1a(output);
        self.equal &= *self.first.get_or_insert(digest) == digest;
    }

    /// Empty if there was no output.
    fn digest(&self) -> String {
        self.first
            .map_or_else(String::new, |digest| format!("{digest:016x}"))
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The system's monotonic clock; waits listen to the harness.
struct RealClock {
    instructions: Receiver<Instruction>,
    stopped: bool,
}

impl RealClock {
    fn wait_for_start(&mut self) {
        match self.instructions.recv() {
            Ok(Instruction::Start) => {}
            Ok(Instruction::Stop) | Err(_) => self.stopped = true,
        }
    }
}

impl Clock for RealClock {
    fn now(&mut self) -> Nanos {
        now_ns()
    }

    fn wait(&mut self, until: Nanos) {
        while !self.stopped {
            let left = until.saturating_sub(self.now());
            if left == 0 {
                return;
            }
            match self.instructions.recv_timeout(Duration::from_nanos(left)) {
                Ok(Instruction::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopped = true,
                Ok(Instruction::Start) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn stopped(&mut self) -> bool {
        while !self.stopped {
            match self.instructions.try_recv() {
                Ok(Instruction::Start) => {}
                Ok(Instruction::Stop) | Err(TryRecvError::Disconnected) => self.stopped = true,
                Err(TryRecvError::Empty) => break,
            }
        }
        self.stopped
    }
}

/// Reads `lines` in a thread of its own, which ends with them. The channel then closes: stop.
fn read_instructions(lines: impl BufRead + Send + 'static) -> Receiver<Instruction> {
    let (sender, instructions) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            match Instruction::parse(&line) {
                Some(instruction) if sender.send(instruction).is_err() => return,
                Some(_) => {}
                None => eprintln!("xsched worker: ignored the line {line:?}: say start or stop"),
            }
        }
    });
    instructions
}

fn write_report(output: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    output.write_all(line.as_bytes())?;
    output.flush()
}

/// To the microsecond.
fn milliseconds(nanos: Nanos) -> f64 {
    (nanos as f64 / 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;
