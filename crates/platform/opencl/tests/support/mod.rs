//! Client processes: each test's body runs in a process of its own, with the shim preloaded, which
//! loads OpenCL by `dlopen` as many programs do.

#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    env,
    ffi::{CString, c_char, c_void},
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output},
    ptr::{null, null_mut},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libloading::os::unix::Library;
use tempfile::TempDir;
use xsched_wire::segment::PeerSegment;

pub(crate) type Handle = *mut c_void;

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const COMPLETE: i32 = 0;
pub(crate) const OUT_OF_ORDER: u64 = 1;
const STATUS: u32 = 0x11D3;

/// In the environment of a client.
const ROLE: &str = "XSCHED_TEST_CLIENT";

/// The local scheduler: no daemon is needed.
pub(crate) const LOCAL: (&str, &str) = ("XSCHED_POLICY", "hpf");
pub(crate) const LEVEL_1: (&str, &str) = ("XSCHED_AUTO_XQUEUE_LEVEL", "1");
pub(crate) const LEVEL_2: (&str, &str) = ("XSCHED_AUTO_XQUEUE_LEVEL", "2");
/// Commands in flight at most, at level 1.
pub(crate) const WINDOW: usize = 16;
/// A priority that never runs, and so gets no pieces of the starvation guard either.
pub(crate) const NO_RUN: i32 = -256;

/// The shim under test.
pub(crate) fn shim() -> PathBuf {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    let shim = folder.join("libshimopencl.so");
    assert!(shim.exists(), "{} is not built", shim.display());
    shim
}

/// A program in whose environment nothing of ours is left but the shim and `environment`.
pub(crate) fn shimmed(command: &mut Command, environment: &[(&str, &str)]) {
    for variable in xsched_wire::env::ALL {
        command.env_remove(variable.name);
    }
    command
        .env("LD_PRELOAD", shim())
        .envs(environment.iter().copied());
}

/// Runs `body` in a process of its own with these variables, and expects it to succeed.
pub(crate) fn client(environment: &[(&str, &str)], body: impl FnOnce()) {
    if env::var_os(ROLE).is_some() {
        // A client that waits for ever fails after a minute.
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(60));
            eprintln!("the client is stuck");
            std::process::abort();
        });
        return body();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    let thread = thread::current();
    let test = thread.name().expect("the harness names the test's thread");
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, "1");
    shimmed(&mut command, environment);
    succeeded(&command.output().unwrap());
}

/// PoCL, Oclgrind (a simulator, which executes in the calling thread) and the driver of
/// `tests/programs/driver.c`, which computes nothing: the names of their platforms.
pub(crate) const POCL: &str = "Portable Computing Language";
pub(crate) const OCLGRIND: &str = "Oclgrind";
pub(crate) const NOTHING: &str = "Nothing";

/// Runs `body` as [`client`] does, where OpenCL has these platforms.
pub(crate) fn client_of(platforms: &[&str], environment: &[(&str, &str)], body: impl FnOnce()) {
    if env::var_os(ROLE).is_some() {
        return client(environment, body);
    }
    let folder = drivers(platforms);
    let mut environment = environment.to_vec();
    environment.push((VENDORS, folder.path().to_str().unwrap()));
    client(&environment, body);
}

/// The OpenCL of `tests/programs/late.c`.
pub(crate) struct Late {
    /// How many user events the shim's keeper has completed so far.
    pub(crate) completed_by_keeper: extern "C" fn() -> u32,
    /// Holds native kernels before they are enqueued, or lets them go on (0).
    pub(crate) hold: extern "C" fn(u32),
}

/// Runs `body` as [`client`] does, with that OpenCL.
pub(crate) fn client_of_late_calls(environment: &[(&str, &str)], body: impl FnOnce(Late)) {
    const LIBRARY: &str = "XSCHED_OPENCL_LIB";
    if env::var_os(ROLE).is_some() {
        let path = env::var_os(LIBRARY).expect("the client is told");
        // SAFETY: loading it has no conditions.
        let late = Box::leak(Box::new(unsafe { Library::new(path) }.unwrap()));
        // SAFETY: a function of this type.
        let completed_by_keeper = *unsafe { late.get(b"late_completed_by_keeper") }.unwrap();
        // SAFETY: as above.
        let hold = *unsafe { late.get(b"late_hold") }.unwrap();
        let late = Late {
            completed_by_keeper,
            hold,
        };
        return client(environment, || body(late));
    }
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-Wl,--no-as-needed",
        "-lOpenCL",
        "-lpthread",
        "-ldl",
    ];
    let late = compile(&folder, "late.c", &arguments);
    let mut environment = environment.to_vec();
    environment.push((LIBRARY, late.to_str().unwrap()));
    client(&environment, || ());
}

