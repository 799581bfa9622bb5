//! OpenCL, as much of it as the workload needs: loaded and asked by name as other programs do, so that
//! a preloaded shim takes effect.
//!
//! Three layers: raw entry points ([`Api`]), results ([`Error`]), and the safe types below, whose
//! objects last until the process ends.

#![allow(unsafe_code, reason = "calls into OpenCL; see the SAFETY comments")]

use std::{
    ffi::{CStr, c_char, c_void},
    ptr::{null, null_mut},
};

use libloading::os::unix::Library;

use crate::models::{Activation, ConvShape, Function};

const SOURCE: &str = include_str!("kernels.cl");
/// Pixels and outputs of a work item of `convolve`.
const TILE: usize = 7;
const LANES: usize = 8;
const OPTIONS: &CStr = c"-DTILE=7 -DLANES=8";
/// Work items of a work group.
const GROUP: usize = 64;

const SUCCESS: i32 = 0;
const DEVICE_NOT_FOUND: i32 = -1;
const BUILD_PROGRAM_FAILURE: i32 = -11;
/// No room on the device, no resources, no room on the host, a buffer beyond what it can have.
const OUT_OF_MEMORY: [i32; 4] = [-4, -5, -6, -61];
const PLATFORM_NOT_FOUND: i32 = -1001;

const DEVICE_TYPE_ALL: u64 = 0xFFFF_FFFF;
const DEVICE_MAX_WORK_GROUP_SIZE: u32 = 0x1004;
const DEVICE_NAME: u32 = 0x102B;
const PROGRAM_BUILD_LOG: u32 = 0x1183;
const READ_WRITE: u64 = 1;
const BLOCKING: u32 = 1;

type Raw = *mut c_void;
type Events = *const Raw;

macro_rules! entry_points {
    ($($name:ident = $symbol:literal ($($kind:ty),*) -> $result:ty;)*) => {
        /// Entry points (cl.h), found once.
        struct Api { $($name: unsafe extern "C" fn($($kind),*) -> $result,)* }

        impl Api {
            fn find(library: &Library) -> Result<Api, Error> {
                Ok(Api { $($name: {
                    // SAFETY: OpenCL's function of this name has this signature (cl.h), or the
                    // shim's hook of it, which has the same.
                    let found = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                    *found.map_err(|_| Error::Missing(format!(
                        "this libOpenCL.so.1 has no {}: install a newer one", $symbol
                    )))?
                },)* })
            }
        }
    };
}

entry_points! {
    platforms = "clGetPlatformIDs" (u32, *mut Raw, *mut u32) -> i32;
    devices = "clGetDeviceIDs" (Raw, u64, u32, *mut Raw, *mut u32) -> i32;
    device_info = "clGetDeviceInfo" (Raw, u32, usize, Raw, *mut usize) -> i32;
    create_context = "clCreateContext" (*const isize, u32, *const Raw, Raw, Raw, *mut i32) -> Raw;
    create_queue = "clCreateCommandQueue" (Raw, Raw, u64, *mut i32) -> Raw;
    create_program = "clCreateProgramWithSource" (Raw, u32, *const *const c_char, *const usize, *mut i32) -> Raw;
    build_program = "clBuildProgram" (Raw, u32, *const Raw, *const c_char, Raw, Raw) -> i32;
    build_info = "clGetProgramBuildInfo" (Raw, Raw, u32, usize, Raw, *mut usize) -> i32;
    create_kernel = "clCreateKernel" (Raw, *const c_char, *mut i32) -> Raw;
    set_argument = "clSetKernelArg" (Raw, u32, usize, *const c_void) -> i32;
    create_buffer = "clCreateBuffer" (Raw, u64, usize, Raw, *mut i32) -> Raw;
    launch = "clEnqueueNDRangeKernel" (Raw, Raw, u32, *const usize, *const usize, *const usize, u32, Events, *mut Raw) -> i32;
    write = "clEnqueueWriteBuffer" (Raw, Raw, u32, usize, usize, *const c_void, u32, Events, *mut Raw) -> i32;
    read = "clEnqueueReadBuffer" (Raw, Raw, u32, usize, usize, *mut c_void, u32, Events, *mut Raw) -> i32;
    copy = "clEnqueueCopyBuffer" (Raw, Raw, Raw, usize, usize, usize, u32, Events, *mut Raw) -> i32;
}

