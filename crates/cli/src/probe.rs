//! The hidden command `probe`: a program that computes on a device as any other does, by the driver API
//! of CUDA (`cuda`), the runtime of HIP (`hip`) or OpenCL (`opencl`). `xsched doctor` starts it without
//! and with the shim, and reads what it found.
//!
//! It prints one line of JSON and stays until its stdin ends, so that its queue can be looked at.

mod cuda;
mod gpu;
mod hip;
mod opencl;

use std::{
    ffi::c_void,
    fs, io,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::failure;

/// Use a device, and say how that went.
#[derive(clap::Args, Debug)]
pub(crate) struct ProbeArgs {
    /// By which interface
    #[arg(value_enum)]
    interface: Interface,
    /// Also wait until a scheduler has taken over.
    #[arg(long)]
    scheduled: bool,
}

/// Interfaces to devices.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Interface {
    Cuda,
    Hip,
    Opencl,
}

/// What the program found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// File of the driver's library.
    pub(crate) library: Option<String>,
    /// What it calls its version.
    pub(crate) version: Option<i32>,
    /// Names of the devices that are visible.
    pub(crate) devices: Vec<String>,
    /// File of the shim in this process.
    pub(crate) shim: Option<String>,
    /// Rows of the matrices whose product the device computed rightly.
    pub(crate) rows: Option<u32>,
    /// Level in force, as the shim says; 0 = none.
    pub(crate) level: i32,
    /// The first step that failed, and why.
    pub(crate) failure: Option<(Step, String)>,
}

impl Found {
    /// Why the first step that failed did.
    pub(crate) fn error(&self) -> &str {
        self.failure.as_ref().map_or("", |(_, error)| error)
    }

    /// The driver's library is there.
    pub(crate) fn loaded(&self) -> bool {
        !matches!(self.failure, Some((Step::Load, _)))
    }
}

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Load the driver's library.
    Load,
    /// Initialise it and find a device.
    Device,
    /// Compute.
    Compute,
}

/// Rows of the matrices.
const ROWS: u32 = 48;
/// How long a scheduler may take to take over.
const LIMIT: Duration = Duration::from_secs(5);
/// Elements of a matrix.
const COUNT: usize = (ROWS * ROWS) as usize;
const BYTES: usize = COUNT * size_of::<u32>();
/// A step that failed, and why.
type Failure = (Step, String);
type Handle = *mut c_void;

/// Prints what it found; the exit code is 0 whatever that is.
pub(crate) fn run(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let mut found = Found::default();
    // Handles stay as they are: the process ends soon.
    let look = match args.interface {
        Interface::Cuda => cuda::look,
        Interface::Hip => hip::look,
        Interface::Opencl => opencl::look,
    };
    found.failure = look(&mut found, args.scheduled).err();
    failure::print(&(serde_json::to_string(&found)? + "\n"))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(ExitCode::SUCCESS)
}

/// Computes once, or until a scheduler has taken over.
fn compute(
    found: &mut Found,
    scheduled: bool,
    level: impl Fn() -> i32,
    check: impl Fn() -> Result<(), String>,
) -> Result<(), Failure> {
    let end = Instant::now() + LIMIT;
    loop {
        check().map_err(|error| (Step::Compute, error))?;
        found.rows = Some(ROWS);
        found.level = level();
        if !scheduled || found.level > 0 || Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Two matrices of any numbers; products wrap on device and host alike.
fn factors() -> [Vec<u32>; 2] {
    [2_654_435_761, 40_503].map(|step| {
        let numbers = (0..COUNT as u32).map(|index| index.wrapping_mul(step));
        numbers.collect()
    })
}

/// The file that is mapped at an address.
fn file_at(address: usize) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let bounds = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let bounds = bounds.and_then(|(start, end)| {
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some(number(start)?..number(end)?)
        });
        bounds.is_some_and(|range| range.contains(&address))
    })?;
    line.find('/').map(|path| line[path..].to_owned())
}

/// Compares a product with the host's.
fn compare(found: &[u32], [left, right]: &[Vec<u32>; 2]) -> Result<(), String> {
    let rows = ROWS as usize;
    let wrong = (0..COUNT).find(|index| {
        let (row, column) = (index / rows, index % rows);
        let terms = (0..rows).map(|k| left[row * rows + k].wrapping_mul(right[k * rows + column]));
        found[*index] != terms.fold(0, u32::wrapping_add)
    });
    match wrong {
        None => Ok(()),
        Some(index) => Err(format!("the device's product is wrong at element {index}")),
    }
}
