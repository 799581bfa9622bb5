//! Every entry point that submits work is held behind a closed gate and released; every one that
//! synchronizes turns the queue idle at once; what must never wait does not.
//!
//! The rows follow the table of hooks: a hook without a row, or a row without a hook, fails.

mod common;

use std::{
    collections::BTreeSet,
    ffi::c_void,
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{
    Gated, LEGACY, LOCAL, NON_BLOCKING, PER_THREAD, a_moment, shimmed,
    support::{Cuda, Handle, NOT_READY, SUCCESS, Value::*},
    until,
};

const HOOKS: &str = include_str!("../src/hooks.rs");

/// What the stand-in does not have; real drivers do.
const LACKING: &[&str] = &[
    "cuMemcpyBatchAsync",
    "cuMemcpyBatchAsync_v2",
    "cuMemcpy3DBatchAsync",
    "cuMemcpy3DBatchAsync_v2",
];

/// Calls an entry point by a name that is known when the test runs.
macro_rules! call {
    ($bench:expr, $name:expr; $($argument:expr => $type:ty),* $(,)?) => {
        $bench.cuda.symbol::<extern "C" fn($($type),*) -> i32>($name)($($argument),*)
    };
}

/// Things to submit.
struct Bench<'a> {
    cuda: &'a Cuda,
    context: Handle,
    spin: Handle,
    executable: Handle,
    array: Handle,
    /// 64 KiB each: of the device, and pinned on the host.
    device: usize,
    host: usize,
}

const BYTES: usize = 1024;

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
struct Copy3d {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
    depth: usize,
}

#[repr(C)]
struct Side {
    place: [usize; 4],
    kind: usize,
    host: usize,
    device: usize,
    array: usize,
    context: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
struct Copy2d {
    from: Side2d,
    to: Side2d,
    width: usize,
    height: usize,
}

#[repr(C)]
struct Side2d {
    place: [usize; 2],
    kind: usize,
    host: usize,
    device: usize,
    array: usize,
    pitch: usize,
}

impl<'a> Bench<'a> {
    fn new(cuda: &'a Cuda, context: Handle) -> Self {
        let spin = cuda.function("spin_us");
        let stream = cuda.stream(NON_BLOCKING);
        ok!(cuda, cuStreamBeginCapture_v2(stream => Handle, 2 => u32));
        assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
        let (mut graph, mut executable, mut array, mut host) = (0, 0, 0, 0);
        ok!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
        ok!(cuda, cuGraphInstantiateWithFlags(
            &mut executable => &mut Handle, graph => Handle, 0 => u64,
        ));
        // CUDA_ARRAY_DESCRIPTOR: bytes (format 1), one channel.
        let shape: [u64; 3] = [BYTES as u64, 4, 1 << 32 | 1];
        ok!(cuda, cuArrayCreate_v2(&mut array => &mut Handle, &shape => &[u64; 3]));
        ok!(cuda, cuMemAllocHost_v2(&mut host => &mut usize, 1 << 16 => usize));
        Self {
            cuda,
            context,
            spin,
            executable,
            array,
            device: cuda.alloc(1 << 16),
            host,
        }
    }

    fn launch(&self, stream: Handle) -> i32 {
        self.cuda.launch(stream, self.spin, &[Word(1)])
    }

    /// From the host's memory to the device's.
    fn copy_3d(&self) -> Copy3d {
        let side = |kind| Side {
            place: [0; 4],
            kind,
            host: self.host,
            device: self.device,
            array: 0,
            context: self.context,
            pitch: 64,
            height: 4,
        };
        Copy3d {
            from: side(1),
            to: side(2),
            width: 64,
            height: 4,
            depth: 2,
        }
    }

    fn copy_2d(&self) -> Copy2d {
        let side = |kind| Side2d {
            place: [0; 2],
            kind,
            host: self.host,
            device: self.device,
            array: 0,
            pitch: 64,
        };
        Copy2d {
            from: side(1),
            to: side(2),
            width: 64,
            height: 4,
        }
    }