/// Names the folder in which a loader looks for drivers.
pub(crate) const VENDORS: &str = "OCL_ICD_VENDORS";

/// A folder that names the drivers of these platforms.
pub(crate) fn drivers(platforms: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for &platform in platforms {
        let driver = match platform {
            POCL => "libpocl.so.2".into(),
            OCLGRIND => "/usr/lib/oclgrind/liboclgrind-rt-icd.so".into(),
            _ => {
                let driver = compile(&folder, "driver.c", &["-shared", "-fPIC"]);
                driver.to_str().unwrap().to_owned()
            }
        };
        let name = format!("{platform}.icd").replace(' ', "-");
        fs::write(folder.path().join(name), driver).unwrap();
    }
    folder
}

/// Compiles C of `tests/programs`.
pub(crate) fn compile(folder: &TempDir, name: &str, arguments: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let output = folder.path().join(Path::new(name).file_stem().unwrap());
    let compiler = Command::new("cc")
        .arg(source.join(name))
        .arg("-o")
        .arg(&output)
        .args(arguments)
        .output()
        .expect("cc is installed");
    succeeded(&compiler);
    output
}

/// Fails, with what it said, unless a program has succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "the client failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Far longer than anything takes; only a hang gets there.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns when a value has not changed for a third of a second.
pub(crate) fn until_still<T: PartialEq>(mut value: impl FnMut() -> T) {
    let (mut last, mut since) = (value(), Instant::now());
    until("it comes to rest", || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    });
}

/// What [`Cl::kernel`] makes of a word in a round.
pub(crate) fn after_one_round(word: u32) -> u32 {
    word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}

/// What a callback counts.
pub(crate) static CALLS: AtomicU32 = AtomicU32::new(0);

/// A callback that counts.
pub(crate) unsafe extern "C" fn count(_: Handle, _: i32, _: *mut c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

/// A C entry point of the preloaded shim.
fn entry<T: Copy>(name: &str) -> T {
    // SAFETY: the caller names a function of this type (`api.rs`).
    *unsafe { Library::this().get::<T>(name.as_bytes()) }.expect("the shim is preloaded")
}

pub(crate) fn level(queue: Handle) -> i32 {
    let level: extern "C" fn(Handle) -> i32 = entry("xsched_opencl_level");
    level(queue)
}

pub(crate) fn set_priority(queue: Handle, priority: i32) -> i32 {
    let set: extern "C" fn(Handle, i32) -> i32 = entry("xsched_opencl_set_priority");
    set(queue, priority)
}

pub(crate) fn set_enabled(on: i32) -> i32 {
    let set: extern "C" fn(i32) -> i32 = entry("xsched_opencl_set_enabled");
    set(on)
}

/// Whether this process's first queue has work, as its scheduler sees it.
pub(crate) fn has_work() -> bool {
    let mut descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let segment = descriptors.find(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:xsched")
    });
    let path = segment.expect("the queue is scheduled").path();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let segment = PeerSegment::open(file.as_fd()).unwrap();
    segment.layout().block(0).unwrap().state().is_ready()
}

/// Waits until the scheduler runs; gives the level in force.
pub(crate) fn scheduled(queue: Handle) -> i32 {
    until("the local scheduler runs", || level(queue) > 0);
    level(queue)
}

/// What is offered on a CPU device.
pub(crate) fn level_of_cpus() -> i32 {
    if xsched_cpu::class::probe().is_ok() {
        3
    } else {
        2
    }
}

/// A list of handles as arguments.
pub(crate) fn arguments(handles: &[Handle]) -> (u32, *const Handle) {
    match handles {
        [] => (0, null()),
        some => (some.len() as u32, some.as_ptr()),
    }
}

/// The functions of `libOpenCL.so.1`, found by `dlopen` and `dlsym`, and one device.
#[derive(Clone, Copy)]
pub(crate) struct Cl {
    library: &'static Library,
    platform: Handle,
    pub(crate) device: Handle,
    pub(crate) context: Handle,
}

