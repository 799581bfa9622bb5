//! How programs find driver functions, and how they find hooks instead.
//!
//! libcudart and most others `dlopen` the driver and ask it through `dlsym` for `cuGetProcAddress`,
//! and that for everything else, by name, version and stream flavour. What the driver gives is one
//! of its exported functions, so a hook is chosen by *address*: whatever the way, the name or the
//! version, the same function gets the same hook. Programs that link to the driver directly find
//! the hooks by name, since the shim is loaded first.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::OnceLock,
};

use crate::{
    driver::{self, Function, GetProcAddress, GetProcAddressV2},
    hooks,
    state::guarded,
    sys::*,
};

xsched_shim::export_dlsym!(instead_of);

/// What a program gets that looked `name` up and would get `found`.
fn instead_of(name: &CStr, found: *mut c_void) -> *mut c_void {
    // Driver functions are named cuXxx; the runtime's and other libraries' go on in lower case.
    match name.to_bytes() {
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
    let make = || {
        let known = hooks::all().filter_map(|hook| {
            let real = driver::address(hook.name) as usize;
            // The driver's own, not one of ours (a program linked to the driver sees ours first).
            (real != 0 && real != hook.address as usize).then_some((real, hook.address as usize))
        });
        let mut table: Vec<_> = known.collect();
        table.sort_unstable();
        table.dedup_by_key(|entry| entry.0);
        table
    };
    // Made outside of the cell, which others would wait for: whoever allocates may look something up.
    if BY_ADDRESS.get().is_none() {
        let _another_was_first = BY_ADDRESS.set(make());
    }
    let Some(table) = BY_ADDRESS.get() else {
        return address;
    };
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