    /// Memory for one more free; the stream is idle afterwards.
    fn spare(&self, stream: Handle) -> usize {
        let mut address = 0;
        ok!(self.cuda, cuMemAllocAsync(&mut address => &mut usize, 64 => usize, stream => Handle));
        self.cuda.synchronize(stream);
        address
    }
}

extern "C" fn nothing(_: *mut c_void) {}
extern "C" fn called(_stream: usize, _status: i32, _data: usize) {}

/// An entry point and a call of it, under one of its names, on a stream.
type Row = (&'static str, fn(&Bench<'_>, &str, Handle) -> i32);

const SUBMITTING: &[Row] = &[
    ("cuLaunchKernel", |b, name, stream| {
        b.cuda.launch_by(name, stream, b.spin, &[Word(1)])
    }),
    ("cuLaunchKernelEx", |b, name, stream| {
        // CUlaunchConfig: grid and block, shared memory, stream, no attributes.
        let config: [u64; 7] = [
            1 << 32 | 1,
            1 << 32 | 1,
            1 << 32 | 1,
            0,
            stream as u64,
            0,
            0,
        ];
        let microseconds = 1_u32;
        let parameters = [&raw const microseconds];
        call!(b, name; &config => &[u64; 7], b.spin => Handle,
            &parameters => &[*const u32; 1], 0 => usize)
    }),
    ("cuLaunchCooperativeKernel", |b, name, stream| {
        let microseconds = 1_u32;
        let parameters = [&raw const microseconds];
        call!(b, name; b.spin => Handle, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32,
            0 => u32, stream => Handle, &parameters => &[*const u32; 1])
    }),
    (
        "cuLaunchHostFunc",
        |b, name, stream| call!(b, name; stream => Handle, nothing => extern "C" fn(*mut c_void), 0 => usize),
    ),
    ("cuStreamAddCallback", |b, name, stream| {
        call!(b, name; stream => Handle, called => extern "C" fn(usize, i32, usize), 0 => usize,
            0 => u32)
    }),
    (
        "cuGraphLaunch",
        |b, name, stream| call!(b, name; b.executable => Handle, stream => Handle),
    ),
    (
        "cuMemcpyAsync",
        |b, name, stream| call!(b, name; b.device => usize, b.host => usize, BYTES => usize, stream => Handle),
    ),
    ("cuMemcpyPeerAsync", |b, name, stream| {
        call!(b, name; b.device => usize, b.context => Handle, b.device + BYTES => usize,
            b.context => Handle, BYTES => usize, stream => Handle)
    }),
    (
        "cuMemcpyHtoDAsync_v2",
        |b, name, stream| call!(b, name; b.device => usize, b.host => usize, BYTES => usize, stream => Handle),
    ),
    (
        "cuMemcpyDtoHAsync_v2",
        |b, name, stream| call!(b, name; b.host => usize, b.device => usize, BYTES => usize, stream => Handle),
    ),
    ("cuMemcpyDtoDAsync_v2", |b, name, stream| {
        call!(b, name; b.device => usize, b.device + BYTES => usize, BYTES => usize,
            stream => Handle)
    }),
    ("cuMemcpyHtoAAsync_v2", |b, name, stream| {
        call!(b, name; b.array => Handle, 0 => usize, b.host => usize, BYTES => usize,
            stream => Handle)
    }),
    ("cuMemcpyAtoHAsync_v2", |b, name, stream| {
        call!(b, name; b.host => usize, b.array => Handle, 0 => usize, BYTES => usize,
            stream => Handle)
    }),
    (
        "cuMemcpy2DAsync_v2",
        |b, name, stream| call!(b, name; &b.copy_2d() => &Copy2d, stream => Handle),
    ),
    (
        "cuMemcpy3DAsync_v2",
        |b, name, stream| call!(b, name; &b.copy_3d() => &Copy3d, stream => Handle),
    ),
    (
        "cuMemcpy3DPeerAsync",
        |b, name, stream| call!(b, name; &b.copy_3d() => &Copy3d, stream => Handle),
    ),
    (
        "cuMemsetD8Async",
        |b, name, stream| call!(b, name; b.device => usize, 1 => u8, BYTES => usize, stream => Handle),
    ),
    (
        "cuMemsetD16Async",
        |b, name, stream| call!(b, name; b.device => usize, 1 => u16, BYTES => usize, stream => Handle),
    ),
    (
        "cuMemsetD32Async",
        |b, name, stream| call!(b, name; b.device => usize, 1 => u32, BYTES => usize, stream => Handle),
    ),
    ("cuMemsetD2D8Async", |b, name, stream| {
        call!(b, name; b.device => usize, 512 => usize, 1 => u8, 8 => usize, 4 => usize,
            stream => Handle)
    }),
    ("cuMemsetD2D16Async", |b, name, stream| {
        call!(b, name; b.device => usize, 512 => usize, 1 => u16, 8 => usize, 4 => usize,
            stream => Handle)
    }),
    ("cuMemsetD2D32Async", |b, name, stream| {
        call!(b, name; b.device => usize, 512 => usize, 1 => u32, 8 => usize, 4 => usize,
            stream => Handle)
    }),
    (
        "cuMemPrefetchAsync",
        |b, name, stream| call!(b, name; b.device => usize, BYTES => usize, 0 => i32, stream => Handle),
    ),
    ("cuMemPrefetchAsync_v2", |b, name, stream| {
        // CUmemLocation by value: kind 1 (a device), number 0.
        call!(b, name; b.device => usize, BYTES => usize, 1 => u64, 0 => u32, stream => Handle)
    }),
    ("cuMemAllocAsync", |b, name, stream| {
        let mut address = 0;
        call!(b, name; &mut address => &mut usize, 64 => usize, stream => Handle)
    }),
    ("cuMemAllocFromPoolAsync", |b, name, stream| {
        let (mut address, mut pool) = (0, 0);
        ok!(b.cuda, cuDeviceGetDefaultMemPool(&mut pool => &mut Handle, 0 => i32));
        call!(b, name; &mut address => &mut usize, 64 => usize, pool => Handle, stream => Handle)
    }),
    ("cuMemFreeAsync", |b, name, stream| {
        let spare = SPARE.swap(0, SeqCst);
        call!(b, name; spare => usize, stream => Handle)
    }),
];

