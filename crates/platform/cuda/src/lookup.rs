//! How programs find driver functions, and how they find hooks instead.
//!
//! libcudart and most others `dlopen` the driver and ask it through `dlsym` for `cuGetProcAddress`,
//! and that for everything else, by name, version and stream flavour. What the driver gives is one
//! of its exported functions, so a hook is chosen by *address*: whatever the way, the name or the
//! version, the same function gets the same hook. Programs that link to the driver directly find
//! the hooks by name, since the shim is loaded first.
//!
//! `dlsym` itself is wrapped. Pseudo-handles (`RTLD_DEFAULT`, `RTLD_NEXT`) mean "seen from the
//! caller", so those calls go on by a tail jump, the caller's return address on the stack.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use crate::{
    driver::{self, Function, GetProcAddress, GetProcAddressV2},
    hooks,
    state::guarded,
    sys::*,
};

/// libc's `dlsym`.
static REAL_DLSYM: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The wrapped `dlsym`: pseudo-handles go on by a tail jump, real ones to [`lookup_symbol`].
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    core::arch::naked_asm!(
        "lea rax, [rdi + 1]", // RTLD_NEXT is -1, RTLD_DEFAULT is 0
        "cmp rax, 1",
        "ja {lookup}",
        "mov rax, qword ptr [rip + {real}]",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2:",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {resolve}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        lookup = sym lookup_symbol,
        real = sym REAL_DLSYM,
        resolve = sym resolve_dlsym,
    )
}

extern "C" fn resolve_dlsym() -> *mut c_void {
    let known = REAL_DLSYM.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // glibc 2.34 moved it from libdl to libc under a new version; both still answer the old one.
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5"] {
        // SAFETY: terminated strings; `dlvsym` is not wrapped.
        let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        if !found.is_null() {
            REAL_DLSYM.store(found, Ordering::Relaxed);
            return found;
        }
    }
    std::process::abort(); // no libc has no dlsym
}

/// libc's `dlsym` for a real handle.
pub(crate) fn real_dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    // SAFETY: the address is that of libc's `dlsym`.
    let real: Dlsym = unsafe { std::mem::transmute(resolve_dlsym()) };
    // SAFETY: the caller's handle and string, passed on.
    unsafe { real(handle, name) }
}

extern "C" fn lookup_symbol(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    let found = real_dlsym(handle, name);
    if found.is_null() || name.is_null() {
        return found;
    }
    // SAFETY: libc has just read this string to its end.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    // Driver functions are named cuXxx; the runtime's and other libraries' go on in lower case.
    match name {
        [b'c', b'u', third, ..] if third.is_ascii_uppercase() => hook_for(found),
        _ => found,
    }
}

/// The hook of the driver function at this address, or the address itself.
fn hook_for(address: *mut c_void) -> *mut c_void {
    static BY_ADDRESS: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
    if driver::library().is_none() {
        return address;
    }
    let table = BY_ADDRESS.get_or_init(|| {
        let known = hooks::all().filter_map(|hook| {
            let real = driver::address(hook.name) as usize;
            // The driver's own, not one of ours (a program linked to the driver sees ours first).
            (real != 0 && real != hook.address as usize).then_some((real, hook.address as usize))
        });
        let mut table: Vec<_> = known.collect();
        table.sort_unstable();
        table.dedup_by_key(|entry| entry.0);
        table
    });
    match table.binary_search_by_key(&(address as usize), |entry| entry.0) {
        Ok(index) => table[index].1 as *mut c_void,
        Err(_) => address,
    }
}

/// Puts the hook in the place where the driver has just put a function.
fn replace(result: CUresult, place: *mut *mut c_void) -> CUresult {
    if result == CUDA_SUCCESS && !place.is_null() {
        guarded(|| {
            // SAFETY: the driver has just written to this place.
            let found = unsafe { *place };
            // SAFETY: as above.
            unsafe { *place = hook_for(found) };
        });
    }
    result
}

/// The driver's lookup of versions before 12.
///
/// # Safety
/// As the driver's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    place: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> CUresult {
    static REAL: Function = Function::new(c"cuGetProcAddress");
    let Some(real) = REAL.get() else {
        return CUDA_ERROR_NOT_FOUND;
    };
    // SAFETY: the driver's function of this signature (cuda.h).
    let real: GetProcAddress = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's arguments, passed on.
    replace(unsafe { real(symbol, place, version, flags) }, place)
}

/// The driver's lookup.
///
/// # Safety
/// As the driver's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    place: *mut *mut c_void,
    version: i32,
    flags: u64,
    status: *mut i32,
) -> CUresult {
    static REAL: Function = Function::new(c"cuGetProcAddress_v2");
    let Some(real) = REAL.get() else {
        return CUDA_ERROR_NOT_FOUND;
    };
    // SAFETY: the driver's function of this signature (cuda.h).
    let real: GetProcAddressV2 = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's arguments, passed on.
    replace(
        unsafe { real(symbol, place, version, flags, status) },
        place,
    )
}