// SAFETY: OpenCL's handles belong to no thread.
unsafe impl Send for Cl {}
// SAFETY: as above.
unsafe impl Sync for Cl {}

/// A handle that goes to another thread.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) Handle);

// SAFETY: OpenCL's handles belong to no thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn get(self) -> Handle {
        self.0
    }
}

impl Cl {
    pub(crate) fn load() -> Self {
        Cl::load_device(0)
    }

    /// The same with another device of the platform.
    pub(crate) fn load_device(index: usize) -> Self {
        Cl::load_from(|_| true, index)
    }

    /// The same with the first device of the platform of this name.
    pub(crate) fn load_platform(name: &str) -> Self {
        Cl::load_from(|known| known == name, 0)
    }

    fn load_from(is_wanted: impl Fn(&str) -> bool, index: usize) -> Self {
        // SAFETY: loading it has no conditions.
        let library = unsafe { Library::new("libOpenCL.so.1") }.expect("libOpenCL is installed");
        let mut cl = Cl {
            library: Box::leak(Box::new(library)),
            platform: null_mut(),
            device: null_mut(),
            context: null_mut(),
        };
        let platforms: extern "C" fn(u32, *mut Handle, *mut u32) -> i32 =
            cl.symbol("clGetPlatformIDs");
        let (mut all, mut count) = ([null_mut(); 8], 0);
        let room = all.len() as u32;
        assert_eq!(platforms(room, all.as_mut_ptr(), &mut count), SUCCESS);
        let mut all = all.into_iter().take(count as usize);
        let platform = all.find(|&platform| is_wanted(&cl.platform_name(platform)));
        cl.platform = platform.expect("the platform is there");
        let devices: extern "C" fn(Handle, u64, u32, *mut Handle, *mut u32) -> i32 =
            cl.symbol("clGetDeviceIDs");
        let (all, mut found) = (0xFFFF_FFFF, [null_mut(); 4]);
        let room = found.len() as u32;
        let result = devices(cl.platform, all, room, found.as_mut_ptr(), null_mut());
        assert_eq!(result, SUCCESS);
        cl.device = found[index];
        cl.context = cl.new_context();
        cl
    }

    /// A context of the device.
    fn new_context(&self) -> Handle {
        type Create =
            extern "C" fn(*const isize, u32, *const Handle, Handle, Handle, *mut i32) -> Handle;
        let create: Create = self.symbol("clCreateContext");
        let mut error = 0;
        let context = create(null(), 1, &self.device, null_mut(), null_mut(), &mut error);
        assert_eq!(error, SUCCESS);
        context
    }

    /// A part of the device, of one compute unit, in a context of its own.
    pub(crate) fn part(&self) -> Self {
        const EQUALLY: isize = 0x1086;
        type Create = extern "C" fn(Handle, *const isize, u32, *mut Handle, *mut u32) -> i32;
        let create: Create = self.symbol("clCreateSubDevices");
        let properties = [EQUALLY, 1, 0];
        let mut found = [null_mut(); 256];
        let (room, mut count) = (found.len() as u32, 0);
        let result = create(
            self.device,
            properties.as_ptr(),
            room,
            found.as_mut_ptr(),
            &mut count,
        );
        assert_eq!(result, SUCCESS);
        for &other in &found[1..count as usize] {
            assert_eq!(self.call("clReleaseDevice", other), SUCCESS);
        }
        let mut part = Cl {
            device: found[0],
            ..*self
        };
        part.context = part.new_context();
        part
    }

    /// A number that the driver knows of the device.
    pub(crate) fn device_number(&self, name: u32) -> u32 {
        type Info = extern "C" fn(Handle, u32, usize, *mut u32, *mut usize) -> i32;
        let info: Info = self.symbol("clGetDeviceInfo");
        let mut number = 0;
        let result = info(self.device, name, 4, &mut number, null_mut());
        assert_eq!(result, SUCCESS);
        number
    }

