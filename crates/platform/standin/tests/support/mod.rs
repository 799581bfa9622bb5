//! Client processes of the stand-in driver: each test's body runs in a process of its own, which
//! loads the driver by `dlopen` as real clients do.

#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use libloading::{Library, Symbol};

pub(crate) type Handle = usize;

pub(crate) const SUCCESS: i32 = 0;
pub(crate) const INVALID_VALUE: i32 = 1;
pub(crate) const NOT_READY: i32 = 600;

/// In the environment of a client: the test whose body it runs, and which part of it.
const ROLE: &str = "STANDIN_TEST_ROLE";

/// A folder with the stand-in under the driver's names.
pub(crate) fn driver_folder() -> PathBuf {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = folder.join("libstandin_cuda.so");
    assert!(library.exists(), "{} is not built", library.display());
    let links = folder.join("standin");
    fs::create_dir_all(&links).unwrap();
    for name in ["libcuda.so.1", "libcuda.so"] {
        // Another test may have made it. Relative: a build folder may be moved.
        let _made = symlink("../libstandin_cuda.so", links.join(name));
    }
    links
}

/// Runs `body` in a process of its own with these variables, and expects it to succeed.
pub(crate) fn client(environment: &[(&str, &str)], body: impl FnOnce(&Cuda)) {
    if role().as_deref() == Some("only") {
        end_if_stuck();
        return body(&Cuda::load());
    }
    let output = command("only", environment).output().unwrap();
    assert!(
        output.status.success(),
        "the client failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// The part that this process plays, if it is a client.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// A client that waits for ever fails after a minute.
pub(crate) fn end_if_stuck() {
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(60));
        eprintln!("the client is stuck");
        std::process::exit(1);
    });
}

/// Modules are loaded eagerly unless the test says otherwise: a first launch behind a closed gate
/// would wait for ever.
pub(crate) fn command(role: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let thread = thread::current();
    let test = thread.name().expect("the harness names the test's thread");
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .arg("--include-ignored")
        .env(ROLE, role)
        .env("LD_LIBRARY_PATH", driver_folder())
        .env("CUDA_MODULE_LOADING", "EAGER")
        .envs(environment.iter().copied());
    command
}

