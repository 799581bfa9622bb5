//! What a launch costs with the shim around it and no gate due, on a runtime that does nothing.
//!
//! `cargo bench -p xsched-hip`. The difference of the two lines is the shim's.

use std::{
    env,
    ffi::{c_int, c_void},
    fs,
    hint::black_box,
    process::Command,
    ptr::null_mut,
    thread::sleep,
    time::{Duration, Instant},
};

use criterion::Criterion;
use libloading::{Library, Symbol};
// Its hooks are what `hipModuleLaunchKernel` below means.
use shimhip as _;

/// Where the shim finds the runtime.
const RUNTIME: &str = "XSCHED_HIP_LIB";

/// Another name of the runtime's function: by its own the shim's would be found.
const BARE: &str = "bare";

/// A runtime whose commands are over at once.
const SOURCE: &str = r#"
#include <stdlib.h>
int hipGetDevice(int *device) { *device = 0; return 0; }
int hipGetStreamDeviceId(void *stream) { return 0; }
int hipDeviceGetPCIBusId(char *text, int bytes, int device) { text[0] = '0'; text[1] = 0; return 0; }
int hipDeviceGetAttribute(int *value, int attribute, int device) { *value = 1; return 0; }
int hipExtMallocWithFlags(void **place, size_t bytes, unsigned flags)
{ *place = calloc(1, bytes); return 0; }
int hipHostRegister(void *memory, size_t bytes, unsigned flags) { return 0; }
int hipHostGetDevicePointer(void **place, void *memory, unsigned flags) { *place = memory; return 0; }
int hipStreamWriteValue32(void *stream, unsigned *word, unsigned value, unsigned flags)
{ __atomic_store_n(word, value, __ATOMIC_SEQ_CST); return 0; }
int hipStreamWaitValue32(void *stream, unsigned *word, unsigned value, unsigned flags, unsigned mask)
{ return 0; }
int hipStreamQuery(void *stream) { return 600; }
int hipGetLastError(void) { return 0; }
int hipModuleLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
    unsigned by, unsigned bz, unsigned shared, void *stream, void **parameters, void **extra)
{ return 0; }
extern __typeof__(hipModuleLaunchKernel) bare __attribute__((alias("hipModuleLaunchKernel")));
"#;

type Launch = unsafe extern "C" fn(
    *mut c_void,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    *mut c_void,
    *mut c_void,
    *mut c_void,
) -> c_int;

unsafe extern "C" {
    fn hipModuleLaunchKernel(
        function: *mut c_void,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: *mut c_void,
        parameters: *mut c_void,
        extra: *mut c_void,
    ) -> c_int;
    fn xsched_level() -> c_int;
}

fn main() {
    let Some(runtime) = env::var_os(RUNTIME) else {
        return start();
    };
    // SAFETY: the runtime has nothing to initialise.
    let library = unsafe { Library::new(runtime) }.expect("the runtime");
    // SAFETY: the function's own type.
    let real: Symbol<'_, Launch> = unsafe { library.get(BARE) }.expect("the launch");
    let own = hipModuleLaunchKernel as Launch;
    assert_ne!(*real as *const c_void, own as *const c_void, "not the hook");
    wait_for_scheduler(own);
    let mut criterion = Criterion::default().configure_from_args();
    for (stream, name) in [(0_usize, "null stream"), (64, "created stream")] {
        for (launch, how) in [(*real, "runtime"), (own, "shim")] {
            criterion.bench_function(&format!("launch, {name}, {how}"), |bencher| {
                bencher.iter(|| {
                    let stream = black_box(stream) as *mut c_void;
                    let none = null_mut();
                    // SAFETY: the runtime reads no argument.
                    unsafe { launch(none, 1, 1, 1, 1, 1, 1, 0, stream, none, none) }
                });
            });
        }
    }
    criterion.final_summary();
}

/// Launches until the shim has its scheduler: what is measured is what a scheduled program pays.
fn wait_for_scheduler(launch: Launch) {
    let end = Instant::now() + Duration::from_secs(30);
    // SAFETY: no arguments.
    while unsafe { xsched_level() } == 0 {
        assert!(Instant::now() < end, "nobody schedules this program");
        let none = null_mut();
        // SAFETY: the runtime reads no argument.
        unsafe { launch(none, 1, 1, 1, 1, 1, 1, 0, none, none, none) };
        sleep(Duration::from_millis(1));
    }
}

/// Compiles the runtime, and starts this program again with it and a scheduler.
fn start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, library) = (folder.path().join("none.c"), folder.path().join("none.so"));
    fs::write(&source, SOURCE).expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]);
    let compiled = compiler.arg(&library).arg(&source).status();
    assert!(compiled.expect("a C compiler (cc)").success());
    let again = Command::new(env::current_exe().expect("this program"))
        .args(env::args_os().skip(1))
        .env(RUNTIME, &library)
        .env("XSCHED_POLICY", "hpf")
        .status();
    assert!(again.expect("this program").success());
}
