//! The CUDA driver, as much of it as the built-in workload needs: loaded and asked by name as other
//! programs do, so that a preloaded shim takes effect. The only file of this crate with `unsafe`.
//!
//! Three layers: raw entry points ([`Api`]), results ([`Error`]), and the safe types below, which
//! keep their memory, streams and modules until the process ends, as the device may use them until
//! then.

#![allow(unsafe_code, reason = "calls into the driver; see the SAFETY comments")]

use std::{
    ffi::{CStr, c_char, c_void},
    os::fd::{BorrowedFd, OwnedFd},
    ptr,
    sync::atomic::AtomicU32,
};

use libloading::os::unix::Library;

/// Kernels as text, which the driver compiles for its device.
const PTX: &str = concat!(include_str!("kernels.ptx"), "\0");

/// Threads of a block of [`Kernel::Work`].
pub(crate) const BLOCK: usize = 256;

const SUCCESS: i32 = 0;
const OUT_OF_MEMORY: i32 = 2;
const NO_DEVICE: i32 = 100;

type Raw = *mut c_void;

macro_rules! entry_points {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        /// Entry points (cuda.h), found once.
        #[derive(Clone, Copy)]
        struct Api { $($name: unsafe extern "C" fn($($kind),*) -> i32,)* }

        impl Api {
            fn find(library: &Library) -> Result<Api, Error> {
                Ok(Api { $($name: {
                    // SAFETY: the driver's function of this name has this signature (cuda.h), or
                    // the shim's hook of it, which has the same.
                    let found = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                    *found.map_err(|_| Error::Missing(format!(
                        "this NVIDIA driver has no {}: install a newer driver", $symbol
                    )))?
                },)* })
            }
        }
    };
}

entry_points! {
    init = "cuInit" (u32);
    device_get = "cuDeviceGet" (*mut i32, i32);
    device_get_name = "cuDeviceGetName" (*mut c_char, i32, i32);
    device_get_attribute = "cuDeviceGetAttribute" (*mut i32, i32, i32);
    primary_context_retain = "cuDevicePrimaryCtxRetain" (*mut Raw, i32);
    context_set_current = "cuCtxSetCurrent" (Raw);
    error_name = "cuGetErrorName" (i32, *mut *const c_char);
    error_string = "cuGetErrorString" (i32, *mut *const c_char);
    module_load_data = "cuModuleLoadData" (*mut Raw, *const c_void);
    module_get_function = "cuModuleGetFunction" (*mut Raw, Raw, *const c_char);
    memory_allocate = "cuMemAlloc_v2" (*mut u64, usize);
    host_allocate = "cuMemHostAlloc" (*mut Raw, usize, u32);
    host_device_pointer = "cuMemHostGetDevicePointer_v2" (*mut u64, Raw, u32);
    stream_create = "cuStreamCreateWithPriority" (*mut Raw, u32, i32);
    stream_priorities = "cuCtxGetStreamPriorityRange" (*mut i32, *mut i32);
    stream_synchronize = "cuStreamSynchronize" (Raw);
    stream_wait_value = "cuStreamWaitValue32_v2" (Raw, u64, u32, u32);
    fill_words = "cuMemsetD32Async" (u64, u32, usize, Raw);
    copy_to_device = "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Raw);
    copy_to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Raw);
    launch_kernel = "cuLaunchKernel" (Raw, u32, u32, u32, u32, u32, u32, u32, Raw, *mut *mut c_void, *mut *mut c_void);
    event_create = "cuEventCreate" (*mut Raw, u32);
    event_record = "cuEventRecord" (Raw, Raw);
    event_synchronize = "cuEventSynchronize" (Raw);
    event_elapsed = "cuEventElapsedTime" (*mut f32, Raw, Raw);
    begin_capture = "cuStreamBeginCapture_v2" (Raw, i32);
    end_capture = "cuStreamEndCapture" (Raw, *mut Raw);
    graph_instantiate = "cuGraphInstantiateWithFlags" (*mut Raw, Raw, u64);
    graph_launch = "cuGraphLaunch" (Raw, Raw);
}