/// What the next `cuMemFreeAsync` frees.
static SPARE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Of those below, what is over when it returns.
const TO_HOST: [&str; 2] = ["cuMemcpyDtoH_v2", "cuMemcpyAtoH_v2"];

/// Copies and fills of the default stream; they may return late.
const BLOCKING: &[Row] = &[
    (
        "cuMemcpyDtoH_v2",
        |b, name, _| call!(b, name; b.host => usize, b.device => usize, BYTES => usize),
    ),
    (
        "cuMemcpyAtoH_v2",
        |b, name, _| call!(b, name; b.host => usize, b.array => Handle, 0 => usize, BYTES => usize),
    ),
    ("cuMemcpyPeer", |b, name, _| {
        call!(b, name; b.device => usize, b.context => Handle, b.device + BYTES => usize,
            b.context => Handle, BYTES => usize)
    }),
    (
        "cuMemcpyHtoA_v2",
        |b, name, _| call!(b, name; b.array => Handle, 0 => usize, b.host => usize, BYTES => usize),
    ),
    (
        "cuMemcpyDtoA_v2",
        |b, name, _| call!(b, name; b.array => Handle, 0 => usize, b.device => usize, BYTES => usize),
    ),
    (
        "cuMemcpyAtoD_v2",
        |b, name, _| call!(b, name; b.device => usize, b.array => Handle, 0 => usize, BYTES => usize),
    ),
    ("cuMemcpyAtoA_v2", |b, name, _| {
        call!(b, name; b.array => Handle, 0 => usize, b.array => Handle, BYTES => usize,
            BYTES => usize)
    }),
    (
        "cuMemcpy",
        |b, name, _| call!(b, name; b.device => usize, b.host => usize, BYTES => usize),
    ),
    (
        "cuMemcpyHtoD_v2",
        |b, name, _| call!(b, name; b.device => usize, b.host => usize, BYTES => usize),
    ),
    (
        "cuMemcpyDtoD_v2",
        |b, name, _| call!(b, name; b.device => usize, b.device + BYTES => usize, BYTES => usize),
    ),
    (
        "cuMemcpy2D_v2",
        |b, name, _| call!(b, name; &b.copy_2d() => &Copy2d),
    ),
    (
        "cuMemcpy2DUnaligned_v2",
        |b, name, _| call!(b, name; &b.copy_2d() => &Copy2d),
    ),
    (
        "cuMemcpy3D_v2",
        |b, name, _| call!(b, name; &b.copy_3d() => &Copy3d),
    ),
    (
        "cuMemcpy3DPeer",
        |b, name, _| call!(b, name; &b.copy_3d() => &Copy3d),
    ),
    (
        "cuMemsetD2D8_v2",
        |b, name, _| call!(b, name; b.device => usize, 512 => usize, 1 => u8, 8 => usize, 4 => usize),
    ),
    (
        "cuMemsetD2D16_v2",
        |b, name, _| call!(b, name; b.device => usize, 512 => usize, 1 => u16, 8 => usize, 4 => usize),
    ),
    (
        "cuMemsetD2D32_v2",
        |b, name, _| call!(b, name; b.device => usize, 512 => usize, 1 => u32, 8 => usize, 4 => usize),
    ),
    (
        "cuMemsetD8_v2",
        |b, name, _| call!(b, name; b.device => usize, 1 => u8, BYTES => usize),
    ),
    (
        "cuMemsetD16_v2",
        |b, name, _| call!(b, name; b.device => usize, 1 => u16, BYTES => usize),
    ),
    (
        "cuMemsetD32_v2",
        |b, name, _| call!(b, name; b.device => usize, 1 => u32, BYTES => usize),
    ),
];

