//! The same for OpenCL: a product of matrices on the first device of the first platform.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr::{null, null_mut},
};

use libloading::os::unix::Library;
use xsched_wire::env;

use super::{BYTES, COUNT, Failure, Found, Handle, ROWS, Step, compare, compute, factors, file_at};

const SOURCE: &CStr = c"__kernel void matmul(__global uint *to, __global const uint *left,
                     __global const uint *right, uint rows) {
    uint row = get_global_id(0) / rows, column = get_global_id(0) % rows, sum = 0;
    for (uint k = 0; k < rows; k++) sum += left[row * rows + k] * right[k * rows + column];
    to[get_global_id(0)] = sum;
}";

/// All devices of all kinds.
const ALL: u64 = 0xFFFF_FFFF;
const NAME: u32 = 0x102B;
const READ_WRITE: u64 = 1;

type Events = *const Handle;
type CreateContext =
    extern "C" fn(*const isize, u32, *const Handle, Handle, Handle, &mut i32) -> Handle;
type CreateProgram =
    extern "C" fn(Handle, u32, *const *const c_char, *const usize, &mut i32) -> Handle;
type Build = extern "C" fn(Handle, u32, *const Handle, *const c_char, Handle, Handle) -> i32;
type SetArgument = extern "C" fn(Handle, u32, usize, *const c_void) -> i32;
type Transfer =
    extern "C" fn(Handle, Handle, u32, usize, usize, *mut u32, u32, Events, *mut Handle) -> i32;
type Launch = extern "C" fn(
    Handle,
    Handle,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    Events,
    *mut Handle,
) -> i32;

/// Notes what it finds; gives the first step that failed, and why.
pub(super) fn look(found: &mut Found, scheduled: bool) -> Result<(), Failure> {
    let load = |error| (Step::Load, error);
    let loader = Loader::load().map_err(load)?;
    let platforms = loader.entry::<usize>("clGetPlatformIDs").map_err(load)?;
    found.library = file_at(platforms);
    let level = shim_level();
    found.shim = level.and_then(|level| file_at(level as usize));

    let devices = loader.devices().map_err(|error| (Step::Device, error))?;
    let names = devices.iter().map(|&device| loader.name(device));
    found.devices = names
        .collect::<Result<_, _>>()
        .map_err(|error| (Step::Device, error))?;

    let product = Product::new(&loader, devices[0]).map_err(|error| (Step::Compute, error))?;
    let level = || level.map_or(0, |level| level(product.queue));
    compute(found, scheduled, level, || product.check())
}

/// The shim's `xsched_opencl_level`, if one is preloaded.
fn shim_level() -> Option<extern "C" fn(Handle) -> i32> {
    type Level = extern "C" fn(Handle) -> i32;
    // SAFETY: a function of the shim's of this type (`api.rs` of the shim).
    let found = unsafe { Library::this().get::<Level>(b"xsched_opencl_level\0") };
    found.ok().map(|level| *level)
}

/// `libOpenCL.so.1`, which finds the vendors' drivers.
struct Loader(Library);

impl Loader {
    fn load() -> Result<Self, String> {
        let name = env::OPENCL_LIB.get();
        let name = name.unwrap_or_else(|| "libOpenCL.so.1".into());
        // SAFETY: loading it runs its initialisers, as in every program that uses it.
        let library = unsafe { Library::new(&name) };
        library.map(Loader).map_err(|error| match error {
            libloading::Error::DlOpen { source } => source.to_string(),
            error => error.to_string(),
        })
    }

    /// A function, as the program sees it: the shim's hook where there is one.
    fn entry<T: Copy>(&self, name: &str) -> Result<T, String> {
        // SAFETY: callers name the type that cl.h gives the function.
        let found = unsafe { self.0.get::<T>(name.as_bytes()) };
        found.map(|entry| *entry).map_err(|error| error.to_string())
    }

    /// Every device of every platform; one at least.
    fn devices(&self) -> Result<Vec<Handle>, String> {
        let mut platforms = [null_mut(); 16];
        let mut count = 0;
        let list: extern "C" fn(u32, *mut Handle, &mut u32) -> i32 =
            self.entry("clGetPlatformIDs")?;
        let result = list(platforms.len() as u32, platforms.as_mut_ptr(), &mut count);
        if result == -1001 {
            return Err("no driver is registered".into());
        }
        checked("clGetPlatformIDs", result)?;
        let list: extern "C" fn(Handle, u64, u32, *mut Handle, &mut u32) -> i32 =
            self.entry("clGetDeviceIDs")?;
        let mut all = Vec::new();
        for &platform in platforms.iter().take(count as usize) {
            let mut devices = [null_mut(); 64];
            let mut count = 0;
            let room = devices.len() as u32;
            if list(platform, ALL, room, devices.as_mut_ptr(), &mut count) == 0 {
                all.extend(devices.into_iter().take(count as usize));
            }
        }
        if all.is_empty() {
            return Err("no platform has a device".into());
        }
        Ok(all)
    }