/// What OpenCL says; one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// No loader, driver or device, or none that can build the kernels.
    #[error("{0}")]
    Missing(String),
    /// The device's memory has run out.
    #[error("OpenCL out of memory ({0})")]
    OutOfMemory(&'static str),
    /// Another code of a call.
    #[error("{0}: OpenCL error {1}")]
    Code(&'static str, i32),
}

fn check(call: &'static str, code: i32) -> Result<(), Error> {
    match code {
        SUCCESS => Ok(()),
        code if OUT_OF_MEMORY.contains(&code) => Err(Error::OutOfMemory(call)),
        code => Err(Error::Code(call, code)),
    }
}

/// A device with an in-order queue and the kernels.
pub(super) struct Device {
    api: Api,
    /// What its vendor calls it.
    pub(super) name: String,
    id: Raw,
    context: Raw,
    queue: Raw,
    program: Raw,
    /// Work groups have [`GROUP`] items; otherwise the driver chooses.
    has_groups: bool,
}

/// Values of 32 bits on the device; never released.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    raw: Raw,
    len: usize,
}

/// Where an activation is kept.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) buffer: Buffer,
    pub(super) shape: Activation,
}

impl View {
    fn check(&self) {
        assert!(self.shape.len() <= self.buffer.len);
    }
}

/// A kernel with its arguments.
pub(super) struct Launch {
    kernel: Raw,
    /// Work items in both dimensions, and in a work group.
    global: [usize; 2],
    local: [usize; 2],
}

enum Argument {
    Buffer(Buffer),
    Number(usize),
}

impl Device {
    /// Opens the first device of the first platform that has one, and builds the kernels.
    pub(super) fn open() -> Result<Device, Error> {
        // SAFETY: the loader's initialisers are meant to run in any program that uses OpenCL.
        let library = unsafe { Library::new("libOpenCL.so.1") }.map_err(|error| {
            let reason = std::error::Error::source(&error);
            Error::Missing(format!(
                "OpenCL cannot be loaded ({}): install an ICD loader, such as ocl-icd-libopencl1",
                reason.map_or_else(|| error.to_string(), ToString::to_string)
            ))
        })?;
        let api = Api::find(&library)?;
        // It stays loaded: drivers' threads outlive every handle.
        std::mem::forget(library);
        let id = api.first_device()?;

        let mut code = SUCCESS;
        // SAFETY: a device of the implementation's; a place for the result.
        let context =
            unsafe { (api.create_context)(null(), 1, &id, null_mut(), null_mut(), &mut code) };
        check("clCreateContext", code)?;
        // SAFETY: as above.
        let queue = unsafe { (api.create_queue)(context, id, 0, &mut code) };
        check("clCreateCommandQueue", code)?;
        let mut largest = 0_usize;
        let place = (&raw mut largest).cast();
        // SAFETY: a place for the result of the size that is said.
        let asked = unsafe {
            (api.device_info)(
                id,
                DEVICE_MAX_WORK_GROUP_SIZE,
                size_of::<usize>(),
                place,
                null_mut(),
            )
        };
        check("clGetDeviceInfo", asked)?;
        let mut device = Device {
            name: api.device_name(id)?,
            api,
            id,
            context,
            queue,
            program: null_mut(),
            has_groups: largest >= GROUP,
        };
        device.program = device.build(SOURCE)?;
        Ok(device)
    }

    fn build(&self, source: &str) -> Result<Raw, Error> {
        let mut code = SUCCESS;
        let (text, length) = (source.as_ptr().cast(), source.len());
        // SAFETY: one text of this length, copied by the call; a place for the result.
        let program =
            unsafe { (self.api.create_program)(self.context, 1, &text, &length, &mut code) };
        check("clCreateProgramWithSource", code)?;
        // SAFETY: the program just made; terminated options; no callback.
        let built = unsafe {
            (self.api.build_program)(
                program,
                1,
                &self.id,
                OPTIONS.as_ptr(),
                null_mut(),
                null_mut(),
            )
        };
        if built == BUILD_PROGRAM_FAILURE {
            let log = self.build_log(program);
            let first = log.lines().map(str::trim).find(|line| !line.is_empty());
            return Err(Error::Missing(format!(
                "{} cannot build the workload's kernels: {}",
                self.name,
                first.unwrap_or("its driver says no more")
            )));
        }
        check("clBuildProgram", built)?;
        Ok(program)
    }