/// Names of the entry points between two words of the table of hooks, without per-thread variants.
fn hooked(macros: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for start in macros {
        let part = HOOKS.split(start).nth(1).expect(start);
        let part = part.split("\n}").next().unwrap();
        names.extend(literals(part));
    }
    names
}

fn literals(text: &str) -> impl Iterator<Item = String> {
    let names = text.split("/ c\"").skip(1);
    let names = names.filter_map(|rest| rest.split('"').next());
    let names = names.filter(|name| !name.ends_with("_ptsz") && !name.ends_with("_ptds"));
    names.map(str::to_owned)
}

#[test]
fn every_submitting_hook_has_a_row() {
    let rows = |rows: &[Row]| {
        rows.iter()
            .map(|row| row.0.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let mut submitting = rows(SUBMITTING);
    submitting.extend(LACKING.iter().map(ToString::to_string));
    assert_eq!(submitting, hooked(&["submitting! { "]));
    let blocking = [
        "on_default_stream! { TO_HOST",
        "on_default_stream! { BLOCKING",
    ];
    assert_eq!(rows(BLOCKING), hooked(&blocking));
}

/// One command is submitted behind a closed gate, stays there, and completes once it opens.
fn held_and_released(gated: &Gated<'_>, name: &str, mut submit: impl FnMut() -> i32) {
    gated.close();
    let before = gated.block.state().submitted();
    assert_eq!(submit(), SUCCESS, "{name}");
    assert_eq!(
        gated.block.state().submitted(),
        before + 1,
        "{name} was not seen"
    );
    a_moment();
    assert_eq!(
        gated.cuda.query(gated.stream),
        NOT_READY,
        "{name} was not held"
    );
    assert!(!gated.is_idle(), "{name}");
    gated.open();
    gated.cuda.synchronize(gated.stream);
    assert!(gated.is_idle(), "{name}: the synchronization was not seen");
}

#[test]
fn every_asynchronous_command_is_held_and_released() {
    shimmed(&[LOCAL], |cuda| {
        let bench = Bench::new(cuda, cuda.start());
        let stream = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        for (name, submit) in SUBMITTING {
            SPARE.store(bench.spare(stream.stream), SeqCst);
            held_and_released(&stream, name, || submit(&bench, name, stream.stream));
        }
    });
}

#[test]
fn so_is_each_on_the_threads_own_default_stream() {
    shimmed(&[LOCAL], |cuda| {
        let bench = Bench::new(cuda, cuda.start());
        let stream = Gated::stream(cuda, PER_THREAD);
        for (name, submit) in SUBMITTING {
            SPARE.store(bench.spare(stream.stream), SeqCst);
            let variant = format!("{name}_ptsz");
            held_and_released(&stream, &variant, || submit(&bench, &variant, 0));
        }
    });
}

/// As [`held_and_released`] for a call that may wait itself. Afterwards the stream is idle without
/// another synchronization if `waits`.
fn held_until_opened(gated: &Gated<'_>, name: &str, waits: bool, call: impl Fn() -> i32 + Sync) {
    gated.close();
    let before = gated.block.state().submitted();
    let (returned, result) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            result.store(call().cast_unsigned(), SeqCst);
            returned.store(true, SeqCst);
        });
        until(name, || gated.block.state().submitted() == before + 1);
        // The thread may still be on its way to the driver.
        until(name, || gated.cuda.query(gated.stream) == NOT_READY);
        a_moment();
        assert_eq!(
            gated.cuda.query(gated.stream),
            NOT_READY,
            "{name} was not held"
        );
        assert!(!waits || !returned.load(SeqCst), "{name} did not wait");
        gated.open();
    });
    assert_eq!(result.load(SeqCst), 0, "{name}");
    if !waits {
        gated.cuda.synchronize(gated.stream);
    }
    assert!(gated.is_idle(), "{name}");
}

