//! Every function of the runtime that submits work is held behind a closed gate and released, also in the
//! variants for threads' own default streams; whatever synchronizes turns the queue idle at once.
//!
//! The rows follow the table of hooks: a hook without a row, or a row without a hook, fails.

mod common;

use std::{
    collections::BTreeSet,
    ffi::c_void,
    sync::{
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use common::{
    Dim3, Gated, Handle, Hip, NON_BLOCKING, PER_THREAD, SUCCESS, Value,
    shared::{LOCAL, a_moment, until},
    shimmed,
};

const HOOKS: &str = include_str!("../src/hooks.rs");
/// What the stand-in does not have; ROCm 7 does.
const LACKING: [&str; 2] = ["hipMemcpyBatchAsync", "hipMemcpy3DBatchAsync"];
const NOT_READY: i32 = 600;
const BYTES: usize = 1024;
/// Rows of a copy: bytes, rows, and bytes from one to the next.
const ROWS: (usize, usize, usize) = (64, 4, 128);

/// Calls a function by a name that is known when the test runs.
macro_rules! call {
    ($bench:expr, $name:expr; $($argument:expr => $type:ty),* $(,)?) => {
        $bench.hip.symbol::<extern "C" fn($($type),*) -> i32>($name)($($argument),*)
    };
}

/// Things to submit.
struct Bench<'a> {
    hip: &'a Hip,
    /// A kernel, the address by which the program launches it, and that of one without parameters.
    spin: Handle,
    function: usize,
    empty: usize,
    executable: Handle,
    array: Handle,
    /// 64 KiB each: of the device, and pinned on the host.
    device: usize,
    host: usize,
}

type RegisterFunction = extern "C" fn(usize, usize, *const i8, *const i8, u32);

impl<'a> Bench<'a> {
    fn new(hip: &'a Hip) -> Self {
        static KERNELS: [u8; 2] = [0; 2];
        let [function, empty] = KERNELS
            .each_ref()
            .map(|kernel| std::ptr::from_ref(kernel).addr());
        let register: RegisterFunction = hip.symbol("__hipRegisterFunction");
        for (host, name) in [(function, c"spin_us"), (empty, c"xsched_bench_empty")] {
            register(0, host, name.as_ptr(), name.as_ptr(), 0);
        }
        let spin = hip.function("spin_us");
        let stream = hip.stream(NON_BLOCKING);
        // A function's first launch waits for the whole device.
        assert_eq!(hip.launch(stream, spin, &[Value::Word(1)]), SUCCESS);
        ok!(hip, hipStreamBeginCapture(stream => Handle, 2 => u32));
        assert_eq!(hip.launch(stream, spin, &[Value::Word(1)]), SUCCESS);
        let (mut graph, mut executable, mut array, mut host) = (0, 0, 0, 0);
        ok!(hip, hipStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
        ok!(hip, hipGraphInstantiate(
            &mut executable => &mut Handle, graph => Handle, 0 => usize, 0 => usize, 0 => usize,
        ));
        // HIP_ARRAY_DESCRIPTOR: bytes (format 1), one channel.
        let shape: [u64; 3] = [BYTES as u64, 4, 1 << 32 | 1];
        ok!(hip, hipArrayCreate(&mut array => &mut Handle, &shape => &[u64; 3]));
        ok!(hip, hipHostMalloc(&mut host => &mut usize, 1 << 16 => usize, 0 => u32));
        hip.synchronize(stream);
        Self {
            hip,
            spin,
            function,
            empty,
            executable,
            array,
            device: hip.alloc(1 << 16),
            host,
        }
    }

    /// `hipMemcpy3DParms`: from the host's memory to the device's.
    fn layers(&self) -> [usize; 20] {
        let (width, height, pitch) = ROWS;
        let mut all = [0; 20];
        all[4..8].copy_from_slice(&[self.host, pitch, width, height]);
        all[12..16].copy_from_slice(&[self.device, pitch, width, height]);
        all[16..19].copy_from_slice(&[width, height, 2]);
        all
    }

    /// `hipMemcpy3DPeerParms`: the same with a device behind each side.
    fn layers_of_devices(&self) -> [usize; 21] {
        let layers = self.layers();
        let mut all = [0; 21];
        all[..8].copy_from_slice(&layers[..8]);
        all[9..17].copy_from_slice(&layers[8..16]);
        all[18..].copy_from_slice(&layers[16..19]);
        all
    }

    /// `HIP_MEMCPY3D`, the same.
    fn layers_by_driver(&self) -> Driver3d {
        let [width, height, pitch] = [ROWS.0, ROWS.1, ROWS.2].map(|number| number as u32);
        let side = |kind| DriverSide {
            at: [0; 4],
            kind,
            host: self.host,
            device: self.device,
            array: 0,
            pitch,
            height,
        };
        Driver3d {
            from: side(1),
            to: side(2),
            extent: [width, height, 2],
        }
    }

    /// `hip_Memcpy2D`, the same of one layer.
    fn rows(&self) -> [usize; 16] {
        let (width, height, pitch) = ROWS;
        let side = |kind| [0, 0, kind, self.host, self.device, 0, pitch];
        let mut all = [0; 16];
        all[..7].copy_from_slice(&side(1));
        all[7..14].copy_from_slice(&side(2));
        all[14..].copy_from_slice(&[width, height]);
        all
    }

    /// Memory for one more free; the stream is idle afterwards.
    fn spare(&self, stream: Handle) -> usize {
        let mut address = 0;
        ok!(self.hip, hipMallocAsync(&mut address => &mut usize, 64 => usize, stream => Handle));
        self.hip.synchronize(stream);
        address
    }
}

#[repr(C)]
struct DriverSide {
    at: [u32; 4],
    kind: u32,
    host: usize,
    device: usize,
    array: usize,
    pitch: u32,
    height: u32,
}

#[repr(C)]
struct Driver3d {
    from: DriverSide,
    to: DriverSide,
    extent: [u32; 3],
}

/// `hipPitchedPtr` and `hipExtent`, by value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Pitched([usize; 4]);

#[derive(Clone, Copy)]
#[repr(C)]
struct Extent([usize; 3]);

/// `hipLaunchConfig_t`, and `HIP_LAUNCH_CONFIG`: what differs is the width of the shared memory's size.
#[repr(C)]
struct Config {
    dimensions: [u32; 6],
    shared: u64,
    stream: Handle,
    attributes: [usize; 2],
}

/// `hipFunctionLaunchParams`.
#[repr(C)]
struct FunctionOfSeveral {
    function: Handle,
    dimensions: [u32; 6],
    shared: u32,
    stream: Handle,
    parameters: *const *const u32,
}

/// `hipLaunchParams`.
#[repr(C)]
struct OneOfSeveral {
    function: usize,
    dimensions: [u32; 6],
    parameters: *const *const u32,
    shared: usize,
    stream: Handle,
}

const ONE: Dim3 = Dim3([1; 3]);
static MICROS: u32 = 1;

fn parameters() -> [*const u32; 1] {
    [&raw const MICROS]
}

fn config(stream: Handle) -> Config {
    Config {
        dimensions: [1; 6],
        shared: 0,
        stream,
        attributes: [0; 2],
    }
}

extern "C" fn nothing(_: *mut c_void) {}
extern "C" fn called(_stream: usize, _status: i32, _data: usize) {}

/// A function and a call of it, under one of its names, on a stream.
type Row = (&'static str, fn(&Bench<'_>, &str, Handle) -> i32);

/// What the next `hipFreeAsync` frees.
static SPARE: AtomicUsize = AtomicUsize::new(0);

type Ext = extern "C" fn(
    Handle,
    u32,
    u32,
    u32,
    u32,
    u32,
    u32,
    usize,
    Handle,
    &[*const u32; 1],
    usize,
    usize,
    usize,
    u32,
) -> i32;

/// `hipExtModuleLaunchKernel` and its C++ names; the older one has no flags, which come last.
fn ext(b: &Bench<'_>, name: &str, stream: Handle) -> i32 {
    let launch: Ext = b.hip.symbol(name);
    launch(
        b.spin,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
        stream,
        &parameters(),
        0,
        0,
        0,
        0,
    )
}

/// `hipLaunchKernel`, whose cooperative form's shared memory has another width in the same register.
fn by_address(b: &Bench<'_>, name: &str, stream: Handle) -> i32 {
    call!(b, name; b.function => usize, ONE => Dim3, ONE => Dim3,
        &parameters() => &[*const u32; 1], 0 => usize, stream => Handle)
}

fn on_several(b: &Bench<'_>, name: &str, stream: Handle) -> i32 {
    let parameters = parameters();
    let one = OneOfSeveral {
        function: b.function,
        dimensions: [1; 6],
        parameters: parameters.as_ptr(),
        shared: 0,
        stream,
    };
    call!(b, name; &one => &OneOfSeveral, 1 => i32, 0 => u32)
}

#[rustfmt::skip] // a function, its name and its call
const SUBMITTING: &[Row] = &[
    ("hipLaunchKernel", by_address),
    ("hipLaunchCooperativeKernel", by_address),
    ("hipExtLaunchKernel", |b, name, stream| {
        call!(b, name; b.function => usize, ONE => Dim3, ONE => Dim3,
            &parameters() => &[*const u32; 1], 0 => usize, stream => Handle, 0 => usize,
            0 => usize, 0 => i32)
    }),
    ("hipLaunchCooperativeKernelMultiDevice", on_several),
    ("hipExtLaunchMultiKernelMultiDevice", on_several),
    ("hipModuleLaunchKernel", |b, name, stream| {
        call!(b, name; b.spin => Handle, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32,
            0 => u32, stream => Handle, &parameters() => &[*const u32; 1], 0 => usize)
    }),
    ("hipModuleLaunchCooperativeKernel", |b, name, stream| {
        call!(b, name; b.spin => Handle, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32,
            0 => u32, stream => Handle, &parameters() => &[*const u32; 1])
    }),
    ("hipExtModuleLaunchKernel", ext),
    ("_Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j", ext),
    ("_Z24hipHccModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_", ext),
    ("hipLaunchKernelExC", |b, name, stream| {
        call!(b, name; &config(stream) => &Config, b.function => usize,
            &parameters() => &[*const u32; 1])
    }),
    ("hipDrvLaunchKernelEx", |b, name, stream| {
        call!(b, name; &config(stream) => &Config, b.spin => Handle,
            &parameters() => &[*const u32; 1], 0 => usize)
    }),
    ("hipModuleLaunchCooperativeKernelMultiDevice", |b, name, stream| {
        let parameters = parameters();
        let one = FunctionOfSeveral {
            function: b.spin,
            dimensions: [1; 6],
            shared: 0,
            stream,
            parameters: parameters.as_ptr(),
        };
        call!(b, name; &one => &FunctionOfSeveral, 1 => i32, 0 => u32)
    }),
    ("hipLaunchByPtr", |b, name, stream| {
        let said = call!(b, "hipConfigureCall"; ONE => Dim3, ONE => Dim3, 0 => usize, stream => Handle);
        assert_eq!(said, SUCCESS);
        call!(b, name; b.empty => usize)
    }),
    ("hipLaunchHostFunc", |b, name, stream| {
        call!(b, name; stream => Handle, nothing => extern "C" fn(*mut c_void), 0 => usize)
    }),
    ("hipStreamAddCallback", |b, name, stream| {
        call!(b, name; stream => Handle, called => extern "C" fn(usize, i32, usize), 0 => usize,
            0 => u32)
    }),
    ("hipGraphLaunch", |b, name, stream| call!(b, name; b.executable => Handle, stream => Handle)),
    ("hipMemcpyAsync", |b, name, stream| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize, 1 => i32, stream => Handle)
    }),
    ("hipMemcpyPeerAsync", |b, name, stream| {
        call!(b, name; b.device => usize, 0 => i32, b.device + BYTES => usize, 0 => i32,
            BYTES => usize, stream => Handle)
    }),
    ("hipMemcpyHtoDAsync", |b, name, stream| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize, stream => Handle)
    }),
    ("hipMemcpyDtoHAsync", |b, name, stream| {
        call!(b, name; b.host => usize, b.device => usize, BYTES => usize, stream => Handle)
    }),
    ("hipMemcpyDtoDAsync", |b, name, stream| {
        call!(b, name; b.device => usize, b.device + BYTES => usize, BYTES => usize, stream => Handle)
    }),
    ("hipMemcpyHtoAAsync", |b, name, stream| {
        call!(b, name; b.array => Handle, 0 => usize, b.host => usize, BYTES => usize, stream => Handle)
    }),
    ("hipMemcpyAtoHAsync", |b, name, stream| {
        call!(b, name; b.host => usize, b.array => Handle, 0 => usize, BYTES => usize, stream => Handle)
    }),
    ("hipMemcpy2DAsync", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, b.host => usize, pitch => usize,
            width => usize, height => usize, 1 => i32, stream => Handle)
    }),
    ("hipMemcpyParam2DAsync", |b, name, stream| {
        call!(b, name; &b.rows() => &[usize; 16], stream => Handle)
    }),
    ("hipMemcpy3DAsync", |b, name, stream| {
        call!(b, name; &b.layers() => &[usize; 20], stream => Handle)
    }),
    ("hipDrvMemcpy3DAsync", |b, name, stream| {
        call!(b, name; &b.layers_by_driver() => &Driver3d, stream => Handle)
    }),
    ("hipMemcpy2DFromArrayAsync", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.host => usize, pitch => usize, b.array => Handle, 0 => usize, 0 => usize,
            width => usize, height => usize, 2 => i32, stream => Handle)
    }),
    ("hipMemcpy2DToArrayAsync", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.array => Handle, 0 => usize, 0 => usize, b.host => usize, pitch => usize,
            width => usize, height => usize, 1 => i32, stream => Handle)
    }),
    ("hipMemcpyToSymbolAsync", |b, name, stream| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize, 8 => usize, 1 => i32,
            stream => Handle)
    }),
    ("hipMemcpyFromSymbolAsync", |b, name, stream| {
        call!(b, name; b.host => usize, b.device => usize, BYTES => usize, 8 => usize, 2 => i32,
            stream => Handle)
    }),
    ("hipMemsetAsync", |b, name, stream| {
        call!(b, name; b.device => usize, 1 => i32, BYTES => usize, stream => Handle)
    }),
    ("hipMemsetD8Async", |b, name, stream| {
        call!(b, name; b.device => usize, 1 => u8, BYTES => usize, stream => Handle)
    }),
    ("hipMemsetD16Async", |b, name, stream| {
        call!(b, name; b.device => usize, 1 => u16, BYTES => usize, stream => Handle)
    }),
    ("hipMemsetD32Async", |b, name, stream| {
        call!(b, name; b.device => usize, 1 => i32, BYTES => usize, stream => Handle)
    }),
    ("hipMemset2DAsync", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => i32, width => usize,
            height => usize, stream => Handle)
    }),
    ("hipMemset3DAsync", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; Pitched([b.device, pitch, width, height]) => Pitched, 1 => i32,
            Extent([width, height, 2]) => Extent, stream => Handle)
    }),
    ("hipMemcpy3DPeerAsync", |b, name, stream| {
        call!(b, name; &b.layers_of_devices() => &[usize; 21], stream => Handle)
    }),
    ("hipMemsetD2D8Async", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u8, width => usize,
            height => usize, stream => Handle)
    }),
    ("hipMemsetD2D16Async", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u16, width / 2 => usize,
            height => usize, stream => Handle)
    }),
    ("hipMemsetD2D32Async", |b, name, stream| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u32, width / 4 => usize,
            height => usize, stream => Handle)
    }),
    ("hipMemPrefetchAsync_v2", |b, name, stream| {
        call!(b, name; b.device => usize, BYTES => usize, 1 => u64, 0 => u32, stream => Handle)
    }),
    ("hipMemPrefetchAsync", |b, name, stream| {
        call!(b, name; b.device => usize, BYTES => usize, 0 => i32, stream => Handle)
    }),
    ("hipMallocAsync", |b, name, stream| {
        let mut address = 0;
        call!(b, name; &mut address => &mut usize, 64 => usize, stream => Handle)
    }),
    ("hipMallocFromPoolAsync", |b, name, stream| {
        let mut address = 0;
        call!(b, name; &mut address => &mut usize, 64 => usize, 0 => usize, stream => Handle)
    }),
    ("hipFreeAsync", |b, name, stream| {
        call!(b, name; SPARE.swap(0, SeqCst) => usize, stream => Handle)
    }),
];

