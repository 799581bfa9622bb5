//! Test double: a HIP runtime with streams that are asynchronous and in order, a thread each, and
//! kernels that sleep. It executes what the shim's level 1 needs: default streams, launches, writes
//! of words, waits. No figure that it produces is a result.
//!
//! A launch's argument is one number, read during the call as a real runtime reads it.

#![allow(non_snake_case, missing_docs, reason = "the runtime's names")]

use std::{
    cell::Cell,
    collections::VecDeque,
    ffi::{c_char, c_int, c_void},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

const SUCCESS: c_int = 0;
const NOT_READY: c_int = 600;
const PER_THREAD: usize = 2;

#[repr(C)]
pub struct Dim3([u32; 3]);

enum Command {
    Kernel(u32),
    Write(usize, u32),
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    /// A command that executes, too.
    outstanding: usize,
    /// Kernels that were submitted and not over, at most.
    deepest: usize,
    kernels: usize,
    /// Arguments, in the order of execution.
    executed: Vec<u32>,
}

#[derive(Default)]
struct Stream {
    state: Mutex<State>,
    changed: Condvar,
}

impl Stream {
    fn start() -> &'static Stream {
        let stream: &'static Stream = Box::leak(Box::default());
        thread::spawn(|| stream.execute());
        stream
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, command: Command) {
        let mut state = self.lock();
        state.kernels += usize::from(matches!(command, Command::Kernel(_)));
        state.deepest = state.deepest.max(state.kernels);
        state.outstanding += 1;
        state.commands.push_back(command);
        self.changed.notify_all();
    }

    fn execute(&self) {
        loop {
            let mut state = self.lock();
            let Some(command) = state.commands.pop_front() else {
                let waited = self.changed.wait(state);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            drop(state);
            if matches!(command, Command::Kernel(_)) {
                thread::sleep(Duration::from_millis(2));
            }
            let mut state = self.lock();
            match command {
                Command::Kernel(argument) => {
                    state.kernels -= 1;
                    state.executed.push(argument);
                }
                // SAFETY: the caller promised a word that lasts until the stream is over.
                Command::Write(word, value) => unsafe {
                    std::ptr::write_volatile(word as *mut u32, value);
                },
            }
            state.outstanding -= 1;
            self.changed.notify_all();
        }
    }

    fn wait(&self) {
        let state = self.lock();
        let over = self
            .changed
            .wait_while(state, |state| state.outstanding > 0);
        drop(over.unwrap_or_else(PoisonError::into_inner));
    }
}

fn stream(raw: *mut c_void) -> &'static Stream {
    static NULL: OnceLock<&Stream> = OnceLock::new();
    thread_local! {
        static OWN: Cell<Option<&'static Stream>> = const { Cell::new(None) };
    }
    match raw as usize {
        0 => NULL.get_or_init(Stream::start),
        PER_THREAD => OWN.with(|own| {
            let stream = own.get().unwrap_or_else(Stream::start);
            own.set(Some(stream));
            stream
        }),
        // SAFETY: made by `hipStreamCreate`, and never freed.
        _ => unsafe { &*(raw as *const Stream) },
    }
}

/// How many kernels were in flight at most.
#[unsafe(no_mangle)]
pub extern "C" fn standin_deepest(raw: *mut c_void) -> usize {
    stream(raw).lock().deepest
}

/// How many kernels were executed, or -1 if not in the order 0, 1, 2, …
#[unsafe(no_mangle)]
pub extern "C" fn standin_executed(raw: *mut c_void) -> i64 {
    let state = stream(raw).lock();
    let in_order = state
        .executed
        .iter()
        .zip(0..)
        .all(|(&found, wanted)| found == wanted);
    if in_order {
        state.executed.len() as i64
    } else {
        -1
    }
}

/// # Safety
/// `arguments` points to a pointer to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipLaunchKernel(
    _function: *const c_void,
    _grid: Dim3,
    _block: Dim3,
    arguments: *const *const u32,
    _shared: usize,
    raw: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let first = unsafe { *arguments };
    // SAFETY: as above.
    stream(raw).submit(Command::Kernel(unsafe { *first }));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamWriteValue32(
    raw: *mut c_void,
    word: *mut u32,
    value: u32,
    _flags: u32,
) -> c_int {
    stream(raw).submit(Command::Write(word as usize, value));
    SUCCESS
}

/// # Safety
/// `place` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreate(place: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *place = std::ptr::from_ref(Stream::start()).cast_mut().cast() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamDestroy(raw: *mut c_void) -> c_int {
    stream(raw).wait();
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamSynchronize(raw: *mut c_void) -> c_int {
    stream(raw).wait();
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipStreamQuery(raw: *mut c_void) -> c_int {
    match stream(raw).lock().outstanding {
        0 => SUCCESS,
        _ => NOT_READY,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hipHostRegister(_memory: *mut c_void, _bytes: usize, _flags: u32) -> c_int {
    SUCCESS
}

/// # Safety
/// `place` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostGetDevicePointer(
    place: *mut *mut c_void,
    memory: *mut c_void,
    _flags: u32,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *place = memory };
    SUCCESS
}

/// # Safety
/// `place` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevice(place: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *place = 0 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetStreamDeviceId(_stream: *mut c_void) -> c_int {
    0
}

/// # Safety
/// `text` has room for 13 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetPCIBusId(
    text: *mut c_char,
    _bytes: c_int,
    _device: c_int,
) -> c_int {
    let place = c"0000:03:00.0";
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(place.as_ptr(), text, place.count_bytes() + 1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetLastError() -> c_int {
    SUCCESS
}
