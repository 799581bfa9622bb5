//! Clients of the stand-in driver with the shim preloaded, and what their scheduler sees of them.

#![allow(dead_code, reason = "every test file uses its part")]

#[path = "../../../standin/tests/support/mod.rs"]
pub(crate) mod support;

use std::{
    env,
    ffi::{CStr, c_void},
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use libloading::os::unix::Library;
use support::{Cuda, Handle, Peer, SUCCESS, Value::*};
use xsched_server::{
    Client, ServeOptions,
    api::{self, Queue, Queues},
};
use xsched_wire::{ControlBlock, segment::PeerSegment};

pub(crate) const NON_BLOCKING: u32 = 1;
pub(crate) const LEGACY: Handle = 1;
pub(crate) const PER_THREAD: Handle = 2;
/// A priority that never runs, and so gets no pieces of the starvation guard either.
pub(crate) const NO_RUN: i32 = -256;
pub(crate) const LOCAL: (&str, &str) = ("XSCHED_POLICY", "hpf");

/// The shim that cargo has built for these tests.
pub(crate) fn shim() -> PathBuf {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    let shim = folder.join("libshimcuda.so");
    assert!(shim.exists(), "{} is not built", shim.display());
    shim
}

/// The variables of a client with the shim preloaded.
pub(crate) fn preloaded<'a>(
    shim: &'a Path,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("LD_PRELOAD", shim.to_str().unwrap())];
    all.extend(more);
    all
}

/// Runs `body` in a client with the shim preloaded, and expects it to succeed.
pub(crate) fn shimmed(environment: &[(&str, &str)], body: impl FnOnce(&Cuda)) {
    support::client(&preloaded(&shim(), environment), body);
}

/// As [`shimmed`], and expects at most one line of the shim's, which holds `line`.
pub(crate) fn shimmed_saying(line: Option<&str>, more: &[(&str, &str)], body: impl FnOnce(&Cuda)) {
    if let Some(output) = observed(&preloaded(&shim(), more), || body(&Cuda::load())) {
        assert!(output.status.success(), "{}", text(&output));
        said(&output, line);
    }
}

/// Runs `body` in a process of its own with these variables, whatever becomes of it. `None` in
/// that process itself.
pub(crate) fn observed(environment: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    if support::role().is_some() {
        support::end_if_stuck();
        body();
        return None;
    }
    Some(support::command("only", environment).output().unwrap())
}

/// Expects that the shim wrote one line with `line` in it, or nothing.
#[track_caller]
pub(crate) fn said(output: &Output, line: Option<&str>) {
    let text = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("xsched"))
        .collect();
    match line {
        None => assert!(said.is_empty(), "{} lines: {}", said.len(), said[0]),
        Some(line) => assert!(
            said.len() == 1 && said[0].contains(line),
            "{} lines: {:?}",
            said.len(),
            said.first()
        ),
    }
}

/// What a process wrote, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The level in force (`xsched_level`).
pub(crate) fn level() -> i32 {
    let level: extern "C" fn() -> i32 = entry("xsched_level");
    level()
}

/// `xsched_set_stream_priority`.
pub(crate) fn set_priority(stream: Handle, priority: i32) -> i32 {
    let set: extern "C" fn(*mut c_void, i32) -> i32 = entry("xsched_set_stream_priority");
    set(stream as *mut c_void, priority)
}

/// A C entry point that this process sees, such as those of the preloaded shim.
pub(crate) fn entry<T: Copy>(name: &str) -> T {
    // SAFETY: the caller names a function of this type.
    *unsafe { Library::this().get::<T>(name.as_bytes()) }.expect("the shim is preloaded")
}