/// Of those below, what is over when it returns.
const TO_HOST: [&str; 3] = ["hipMemcpyDtoH", "hipMemcpyAtoH", "hipMemcpyWithStream"];

/// Copies and fills of the default stream; the rest may return late.
#[rustfmt::skip] // a function, its name and its call
const BLOCKING: &[Row] = &[
    ("hipMemcpyWithStream", |b, name, stream| {
        call!(b, name; b.host => usize, b.device => usize, BYTES => usize, 2 => i32, stream => Handle)
    }),
    ("hipMemcpy", |b, name, _| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize, 1 => i32)
    }),
    ("hipMemcpyPeer", |b, name, _| {
        call!(b, name; b.device => usize, 0 => i32, b.device + BYTES => usize, 0 => i32,
            BYTES => usize)
    }),
    ("hipMemcpyHtoD", |b, name, _| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize)
    }),
    ("hipMemcpyDtoH", |b, name, _| {
        call!(b, name; b.host => usize, b.device => usize, BYTES => usize)
    }),
    ("hipMemcpyDtoD", |b, name, _| {
        call!(b, name; b.device => usize, b.device + BYTES => usize, BYTES => usize)
    }),
    ("hipMemcpyHtoA", |b, name, _| {
        call!(b, name; b.array => Handle, 0 => usize, b.host => usize, BYTES => usize)
    }),
    ("hipMemcpyAtoH", |b, name, _| {
        call!(b, name; b.host => usize, b.array => Handle, 0 => usize, BYTES => usize)
    }),
    ("hipMemcpy2D", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, b.host => usize, pitch => usize,
            width => usize, height => usize, 1 => i32)
    }),
    ("hipMemcpyParam2D", |b, name, _| call!(b, name; &b.rows() => &[usize; 16])),
    ("hipDrvMemcpy2DUnaligned", |b, name, _| call!(b, name; &b.rows() => &[usize; 16])),
    ("hipMemcpy3D", |b, name, _| call!(b, name; &b.layers() => &[usize; 20])),
    ("hipDrvMemcpy3D", |b, name, _| call!(b, name; &b.layers_by_driver() => &Driver3d)),
    ("hipMemcpyToSymbol", |b, name, _| {
        call!(b, name; b.device => usize, b.host => usize, BYTES => usize, 8 => usize, 1 => i32)
    }),
    ("hipMemcpyFromSymbol", |b, name, _| {
        call!(b, name; b.host => usize, b.device => usize, BYTES => usize, 8 => usize, 2 => i32)
    }),
    ("hipMemcpy2DToArray", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.array => Handle, 0 => usize, 0 => usize, b.host => usize, pitch => usize,
            width => usize, height => usize, 1 => i32)
    }),
    ("hipMemcpy2DFromArray", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.host => usize, pitch => usize, b.array => Handle, 0 => usize, 0 => usize,
            width => usize, height => usize, 2 => i32)
    }),
    ("hipMemcpyToArray", |b, name, _| {
        call!(b, name; b.array => Handle, 0 => usize, 0 => usize, b.host => usize, BYTES => usize,
            1 => i32)
    }),
    ("hipMemcpyFromArray", |b, name, _| {
        call!(b, name; b.host => usize, b.array => Handle, 0 => usize, 0 => usize, BYTES => usize,
            2 => i32)
    }),
    ("hipMemcpyAtoD", |b, name, _| {
        call!(b, name; b.device => usize, b.array => Handle, 0 => usize, BYTES => usize)
    }),
    ("hipMemcpyDtoA", |b, name, _| {
        call!(b, name; b.array => Handle, 0 => usize, b.device => usize, BYTES => usize)
    }),
    ("hipMemcpyAtoA", |b, name, _| {
        call!(b, name; b.array => Handle, 0 => usize, b.array => Handle, BYTES => usize,
            BYTES => usize)
    }),
    ("hipMemcpy2DArrayToArray", |b, name, _| {
        let (width, height, _) = ROWS;
        call!(b, name; b.array => Handle, 0 => usize, 0 => usize, b.array => Handle, 64 => usize,
            0 => usize, width => usize, height => usize, 3 => i32)
    }),
    ("hipMemcpy3DPeer", |b, name, _| call!(b, name; &b.layers_of_devices() => &[usize; 21])),
    ("hipMemsetD2D8", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u8, width => usize, height => usize)
    }),
    ("hipMemsetD2D16", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u16, width / 2 => usize, height => usize)
    }),
    ("hipMemsetD2D32", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => u32, width / 4 => usize, height => usize)
    }),
    ("hipMemset", |b, name, _| call!(b, name; b.device => usize, 1 => i32, BYTES => usize)),
    ("hipMemset2D", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; b.device => usize, pitch => usize, 1 => i32, width => usize, height => usize)
    }),
    ("hipMemset3D", |b, name, _| {
        let (width, height, pitch) = ROWS;
        call!(b, name; Pitched([b.device, pitch, width, height]) => Pitched, 1 => i32,
            Extent([width, height, 2]) => Extent)
    }),
    ("hipMemsetD8", |b, name, _| call!(b, name; b.device => usize, 1 => u8, BYTES => usize)),
    ("hipMemsetD16", |b, name, _| call!(b, name; b.device => usize, 1 => u16, BYTES => usize)),
    ("hipMemsetD32", |b, name, _| call!(b, name; b.device => usize, 1 => i32, BYTES => usize)),
];

