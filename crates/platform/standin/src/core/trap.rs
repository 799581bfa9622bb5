//! Requests that reach the kernel although the stand-in should answer them: a seccomp filter turns
//! them into a signal, in whose handler it does.
//!
//! Needed where libc's `ioctl`, or a raw system call, comes before the stand-in's own: in a program
//! that loads the driver by `dlopen`. The filter concerns one descriptor number and one magic
//! number, so nothing else changes for the process; children inherit it, but not the descriptor.

use std::{
    ffi::{c_int, c_ulong, c_void},
    io, ptr,
    sync::OnceLock,
};

/// Answers a request; the error is an `errno`.
pub(crate) type Answer = fn(request: c_ulong, argument: *mut c_void) -> Result<(), c_int>;

static ANSWER: OnceLock<Answer> = OnceLock::new();

/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`: number, architecture, low halves of the first two arguments.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const DESCRIPTOR: u32 = 16;
const REQUEST: u32 = 24;
/// Classes and modes of classic BPF instructions.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Has `answer` called for requests with `magic` on `descriptor`, in every thread.
pub(crate) fn install(descriptor: c_int, magic: u32, answer: Answer) -> io::Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    ANSWER.get_or_init(|| answer);
    handle()?;
    let ioctl = u32::try_from(libc::SYS_ioctl).map_err(io::Error::other)?;
    let step = |code, value| instruction(code, value, 0, 0);
    // Not equal: on to the permission, the last instruction.
    let mut filter = [
        step(LOAD, ARCH),
        instruction(JUMP_EQUAL, ARCHITECTURE, 0, 8),
        step(LOAD, NUMBER),
        instruction(JUMP_EQUAL, ioctl, 0, 6),
        step(LOAD, DESCRIPTOR),
        instruction(JUMP_EQUAL, descriptor.cast_unsigned(), 0, 4),
        step(LOAD, REQUEST),
        step(AND, 0xff00),
        instruction(JUMP_EQUAL, magic << 8, 0, 1),
        step(RETURN, libc::SECCOMP_RET_TRAP),
        step(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 11,
        filter: filter.as_mut_ptr(),
    };
    if set_filter(&program).is_ok() {
        return Ok(());
    }
    // An ordinary user may, once set-user-id programs have no effect any more.
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    set_filter(&program)
}

fn instruction(code: u16, value: u32, equal: u8, unequal: u8) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: equal,
        jf: unequal,
        k: value,
    }
}

fn set_filter(program: &libc::sock_fprog) -> io::Result<()> {
    // SAFETY: the program and its instructions live through the call, which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            ptr::from_ref(program),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn handle() -> io::Result<()> {
    // SAFETY: all zeroes is a sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = trapped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the action is complete, its handler of the kind that SA_SIGINFO says.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs in the thread that made the request, in place of the system call: the thread holds no lock
/// of the stand-in and is inside no allocation, so the answer may take locks and allocate.
#[cfg(target_arch = "x86_64")]
extern "C" fn trapped(_signal: c_int, _information: *mut c_void, context: *mut c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a handler with SA_SIGINFO the thread's saved state.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let register = |number: c_int| usize::try_from(number).unwrap_or(0);
    let request = registers[register(libc::REG_RSI)].cast_unsigned();
    let argument = registers[register(libc::REG_RDX)].cast_unsigned();
    let argument = usize::try_from(argument).unwrap_or(0);
    let answer = ANSWER
        .get()
        .expect("the handler is installed behind the answer");
    let result = match answer(request, ptr::with_exposed_provenance_mut(argument)) {
        Ok(()) => 0,
        Err(errno) => -i64::from(errno),
    };
    registers[register(libc::REG_RAX)] = result;
}

#[cfg(not(target_arch = "x86_64"))]
extern "C" fn trapped(_signal: c_int, _information: *mut c_void, _context: *mut c_void) {}
