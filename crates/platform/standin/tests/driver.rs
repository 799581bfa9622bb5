//! The driver itself: initialisation, devices, contexts, lookup, and failures on demand.

mod support;

use std::{
    ffi::CString,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use support::{Cuda, Handle, INVALID_VALUE, NOT_READY, SUCCESS, Value::*, client};

const NOT_INITIALIZED: i32 = 3;
const NO_DEVICE: i32 = 100;
const INVALID_DEVICE: i32 = 101;
const INVALID_CONTEXT: i32 = 201;
const DESTROYED: i32 = 709;
const NOT_SUPPORTED: i32 = 801;

fn device_name(cuda: &Cuda, device: i32) -> String {
    let mut name = [0_u8; 64];
    ok!(cuda, cuDeviceGetName(&mut name => &mut [u8; 64], 64 => i32, device => i32));
    let text = name.split(|byte| *byte == 0).next().unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn nothing_but_questions_works_before_initialisation() {
    client(&[("STANDIN_DRIVER_VERSION", "12040")], |cuda| {
        let (mut version, mut count) = (0, 0);
        ok!(cuda, cuDriverGetVersion(&mut version => &mut i32));
        assert_eq!(version, 12_040);
        let early = cu!(cuda, cuDeviceGetCount(&mut count => &mut i32));
        assert_eq!(early, NOT_INITIALIZED);
        ok!(cuda, cuInit(0 => u32));
        ok!(cuda, cuDeviceGetCount(&mut count => &mut i32));
        assert_eq!(count, 1);
        assert!(device_name(cuda, 0).contains("Stand-in"));
    });
}

#[test]
fn a_forks_child_is_not_initialised() {
    client(&[], |cuda| {
        cuda.start();
        // SAFETY: the child calls one entry point, which takes no lock, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let result = cu!(cuda, cuCtxSynchronize());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(result) };
        }
        let mut status = 0;
        // SAFETY: waits for the child into a local.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(libc::WEXITSTATUS(status), NOT_INITIALIZED);
    });
}

#[test]
fn devices_are_those_that_are_visible() {
    let environment = [("STANDIN_DEVICES", "3"), ("CUDA_VISIBLE_DEVICES", "2,0")];
    client(&environment, |cuda| {
        ok!(cuda, cuInit(0 => u32));
        let mut count = 0;
        ok!(cuda, cuDeviceGetCount(&mut count => &mut i32));
        assert_eq!(count, 2);
        assert_eq!(device_name(cuda, 0), "Stand-in GPU 2");
        assert_eq!(device_name(cuda, 1), "Stand-in GPU 0");
        let mut device = 0;
        let missing = cu!(cuda, cuDeviceGet(&mut device => &mut i32, 2 => i32));
        assert_eq!(missing, INVALID_DEVICE);
        let uuid = |device| {
            let mut uuid = [0_u8; 16];
            ok!(cuda, cuDeviceGetUuid_v2(&mut uuid => &mut [u8; 16], device => i32));
            uuid
        };
        assert_ne!(uuid(0), uuid(1));
    });
}

#[test]
fn without_devices_initialisation_fails() {
    client(&[("STANDIN_DEVICES", "0")], |cuda| {
        assert_eq!(cu!(cuda, cuInit(0 => u32)), NO_DEVICE);
    });
}

#[test]
fn devices_execute_independently_and_events_order_them() {
    client(&[("STANDIN_DEVICES", "2")], |cuda| {
        let near = cuda.start();
        let (one, gate, place) = (cuda.stream(1), cuda.word(), cuda.word());
        let address = place.as_ptr().addr();
        cuda.hold(one, gate, 1);
        let add = cuda.function("add_u32");
        assert_eq!(cuda.launch(one, add, &[Address(address), Word(1)]), SUCCESS);
        let event = cuda.event();
        assert_eq!(cuda.record(event, one), SUCCESS);
        let far = cuda.context(1);
        assert_ne!(near, far);
        let other = cuda.stream(1);
        assert_eq!(
            cuda.launch(other, add, &[Address(address), Word(10)]),
            SUCCESS
        );
        cuda.synchronize(other);
        assert_eq!(place.load(SeqCst), 10);
        ok!(cuda, cuStreamWaitEvent(other => Handle, event => Handle, 0 => u32));
        assert_eq!(
            cuda.launch(other, add, &[Address(address), Word(100)]),
            SUCCESS
        );
        assert_eq!(cuda.query(other), NOT_READY);
        cuda.open(gate);
        cuda.synchronize(other);
        assert_eq!(place.load(SeqCst), 111);
        let mut device = 9;
        ok!(cuda, cuCtxGetDevice(&mut device => &mut i32));
        assert_eq!(device, 1);
    });
}

#[test]
fn the_primary_context_lives_while_it_is_retained() {
    client(&[], |cuda| {
        ok!(cuda, cuInit(0 => u32));
        let mut count = [0; 2];
        let state = || {
            let (mut flags, mut active) = (0, 9);
            ok!(cuda, cuDevicePrimaryCtxGetState(
                0 => i32, &mut flags => &mut u32, &mut active => &mut i32,
            ));
            active
        };
        assert_eq!(state(), 0);
        for context in &mut count {
            ok!(cuda, cuDevicePrimaryCtxRetain(context => &mut Handle, 0 => i32));
        }
        assert_eq!((count[0], state()), (count[1], 1));
        ok!(cuda, cuCtxSetCurrent(count[0] => Handle));
        let stream = cuda.stream(0);
        ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
        assert_eq!((state(), cuda.query(stream)), (1, SUCCESS));
        assert_eq!(
            cu!(cuda, cuCtxDestroy_v2(count[0] => Handle)),
            INVALID_CONTEXT
        );
        ok!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32));
        assert_eq!(state(), 0);
        let mut made = 0;
        let late = cu!(cuda, cuStreamCreate(&mut made => &mut Handle, 0 => u32));
        assert_eq!(late, DESTROYED);
        assert_eq!(
            cu!(cuda, cuDevicePrimaryCtxRelease_v2(0 => i32)),
            INVALID_CONTEXT
        );
    });
}

