//! Clients of the stand-in runtime with the shim preloaded, and what their scheduler sees of them.

#![allow(dead_code, reason = "every test file uses its part")]

#[path = "../support/mod.rs"]
pub(crate) mod files;
#[path = "../../../cuda/tests/common/mod.rs"]
pub(crate) mod shared;

use std::{
    env,
    path::PathBuf,
    process::Output,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use crate::{cu, ok};
use libloading::Library;
use shared::{View, set_priority, support, text, until};
use xsched_wire::ControlBlock;

pub(crate) use files::shim;
pub(crate) use support::{Handle, SUCCESS, Value};

pub(crate) const NON_BLOCKING: u32 = 1;
pub(crate) const PER_THREAD: Handle = 2;
pub(crate) const INVALID_DEVICE: i32 = 101;

/// Links the stand-in runtime, once, into the folder where clients look for libraries.
pub(crate) fn runtime() -> PathBuf {
    static RUNTIME: OnceLock<PathBuf> = OnceLock::new();
    let link = || {
        let links = support::driver_folder();
        files::link_runtime(links.parent().unwrap(), &links)
    };
    RUNTIME.get_or_init(link).clone()
}

/// The variables of a client with the shim preloaded.
pub(crate) fn preloaded<'a>(
    shim: &'a std::path::Path,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("LD_PRELOAD", shim.to_str().unwrap())];
    all.extend(more);
    all
}

/// Runs `body` in a process of its own with these variables. `None` in that process itself.
pub(crate) fn observed(environment: &[(&str, &str)], body: impl FnOnce(&Hip)) -> Option<Output> {
    if support::role().is_none() {
        runtime();
    }
    shared::observed(environment, || body(&Hip::load()))
}

/// Runs `body` in a client with the shim preloaded, and expects it to succeed and the shim to say
/// at most one line, which holds `line`.
pub(crate) fn shimmed_saying(line: Option<&str>, more: &[(&str, &str)], body: impl FnOnce(&Hip)) {
    if let Some(output) = observed(&preloaded(&shim(), more), body) {
        assert!(output.status.success(), "{}", text(&output));
        shared::said(&output, line);
    }
}

/// The same with nothing said.
pub(crate) fn shimmed(more: &[(&str, &str)], body: impl FnOnce(&Hip)) {
    shimmed_saying(None, more, body);
}

/// Dimensions by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Dim3(pub(crate) [u32; 3]);

/// A client's view of the runtime.
pub(crate) struct Hip {
    library: Library,
}

/// Updates of compute queues that the stand-in kernel driver saw: to 0 %, back, and wrong ones; and
/// how many such queues there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Updates {
    pub(crate) taken_off: u64,
    pub(crate) put_back: u64,
    pub(crate) wrong: u64,
    pub(crate) queues: u64,
}

impl Hip {
    pub(crate) fn load() -> Self {
        // SAFETY: the stand-in does nothing when it is loaded.
        let library = unsafe { Library::new("libamdhip64.so.6") };
        Self {
            library: library.expect("the stand-in is in LD_LIBRARY_PATH"),
        }
    }