#[test]
fn every_blocking_command_is_held_and_released() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let bench = Bench::new(cuda, context);
        let stream = Gated::stream(cuda, LEGACY);
        for (name, submit) in BLOCKING {
            let call = || {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                submit(&bench, name, 0)
            };
            held_until_opened(&stream, name, TO_HOST.contains(name), call);
        }
    });
}

#[test]
fn so_is_each_of_the_threads_own_default_stream() {
    shimmed(&[LOCAL], |cuda| {
        let context = cuda.start();
        let bench = Bench::new(cuda, context);
        // The stream belongs to the thread that waits, which others cannot name: they see its block.
        for (name, submit) in BLOCKING {
            let variant = format!("{name}_ptds");
            let (tell, told) = mpsc::channel();
            thread::scope(|scope| {
                let (bench, variant) = (&bench, &variant);
                let waiting = scope.spawn(move || {
                    ok!(cuda, cuCtxSetCurrent(context => Handle));
                    let stream = Gated::stream(cuda, PER_THREAD);
                    stream.close();
                    let before = stream.block.state().submitted();
                    tell.send((stream.block, before)).unwrap();
                    assert_eq!(submit(bench, variant, 0), SUCCESS, "{variant}");
                    cuda.synchronize(PER_THREAD);
                    assert!(stream.is_idle(), "{variant}");
                    // For a later thread of the same number.
                    stream.open();
                    let _ = stream.block.set_bypass(false);
                });
                let (block, before) = told.recv().unwrap();
                until(variant, || block.state().submitted() > before);
                a_moment();
                assert!(block.state().is_ready(), "{variant} was not held");
                assert!(!waiting.is_finished(), "{variant} was not held");
                let _ = block.set_bypass(true);
                block.wake_gate();
            });
        }
    });
}