/// Makes a context by `make` and destroys it by `destroy` while a stream of it is held.
fn waits_for_its_work(make: fn(&Cuda) -> Handle, destroy: fn(&Cuda, Handle)) {
    client(&[], |cuda| {
        ok!(cuda, cuInit(0 => u32));
        let context = make(cuda);
        ok!(cuda, cuCtxSetCurrent(context => Handle));
        let (stream, gate) = (cuda.stream(1), cuda.word());
        cuda.hold(stream, gate, 1);
        let done = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                destroy(cuda, context);
                done.store(1, SeqCst);
            });
            thread::sleep(Duration::from_millis(50));
            assert_eq!(done.load(SeqCst), 0, "it did not wait");
            cuda.open(gate);
        });
        assert_ne!(cuda.query(stream), SUCCESS);
    });
}

#[test]
fn destroying_a_context_waits_for_its_work() {
    waits_for_its_work(
        |cuda| cuda.context(0),
        |cuda, context| ok!(cuda, cuCtxDestroy_v2(context => Handle)),
    );
}

#[test]
fn resetting_the_primary_context_waits_for_its_work() {
    waits_for_its_work(
        |cuda| {
            let mut context = 0;
            ok!(cuda, cuDevicePrimaryCtxRetain(&mut context => &mut Handle, 0 => i32));
            context
        },
        |cuda, _| ok!(cuda, cuDevicePrimaryCtxReset_v2(0 => i32)),
    );
}

#[test]
fn contexts_form_a_stack() {
    client(&[], |cuda| {
        let first = cuda.start();
        let second = cuda.context(0);
        let current = || {
            let mut context = 0;
            ok!(cuda, cuCtxGetCurrent(&mut context => &mut Handle));
            context
        };
        assert_eq!(current(), second);
        let mut popped = 0;
        ok!(cuda, cuCtxPopCurrent_v2(&mut popped => &mut Handle));
        assert_eq!((popped, current()), (second, first));
        ok!(cuda, cuCtxPushCurrent_v2(second => Handle));
        ok!(cuda, cuCtxDestroy_v2(second => Handle));
        assert_eq!(current(), first);
    });
}

/// What `cuGetProcAddress_v2` gives: result, status, entry.
fn lookup(cuda: &Cuda, name: &str, version: i32, flags: u64) -> (i32, u32, usize) {
    let name = CString::new(name).unwrap();
    let (mut entry, mut status) = (1, 9);
    let result = cu!(cuda, cuGetProcAddress_v2(
        name.as_ptr() => *const i8, &mut entry => &mut usize, version => i32, flags => u64,
        &mut status => &mut u32,
    ));
    (result, status, entry)
}