    fn name(&self, device: Handle) -> Result<String, String> {
        let info: extern "C" fn(Handle, u32, usize, *mut u8, *mut usize) -> i32 =
            self.entry("clGetDeviceInfo")?;
        let mut name = [0; 256];
        let result = info(device, NAME, name.len(), name.as_mut_ptr(), null_mut());
        checked("clGetDeviceInfo", result)?;
        let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).trim().to_owned())
    }
}

fn checked(what: &str, result: i32) -> Result<(), String> {
    match result {
        0 => Ok(()),
        error => Err(format!("{what} failed: error {error}")),
    }
}

/// Two matrices on the device and room for their product.
struct Product<'a> {
    loader: &'a Loader,
    queue: Handle,
    kernel: Handle,
    /// Product, left, right.
    places: [Handle; 3],
    factors: [Vec<u32>; 2],
}

impl<'a> Product<'a> {
    fn new(loader: &'a Loader, device: Handle) -> Result<Self, String> {
        let mut error = 0;
        let create: CreateContext = loader.entry("clCreateContext")?;
        let context = create(null(), 1, &device, null_mut(), null_mut(), &mut error);
        checked("clCreateContext", error)?;
        let create: extern "C" fn(Handle, Handle, u64, &mut i32) -> Handle =
            loader.entry("clCreateCommandQueue")?;
        let queue = create(context, device, 0, &mut error);
        checked("clCreateCommandQueue", error)?;
        let create: CreateProgram = loader.entry("clCreateProgramWithSource")?;
        let program = create(context, 1, &SOURCE.as_ptr(), null(), &mut error);
        checked("clCreateProgramWithSource", error)?;
        let build: Build = loader.entry("clBuildProgram")?;
        let built = build(program, 1, &device, null(), null_mut(), null_mut());
        checked("clBuildProgram", built)?;
        let create: extern "C" fn(Handle, *const c_char, &mut i32) -> Handle =
            loader.entry("clCreateKernel")?;
        let kernel = create(program, c"matmul".as_ptr(), &mut error);
        checked("clCreateKernel", error)?;

        let create: extern "C" fn(Handle, u64, usize, Handle, &mut i32) -> Handle =
            loader.entry("clCreateBuffer")?;
        let mut places = [null_mut(); 3];
        for place in &mut places {
            *place = create(context, READ_WRITE, BYTES, null_mut(), &mut error);
            checked("clCreateBuffer", error)?;
        }
        let mut factors = factors();
        let write: Transfer = loader.entry("clEnqueueWriteBuffer")?;
        for (place, matrix) in places[1..].iter().zip(&mut factors) {
            let from = matrix.as_mut_ptr();
            let result = write(queue, *place, 1, 0, BYTES, from, 0, null(), null_mut());
            checked("clEnqueueWriteBuffer", result)?;
        }
        Ok(Product {
            loader,
            queue,
            kernel,
            places,
            factors,
        })
    }

    /// Computes the product on the device, and compares it with the host's.
    fn check(&self) -> Result<(), String> {
        let set: SetArgument = self.loader.entry("clSetKernelArg")?;
        for (index, place) in (0..).zip(&self.places) {
            let value = (&raw const *place).cast();
            checked(
                "clSetKernelArg",
                set(self.kernel, index, size_of::<Handle>(), value),
            )?;
        }
        let rows = ROWS;
        let value = (&raw const rows).cast();
        checked(
            "clSetKernelArg",
            set(self.kernel, 3, size_of::<u32>(), value),
        )?;
        let launch: Launch = self.loader.entry("clEnqueueNDRangeKernel")?;
        let (none, events) = (null(), null());
        let launched = launch(
            self.queue,
            self.kernel,
            1,
            none,
            &COUNT,
            none,
            0,
            events,
            null_mut(),
        );
        checked("clEnqueueNDRangeKernel", launched)?;
        let mut found = vec![0; COUNT];
        let read: Transfer = self.loader.entry("clEnqueueReadBuffer")?;
        let to = found.as_mut_ptr();
        let result = read(
            self.queue,
            self.places[0],
            1,
            0,
            BYTES,
            to,
            0,
            events,
            null_mut(),
        );
        checked("clEnqueueReadBuffer", result)?;
        compare(&found, &self.factors)
    }
}