    pub(crate) fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller names a function of this type (cl.h).
        *unsafe { self.library.get::<T>(name.as_bytes()) }.expect(name)
    }

    fn platform_name(&self, platform: Handle) -> String {
        const NAME: u32 = 0x0902;
        type Info = extern "C" fn(Handle, u32, usize, *mut u8, *mut usize) -> i32;
        let info: Info = self.symbol("clGetPlatformInfo");
        let (mut text, mut size) = ([0; 256], 0);
        let room = text.len();
        let result = info(platform, NAME, room, text.as_mut_ptr(), &mut size);
        assert_eq!(result, SUCCESS);
        let text = String::from_utf8_lossy(&text[..size]);
        text.trim_end_matches('\0').to_owned()
    }

    /// Where a function is that only the platform hands out; null: it has none of this name.
    pub(crate) fn find_extension(&self, name: &str) -> *const c_void {
        let find: extern "C" fn(Handle, *const c_char) -> *const c_void =
            self.symbol("clGetExtensionFunctionAddressForPlatform");
        let text = CString::new(name).unwrap();
        find(self.platform, text.as_ptr())
    }

    /// A function that only the platform hands out.
    pub(crate) fn extension<T: Copy>(&self, name: &str) -> T {
        let found = self.find_extension(name);
        assert!(!found.is_null(), "{name}");
        assert_eq!(size_of::<T>(), size_of_val(&found));
        // SAFETY: the caller names a function of this type (cl_ext.h).
        unsafe { std::mem::transmute_copy(&found) }
    }

    pub(crate) fn queue(&self, properties: u64) -> Handle {
        let create: extern "C" fn(Handle, Handle, u64, *mut i32) -> Handle =
            self.symbol("clCreateCommandQueue");
        let mut error = 0;
        let queue = create(self.context, self.device, properties, &mut error);
        assert_eq!(error, SUCCESS);
        queue
    }

    pub(crate) fn buffer(&self, words: usize) -> Handle {
        let create: extern "C" fn(Handle, u64, usize, Handle, *mut i32) -> Handle =
            self.symbol("clCreateBuffer");
        // CL_MEM_READ_WRITE and CL_MEM_COPY_HOST_PTR: the first command may be held already.
        const FLAGS: u64 = 1 | 1 << 5;
        let mut zeros = vec![0_u32; words];
        let mut error = 0;
        let place = zeros.as_mut_ptr().cast();
        let buffer = create(self.context, FLAGS, words * 4, place, &mut error);
        assert_eq!(error, SUCCESS);
        buffer
    }

    /// A kernel `work(buffer, rounds)` that rewrites each word of a buffer `rounds` times.
    pub(crate) fn kernel(&self) -> Handle {
        const SOURCE: &str = "__kernel void work(__global uint *words, uint rounds) {
            uint word = words[get_global_id(0)];
            for (uint i = 0; i < rounds; i++) word = word * 1664525u + 1013904223u;
            words[get_global_id(0)] = word;
        }";
        type Create =
            extern "C" fn(Handle, u32, *const *const i8, *const usize, *mut i32) -> Handle;
        let create: Create = self.symbol("clCreateProgramWithSource");
        let source = CString::new(SOURCE).unwrap();
        let mut error = 0;
        let program = create(self.context, 1, &source.as_ptr(), null(), &mut error);
        assert_eq!(error, SUCCESS);
        type Build = extern "C" fn(Handle, u32, *const Handle, *const i8, Handle, Handle) -> i32;
        let build: Build = self.symbol("clBuildProgram");
        let built = build(program, 1, &self.device, null(), null_mut(), null_mut());
        assert_eq!(built, SUCCESS);
        let kernel: extern "C" fn(Handle, *const i8, *mut i32) -> Handle =
            self.symbol("clCreateKernel");
        let kernel = kernel(program, c"work".as_ptr(), &mut error);
        assert_eq!(error, SUCCESS);
        kernel
    }

    /// A kernel's program.
    pub(crate) fn program(&self, kernel: Handle) -> Handle {
        const KERNEL_PROGRAM: u32 = 0x1194;
        type Info = extern "C" fn(Handle, u32, usize, *mut Handle, *mut usize) -> i32;
        let info: Info = self.symbol("clGetKernelInfo");
        let mut program = null_mut();
        let size = size_of::<Handle>();
        let result = info(kernel, KERNEL_PROGRAM, size, &mut program, null_mut());
        assert_eq!(result, SUCCESS);
        program
    }

    /// Counts when a memory object is gone.
    pub(crate) fn count_destruction(&self, object: Handle) {
        unsafe extern "C" fn count(_: Handle, _: *mut c_void) {
            CALLS.fetch_add(1, Ordering::SeqCst);
        }
        type Set =
            extern "C" fn(Handle, unsafe extern "C" fn(Handle, *mut c_void), *mut c_void) -> i32;
        let set: Set = self.symbol("clSetMemObjectDestructorCallback");
        assert_eq!(set(object, count, null_mut()), SUCCESS);
    }

    pub(crate) fn set_arguments(&self, kernel: Handle, buffer: Handle, rounds: u32) {
        type Set = extern "C" fn(Handle, u32, usize, *const c_void) -> i32;
        let set: Set = self.symbol("clSetKernelArg");
        let pointer = (&raw const buffer).cast();
        assert_eq!(set(kernel, 0, size_of::<Handle>(), pointer), SUCCESS);
        assert_eq!(set(kernel, 1, 4, (&raw const rounds).cast()), SUCCESS);
    }

    /// Enqueues that kernel over `words` words of a buffer; gives its event.
    pub(crate) fn work(
        &self,
        queue: Handle,
        kernel: Handle,
        buffer: Handle,
        words: usize,
        rounds: u32,
    ) -> Handle {
        self.set_arguments(kernel, buffer, rounds);
        type Enqueue = extern "C" fn(
            Handle,
            Handle,
            u32,
            *const usize,
            *const usize,
            *const usize,
            u32,
            *const Handle,
            *mut Handle,
        ) -> i32;
        let enqueue: Enqueue = self.symbol("clEnqueueNDRangeKernel");
        let mut event = null_mut();
        let local = null();
        let result = enqueue(
            queue,
            kernel,
            1,
            null(),
            &words,
            local,
            0,
            null(),
            &mut event,
        );
        assert_eq!(result, SUCCESS);
        event
    }

    /// Fills a buffer's first word, behind these events; gives the command's event.
    pub(crate) fn fill(
        &self,
        queue: Handle,
        buffer: Handle,
        value: u32,
        after: &[Handle],
    ) -> Handle {
        type Fill = extern "C" fn(
            Handle,
            Handle,
            *const u32,
            usize,
            usize,
            usize,
            u32,
            *const Handle,
            *mut Handle,
        ) -> i32;
        let fill: Fill = self.symbol("clEnqueueFillBuffer");
        let mut event = null_mut();
        let (count, list) = arguments(after);
        let result = fill(queue, buffer, &value, 4, 0, 4, count, list, &mut event);
        assert_eq!(result, SUCCESS);
        event
    }

    /// Enqueues a function of the host's.
    pub(crate) fn native(&self, queue: Handle, function: extern "C" fn(*mut c_void)) {
        type Enqueue = extern "C" fn(
            Handle,
            extern "C" fn(*mut c_void),
            *mut c_void,
            usize,
            u32,
            *const Handle,
            *const *const c_void,
            u32,
            *const Handle,
            *mut Handle,
        ) -> i32;
        let enqueue: Enqueue = self.symbol("clEnqueueNativeKernel");
        let (none, size) = (null_mut(), 0);
        let result = enqueue(
            queue,
            function,
            none,
            size,
            0,
            null(),
            null(),
            0,
            null(),
            none.cast(),
        );
        assert_eq!(result, SUCCESS);
    }

    /// A blocking read of a buffer's first words.
    pub(crate) fn read(&self, queue: Handle, buffer: Handle, words: usize) -> Vec<u32> {
        self.read_after(queue, buffer, words, &[])
    }

    /// The same, behind these events.
    pub(crate) fn read_after(
        &self,
        queue: Handle,
        buffer: Handle,
        words: usize,
        after: &[Handle],
    ) -> Vec<u32> {
        type Read = extern "C" fn(
            Handle,
            Handle,
            u32,
            usize,
            usize,
            *mut u32,
            u32,
            *const Handle,
            *mut Handle,
        ) -> i32;
        let read: Read = self.symbol("clEnqueueReadBuffer");
        let mut values = vec![0; words];
        let to = values.as_mut_ptr();
        let (count, list) = arguments(after);
        let result = read(queue, buffer, 1, 0, words * 4, to, count, list, null_mut());
        assert_eq!(result, SUCCESS);
        values
    }

    /// A function of one handle: `clFinish`, `clFlush`, a release.
    pub(crate) fn call(&self, name: &str, handle: Handle) -> i32 {
        let function: extern "C" fn(Handle) -> i32 = self.symbol(name);
        function(handle)
    }

    pub(crate) fn finish(&self, queue: Handle) {
        assert_eq!(self.call("clFinish", queue), SUCCESS);
    }

    pub(crate) fn flush(&self, queue: Handle) {
        assert_eq!(self.call("clFlush", queue), SUCCESS);
    }

    pub(crate) fn user_event(&self) -> Handle {
        let create: extern "C" fn(Handle, *mut i32) -> Handle = self.symbol("clCreateUserEvent");
        let mut error = 0;
        let event = create(self.context, &mut error);
        assert_eq!(error, SUCCESS);
        event
    }

    pub(crate) fn complete(&self, event: Handle) {
        let set: extern "C" fn(Handle, i32) -> i32 = self.symbol("clSetUserEventStatus");
        assert_eq!(set(event, COMPLETE), SUCCESS);
    }

    pub(crate) fn on_complete(
        &self,
        event: Handle,
        callback: unsafe extern "C" fn(Handle, i32, *mut c_void),
        data: *mut c_void,
    ) {
        type Set = extern "C" fn(
            Handle,
            i32,
            unsafe extern "C" fn(Handle, i32, *mut c_void),
            *mut c_void,
        ) -> i32;
        let set: Set = self.symbol("clSetEventCallback");
        assert_eq!(set(event, COMPLETE, callback, data), SUCCESS);
    }

    pub(crate) fn is_complete(&self, event: Handle) -> bool {
        type Info = extern "C" fn(Handle, u32, usize, *mut i32, *mut usize) -> i32;
        let info: Info = self.symbol("clGetEventInfo");
        let mut status = 0;
        assert_eq!(info(event, STATUS, 4, &mut status, null_mut()), SUCCESS);
        status == COMPLETE
    }

    pub(crate) fn wait(&self, event: Handle) {
        let wait: extern "C" fn(u32, *const Handle) -> i32 = self.symbol("clWaitForEvents");
        assert_eq!(wait(1, &event), SUCCESS);
    }

    /// A buffer's first word, read by another queue that nobody schedules: a scheduled one that waits
    /// beside a held one may open its gates.
    pub(crate) fn read_past_the_shim(&self, buffer: Handle) -> u32 {
        assert_eq!(set_enabled(0), 0);
        let queue = self.queue(0);
        let value = self.read(queue, buffer, 1)[0];
        assert_eq!(self.call("clReleaseCommandQueue", queue), SUCCESS);
        assert_eq!(set_enabled(1), 0);
        value
    }

    /// Fails unless this queue's commands are scheduled at this level: at 1 a window is kept, from 2 on one
    /// is held when the queue may not run.
    #[track_caller]
    pub(crate) fn assert_scheduled(&self, queue: Handle, expect: i32) {
        assert_eq!(level(queue), expect);
        if expect > 1 {
            let buffer = self.buffer(1);
            assert_eq!(set_priority(queue, NO_RUN), 0);
            self.fill_until_held(queue, buffer);
            assert_eq!(set_priority(queue, 0), 0);
        } else {
            let in_flight = self.in_flight(queue);
            assert!(in_flight <= WINDOW, "{in_flight}");
        }
        self.finish(queue);
    }

    /// Of more commands than a window holds, some milliseconds each, how many are not over when the last
    /// has been enqueued.
    pub(crate) fn in_flight(&self, queue: Handle) -> usize {
        let (buffer, kernel) = (self.buffer(64), self.kernel());
        let events: Vec<_> = (0..4 * WINDOW)
            .map(|_| self.work(queue, kernel, buffer, 64, 200_000))
            .collect();
        let is_in_flight = |&&event: &&Handle| !self.is_complete(event);
        events.iter().filter(is_in_flight).count()
    }

    /// Fills with one value after the other until one is held; gives its value and event.
    pub(crate) fn fill_until_held(&self, queue: Handle, buffer: Handle) -> (u32, Handle) {
        self.until_held(queue, |value| self.fill(queue, buffer, value, &[]))
    }

    /// Enqueues commands, numbered from 1, until one is held; gives its number and event.
    pub(crate) fn until_held(
        &self,
        queue: Handle,
        mut enqueue: impl FnMut(u32) -> Handle,
    ) -> (u32, Handle) {
        for number in 1..500 {
            let event = enqueue(number);
            self.flush(queue);
            let start = Instant::now();
            while !self.is_complete(event) {
                if start.elapsed() > Duration::from_millis(300) {
                    return (number, event);
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        panic!("nothing was held");
    }
}