#[test]
fn entry_points_are_found_by_name_version_and_flavour() {
    client(&[], |cuda| {
        let exported = |name: &str| cuda.symbol::<*const u8>(name).addr();
        for (name, version, flags, symbol) in [
            ("cuMemAlloc", 12_000, 0, "cuMemAlloc_v2"),
            ("cuLaunchKernel", 12_000, 1, "cuLaunchKernel"),
            ("cuLaunchKernel", 12_000, 2, "cuLaunchKernel_ptsz"),
            ("cuMemcpyDtoH", 12_000, 2, "cuMemcpyDtoH_v2_ptds"),
            ("cuGetProcAddress", 12_000, 0, "cuGetProcAddress_v2"),
            ("cuGetProcAddress", 11_030, 0, "cuGetProcAddress"),
        ] {
            assert_eq!(lookup(cuda, name, version, flags), (0, 0, exported(symbol)));
        }
        assert_eq!(lookup(cuda, "cuNothing", 12_000, 0), (0, 1, 0));
        assert_eq!(lookup(cuda, "cuGraphLaunch", 9_000, 0), (0, 2, 0));
    });
}

#[test]
fn an_older_driver_gives_older_entry_points() {
    client(&[("STANDIN_DRIVER_VERSION", "11040")], |cuda| {
        let older = cuda.symbol::<*const u8>("cuCtxCreate_v3").addr();
        assert_eq!(lookup(cuda, "cuCtxCreate", 13_000, 0), (0, 0, older));
        assert_eq!(lookup(cuda, "cuLaunchKernelEx", 13_000, 0), (0, 2, 0));
    });
}

#[test]
fn entry_points_fail_when_told_to() {
    let told = [(
        "STANDIN_FAIL",
        "cuMemHostRegister:801,cuStreamWaitValue32:801",
    )];
    client(&told, |cuda| {
        cuda.start();
        let stream = cuda.stream(0);
        let place = cuda.alloc(8);
        let register = cu!(cuda, cuMemHostRegister_v2(0x1000 => usize, 4 => usize, 0 => u32));
        assert_eq!(register, NOT_SUPPORTED);
        for entry in ["cuStreamWaitValue32_v2", "cuStreamWaitValue32_v2_ptsz"] {
            let wait: extern "C" fn(Handle, usize, u32, u32) -> i32 = cuda.symbol(entry);
            assert_eq!(wait(stream, place, 1, 0), NOT_SUPPORTED);
        }
        ok!(cuda, cuStreamWriteValue32_v2(
            stream => Handle, place => usize, 1 => u32, 0 => u32,
        ));
        cuda.synchronize(stream);
        assert_eq!(cuda.words(place, 1), [1]);
    });
}

#[test]
fn registration_is_exact() {
    client(&[], |cuda| {
        cuda.start();
        let word = cuda.word().as_ptr().addr();
        let twice = cu!(cuda, cuMemHostRegister_v2(word => usize, 4 => usize, 0 => u32));
        assert_eq!(twice, 712);
        let mut device = 0;
        ok!(cuda, cuMemHostGetDevicePointer_v2(
            &mut device => &mut usize, word => usize, 0 => u32,
        ));
        assert_eq!(device, word);
        ok!(cuda, cuMemHostUnregister(word => usize));
        assert_eq!(cu!(cuda, cuMemHostUnregister(word => usize)), 713);
        let unknown = cu!(cuda, cuMemHostGetDevicePointer_v2(
            &mut device => &mut usize, word => usize, 0 => u32,
        ));
        assert_eq!(unknown, INVALID_VALUE);
    });
}

#[repr(C)]
struct LaunchConfig {
    dimensions: [u32; 6],
    shared: u32,
    stream: Handle,
    attributes: usize,
    count: u32,
}

#[test]
fn the_extended_launch_reads_its_configuration() {
    client(&[], |cuda| {
        cuda.start();
        let (stream, gate, place) = (cuda.stream(1), cuda.word(), cuda.word());
        let (function, address) = (cuda.function("write_u32"), place.as_ptr().addr());
        cuda.hold(stream, gate, 1);
        let config = LaunchConfig {
            dimensions: [1; 6],
            shared: 0,
            stream,
            attributes: 0,
            count: 0,
        };
        // Parameters as one buffer: pointer, size, end.
        let buffer = [address as u64, 5];
        let size = 12_usize;
        let extra = [
            1,
            buffer.as_ptr().addr(),
            2,
            std::ptr::from_ref(&size).addr(),
            0,
        ];
        ok!(cuda, cuLaunchKernelEx(
            &config => &LaunchConfig, function => Handle, 0 => usize, &extra => &[usize; 5],
        ));
        assert_eq!((cuda.query(stream), place.load(SeqCst)), (NOT_READY, 0));
        cuda.open(gate);
        cuda.synchronize(stream);
        assert_eq!(place.load(SeqCst), 5);
    });
}