/// Offset of a symbol's entry in the `.dynsym` of a 64-bit ELF file.
pub(crate) fn dynamic_symbol(file: &[u8], name: &str) -> Option<usize> {
    let number = |at: usize, size: usize| {
        let bytes = file[at..at + size].iter().rev();
        bytes.fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let mut sections = (0..count).map(|index| headers + index * size);
    // SHT_DYNSYM; its link names the table of strings.
    let symbols = sections.find(|&section| number(section + 4, 4) == 11)?;
    let strings = number(headers + number(symbols + 0x28, 4) * size + 0x18, 8);
    let (start, length) = (number(symbols + 0x18, 8), number(symbols + 0x20, 8));
    (start..start + length).step_by(24).find(|&symbol| {
        let text = &file[strings + number(symbol, 4)..];
        text.starts_with(name.as_bytes()) && text[name.len()] == 0
    })
}

/// An entry point of the driver's by its own address, so that no shim sees the call.
pub(crate) fn unseen<T: Copy>(cuda: &Cuda, name: &str) -> T {
    let file = fs::read(support::driver_folder().join("libcuda.so.1")).unwrap();
    let offset = |name: &str| {
        let value = dynamic_symbol(&file, name).expect(name) + 8;
        usize::from_ne_bytes(file[value..value + 8].try_into().unwrap())
    };
    const NOT_HOOKED: &str = "standin_account";
    let loaded_at = cuda.symbol::<usize>(NOT_HOOKED) - offset(NOT_HOOKED);
    let address = loaded_at + offset(name);
    assert_eq!(size_of::<T>(), size_of::<usize>());
    // SAFETY: the caller names a function of this type.
    unsafe { std::mem::transmute_copy(&address) }
}

/// File and symbol that an address belongs to, if it is that of a symbol.
pub(crate) fn symbol_at(address: *mut c_void) -> Option<(String, String)> {
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: a valid place for the result.
    if unsafe { libc::dladdr(address, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: `dladdr` has filled it.
    let found = unsafe { found.assume_init() };
    if found.dli_saddr != address {
        return None;
    }
    let text = |pointer| {
        // SAFETY: strings of the loader's, which live as long as the library.
        let text = unsafe { CStr::from_ptr(pointer) };
        text.to_string_lossy().into_owned()
    };
    let file = PathBuf::from(text(found.dli_fname));
    let file = file.file_name().unwrap().to_string_lossy().into_owned();
    Some((file, text(found.dli_sname)))
}

/// Launches a kernel of 1 µs that stores `value`.
pub(crate) fn write(cuda: &Cuda, stream: Handle, place: &AtomicU32, value: u32) {
    let address = Address(place.as_ptr().addr());
    let function = cuda.function("write_u32");
    assert_eq!(
        cuda.launch(stream, function, &[address, Word(value)]),
        SUCCESS
    );
}

/// Far longer than anything takes; only a hang gets there.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Ten thousand times what a short command takes: what has not happened by then is held.
pub(crate) fn a_moment() {
    thread::sleep(Duration::from_millis(10));
}

/// This process's control blocks, as its scheduler sees them.
pub(crate) struct View(PeerSegment);

impl View {
    /// `None` if nothing of this process is scheduled.
    pub(crate) fn own() -> Option<Self> {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let segment = descriptors.flatten().find(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            target.to_string_lossy().starts_with("/memfd:xsched")
        })?;
        let file = File::options().read(true).write(true).open(segment.path());
        Some(Self(PeerSegment::open(file.unwrap().as_fd()).unwrap()))
    }

    /// The block of a process's first queue.
    pub(crate) fn first(&self) -> &ControlBlock {
        self.0.layout().block(0).unwrap()
    }

    fn submitted(&self) -> Vec<u64> {
        let blocks = (0..1024).map_while(|slot| self.0.layout().block(slot));
        blocks.map(|block| block.state().submitted()).collect()
    }

    /// Whether every queue that has a scheduler is held.
    pub(crate) fn all_are_held(&self) -> bool {
        let mut blocks = (0..1024).map_while(|slot| self.0.layout().block(slot));
        blocks.all(|block| block.is_bypassed() || !block.is_open())
    }

    /// Slot and block of the one queue that took commands during `body`.
    #[track_caller]
    pub(crate) fn touched(&self, body: impl FnOnce()) -> (u16, &ControlBlock) {
        let before = self.submitted();
        body();
        let after = self.submitted();
        let changed = before.iter().zip(&after).zip(0..);
        let changed: Vec<_> = changed
            .filter(|((before, after), _)| before != after)
            .collect();
        let [(_, slot)] = changed[..] else {
            panic!("{} queues took commands", changed.len());
        };
        (slot, self.0.layout().block(slot).unwrap())
    }
}

/// A stream with a queue whose gate opens and closes on demand.
pub(crate) struct Gated<'a> {
    pub(crate) cuda: &'a Cuda,
    pub(crate) stream: Handle,
    pub(crate) slot: u16,
    pub(crate) block: &'static ControlBlock,
}

impl<'a> Gated<'a> {
    /// Puts a stream under the local scheduler; `launch` gives it a command.
    pub(crate) fn new(cuda: &'a Cuda, stream: Handle, launch: impl Fn()) -> Self {
        launch();
        let view: &View = Box::leak(Box::new(View::own().expect("the stream is scheduled")));
        let (slot, block) = view.touched(launch);
        until("the scheduler has the queue", || !block.is_bypassed());
        Self {
            cuda,
            stream,
            slot,
            block,
        }
    }

    /// The same for any stream that takes kernels by `cuLaunchKernel`.
    pub(crate) fn stream(cuda: &'a Cuda, stream: Handle) -> Self {
        let (spin, values) = (cuda.function("spin_us"), [Word(1)]);
        let gated = Self::new(cuda, stream, || {
            assert_eq!(cuda.launch(stream, spin, &values), SUCCESS);
        });
        cuda.synchronize(stream);
        gated
    }

    #[track_caller]
    pub(crate) fn close(&self) {
        assert_eq!(set_priority(self.stream, NO_RUN), 0);
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

/// A daemon in a process of its own; killed when dropped.
pub(crate) struct Daemon {
    pub(crate) peer: Peer,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("xsched.sock");
        Self {
            peer: Self::serve(&socket),
            socket,
            _folder: folder,
        }
    }

    fn serve(socket: &Path) -> Peer {
        let mut peer = Peer::start("daemon", &[("XSCHED_SOCKET", socket.to_str().unwrap())]);
        peer.expect("serving");
        peer
    }

    /// Another one in the same place, after the end of this one.
    pub(crate) fn restart(&mut self) {
        self.peer = Self::serve(&self.socket);
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that was not waited for.
        assert_eq!(unsafe { libc::kill(self.peer.id() as i32, signal) }, 0);
    }

    /// The variable by which clients find it.
    pub(crate) fn variable(&self) -> (&str, &str) {
        ("XSCHED_SOCKET", self.socket.to_str().unwrap())
    }

    /// As `xsched hint` does.
    pub(crate) fn hint(&self, queue: &Queue, priority: i32) {
        let client = Client::connect(&self.socket).unwrap();
        let request = api::HintRequest {
            pid: None,
            queue: Some(queue.id),
            name: None,
            hints: [("priority".to_owned(), priority.into())].into(),
        };
        let _: api::HintAnswer = client.post(api::path::HINTS, &request).unwrap();
    }

    pub(crate) fn queues(&self) -> Vec<Queue> {
        let client = Client::connect(&self.socket).unwrap();
        client.get::<Queues>(api::path::QUEUES).unwrap().queues
    }
}

/// A test of several processes: in one that plays a part, runs that part, else `test`. The part
/// of a daemon is known to all.
pub(crate) fn scene(parts: &[(&str, fn())], test: impl FnOnce()) {
    let Some(role) = support::role() else {
        return test();
    };
    if role == "daemon" {
        let options = ServeOptions {
            socket: env::var_os("XSCHED_SOCKET").unwrap().into(),
            policy: "hpf".into(),
            min_share: 0.05,
            exit_when_unused: None,
            trace: None,
        };
        return xsched_server::serve(options, || println!("serving")).unwrap();
    }
    support::end_if_stuck();
    let part = parts.iter().find(|(name, _)| *name == role);
    part.expect("a part of this test").1();
}

/// Compiles C for a test, once for all tests of the process; the path of what came out.
pub(crate) fn compile(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    static FOLDER: Once = Once::new();
    let folder = env::current_exe().unwrap().with_extension("c");
    FOLDER.call_once(|| fs::create_dir_all(&folder).unwrap());
    // Tests of one process may compile the same at once.
    let id = format!("{}-{:?}", std::process::id(), thread::current().id());
    let input = folder.join(format!("{name}-{id}.c"));
    let output = folder.join(format!("{name}-{id}.out"));
    fs::write(&input, source).unwrap();
    let compiler = Command::new("cc")
        .args(["-o", output.to_str().unwrap(), input.to_str().unwrap()])
        .args(arguments)
        .output()
        .expect("a C compiler (cc)");
    assert!(compiler.status.success(), "{}", text(&compiler));
    fs::remove_file(&input).unwrap();
    let place = folder.join(name);
    fs::rename(&output, &place).unwrap();
    place
}

/// The value that a device wrote.
pub(crate) fn value(place: &AtomicU32) -> u32 {
    place.load(SeqCst)
}
