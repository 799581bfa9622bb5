//! What a shim does on the control channel: an `ioctl` that comes before the driver's and libc's,
//! remembers what it sees, and passes it on.

#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    ffi::{c_int, c_ulong, c_void},
    io,
    sync::Mutex,
};

pub(crate) const ALLOC: c_ulong = 0x2b;
pub(crate) const CONTROL: c_ulong = 0x2a;
pub(crate) const FREE: c_ulong = 0x29;
pub(crate) const SET_TIMESLICE: u32 = 0xa06c_0103;
pub(crate) const GET_TIMESLICE: u32 = 0xa06c_0104;

/// A request that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) descriptor: c_int,
    /// Of the escape: [`ALLOC`], [`CONTROL`] or [`FREE`].
    pub(crate) number: c_ulong,
    pub(crate) client: u32,
    pub(crate) object: u32,
    /// Class or command.
    pub(crate) kind: u32,
    /// Type of the engine, or µs.
    pub(crate) value: u64,
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

pub(crate) fn seen() -> Vec<Seen> {
    SEEN.lock().unwrap().clone()
}

/// The compute group of the only context.
pub(crate) fn compute() -> Seen {
    let groups = seen();
    let mut compute = groups
        .iter()
        .filter(|seen| seen.number == ALLOC && seen.kind == 0xa06c && seen.value == 1);
    *compute.next().expect("a compute group was allocated")
}

/// `NVOS54_PARAMETERS`.
#[repr(C)]
struct Control {
    client: u32,
    object: u32,
    command: u32,
    flags: u32,
    parameters: *mut u64,
    size: u32,
    status: u32,
}

/// Sets or gets a slice in µs: the status and the slice.
pub(crate) fn control(
    descriptor: c_int,
    client: u32,
    object: u32,
    command: u32,
    microseconds: u64,
    raw: bool,
) -> io::Result<(u32, u64)> {
    let mut microseconds = microseconds;
    let mut control = Control {
        client,
        object,
        command,
        flags: 0,
        parameters: &raw mut microseconds,
        size: 8,
        status: 99,
    };
    let request = (3 << 30) | (32 << 16) | (0x46 << 8) | CONTROL;
    let argument = (&raw mut control).cast::<c_void>();
    let result = if raw {
        // SAFETY: the structure that the request names.
        unsafe { libc::syscall(libc::SYS_ioctl, descriptor, request, argument) }
    } else {
        i64::from(next()(descriptor, request, argument))
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((control.status, microseconds))
}

type Ioctl = extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;

/// The `ioctl` that a preloaded library would pass requests on to.
fn next() -> Ioctl {
    // SAFETY: the name is a C string.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"ioctl".as_ptr()) };
    assert!(!next.is_null());
    // SAFETY: `ioctl` takes its arguments in these registers.
    unsafe { std::mem::transmute::<*mut c_void, Ioctl>(next) }
}

#[unsafe(no_mangle)]
extern "C" fn ioctl(descriptor: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let result = next()(descriptor, request, argument);
    let number = request & 0xff;
    if result == 0 && request >> 8 & 0xff == 0x46 && (FREE..=ALLOC).contains(&number) {
        // SAFETY: each of these requests has at least four words.
        let words = unsafe { argument.cast::<[u32; 4]>().read() };
        let pointer = || {
            // SAFETY: the requests that are asked have a pointer behind the four words.
            unsafe { argument.cast::<*const u32>().wrapping_add(2).read() }
        };
        let (client, object, kind, value) = match number {
            ALLOC => {
                // SAFETY: the fourth word of a group's parameters is its engine.
                let engine = unsafe { pointer().wrapping_add(3).read() };
                (words[0], words[2], words[3], u64::from(engine))
            }
            CONTROL => {
                // SAFETY: the slice's parameter is one u64.
                let slice = unsafe { pointer().cast::<u64>().read() };
                (words[0], words[1], words[2], slice)
            }
            _ => (words[0], words[2], 0, 0),
        };
        SEEN.lock().unwrap().push(Seen {
            descriptor,
            number,
            client,
            object,
            kind,
            value,
        });
    }
    result
}