type LaunchKernel = unsafe extern "C" fn(
    Raw,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    Raw,
    *mut *mut c_void,
    *mut *mut c_void,
) -> i32;

/// The driver's own `cuLaunchKernel`, whatever is preloaded: found by libc's own `dlsym`, which has a
/// version, unlike a shim's.
fn unhooked_launch(driver: Raw) -> Option<LaunchKernel> {
    type Dlsym = unsafe extern "C" fn(Raw, *const c_char) -> Raw;
    let own = |version: &CStr| {
        // SAFETY: terminated strings; the handle stands for every library of the process.
        unsafe { libc::dlvsym(libc::RTLD_DEFAULT, c"dlsym".as_ptr(), version.as_ptr()) }
    };
    let versions = [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"];
    let dlsym = versions
        .into_iter()
        .map(own)
        .find(|found| !found.is_null())?;
    // SAFETY: libc's function of this name has this signature (dlsym(3)).
    let dlsym = unsafe { std::mem::transmute::<Raw, Dlsym>(dlsym) };
    // SAFETY: the handle of a loaded library, a terminated string.
    let found = unsafe { dlsym(driver, c"cuLaunchKernel".as_ptr()) };
    // SAFETY: the driver's function of this name has this signature (cuda.h).
    (!found.is_null()).then(|| unsafe { std::mem::transmute::<Raw, LaunchKernel>(found) })
}

/// What the driver says; one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// No driver, too old a driver, or no device.
    #[error("{0}")]
    Missing(String),
    /// The device's memory has run out.
    #[error("CUDA out of memory ({0})")]
    OutOfMemory(&'static str),
    /// Another code of a call.
    #[error("{call}: {text} (CUDA error {code})")]
    Code {
        /// The call.
        call: &'static str,
        /// Name and meaning.
        text: String,
        /// Number.
        code: i32,
    },
}

/// Device 0 of this process, its context current in the thread that opened it.
#[derive(Clone)]
pub(crate) struct Device {
    api: Api,
    context: Raw,
    /// What NVIDIA calls it.
    pub(crate) name: String,
    /// Blocks of [`BLOCK`] threads that fill it.
    pub(crate) blocks: u32,
    work: Raw,
    empty: Raw,
    /// What [`Device::time`] records.
    events: [Raw; 2],
    unhooked_launch: Option<LaunchKernel>,
}

// SAFETY: handles and function pointers of the driver, which any thread may use.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Device {}

/// A stream of its own, independent of the default stream.
#[derive(Clone, Copy)]
pub(crate) struct Stream(Raw);

// SAFETY: a handle that any thread may use.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// A graph that can be launched.
pub(crate) struct Graph(Raw);

/// Words in host memory that the device reads and writes, too; never freed.
#[derive(Clone, Copy)]
pub(crate) struct HostWords {
    /// For the host.
    pub(crate) words: &'static [AtomicU32],
    device: u64,
}

/// Words in the device's memory; never freed.
#[derive(Clone, Copy)]
pub(crate) struct DeviceWords {
    device: u64,
    count: usize,
}

/// What a launch of the kernel `xsched_bench_work` does.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// A word a thread: `blocks` × [`BLOCK`].
    pub(crate) data: DeviceWords,
    /// One word, zero between launches; launches that share it must not overlap.
    pub(crate) counter: DeviceWords,
    /// Becomes `sequence` when the last block has ended: its first word.
    pub(crate) done: HostWords,
    /// Blocks of the grid.
    pub(crate) blocks: u32,
    /// Rounds of each thread.
    pub(crate) rounds: u32,
    /// For `done`.
    pub(crate) sequence: u32,
}

