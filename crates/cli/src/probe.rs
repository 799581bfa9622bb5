//! The hidden command `probe`: a program that computes on a CUDA device by the driver API, or on an
//! OpenCL device (`opencl`), as any other does. `xsched doctor` starts it without and with the shim, and reads what it found.
//!
//! It prints one line of JSON and stays until its stdin ends, so that its queue can be looked at.

mod opencl;

use std::{
    ffi::{CStr, c_char, c_void},
    fs, io,
    process::ExitCode,
    time::{Duration, Instant},
};

use libloading::os::unix::Library;
use serde::{Deserialize, Serialize};
use xsched_wire::env;

use crate::failure;

/// Use a device, and say how that went.
#[derive(clap::Args, Debug)]
pub(crate) struct ProbeArgs {
    /// An OpenCL device instead of a CUDA one.
    #[arg(long)]
    opencl: bool,
    /// Also wait until a scheduler has taken over.
    #[arg(long)]
    scheduled: bool,
}

/// What the program found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// File of the driver's library.
    pub(crate) library: Option<String>,
    /// What it calls its version: 1000 × major + 10 × minor.
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
const THREADS: u32 = 256;
/// Any failure that is not the driver's.
type Failure = (Step, String);
type Handle = *mut c_void;

/// Prints what it found; the exit code is 0 whatever that is.
pub(crate) fn run(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let mut found = Found::default();
    // Handles stay as they are: the process ends soon.
    let look = if args.opencl { opencl::look } else { look };
    found.failure = look(&mut found, args.scheduled).err();
    failure::print(&(serde_json::to_string(&found)? + "\n"))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(ExitCode::SUCCESS)
}