/// Something that synchronizes a stream, and its name.
type Waiter = (&'static str, fn(&Cuda, Handle, Handle) -> i32);

const SYNCHRONIZING: &[Waiter] = &[
    (
        "cuStreamSynchronize",
        |cuda, stream, _| cu!(cuda, cuStreamSynchronize(stream => Handle)),
    ),
    (
        "cuStreamSynchronize_ptsz",
        |cuda, stream, _| cu!(cuda, cuStreamSynchronize_ptsz(stream => Handle)),
    ),
    ("cuStreamQuery", |cuda, stream, _| {
        loop {
            let result = cu!(cuda, cuStreamQuery(stream => Handle));
            if result != NOT_READY {
                break result;
            }
        }
    }),
    ("cuStreamQuery_ptsz", |cuda, stream, _| {
        loop {
            let result = cu!(cuda, cuStreamQuery_ptsz(stream => Handle));
            if result != NOT_READY {
                break result;
            }
        }
    }),
    ("cuCtxSynchronize", |cuda, _, _| {
        cu!(cuda, cuCtxSynchronize())
    }),
    (
        "cuCtxSynchronize_v2",
        |cuda, _, _| cu!(cuda, cuCtxSynchronize_v2(0 => Handle)),
    ),
    (
        "cuEventRecord, cuEventSynchronize",
        |cuda, stream, event| {
            assert_eq!(cuda.record(event, stream), SUCCESS);
            cu!(cuda, cuEventSynchronize(event => Handle))
        },
    ),
    ("cuEventRecord_ptsz, cuEventQuery", |cuda, stream, event| {
        ok!(cuda, cuEventRecord_ptsz(event => Handle, stream => Handle));
        wait_by_query(cuda, event)
    }),
    (
        "cuEventRecordWithFlags, cuEventQuery",
        |cuda, stream, event| {
            ok!(cuda, cuEventRecordWithFlags(event => Handle, stream => Handle, 0 => u32));
            wait_by_query(cuda, event)
        },
    ),
    ("cuEventRecordWithFlags_ptsz", |cuda, stream, event| {
        ok!(cuda, cuEventRecordWithFlags_ptsz(event => Handle, stream => Handle, 0 => u32));
        cu!(cuda, cuEventSynchronize(event => Handle))
    }),
];

fn wait_by_query(cuda: &Cuda, event: Handle) -> i32 {
    loop {
        let result = cu!(cuda, cuEventQuery(event => Handle));
        if result != NOT_READY {
            return result;
        }
    }
}

#[test]
fn whatever_synchronizes_turns_the_queue_idle_at_once() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (spin, event) = (cuda.function("spin_us"), cuda.event());
        for stream in [
            cuda.stream(NON_BLOCKING),
            cuda.stream(0),
            LEGACY,
            PER_THREAD,
        ] {
            let gated = Gated::stream(cuda, stream);
            for (name, wait) in SYNCHRONIZING {
                // Back to back, so that the agent's own look cannot have been the cause.
                for _ in 0..20 {
                    assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
                    assert!(!gated.is_idle(), "{name}");
                    assert_eq!(wait(cuda, stream, event), SUCCESS, "{name}");
                    assert!(gated.is_idle(), "{name} on {stream}");
                }
            }
        }
    });
}

#[test]
fn an_event_that_other_work_follows_proves_nothing() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (until, event) = (cuda.function("until_u32"), cuda.event());
        let (gated, place) = (Gated::stream(cuda, cuda.stream(NON_BLOCKING)), cuda.word());
        for round in 1..20 {
            assert_eq!(cuda.record(event, gated.stream), SUCCESS);
            // Runs until the word has this value.
            let values = [Address(place.as_ptr().addr()), Word(round)];
            assert_eq!(cuda.launch(gated.stream, until, &values), SUCCESS);
            ok!(cuda, cuEventSynchronize(event => Handle));
            assert!(!gated.is_idle());
            place.store(round, SeqCst);
            cuda.synchronize(gated.stream);
            assert!(gated.is_idle());
        }
    });
}