impl Device {
    /// Loads the driver and opens device 0, its primary context.
    pub(crate) fn open() -> Result<Device, Error> {
        // SAFETY: the driver's initialisers are meant to run in any program that loads it.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| {
            let reason = std::error::Error::source(&error);
            Error::Missing(format!(
                "the NVIDIA driver cannot be loaded ({}): install it, and check nvidia-smi",
                reason.map_or_else(|| error.to_string(), ToString::to_string)
            ))
        })?;
        let api = Api::find(&library)?;
        // The driver stays loaded: its threads outlive every handle.
        let unhooked_launch = unhooked_launch(library.into_raw());

        // SAFETY: no pointer arguments.
        match unsafe { (api.init)(0) } {
            SUCCESS => {}
            code => {
                let what = api.explain("cuInit", code);
                let hint = match code {
                    NO_DEVICE => ": check nvidia-smi and CUDA_VISIBLE_DEVICES",
                    _ => "",
                };
                return Err(Error::Missing(format!(
                    "the NVIDIA driver finds no GPU ({what}){hint}"
                )));
            }
        }
        let mut ordinal = 0;
        // SAFETY: a place for the result.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&mut ordinal, 0) })?;
        let mut context = ptr::null_mut();
        // SAFETY: a place for the result.
        api.check("cuDevicePrimaryCtxRetain", unsafe {
            (api.primary_context_retain)(&mut context, ordinal)
        })?;
        // SAFETY: the context was just retained, and is never released.
        api.check("cuCtxSetCurrent", unsafe {
            (api.context_set_current)(context)
        })?;

        let mut module = ptr::null_mut();
        // SAFETY: terminated text; a place for the result.
        api.check("cuModuleLoadData", unsafe {
            (api.module_load_data)(&mut module, PTX.as_ptr().cast())
        })?;
        let function = |name: &CStr| {
            let mut function = ptr::null_mut();
            // SAFETY: the module was just loaded and stays; a terminated name, a place.
            api.check("cuModuleGetFunction", unsafe {
                (api.module_get_function)(&mut function, module, name.as_ptr())
            })?;
            Ok(function)
        };
        let (work, empty) = (
            function(c"xsched_bench_work")?,
            function(c"xsched_bench_empty")?,
        );
        let event = || {
            let mut event = ptr::null_mut();
            // SAFETY: a place for the result.
            api.check("cuEventCreate", unsafe {
                (api.event_create)(&mut event, 0)
            })?;
            Ok(event)
        };
        let events = [event()?, event()?];
        let attribute = |number: i32| {
            let mut value = 0;
            // SAFETY: a place for the result.
            api.check("cuDeviceGetAttribute", unsafe {
                (api.device_get_attribute)(&mut value, number, ordinal)
            })?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, …_MAX_THREADS_PER_MULTIPROCESSOR.
        let (multiprocessors, threads) = (attribute(16)?, attribute(39)?);
        let blocks_each = (threads as usize / BLOCK).max(1) as u32;
        Ok(Device {
            api,
            context,
            name: api.device_name(ordinal)?,
            blocks: multiprocessors.max(1) * blocks_each,
            work,
            empty,
            events,
            unhooked_launch,
        })
    }

    /// Makes the context current in the calling thread, too.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is never released.
        self.api.check("cuCtxSetCurrent", unsafe {
            (self.api.context_set_current)(self.context)
        })
    }

    /// A new stream that the default stream does not wait for, of the lowest priority that the driver has.
    pub(crate) fn stream(&self) -> Result<Stream, Error> {
        const LOWEST: i32 = 0;
        self.stream_with_priority(LOWEST)
    }

    /// The same, of the driver's highest priority.
    pub(crate) fn urgent_stream(&self) -> Result<Stream, Error> {
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: places for the results.
        self.api.check("cuCtxGetStreamPriorityRange", unsafe {
            (self.api.stream_priorities)(&mut least, &mut greatest)
        })?;
        if greatest >= least {
            return Err(Error::Missing(
                "this device has no stream priorities".to_owned(),
            ));
        }
        self.stream_with_priority(greatest)
    }

    fn stream_with_priority(&self, priority: i32) -> Result<Stream, Error> {
        const NON_BLOCKING: u32 = 1;
        let mut stream = ptr::null_mut();
        // SAFETY: a place for the result.
        self.api.check("cuStreamCreateWithPriority", unsafe {
            (self.api.stream_create)(&mut stream, NON_BLOCKING, priority)
        })?;
        Ok(Stream(stream))
    }

    /// Zeroed words of the host's that the device can reach.
    pub(crate) fn host_words(&self, count: usize) -> Result<HostWords, Error> {
        const PORTABLE_AND_MAPPED: u32 = 1 | 2;
        let mut host = ptr::null_mut();
        // SAFETY: a place for the result.
        self.api.check("cuMemHostAlloc", unsafe {
            (self.api.host_allocate)(&mut host, 4 * count, PORTABLE_AND_MAPPED)
        })?;
        // SAFETY: just allocated, of this length.
        unsafe { ptr::write_bytes(host.cast::<u32>(), 0, count) };
        let mut device = 0;
        // SAFETY: just allocated as mapped memory; a place for the result.
        self.api.check("cuMemHostGetDevicePointer", unsafe {
            (self.api.host_device_pointer)(&mut device, host, 0)
        })?;
        // SAFETY: page-aligned, initialised, of this length, never freed; whoever writes it, host or
        // device, writes whole words, and everybody here reads atomically.
        let words = unsafe { std::slice::from_raw_parts(host.cast::<AtomicU32>(), count) };
        Ok(HostWords { words, device })
    }

    /// Words of the device's, zeroed by the stream.
    pub(crate) fn device_words(&self, count: usize, on: Stream) -> Result<DeviceWords, Error> {
        let mut device = 0;
        // SAFETY: a place for the result.
        self.api.check("cuMemAlloc", unsafe {
            (self.api.memory_allocate)(&mut device, 4 * count)
        })?;
        // SAFETY: just allocated, of this length.
        self.api.check("cuMemsetD32Async", unsafe {
            (self.api.fill_words)(device, 0, count, on.0)
        })?;
        Ok(DeviceWords { device, count })
    }

    /// The stream copies all of `from` to the start of `to`.
    pub(crate) fn copy_in(
        &self,
        to: DeviceWords,
        from: HostWords,
        on: Stream,
    ) -> Result<(), Error> {
        assert!(from.words.len() <= to.count);
        let bytes = 4 * from.words.len();
        // SAFETY: both have that length and are never freed.
        self.api.check("cuMemcpyHtoDAsync", unsafe {
            (self.api.copy_to_device)(to.device, from.words.as_ptr().cast(), bytes, on.0)
        })
    }

    /// The stream copies the start of `from` to all of `to`.
    pub(crate) fn copy_out(
        &self,
        to: HostWords,
        from: DeviceWords,
        on: Stream,
    ) -> Result<(), Error> {
        assert!(to.words.len() <= from.count);
        let bytes = 4 * to.words.len();
        let place = to.words.as_ptr().cast_mut().cast();
        // SAFETY: both have that length and are never freed; the words are atomic.
        self.api.check("cuMemcpyDtoHAsync", unsafe {
            (self.api.copy_to_host)(place, from.device, bytes, on.0)
        })
    }

    /// The stream waits until the first word is at least `value` (cyclically).
    pub(crate) fn wait_for(&self, word: HostWords, value: u32, on: Stream) -> Result<(), Error> {
        const GREATER_OR_EQUAL: u32 = 0;
        // SAFETY: mapped host memory that is never freed.
        self.api.check("cuStreamWaitValue32", unsafe {
            (self.api.stream_wait_value)(on.0, word.device, value, GREATER_OR_EQUAL)
        })
    }

    /// The stream runs a kernel that works.
    pub(crate) fn work(&self, work: Work, on: Stream) -> Result<(), Error> {
        assert!(work.blocks as usize * BLOCK <= work.data.count);
        let (mut data, mut counter, mut done) =
            (work.data.device, work.counter.device, work.done.device);
        let (mut rounds, mut sequence) = (work.rounds, work.sequence);
        let mut parameters: [*mut c_void; 5] = [
            (&raw mut data).cast(),
            (&raw mut counter).cast(),
            (&raw mut done).cast(),
            (&raw mut rounds).cast(),
            (&raw mut sequence).cast(),
        ];
        // SAFETY: a pointer to each parameter of the kernel (kernels.ptx), read before the call
        // returns; a word of data for each thread, none of the memory is ever freed.
        self.launch(self.work, work.blocks, BLOCK as u32, &mut parameters, on)
    }

    /// The stream runs a kernel that does nothing.
    #[inline]
    pub(crate) fn empty(&self, on: Stream) -> Result<(), Error> {
        self.launch(self.empty, 1, 1, &mut [], on)
    }

    /// The same by the driver's own function, past whatever is preloaded.
    #[inline]
    pub(crate) fn empty_unhooked(&self, on: Stream) -> Result<(), Error> {
        let Some(launch) = self.unhooked_launch else {
            let message = "the driver's own cuLaunchKernel was not found past the preloaded shim";
            return Err(Error::Missing(message.to_owned()));
        };
        self.launch_by(launch, self.empty, 1, 1, &mut [], on)
    }

    #[inline]
    fn launch(
        &self,
        function: Raw,
        blocks: u32,
        threads: u32,
        parameters: &mut [*mut c_void],
        on: Stream,
    ) -> Result<(), Error> {
        let launch = self.api.launch_kernel;
        self.launch_by(launch, function, blocks, threads, parameters, on)
    }

    #[inline]
    fn launch_by(
        &self,
        launch: LaunchKernel,
        function: Raw,
        blocks: u32,
        threads: u32,
        parameters: &mut [*mut c_void],
        on: Stream,
    ) -> Result<(), Error> {
        let (place, none) = (parameters.as_mut_ptr(), ptr::null_mut());
        // SAFETY: a function of the module that stays loaded, with the parameters that it has: all
        // callers are above.
        let code = unsafe { launch(function, blocks, 1, 1, threads, 1, 1, 0, on.0, place, none) };
        self.api.check("cuLaunchKernel", code)
    }

    /// Waits for everything that the stream has.
    pub(crate) fn synchronize(&self, on: Stream) -> Result<(), Error> {
        // SAFETY: streams are never destroyed.
        self.api.check("cuStreamSynchronize", unsafe {
            (self.api.stream_synchronize)(on.0)
        })
    }

    /// Captures what `body` gives to the stream, to be launched later.
    pub(crate) fn capture(
        &self,
        on: Stream,
        body: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Graph, Error> {
        const THREAD_LOCAL: i32 = 1;
        // SAFETY: streams are never destroyed.
        self.api.check("cuStreamBeginCapture", unsafe {
            (self.api.begin_capture)(on.0, THREAD_LOCAL)
        })?;
        let captured = body();
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a place for the result.
        let ended = unsafe { (self.api.end_capture)(on.0, &mut graph) };
        captured?;
        self.api.check("cuStreamEndCapture", ended)?;
        // SAFETY: just captured; a place for the result.
        self.api.check("cuGraphInstantiate", unsafe {
            (self.api.graph_instantiate)(&mut executable, graph, 0)
        })?;
        Ok(Graph(executable))
    }

    /// The stream runs a graph.
    pub(crate) fn replay(&self, graph: &Graph, on: Stream) -> Result<(), Error> {
        // SAFETY: graphs and streams are never destroyed.
        self.api.check("cuGraphLaunch", unsafe {
            (self.api.graph_launch)(graph.0, on.0)
        })
    }

    /// Device time, µs, that the stream takes for what `body` gives to it. One caller at a time.
    pub(crate) fn time(
        &self,
        on: Stream,
        body: impl FnOnce() -> Result<(), Error>,
    ) -> Result<f64, Error> {
        let [begin, end] = self.events;
        let record = |event: Raw| {
            // SAFETY: an event and a stream that are never destroyed.
            self.api.check("cuEventRecord", unsafe {
                (self.api.event_record)(event, on.0)
            })
        };
        record(begin)?;
        body()?;
        record(end)?;
        // SAFETY: as in `record`.
        self.api.check("cuEventSynchronize", unsafe {
            (self.api.event_synchronize)(end)
        })?;
        let mut ms = 0.0;
        // SAFETY: two recorded events; a place for the result.
        self.api.check("cuEventElapsedTime", unsafe {
            (self.api.event_elapsed)(&mut ms, begin, end)
        })?;
        Ok(f64::from(ms) * 1000.0)
    }
}

