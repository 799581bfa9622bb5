//! How programs find the runtime's functions, and how they find hooks instead: by `dlsym` and by
//! `hipGetProcAddress`. Programs that link to the runtime find the hooks by name and version.
//!
//! A hook stands in only where the real runtime's own function would have been found: the address
//! says so, whatever the way.

use std::{
    ffi::{CStr, c_void},
    sync::OnceLock,
};

use xsched_shim::state::guarded;

use crate::{hooks, runtime, sys::*};

xsched_shim::export_dlsym!(instead_of);

/// What a program gets that looked `name` up and would get `found`.
fn instead_of(name: &CStr, found: *mut c_void) -> *mut c_void {
    // Functions of the runtime are named hipXxx, and _Z..hipXxx where they are C++.
    match name.to_bytes() {
        [b'h', b'i', b'p', ..] | [b'_', b'Z', ..] => hook_for(found),
        _ => found,
    }
}

/// The hook of the runtime's function at this address, or the address itself.
fn hook_for(address: *mut c_void) -> *mut c_void {
    static BY_ADDRESS: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
    if runtime::library().is_none() {
        return address;
    }
    let make = || {
        let known = hooks::all().filter_map(|hook| {
            let real = runtime::address(hook.name) as usize;
            (real != 0).then_some((real, hook.address as usize))
        });
        let mut table: Vec<_> = known.collect();
        table.sort_unstable();
        table
    };
    let found = guarded(|| {
        // Made outside of the cell, which others would wait for: whoever allocates may look something up.
        if BY_ADDRESS.get().is_none() {
            let _another_was_first = BY_ADDRESS.set(make());
        }
        let table = BY_ADDRESS.get()?;
        let place = table.binary_search_by_key(&(address as usize), |&(real, _)| real);
        place.ok().map(|place| table[place].1 as *mut c_void)
    });
    found.flatten().unwrap_or(address)
}

/// Around a lookup that writes an address to `place`.
pub(crate) fn handed_out(place: *mut Opaque, call: impl FnOnce() -> hipError_t) -> hipError_t {
    let result = call();
    if result == HIP_SUCCESS && !place.is_null() {
        // SAFETY: the runtime has just written to the program's place.
        let place = unsafe { &mut *place };
        *place = hook_for(*place);
    }
    result
}
