//! Libraries that the process has loaded.

use std::ffi::{CStr, c_int, c_void};

/// A path that is looked for, and found.
struct Search<'a> {
    prefix: &'a [u8],
    path: [u8; libc::PATH_MAX as usize],
    length: usize,
}

/// Handle of the first library whose file's name begins so, also of copies that a package brings under
/// a name of its own; null if there is none. It is never closed.
pub fn first(prefix: &[u8]) -> *mut c_void {
    // Called with the loader's lock held, which whoever allocates may want: so without allocating.
    unsafe extern "C" fn look(
        object: *mut libc::dl_phdr_info,
        _bytes: usize,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's own description of an object, valid during this call.
        let path = unsafe { (*object).dlpi_name };
        if path.is_null() {
            return 0;
        }
        // SAFETY: the loader's terminated string.
        let path = unsafe { CStr::from_ptr(path) };
        // SAFETY: the place that `first` passed on, for the duration of its call.
        let search = unsafe { &mut *search.cast::<Search>() };
        let file = path.to_bytes().rsplit(|&byte| byte == b'/').next();
        let path = path.to_bytes_with_nul();
        let is_it = file.is_some_and(|file| file.starts_with(search.prefix));
        if !is_it || path.len() > search.path.len() {
            return 0;
        }
        search.path[..path.len()].copy_from_slice(path);
        search.length = path.len();
        1
    }
    let mut search = Search {
        prefix,
        path: [0; libc::PATH_MAX as usize],
        length: 0,
    };
    // SAFETY: `look` is called during this call alone, with the place of `search`.
    unsafe { libc::dl_iterate_phdr(Some(look), std::ptr::from_mut(&mut search).cast()) };
    match CStr::from_bytes_with_nul(&search.path[..search.length]) {
        // SAFETY: a terminated string; the handle is never closed.
        Ok(path) => unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) },
        Err(_) => std::ptr::null_mut(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_the_beginning_of_their_file_name() {
        assert!(!first(b"libc.so").is_null());
        assert!(first(b"ibc.so").is_null());
        assert!(first(b"libnothing-of-this-name").is_null());
    }
}