    fn build_log(&self, program: Raw) -> String {
        let mut log = vec![0_u8; 1 << 16];
        let mut size = 0;
        let place = log.as_mut_ptr().cast();
        // SAFETY: a place of the length that is said.
        let asked = unsafe {
            (self.api.build_info)(
                program,
                self.id,
                PROGRAM_BUILD_LOG,
                log.len(),
                place,
                &mut size,
            )
        };
        if asked != SUCCESS {
            return String::new();
        }
        log.truncate(size);
        String::from_utf8_lossy(&log).trim_matches('\0').to_owned()
    }

    /// A buffer for `len` values.
    pub(super) fn buffer(&self, len: usize) -> Result<Buffer, Error> {
        let mut code = SUCCESS;
        let bytes = len.saturating_mul(size_of::<f32>());
        // SAFETY: no memory of the host's; a place for the result.
        let raw = unsafe {
            (self.api.create_buffer)(self.context, READ_WRITE, bytes, null_mut(), &mut code)
        };
        check("clCreateBuffer", code)?;
        Ok(Buffer { raw, len })
    }

    /// A buffer that holds these values.
    pub(super) fn buffer_of(&self, values: &[f32]) -> Result<Buffer, Error> {
        let buffer = self.buffer(values.len())?;
        self.write(buffer, values)?;
        Ok(buffer)
    }

    /// Copies values to the start of a buffer; over when it returns.
    pub(super) fn write(&self, to: Buffer, from: &[f32]) -> Result<(), Error> {
        assert!(from.len() <= to.len);
        let (bytes, place) = (size_of_val(from), from.as_ptr().cast());
        // SAFETY: both have this length, and the call waits.
        check("clEnqueueWriteBuffer", unsafe {
            (self.api.write)(
                self.queue,
                to.raw,
                BLOCKING,
                0,
                bytes,
                place,
                0,
                null(),
                null_mut(),
            )
        })
    }

    /// Waits for all before it, and copies the start of a buffer.
    pub(super) fn read(&self, from: Buffer, to: &mut [f32]) -> Result<(), Error> {
        assert!(to.len() <= from.len);
        let (bytes, place) = (size_of_val(to), to.as_mut_ptr().cast());
        // SAFETY: both have this length, and the call waits.
        check("clEnqueueReadBuffer", unsafe {
            (self.api.read)(
                self.queue,
                from.raw,
                BLOCKING,
                0,
                bytes,
                place,
                0,
                null(),
                null_mut(),
            )
        })
    }

    /// The queue copies the activation to `at` in `to`.
    pub(super) fn copy(&self, from: View, to: Buffer, at: usize) -> Result<(), Error> {
        from.check();
        let len = from.shape.len();
        assert!(at + len <= to.len);
        let [at, bytes] = [at, len].map(|values| values * size_of::<f32>());
        let (from, none) = (from.buffer.raw, null_mut());
        // SAFETY: inside both buffers, which are never released.
        check("clEnqueueCopyBuffer", unsafe {
            (self.api.copy)(self.queue, from, to.raw, 0, at, bytes, 0, null(), none)
        })
    }

    /// The queue runs a kernel.
    pub(super) fn launch(&self, launch: &Launch) -> Result<(), Error> {
        let local = if self.has_groups {
            launch.local.as_ptr()
        } else {
            null()
        };
        let (global, none) = (launch.global.as_ptr(), null_mut());
        // SAFETY: all arguments are set; whoever made the launch has checked that the kernel, which
        // checks its own place, stays inside its buffers. Nothing is ever released.
        check("clEnqueueNDRangeKernel", unsafe {
            (self.api.launch)(
                self.queue,
                launch.kernel,
                2,
                null(),
                global,
                local,
                0,
                null(),
                none,
            )
        })
    }