    /// Loads a copy of the runtime.
    pub(crate) fn load_from(path: &str) -> Self {
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }.expect("a copy of the runtime");
        Self { library }
    }

    pub(crate) fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the tests name the entry point's own signature.
        *unsafe { self.library.get::<T>(name) }.expect(name)
    }

    pub(crate) fn stream(&self, flags: u32) -> Handle {
        let mut stream = 0;
        ok!(self, hipStreamCreateWithFlags(&mut stream => &mut Handle, flags => u32));
        stream
    }

    pub(crate) fn device(&self) -> i32 {
        let mut device = -1;
        ok!(self, hipGetDevice(&mut device => &mut i32));
        device
    }

    pub(crate) fn set_device(&self, device: i32) -> i32 {
        cu!(self, hipSetDevice(device => i32))
    }

    pub(crate) fn alloc(&self, length: usize) -> usize {
        let mut address = 0;
        ok!(self, hipMalloc(&mut address => &mut usize, length => usize));
        address
    }

    /// A word that device and host can reach, initially zero.
    pub(crate) fn word(&self) -> &'static AtomicU32 {
        let word: &AtomicU32 = Box::leak(Box::default());
        let address = word.as_ptr().addr();
        ok!(self, hipHostRegister(address => usize, 4 => usize, 0 => u32));
        word
    }

    pub(crate) fn function(&self, name: &str) -> Handle {
        let (mut module, mut function) = (0, 0);
        let image = c"".as_ptr();
        ok!(self, hipModuleLoadData(&mut module => &mut Handle, image => *const i8));
        let name = std::ffi::CString::new(name).unwrap();
        ok!(self, hipModuleGetFunction(
            &mut function => &mut Handle, module => Handle, name.as_ptr() => *const i8,
        ));
        function
    }

    pub(crate) fn launch(&self, stream: Handle, function: Handle, values: &[Value]) -> i32 {
        let pointers: Vec<*const u8> = values
            .iter()
            .map(|value| match value {
                Value::Address(address) => std::ptr::from_ref(address).cast(),
                Value::Word(word) => std::ptr::from_ref(word).cast(),
            })
            .collect();
        cu!(self, hipModuleLaunchKernel(
            function => Handle, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 1 => u32, 0 => u32,
            stream => Handle, pointers.as_ptr() => *const *const u8, 0 => usize,
        ))
    }

    /// Launches a kernel of 1 µs that stores `value`.
    pub(crate) fn write(&self, stream: Handle, place: &AtomicU32, value: u32) {
        let function = self.function("write_u32");
        let values = [Value::Address(place.as_ptr().addr()), Value::Word(value)];
        assert_eq!(self.launch(stream, function, &values), SUCCESS);
    }

    pub(crate) fn synchronize(&self, stream: Handle) {
        ok!(self, hipStreamSynchronize(stream => Handle));
    }

    pub(crate) fn updates(&self) -> Updates {
        let mut counts = [0_u64; 4];
        let ask: extern "C" fn(&mut [u64; 4]) = self.symbol("standin_kfd");
        ask(&mut counts);
        let [taken_off, put_back, wrong, queues] = counts;
        Updates {
            taken_off,
            put_back,
            wrong,
            queues,
        }
    }
}

/// A stream with a queue whose gate opens and closes on demand.
pub(crate) struct Gated<'a> {
    pub(crate) hip: &'a Hip,
    pub(crate) stream: Handle,
    pub(crate) slot: u16,
    pub(crate) block: &'static ControlBlock,
    /// `write_u32`, launched once: a function's first launch waits for the whole device, and in a
    /// process of several groups that opens gates.
    write: Handle,
}

impl<'a> Gated<'a> {
    /// Puts a stream under the local scheduler.
    pub(crate) fn stream(hip: &'a Hip, stream: Handle) -> Self {
        let spin = hip.function("spin_us");
        let launch = || assert_eq!(hip.launch(stream, spin, &[Value::Word(1)]), SUCCESS);
        launch();
        let view: &View = Box::leak(Box::new(View::own().expect("the stream is scheduled")));
        let (slot, block) = view.touched(launch);
        until("the scheduler has the queue", || !block.is_bypassed());
        let gated = Self {
            hip,
            stream,
            slot,
            block,
            write: hip.function("write_u32"),
        };
        gated.write(hip.word(), 0);
        hip.synchronize(stream);
        gated
    }

    /// Launches a kernel of 1 µs that stores `value`.
    pub(crate) fn write(&self, place: &AtomicU32, value: u32) {
        let values = [Value::Address(place.as_ptr().addr()), Value::Word(value)];
        assert_eq!(self.hip.launch(self.stream, self.write, &values), SUCCESS);
    }

    #[track_caller]
    pub(crate) fn close(&self) {
        assert_eq!(set_priority(self.stream, shared::NO_RUN), 0);
        until("the gate closes", || !self.block.is_open());
    }

    #[track_caller]
    pub(crate) fn open(&self) {
        assert_eq!(set_priority(self.stream, 0), 0);
        until("the gate opens", || self.block.is_open());
    }

    /// Whether the scheduler sees no work of this stream.
    pub(crate) fn is_idle(&self) -> bool {
        !self.block.state().is_ready()
    }
}

/// The value that a device wrote.
pub(crate) fn value(place: &AtomicU32) -> u32 {
    place.load(SeqCst)
}

/// The variable by which a test's client is told something.
pub(crate) fn told(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