fn look(found: &mut Found, scheduled: bool) -> Result<(), Failure> {
    let driver = Driver::load().map_err(|error| (Step::Load, error))?;
    let start = driver
        .address(c"cuInit")
        .map_err(|error| (Step::Load, error))?;
    found.library = file_at(start);
    let level = shim_level();
    found.shim = level.and_then(|level| file_at(level as usize));

    let device = |error| (Step::Device, error);
    // Answered before a device is found, so that an unusable driver can still be named.
    found.version = driver.version().ok();
    driver.start().map_err(device)?;
    found.devices = driver.devices().map_err(device)?;

    let compute = |error| (Step::Compute, error);
    let product = Product::new(&driver).map_err(compute)?;
    let end = Instant::now() + LIMIT;
    loop {
        product.check().map_err(compute)?;
        found.rows = Some(ROWS);
        found.level = level.map_or(0, |level| level());
        if !scheduled || found.level > 0 || Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The shim's `xsched_level`, if one is preloaded.
fn shim_level() -> Option<extern "C" fn() -> i32> {
    // SAFETY: a function of the shim's of this type (`api.rs` of the shim).
    let found = unsafe { Library::this().get::<extern "C" fn() -> i32>(b"xsched_level\0") };
    found.ok().map(|level| *level)
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

/// The driver's library.
struct Driver(Library);

impl Driver {
    fn load() -> Result<Self, String> {
        let name = env::CUDA_LIB.get().unwrap_or_else(|| "libcuda.so.1".into());
        // SAFETY: loading a driver runs its initialisers, as in every program that uses it.
        let library = unsafe { Library::new(&name) };
        library.map(Driver).map_err(|error| match error {
            libloading::Error::DlOpen { source } => source.to_string(),
            error => error.to_string(),
        })
    }

    /// An entry point, as the program sees it: the shim's hook where there is one.
    fn entry<T: Copy>(&self, name: &CStr) -> Result<T, String> {
        // SAFETY: callers name the type that cuda.h gives the function.
        let found = unsafe { self.0.get::<T>(name.to_bytes_with_nul()) };
        found.map(|entry| *entry).map_err(|error| error.to_string())
    }

    fn address(&self, name: &CStr) -> Result<usize, String> {
        self.entry::<usize>(name)
    }

    fn version(&self) -> Result<i32, String> {
        let mut version = 0;
        let entry: extern "C" fn(&mut i32) -> i32 = self.entry(c"cuDriverGetVersion")?;
        self.checked("cuDriverGetVersion", entry(&mut version))?;
        Ok(version)
    }

    fn start(&self) -> Result<(), String> {
        let entry: extern "C" fn(u32) -> i32 = self.entry(c"cuInit")?;
        self.checked("cuInit", entry(0))
    }

    fn devices(&self) -> Result<Vec<String>, String> {
        let mut count = 0;
        let entry: extern "C" fn(&mut i32) -> i32 = self.entry(c"cuDeviceGetCount")?;
        self.checked("cuDeviceGetCount", entry(&mut count))?;
        if count == 0 {
            return Err("no device is visible".into());
        }
        let entry: extern "C" fn(*mut c_char, i32, i32) -> i32 = self.entry(c"cuDeviceGetName")?;
        let name = |device| {
            let mut name = [0; 128];
            self.checked("cuDeviceGetName", entry(name.as_mut_ptr(), 127, device))?;
            let bytes: Vec<u8> = name.iter().map(|byte| byte.cast_unsigned()).collect();
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        (0..count).map(name).collect()
    }

    fn checked(&self, what: &str, result: i32) -> Result<(), String> {
        if result == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        let entry = self.entry::<extern "C" fn(i32, &mut *const c_char) -> i32>(c"cuGetErrorName");
        let known = entry.is_ok_and(|entry| entry(result, &mut name) == 0) && !name.is_null();
        let name = if known {
            // SAFETY: the driver's own constant string.
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned()
        } else {
            "unknown error".into()
        };
        Err(format!("{what} failed: {name} ({result})"))
    }
}

/// Two matrices on the device and room for their product.
struct Product<'a> {
    driver: &'a Driver,
    function: Handle,
    /// Product, left, right.
    places: [u64; 3],
    left: Vec<u32>,
    right: Vec<u32>,
}

/// Elements of a matrix.
const COUNT: usize = (ROWS * ROWS) as usize;
const BYTES: usize = COUNT * size_of::<u32>();

impl<'a> Product<'a> {
    fn new(driver: &'a Driver) -> Result<Self, String> {
        const IMAGE: &str = concat!(include_str!("matmul.ptx"), "\0");
        let (mut context, mut module, mut function) = (
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        let retain: extern "C" fn(&mut Handle, i32) -> i32 =
            driver.entry(c"cuDevicePrimaryCtxRetain")?;
        driver.checked("cuDevicePrimaryCtxRetain", retain(&mut context, 0))?;
        let set: extern "C" fn(Handle) -> i32 = driver.entry(c"cuCtxSetCurrent")?;
        driver.checked("cuCtxSetCurrent", set(context))?;
        let load: extern "C" fn(&mut Handle, *const c_char) -> i32 =
            driver.entry(c"cuModuleLoadData")?;
        driver.checked("cuModuleLoadData", load(&mut module, IMAGE.as_ptr().cast()))?;
        let get: extern "C" fn(&mut Handle, Handle, *const c_char) -> i32 =
            driver.entry(c"cuModuleGetFunction")?;
        let name = c"matmul_u32".as_ptr();
        driver.checked("cuModuleGetFunction", get(&mut function, module, name))?;

        let allocate: extern "C" fn(&mut u64, usize) -> i32 = driver.entry(c"cuMemAlloc_v2")?;
        let mut places = [0; 3];
        for place in &mut places {
            driver.checked("cuMemAlloc", allocate(place, BYTES))?;
        }
        // Any numbers; products wrap on both sides alike.
        let matrix = |step: u32| {
            (0..COUNT as u32)
                .map(|index| index.wrapping_mul(step))
                .collect()
        };
        let (left, right): (Vec<u32>, Vec<u32>) = (matrix(2_654_435_761), matrix(40_503));
        let copy: extern "C" fn(u64, *const u32, usize) -> i32 =
            driver.entry(c"cuMemcpyHtoD_v2")?;
        for (place, matrix) in places[1..].iter().zip([&left, &right]) {
            driver.checked("cuMemcpyHtoD", copy(*place, matrix.as_ptr(), BYTES))?;
        }
        Ok(Product {
            driver,
            function,
            places,
            left,
            right,
        })
    }

    /// Computes the product on the device, and compares it with the host's.
    fn check(&self) -> Result<(), String> {
        type Launch = extern "C" fn(
            Handle,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            Handle,
            *const *const c_void,
            Handle,
        ) -> i32;
        let (null, rows) = (std::ptr::null_mut(), ROWS);
        let [product, left, right] = self
            .places
            .each_ref()
            .map(|place| (&raw const *place).cast());
        let parameters = [product, left, right, (&raw const rows).cast::<c_void>()];
        let blocks = (COUNT as u32).div_ceil(THREADS);
        let launch: Launch = self.driver.entry(c"cuLaunchKernel")?;
        let launched = launch(
            self.function,
            blocks,
            1,
            1,
            THREADS,
            1,
            1,
            0,
            null,
            parameters.as_ptr(),
            null,
        );
        self.driver.checked("cuLaunchKernel", launched)?;
        let mut found = vec![0; COUNT];
        let copy: extern "C" fn(*mut u32, u64, usize) -> i32 =
            self.driver.entry(c"cuMemcpyDtoH_v2")?;
        let copied = copy(found.as_mut_ptr(), self.places[0], BYTES);
        self.driver.checked("cuMemcpyDtoH", copied)?;
        compare(&found, &self.left, &self.right)
    }
}

/// Compares a product with the host's.
fn compare(found: &[u32], left: &[u32], right: &[u32]) -> Result<(), String> {
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
