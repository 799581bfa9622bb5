//! The wrapped `dlsym`: programs that look functions up get hooks.
//!
//! Pseudo-handles (`RTLD_DEFAULT`, `RTLD_NEXT`) mean "seen from the caller", so those calls go on
//! by a tail jump, the caller's return address on the stack. Another preloaded shim may wrap
//! `dlsym` as well: lookups go on to the *next* one in the loader's order, which ends at libc's, so
//! each shim sees them whatever the order.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::atomic::{AtomicPtr, Ordering},
};

/// libc's `dlsym`.
static LIBC: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// The next `dlsym` behind ours: another shim's, or libc's.
pub static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// Defines the exported `dlsym` of a shim: pseudo-handles go on by a tail jump, real ones to
/// [`look_up`], which asks the named function (`fn(&CStr, *mut c_void) -> *mut c_void`) what stands
/// instead of what the others found.
#[macro_export]
macro_rules! export_dlsym {
    ($instead_of:path) => {
        /// The wrapped `dlsym`.
        ///
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn dlsym(
            handle: *mut ::std::ffi::c_void,
            name: *const ::std::ffi::c_char,
        ) -> *mut ::std::ffi::c_void {
            extern "C" fn look_up(
                handle: *mut ::std::ffi::c_void,
                name: *const ::std::ffi::c_char,
            ) -> *mut ::std::ffi::c_void {
                // SAFETY: the caller's handle and string, as libc's `dlsym` takes them.
                unsafe { $crate::dlsym::look_up(handle, name, $instead_of) }
            }
            ::core::arch::naked_asm!(
                "lea rax, [rdi + 1]", // RTLD_NEXT is -1, RTLD_DEFAULT is 0
                "cmp rax, 1",
                "ja {look_up}",
                "mov rax, qword ptr [rip + {next}]",
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
                look_up = sym look_up,
                next = sym $crate::dlsym::NEXT,
                resolve = sym $crate::dlsym::next_dlsym,
            )
        }
    };
}

/// Asks the others, then puts a hook in the place of what they found.
///
/// # Safety
/// As libc's `dlsym`.
pub unsafe fn look_up(
    handle: *mut c_void,
    name: *const c_char,
    instead_of: fn(&CStr, *mut c_void) -> *mut c_void,
) -> *mut c_void {
    // SAFETY: the address is that of a `dlsym`.
    let next: Dlsym = unsafe { std::mem::transmute(next_dlsym()) };
    // SAFETY: the caller's handle and string, passed on.
    let found = unsafe { next(handle, name) };
    if found.is_null() || name.is_null() {
        return found;
    }
    // SAFETY: libc has just read this string to its end.
    let name = unsafe { CStr::from_ptr(name) };
    instead_of(name, found)
}

/// What an object really exports, past every shim's hooks.
///
/// # Safety
/// As libc's `dlsym`.
pub unsafe fn real(handle: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the address is that of libc's `dlsym`.
    let real: Dlsym = unsafe { std::mem::transmute(libc_dlsym()) };
    // SAFETY: a terminated string; the caller's handle.
    unsafe { real(handle, name.as_ptr()) }
}

/// That `dlsym`.
pub extern "C" fn next_dlsym() -> *mut c_void {
    let known = NEXT.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // Unversioned, asked from here: the next library that exports any `dlsym`.
    // SAFETY: a pseudo-handle and a terminated string.
    let next = unsafe { real(libc::RTLD_NEXT, c"dlsym") };
    let next = if next.is_null() { libc_dlsym() } else { next };
    NEXT.store(next, Ordering::Relaxed);
    next
}

fn libc_dlsym() -> *mut c_void {
    let known = LIBC.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // glibc 2.34 moved it from libdl to libc under a new version; both still answer the old one.
    // Shims export theirs without a version, so this passes them by.
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5"] {
        // SAFETY: terminated strings; `dlvsym` is not wrapped.
        let found = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        if !found.is_null() {
            LIBC.store(found, Ordering::Relaxed);
            return found;
        }
    }
    std::process::abort(); // no libc has no dlsym
}
