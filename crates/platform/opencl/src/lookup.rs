//! How programs find OpenCL functions, and how they find hooks instead.
//!
//! Programs that link to `libOpenCL.so.1` find hooks by name, since the shim is loaded first; those
//! that `dlopen` it, through `dlsym`. Only what a *loader* exports is replaced: a loader itself looks
//! functions of the same names up in the vendors' drivers, and must find those. Functions that no
//! loader exports are handed out by `clGetExtensionFunctionAddress`.

use std::ffi::{CStr, c_char, c_void};

use crate::{driver, extensions, hooks, sys::Opaque};
use xsched_shim::state::guarded;

xsched_shim::export_dlsym!(instead_of);

/// What a program gets that looked `name` up and would get `found`.
pub(crate) fn instead_of(name: &CStr, found: *mut c_void) -> *mut c_void {
    // OpenCL functions are named clXxx.
    match name.to_bytes() {
        [b'c', b'l', third, ..] if third.is_ascii_uppercase() => {}
        _ => return found,
    }
    let hook = || {
        let hook = hooks::by_name(name)?;
        driver::is_loaders(found).then_some(hook)
    };
    guarded(hook).flatten().unwrap_or(found)
}

/// What a program gets that asked for the extension function `name` and would get `found`.
pub(crate) fn extension(name: *const c_char, found: Opaque) -> Opaque {
    if found.is_null() || name.is_null() {
        return found;
    }
    // SAFETY: the OpenCL implementation has just read this string to its end.
    let name = unsafe { CStr::from_ptr(name) };
    let hook = || hooks::by_name(name).or_else(|| extensions::by_name(name));
    guarded(hook).flatten().unwrap_or(found)
}