    // ---- kernels: each function checks what its kernel relies on ----

    /// Takes image `index` of `images`.
    pub(super) fn load(&self, images: Buffer, index: usize, to: View) -> Result<Launch, Error> {
        to.check();
        let (shape, pixels) = (to.shape, to.shape.height * to.shape.width);
        assert!((index + 1) * shape.len() <= images.len);
        let arguments = [
            Argument::Buffer(images),
            Argument::Buffer(to.buffer),
            Argument::Number(index * shape.len()),
            Argument::Number(pixels),
            Argument::Number(shape.channels),
        ];
        self.kernel(c"load", &arguments, [pixels, 1], [GROUP, 1])
    }

    /// A convolution, with `zeros` where it looks outside the image. Weights are `[kernel, kernel,
    /// inputs, outputs]`.
    pub(super) fn convolve(
        &self,
        shape: ConvShape,
        (from, to): (View, View),
        residual: Option<View>,
        (weights, bias): (Buffer, Buffer),
        zeros: Buffer,
    ) -> Result<Launch, Error> {
        [from, to].iter().chain(&residual).for_each(View::check);
        assert!(residual.is_none_or(|residual| residual.shape.len() == to.shape.len()));
        let ConvShape {
            inputs,
            outputs,
            kernel: [kernel, _],
            stride,
            ..
        } = shape;
        // Those of the ResNets.
        assert!(shape.kernel == [kernel; 2] && shape.padding == [kernel / 2; 2]);
        assert!(shape.dilation == 1 && !shape.depthwise);
        assert!(matches!(
            shape.activation,
            Function::Relu | Function::Identity
        ));
        assert!(outputs.is_multiple_of(LANES) && bias.len >= outputs && zeros.len >= inputs);
        assert!(weights.len >= shape.weights());
        assert!((from.shape.channels, to.shape.channels) == (inputs, outputs));
        let numbers = [
            from.shape.height,
            from.shape.width,
            inputs,
            to.shape.height,
            to.shape.width,
            outputs,
            kernel,
            stride,
            residual.is_some().into(),
            (shape.activation == Function::Relu).into(),
        ];
        let buffers = [
            from.buffer,
            weights,
            bias,
            residual.map_or(zeros, |residual| residual.buffer),
            zeros,
            to.buffer,
        ];
        let arguments: Vec<_> = buffers
            .map(Argument::Buffer)
            .into_iter()
            .chain(numbers.map(Argument::Number))
            .collect();
        let tiles = (to.shape.height * to.shape.width).div_ceil(TILE);
        self.kernel(c"convolve", &arguments, [outputs / LANES, tiles], [8, 8])
    }

    /// The maximum over 3×3 pixels at stride 2, with a padding of 1.
    pub(super) fn max_pool(&self, from: View, to: View) -> Result<Launch, Error> {
        [from, to].iter().for_each(View::check);
        let channels = to.shape.channels;
        assert!(from.shape.channels == channels);
        let arguments = [
            Argument::Buffer(from.buffer),
            Argument::Buffer(to.buffer),
            Argument::Number(from.shape.height),
            Argument::Number(from.shape.width),
            Argument::Number(channels),
            Argument::Number(to.shape.height),
            Argument::Number(to.shape.width),
        ];
        let pixels = to.shape.height * to.shape.width;
        self.kernel(c"max_pool", &arguments, [channels, pixels], [GROUP, 1])
    }

    /// The average over all pixels.
    pub(super) fn average_pool(&self, from: View, to: View) -> Result<Launch, Error> {
        [from, to].iter().for_each(View::check);
        let channels = to.shape.channels;
        assert!(from.shape.channels == channels);
        let arguments = [
            Argument::Buffer(from.buffer),
            Argument::Buffer(to.buffer),
            Argument::Number(from.shape.height * from.shape.width),
            Argument::Number(channels),
        ];
        self.kernel(c"average_pool", &arguments, [channels, 1], [GROUP, 1])
    }