/// Names of the functions of a table of hooks.
fn hooked(table: &str) -> BTreeSet<String> {
    let part = HOOKS.split(&format!("hooks! {{ {table}")).nth(1);
    let part = part.expect(table).split("\n}").next().unwrap();
    let names = part.split("/ \"").skip(1);
    let names = names.filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

fn per_thread(name: &str) -> String {
    format!("{name}_spt")
}

#[test]
fn every_hook_that_submits_has_a_row() {
    for (rows, table) in [(SUBMITTING, "SUBMITTING"), (BLOCKING, "BLOCKING")] {
        let hooked = hooked(table);
        let mut known: BTreeSet<_> = rows.iter().map(|row| row.0.to_owned()).collect();
        assert_eq!(known.len(), rows.len());
        let variants: Vec<_> = known.iter().map(|name| per_thread(name)).collect();
        known.extend(variants.into_iter().filter(|name| hooked.contains(name)));
        let lacking = LACKING.iter().filter(|name| hooked.contains(**name));
        known.extend(lacking.map(ToString::to_string));
        assert_eq!(known, hooked);
    }
}

/// One command is submitted behind a closed gate, stays there, and completes once it opens.
fn held_and_released(gated: &Gated<'_>, name: &str, submit: impl FnOnce() -> i32) {
    gated.close();
    let before = gated.block.state().submitted();
    assert_eq!(submit(), SUCCESS, "{name}");
    let submitted = gated.block.state().submitted();
    assert_eq!(submitted, before + 1, "{name} was not seen");
    a_moment();
    let query = cu!(gated.hip, hipStreamQuery(gated.stream => Handle));
    assert_eq!(query, NOT_READY, "{name} was not held");
    assert!(!gated.is_idle(), "{name}");
    gated.open();
    gated.hip.synchronize(gated.stream);
    assert!(gated.is_idle(), "{name}: the synchronization was not seen");
}

#[test]
fn every_asynchronous_command_is_held_and_released() {
    shimmed(&[LOCAL], |hip| {
        let bench = Bench::new(hip);
        let stream = Gated::stream(hip, hip.stream(NON_BLOCKING));
        for (name, submit) in SUBMITTING {
            SPARE.store(bench.spare(stream.stream), SeqCst);
            held_and_released(&stream, name, || submit(&bench, name, stream.stream));
        }
    });
}

#[test]
fn so_is_each_on_the_threads_own_default_stream() {
    shimmed(&[LOCAL], |hip| {
        let bench = Bench::new(hip);
        let stream = Gated::stream(hip, PER_THREAD);
        let hooked = hooked("SUBMITTING");
        for (name, submit) in SUBMITTING {
            let variant = per_thread(name);
            if hooked.contains(&variant) {
                held_and_released(&stream, &variant, || submit(&bench, &variant, 0));
            }
        }
    });
}

#[test]
fn every_blocking_command_is_held_and_released() {
    shimmed(&[LOCAL], |hip| {
        let bench = Bench::new(hip);
        let gated = Gated::stream(hip, 0);
        for (name, submit) in BLOCKING {
            gated.close();
            let before = gated.block.state().submitted();
            let (returned, result) = (AtomicBool::new(false), AtomicI32::new(-1));
            let waits = TO_HOST.contains(name);
            thread::scope(|scope| {
                scope.spawn(|| {
                    result.store(submit(&bench, name, 0), SeqCst);
                    returned.store(true, SeqCst);
                });
                until(name, || gated.block.state().submitted() == before + 1);
                // The thread may still be on its way to the runtime.
                let query = || cu!(hip, hipStreamQuery(0 => Handle));
                until(name, || query() == NOT_READY);
                a_moment();
                assert_eq!(query(), NOT_READY, "{name} was not held");
                assert!(!waits || !returned.load(SeqCst), "{name} did not wait");
                gated.open();
            });
            assert_eq!(result.load(SeqCst), SUCCESS, "{name}");
            if !waits {
                hip.synchronize(0);
            }
            assert!(gated.is_idle(), "{name}");
        }
    });
}

#[test]
fn so_is_each_of_the_threads_own_default_stream() {
    shimmed(&[LOCAL], |hip| {
        let bench = Bench::new(hip);
        let hooked = hooked("BLOCKING");
        // The stream belongs to the thread that waits, which others cannot name: they see its block.
        for (name, submit) in BLOCKING {
            let variant = per_thread(name);
            if !hooked.contains(&variant) {
                continue;
            }
            let (tell, told) = mpsc::channel();
            thread::scope(|scope| {
                let (bench, variant) = (&bench, &variant);
                let waiting = scope.spawn(move || {
                    let stream = Gated::stream(hip, PER_THREAD);
                    stream.close();
                    let before = stream.block.state().submitted();
                    tell.send((stream.block, before)).unwrap();
                    assert_eq!(submit(bench, variant, 0), SUCCESS, "{variant}");
                    hip.synchronize(PER_THREAD);
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

/// What programs get that look the runtime's functions up by the runtime itself.
#[test]
fn every_lookup_hands_out_hooks() {
    shimmed(&[LOCAL], |hip| {
        let hook = hip.symbol::<usize>("hipModuleLaunchKernel");
        let by_version = ["hipGetProcAddress", "hipGetProcAddress_spt"];
        let by_name = ["hipGetDriverEntryPoint", "hipGetDriverEntryPoint_spt"];
        for name in by_version.into_iter().chain(by_name) {
            let (mut found, wanted) = (0_usize, c"hipModuleLaunchKernel".as_ptr());
            let result = if by_version.contains(&name) {
                let ask: extern "C" fn(*const i8, &mut usize, i32, u64, usize) -> i32 =
                    hip.symbol(name);
                ask(wanted, &mut found, 60_400, 0, 0)
            } else {
                let ask: extern "C" fn(*const i8, &mut usize, u64, usize) -> i32 = hip.symbol(name);
                ask(wanted, &mut found, 0, 0)
            };
            assert_eq!((result, found), (SUCCESS, hook), "{name}");
        }
    });
}

/// Something that synchronizes a stream, and its name.
type Waiter = (&'static str, fn(&Hip, Handle, Handle) -> i32);

fn by_question(ask: impl Fn() -> i32) -> i32 {
    loop {
        let result = ask();
        if result != NOT_READY {
            return result;
        }
    }
}

#[rustfmt::skip] // a function, its name and its call
const SYNCHRONIZING: &[Waiter] = &[
    ("hipStreamSynchronize", |hip, stream, _| cu!(hip, hipStreamSynchronize(stream => Handle))),
    ("hipStreamSynchronize_spt", |hip, stream, _| cu!(hip, hipStreamSynchronize_spt(stream => Handle))),
    ("hipStreamQuery", |hip, stream, _| by_question(|| cu!(hip, hipStreamQuery(stream => Handle)))),
    ("hipStreamQuery_spt", |hip, stream, _| by_question(|| cu!(hip, hipStreamQuery_spt(stream => Handle)))),
    ("hipDeviceSynchronize", |hip, _, _| cu!(hip, hipDeviceSynchronize())),
    ("hipCtxSynchronize", |hip, _, _| cu!(hip, hipCtxSynchronize())),
    ("hipEventRecord, hipEventSynchronize", |hip, stream, event| {
        ok!(hip, hipEventRecord(event => Handle, stream => Handle));
        cu!(hip, hipEventSynchronize(event => Handle))
    }),
    ("hipEventRecord_spt, hipEventQuery", |hip, stream, event| {
        ok!(hip, hipEventRecord_spt(event => Handle, stream => Handle));
        by_question(|| cu!(hip, hipEventQuery(event => Handle)))
    }),
    ("hipEventRecordWithFlags", |hip, stream, event| {
        ok!(hip, hipEventRecordWithFlags(event => Handle, stream => Handle, 0 => u32));
        cu!(hip, hipEventSynchronize(event => Handle))
    }),
];

#[test]
fn whatever_synchronizes_turns_the_queue_idle_at_once() {
    let table = &hooked("WAITING") | &hooked("RECORDING");
    let known = |name: &String| {
        SYNCHRONIZING
            .iter()
            .any(|row| row.0.contains(name.as_str()))
    };
    assert!(table.iter().all(known), "{table:?}");
    shimmed(&[LOCAL], |hip| {
        let (spin, mut event) = (hip.function("spin_us"), 0);
        ok!(hip, hipEventCreate(&mut event => &mut Handle));
        for stream in [hip.stream(NON_BLOCKING), hip.stream(0), 0, PER_THREAD] {
            let gated = Gated::stream(hip, stream);
            for (name, wait) in SYNCHRONIZING {
                if name.contains("_spt") && stream == 0 {
                    continue; // there the null stream is the thread's
                }
                // Back to back, so that the agent's own look cannot have been the cause.
                for _ in 0..20 {
                    assert_eq!(hip.launch(stream, spin, &[Value::Word(1)]), SUCCESS);
                    assert!(!gated.is_idle(), "{name}");
                    assert_eq!(wait(hip, stream, event), SUCCESS, "{name}");
                    assert!(gated.is_idle(), "{name} on {stream}");
                }
            }
        }
    });
}