/// A client that a test talks to, line by line. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a client that plays `role` of the calling test.
    pub(crate) fn start(role: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = command(role, environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// The rest of the next line that begins with `word`.
    pub(crate) fn expect(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.output.read_line(&mut line).unwrap();
            assert!(count > 0, "the client ended before it said {word}");
            // The harness may have written before it on the same line.
            if let Some(at) = line.find(word) {
                return line[at + word.len()..].trim().to_owned();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn finish(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// In a client: waits for a line from the test.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A parameter of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Address(usize),
    Word(u32),
}

pub(crate) struct Cuda {
    library: Library,
}

/// Calls an entry point: the name, then arguments with their types. Evaluates to the result code.
#[macro_export]
macro_rules! cu {
    ($cuda:expr, $name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        let entry = $cuda.symbol::<extern "C" fn($($type),*) -> i32>(stringify!($name));
        entry($($argument),*)
    }};
}

/// As [`cu`], and expects success.
#[macro_export]
macro_rules! ok {
    ($cuda:expr, $name:ident($($argument:tt)*)) => {
        assert_eq!($crate::cu!($cuda, $name($($argument)*)), 0, stringify!($name))
    };
}

impl Cuda {
    pub(crate) fn load() -> Self {
        // SAFETY: the stand-in does nothing when it is loaded.
        let library = unsafe { Library::new("libcuda.so.1") };
        Self {
            library: library.expect("the stand-in is in LD_LIBRARY_PATH"),
        }
    }

    /// Loads, initialises, and makes a context on device 0.
    pub(crate) fn start(&self) -> Handle {
        ok!(self, cuInit(0 => u32));
        self.context(0)
    }

    pub(crate) fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the tests name the entry point's own signature.
        let symbol: Symbol<'_, T> = unsafe { self.library.get(name) }.expect(name);
        *symbol
    }

    pub(crate) fn context(&self, device: i32) -> Handle {
        let mut context = 0;
        ok!(self, cuCtxCreate_v2(&mut context => &mut Handle, 0 => u32, device => i32));
        context
    }

    pub(crate) fn stream(&self, flags: u32) -> Handle {
        let mut stream = 0;
        ok!(self, cuStreamCreate(&mut stream => &mut Handle, flags => u32));
        stream
    }

    pub(crate) fn alloc(&self, length: usize) -> usize {
        let mut address = 0;
        ok!(self, cuMemAlloc_v2(&mut address => &mut usize, length => usize));
        ok!(self, cuMemsetD8_v2(address => usize, 0 => u8, length => usize));
        ok!(self, cuStreamSynchronize(0 => Handle));
        address
    }

    /// A word that device and host can reach, initially zero.
    pub(crate) fn word(&self) -> &'static AtomicU32 {
        let word: &AtomicU32 = Box::leak(Box::default());
        self.register(word.as_ptr().addr(), size_of_val(word));
        word
    }

    pub(crate) fn wide_word(&self) -> &'static AtomicU64 {
        let word: &AtomicU64 = Box::leak(Box::default());
        self.register(word.as_ptr().addr(), size_of_val(word));
        word
    }

    fn register(&self, address: usize, length: usize) {
        ok!(self, cuMemHostRegister_v2(address => usize, length => usize, 0 => u32));
    }

    /// The words at a device address.
    pub(crate) fn words(&self, address: usize, count: usize) -> Vec<u32> {
        let mut words = vec![0_u32; count];
        ok!(self, cuMemcpyDtoH_v2(
            words.as_mut_ptr() => *mut u32, address => usize, 4 * count => usize,
        ));
        words
    }

    pub(crate) fn function(&self, name: &str) -> Handle {
        let mut module = 0;
        ok!(self, cuModuleLoadData(&mut module => &mut Handle, c"".as_ptr() => *const i8));
        let name = std::ffi::CString::new(name).unwrap();
        let mut function = 0;
        ok!(self, cuModuleGetFunction(
            &mut function => &mut Handle, module => Handle, name.as_ptr() => *const i8,
        ));
        function
    }

    pub(crate) fn launch(&self, stream: Handle, function: Handle, values: &[Value]) -> i32 {
        self.launch_by("cuLaunchKernel", stream, function, values)
    }

    pub(crate) fn launch_by(
        &self,
        entry: &str,
        stream: Handle,
        function: Handle,
        values: &[Value],
    ) -> i32 {
        let pointers: Vec<*const u8> = values
            .iter()
            .map(|value| match value {
                Value::Address(address) => std::ptr::from_ref(address).cast(),
                Value::Word(word) => std::ptr::from_ref(word).cast(),
            })
            .collect();
        type Launch = extern "C" fn(
            Handle,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            Handle,
            *const *const u8,
            usize,
        ) -> i32;
        let launch: Launch = self.symbol(entry);
        launch(function, 1, 1, 1, 1, 1, 1, 0, stream, pointers.as_ptr(), 0)
    }

    /// The stream waits until the word is at least `value`.
    pub(crate) fn gate(&self, stream: Handle, word: &AtomicU32, value: u32) {
        let address = word.as_ptr().addr();
        ok!(self, cuStreamWaitValue32_v2(
            stream => Handle, address => usize, value => u32, 0 => u32,
        ));
    }

    /// As [`Cuda::gate`], and returns when the stream stands at the gate.
    pub(crate) fn hold(&self, stream: Handle, word: &AtomicU32, value: u32) {
        let reached = self.word();
        // CU_STREAM_MEM_OP_WRITE_VALUE_32 and …_WAIT_VALUE_32, which the device gets as one.
        let operation = |operation, address: &AtomicU32, value| {
            [operation, address.as_ptr().addr() as u64, value, 0, 0, 0]
        };
        let batch = [
            operation(2, reached, 1),
            operation(1, word, u64::from(value)),
        ];
        ok!(self, cuStreamBatchMemOp_v2(
            stream => Handle, 2 => u32, &batch => &[[u64; 6]; 2], 0 => u32,
        ));
        while reached.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
    }

    pub(crate) fn open(&self, word: &AtomicU32) {
        word.store(1, Ordering::SeqCst);
    }

    pub(crate) fn query(&self, stream: Handle) -> i32 {
        cu!(self, cuStreamQuery(stream => Handle))
    }

    pub(crate) fn synchronize(&self, stream: Handle) {
        ok!(self, cuStreamSynchronize(stream => Handle));
    }

    pub(crate) fn event(&self) -> Handle {
        let mut event = 0;
        ok!(self, cuEventCreate(&mut event => &mut Handle, 0 => u32));
        event
    }

    pub(crate) fn record(&self, event: Handle, stream: Handle) -> i32 {
        cu!(self, cuEventRecord(event => Handle, stream => Handle))
    }

    pub(crate) fn elapsed(&self, start: Handle, end: Handle) -> f32 {
        let mut time = 0.0;
        ok!(self, cuEventElapsedTime(&mut time => &mut f32, start => Handle, end => Handle));
        time
    }

    /// Kernel time in ns, turns, slice in ns.
    pub(crate) fn account(&self) -> (u64, u64, u64) {
        let (mut served, mut turns, mut slice) = (0, 0, 0);
        ok!(self, standin_account(
            0 => i32, &mut served => &mut u64, &mut turns => &mut u64, &mut slice => &mut u64,
        ));
        (served, turns, slice)
    }
}
