//! A kernel driver's device file: requests that the stand-in makes by `ioctl`, and who answers them.
//!
//! The file is a memfd. What answers in the kernel's place is the stand-in's own `ioctl`, which passes
//! requests on other descriptors to the kernel. It is reached where the stand-in comes before libc in
//! the order of symbols: in a program that is linked with the stand-in, or that has it preloaded
//! (behind the shim). A shim reaches it as it would reach libc's: by `dlsym(RTLD_NEXT, "ioctl")`.
//!
//! In a program that loads the stand-in by `dlopen` requests go to libc's `ioctl`, and so to the
//! kernel; there, and for raw system calls, a filter brings them back (`trap.rs`). Both ways end in the
//! channel's answer, so a shim cannot tell them apart. A process has one channel at most.

use std::{
    ffi::{CStr, c_int, c_ulong, c_void},
    mem,
    os::fd::IntoRawFd,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::fcntl_dupfd_cloexec,
};

use super::trap::{self, Answer};

type Ioctl = extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;

pub(crate) struct Channel {
    name: &'static CStr,
    /// The magic number of its requests.
    magic: u32,
    answer: Answer,
    descriptor: OnceLock<c_int>,
}

/// The descriptor of this process's channel, and who answers on it, for `ioctl`.
static OPEN: AtomicU32 = AtomicU32::new(u32::MAX);
static ANSWER: OnceLock<Answer> = OnceLock::new();

impl Channel {
    pub(crate) const fn new(name: &'static CStr, magic: u32, answer: Answer) -> Self {
        Self {
            name,
            magic,
            answer,
            descriptor: OnceLock::new(),
        }
    }

    /// Makes a request as a library does, whose calls a preloaded `ioctl` sees. An error says
    /// nothing about the request where nothing on this machine brings it back to the stand-in.
    pub(crate) fn send(&self, request: c_ulong, argument: *mut c_void) -> Result<(), ()> {
        match first_ioctl()(self.descriptor(), request, argument) {
            0 => Ok(()),
            _ => Err(()),
        }
    }

    fn descriptor(&self) -> c_int {
        *self.descriptor.get_or_init(|| {
            let memfd = memfd_create(self.name, MemfdFlags::CLOEXEC);
            // A number that nothing else is likely to get, in this process or in children, who
            // inherit the filter.
            let memfd = memfd.and_then(|memfd| fcntl_dupfd_cloexec(memfd, 700));
            let descriptor = memfd.expect("a descriptor for the channel").into_raw_fd();
            ANSWER.get_or_init(|| self.answer);
            OPEN.store(descriptor.cast_unsigned(), Ordering::Release);
            if let Err(error) = trap::install(descriptor, self.magic, self.answer) {
                eprintln!("stand-in driver: requests on the channel cannot be trapped: {error}");
            }
            descriptor
        })
    }
}

/// The `ioctl` that a library of this process reaches.
fn first_ioctl() -> Ioctl {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ioctl".as_ptr()) };
    assert!(!found.is_null(), "libc has ioctl");
    // SAFETY: every definition of `ioctl` can be called with three arguments in registers; the callers
    // here pass a structure that fits the request.
    unsafe { mem::transmute::<*mut c_void, Ioctl>(found) }
}

/// Stands before libc's: answers requests on the stand-in's descriptor, passes on all others.
///
/// # Safety
/// As `ioctl(2)`: `argument` fits the request.
#[cfg(not(test))]
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(descriptor: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if descriptor >= 0
        && descriptor.cast_unsigned() == OPEN.load(Ordering::Acquire)
        && let Some(answer) = ANSWER.get()
    {
        return match answer(request, argument) {
            Ok(()) => 0,
            Err(error) => {
                // SAFETY: errno of this thread.
                let errno = unsafe { libc::__errno_location() };
                // SAFETY: as above.
                unsafe { *errno = error };
                -1
            }
        };
    }
    // SAFETY: the caller's promise to the kernel.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, descriptor, request, argument) };
    c_int::try_from(result).unwrap_or(-1)
}
