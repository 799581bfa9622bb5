//! A product of matrices on the first device of CUDA's.

use std::{ffi::c_char, ptr::null_mut};

use xsched_wire::env;

use super::{
    Failure, Found, Handle, Step, compute, file_at,
    gpu::{Gpu, Names, Product, constant, shim_level},
};

const NAMES: Names = Names {
    version: "cuDriverGetVersion",
    start: "cuInit",
    count: "cuDeviceGetCount",
    name: "cuDeviceGetName",
    load: "cuModuleLoadData",
    function: "cuModuleGetFunction",
    allocate: "cuMemAlloc_v2",
    upload: "cuMemcpyHtoD_v2",
    download: "cuMemcpyDtoH_v2",
    launch: "cuLaunchKernel",
    error: error_name,
};

/// Notes what it finds; gives the first step that failed, and why.
pub(super) fn look(found: &mut Found, scheduled: bool) -> Result<(), Failure> {
    const IMAGE: &str = concat!(include_str!("../matmul.ptx"), "\0");
    let load = |error| (Step::Load, error);
    let file = env::CUDA_LIB.get();
    let file = file.unwrap_or_else(|| "libcuda.so.1".into());
    let gpu = Gpu::load(&[file], &NAMES).map_err(load)?;
    found.library = file_at(gpu.entry(NAMES.start).map_err(load)?);
    let level = shim_level();
    found.shim = level.and_then(|level| file_at(level as usize));

    let device = |error| (Step::Device, error);
    // Answered before a device is found, so that an unusable driver can still be named.
    found.version = gpu.version().ok();
    gpu.start().map_err(device)?;
    found.devices = gpu.devices().map_err(device)?;

    let product = enter(&gpu).and_then(|()| Product::new(&gpu, IMAGE.as_bytes()));
    let product = product.map_err(|error| (Step::Compute, error))?;
    let level = || level.map_or(0, |level| level());
    compute(found, scheduled, level, || product.check())
}

/// Makes the primary context of the first device the thread's.
fn enter(gpu: &Gpu) -> Result<(), String> {
    let mut context = null_mut();
    let retain: extern "C" fn(&mut Handle, i32) -> i32 = gpu.entry("cuDevicePrimaryCtxRetain")?;
    gpu.checked("cuDevicePrimaryCtxRetain", retain(&mut context, 0))?;
    let set: extern "C" fn(Handle) -> i32 = gpu.entry("cuCtxSetCurrent")?;
    gpu.checked("cuCtxSetCurrent", set(context))
}

fn error_name(gpu: &Gpu, error: i32) -> Option<String> {
    let mut name = std::ptr::null();
    let entry: extern "C" fn(i32, &mut *const c_char) -> i32 = gpu.entry("cuGetErrorName").ok()?;
    (entry(error, &mut name) == 0).then_some(())?;
    constant(name)
}