#[test]
fn an_event_that_is_recorded_elsewhere_proves_nothing() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (until, event) = (cuda.function("until_u32"), cuda.event());
        let (gated, place) = (Gated::stream(cuda, cuda.stream(NON_BLOCKING)), cuda.word());
        let unused = cuda.stream(NON_BLOCKING);
        for round in 1..20 {
            let values = [Address(place.as_ptr().addr()), Word(round)];
            assert_eq!(cuda.launch(gated.stream, until, &values), SUCCESS);
            assert_eq!(cuda.record(event, gated.stream), SUCCESS);
            // A stream without work: the event is over at once.
            assert_eq!(cuda.record(event, unused), SUCCESS);
            ok!(cuda, cuEventSynchronize(event => Handle));
            assert!(!gated.is_idle());
            place.store(round, SeqCst);
            cuda.synchronize(gated.stream);
        }
    });
}

#[test]
fn what_the_application_does_not_wait_for_is_found_idle_by_the_agent() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let spin = cuda.function("spin_us");
        for stream in [cuda.stream(NON_BLOCKING), LEGACY] {
            let gated = Gated::stream(cuda, stream);
            assert_eq!(cuda.launch(stream, spin, &[Word(1)]), SUCCESS);
            until("the agent looks", || gated.is_idle());
        }
    });
}

/// A call that must return although the gate is closed and commands stand behind it.
type Free = (&'static str, fn(&Bench<'_>, Handle));

const NEVER_WAITING: &[Free] = &[
    ("cuMemAlloc", |b, _| {
        let mut address = 0;
        ok!(b.cuda, cuMemAlloc_v2(&mut address => &mut usize, 64 => usize));
    }),
    ("cuMemHostAlloc", |b, _| {
        let mut address = 0;
        ok!(b.cuda, cuMemHostAlloc(&mut address => &mut usize, 64 => usize, 0 => u32));
    }),
    ("cuMemHostRegister", |b, _| {
        b.cuda.word();
    }),
    (
        "cuEventCreate, cuEventRecord, cuEventQuery, cuEventDestroy",
        |b, stream| {
            let event = b.cuda.event();
            assert_eq!(b.cuda.record(event, stream), SUCCESS);
            assert_eq!(cu!(b.cuda, cuEventQuery(event => Handle)), NOT_READY);
            ok!(b.cuda, cuEventDestroy_v2(event => Handle));
        },
    ),
    ("cuStreamQuery", |b, stream| {
        assert_eq!(b.cuda.query(stream), NOT_READY);
    }),
    ("cuStreamWaitEvent", |b, stream| {
        let event = b.cuda.event();
        ok!(b.cuda, cuStreamWaitEvent(stream => Handle, event => Handle, 0 => u32));
    }),
    ("cuMemGetInfo", |b, _| {
        let (mut free, mut total) = (0, 0);
        ok!(b.cuda, cuMemGetInfo_v2(&mut free => &mut usize, &mut total => &mut usize));
    }),
    ("cuModuleLoadData", |b, _| {
        b.cuda.function("spin_us");
    }),
    (
        "cuPointerGetAttribute's kin: cuMemGetAddressRange",
        |b, _| {
            let (mut start, mut length) = (0, 0);
            ok!(b.cuda, cuMemGetAddressRange_v2(
                &mut start => &mut usize, &mut length => &mut usize, b.device => usize,
            ));
        },
    ),
    ("cuStreamDestroy", |b, stream| {
        ok!(b.cuda, cuStreamDestroy_v2(stream => Handle));
    }),
];

#[test]
fn allocation_event_query_and_destroy_never_wait() {
    shimmed(&[LOCAL], |cuda| {
        let bench = Bench::new(cuda, cuda.start());
        let gated = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        gated.close();
        for (name, call) in NEVER_WAITING {
            // Anew for each: some of them open the gates for as long as they last.
            until("closed", || !gated.block.is_open());
            assert_eq!(bench.launch(gated.stream), SUCCESS);
            let (sender, receiver) = mpsc::channel::<()>();
            // Ends the client if the call waits: nobody would open the gate.
            thread::spawn(move || {
                let late = receiver.recv_timeout(Duration::from_secs(20));
                if late == Err(mpsc::RecvTimeoutError::Timeout) {
                    eprintln!("{name} waits behind a closed gate");
                    std::process::exit(1);
                }
            });
            call(&bench, gated.stream);
            drop(sender);
        }
    });
}