    /// A kernel for `items`, in groups of `local`.
    fn kernel(
        &self,
        name: &'static CStr,
        arguments: &[Argument],
        items: [usize; 2],
        local: [usize; 2],
    ) -> Result<Launch, Error> {
        let mut code = SUCCESS;
        // SAFETY: a terminated name; a place for the result.
        let kernel = unsafe { (self.api.create_kernel)(self.program, name.as_ptr(), &mut code) };
        check("clCreateKernel", code)?;
        for (index, argument) in (0..).zip(arguments) {
            let set = |size: usize, value: *const c_void| {
                // SAFETY: a value of this size, copied by the call.
                let set = unsafe { (self.api.set_argument)(kernel, index, size, value) };
                check("clSetKernelArg", set)
            };
            match argument {
                Argument::Buffer(buffer) => {
                    // Kernels count in ints.
                    assert!(i32::try_from(buffer.len).is_ok());
                    set(size_of::<Raw>(), (&raw const buffer.raw).cast())?;
                }
                Argument::Number(number) => {
                    let number = i32::try_from(*number).expect("smaller than a buffer");
                    set(size_of::<i32>(), (&raw const number).cast())?;
                }
            }
        }
        let global = [0, 1].map(|axis| items[axis].next_multiple_of(local[axis]));
        Ok(Launch {
            kernel,
            global,
            local,
        })
    }

    /// Preemption level that the preloaded shim has, 1 to 3; 0: unscheduled, or no shim.
    pub(super) fn level_in_force(&self) -> u8 {
        type Level = extern "C" fn(Raw) -> i32;
        // SAFETY: the shim's function of that name has this type.
        let level = unsafe { Library::this().get::<Level>(b"xsched_opencl_level\0") };
        level.map_or(0, |level| level(self.queue).clamp(0, 3) as u8)
    }
}

impl Api {
    fn first_device(&self) -> Result<Raw, Error> {
        let missing = |what: &str| {
            Error::Missing(format!(
                "OpenCL finds no {what}: install a driver, such as pocl-opencl-icd, and check clinfo"
            ))
        };
        let (mut platforms, mut count) = ([null_mut(); 16], 0);
        let room = platforms.len() as u32;
        // SAFETY: as much room as is said; a place for the number.
        match unsafe { (self.platforms)(room, platforms.as_mut_ptr(), &mut count) } {
            PLATFORM_NOT_FOUND => return Err(missing("platform")),
            code => check("clGetPlatformIDs", code)?,
        }
        for &platform in platforms.iter().take(count as usize) {
            let mut device = null_mut();
            // SAFETY: a platform that was just found; room for one device.
            let found =
                unsafe { (self.devices)(platform, DEVICE_TYPE_ALL, 1, &mut device, null_mut()) };
            match found {
                SUCCESS if !device.is_null() => return Ok(device),
                SUCCESS | DEVICE_NOT_FOUND => {}
                code => check("clGetDeviceIDs", code)?,
            }
        }
        Err(missing(if count == 0 { "platform" } else { "device" }))
    }

    fn device_name(&self, device: Raw) -> Result<String, Error> {
        let (mut name, mut size) = ([0_u8; 256], 0);
        let place = name.as_mut_ptr().cast();
        // SAFETY: a place of the length that is said.
        let asked =
            unsafe { (self.device_info)(device, DEVICE_NAME, name.len(), place, &mut size) };
        check("clGetDeviceInfo", asked)?;
        let name = String::from_utf8_lossy(&name[..size.min(name.len())]);
        Ok(name.trim_end_matches('\0').trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_that_the_kernels_are_built_with_are_the_hosts() {
        let options = format!("-DTILE={TILE} -DLANES={LANES}");
        assert_eq!(OPTIONS.to_str(), Ok(options.as_str()));
    }

    #[test]
    fn a_failed_build_is_one_line_that_quotes_the_log() {
        let device = match Device::open() {
            Ok(device) => device,
            Err(Error::Missing(reason)) => {
                eprintln!("skipped: {reason}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let failure = device.build("__kernel void broken( {").unwrap_err();
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        let start = format!("{} cannot build the workload's kernels: ", device.name);
        let log = text.strip_prefix(&start).unwrap();
        assert!(log.contains("error"), "{text}");
    }
}