impl Api {
    fn check(&self, call: &'static str, code: i32) -> Result<(), Error> {
        match code {
            SUCCESS => Ok(()),
            OUT_OF_MEMORY => Err(Error::OutOfMemory(call)),
            _ => Err(Error::Code {
                call,
                text: self.explain(call, code),
                code,
            }),
        }
    }

    /// Name and meaning of an error.
    fn explain(&self, call: &str, code: i32) -> String {
        let text = |ask: unsafe extern "C" fn(i32, *mut *const c_char) -> i32| {
            let mut text = ptr::null();
            // SAFETY: a place for the result.
            let found = unsafe { ask(code, &mut text) } == SUCCESS && !text.is_null();
            if !found {
                return None;
            }
            // SAFETY: a terminated string that lasts as long as the driver.
            let text = unsafe { CStr::from_ptr(text) };
            Some(text.to_string_lossy().into_owned())
        };
        match (text(self.error_name), text(self.error_string)) {
            (Some(name), Some(meaning)) => format!("{name}, {meaning}"),
            _ => format!("{call} failed"),
        }
    }

    fn device_name(&self, ordinal: i32) -> Result<String, Error> {
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: a place of that length for the result.
        self.check("cuDeviceGetName", unsafe {
            (self.device_get_name)(name.as_mut_ptr(), 255, ordinal)
        })?;
        // SAFETY: the last character is still zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }
}

/// Preemption level that the preloaded shim has, 1 to 3; 0: unscheduled, or no shim.
pub(crate) fn level_in_force() -> u8 {
    // SAFETY: the shim's function of that name takes nothing and returns an int.
    let level = unsafe { Library::this().get::<extern "C" fn() -> i32>(b"xsched_level\0") };
    level.map_or(0, |level| level().clamp(0, 3) as u8)
}

/// Makes a stream a task group of its own, by the preloaded shim.
pub(crate) fn set_priority(stream: Stream, priority: i32) -> Result<(), Error> {
    type Set = extern "C" fn(Raw, i32) -> i32;
    // SAFETY: the shim's function of that name takes a stream and an int and returns an int.
    let set = unsafe { Library::this().get::<Set>(b"xsched_set_stream_priority\0") };
    match set.map_or(2, |set| set(stream.0, priority)) {
        0 => Ok(()),
        1 => Err(Error::Missing(format!(
            "priority {priority}: give -255 to 255"
        ))),
        _ => Err(Error::Missing(
            "nobody schedules this stream: `xsched doctor` says why".to_owned(),
        )),
    }
}

/// Has the preloaded shim let everything pass, or schedule it again.
pub(crate) fn set_enabled(on: bool) -> Result<(), Error> {
    // SAFETY: the shim's function of that name takes and returns an int.
    let set = unsafe { Library::this().get::<extern "C" fn(i32) -> i32>(b"xsched_set_enabled\0") };
    match set.map_or(2, |set| set(i32::from(on))) {
        0 => Ok(()),
        _ => Err(Error::Missing(
            "nobody schedules this process: `xsched doctor` says why".to_owned(),
        )),
    }
}

/// A duplicate of a descriptor of this process that somebody else owns.
pub(crate) fn duplicate(number: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: borrowed for this call alone; should its owner close it meanwhile, the call fails or
    // duplicates a file that the caller looks at before use.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}
