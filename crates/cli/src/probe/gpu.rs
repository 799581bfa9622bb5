//! What the driver API of CUDA and the runtime of HIP have in common: the same functions, by other
//! names.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr::null_mut,
};

use libloading::os::unix::Library;

use super::{BYTES, COUNT, Handle, ROWS, compare, factors};

const THREADS: u32 = 256;

/// Names of functions whose signatures are the same in both.
pub(super) struct Names {
    pub(super) version: &'static str,
    pub(super) start: &'static str,
    pub(super) count: &'static str,
    pub(super) name: &'static str,
    pub(super) load: &'static str,
    pub(super) function: &'static str,
    pub(super) allocate: &'static str,
    pub(super) upload: &'static str,
    pub(super) download: &'static str,
    pub(super) launch: &'static str,
    /// What an error of the library's is called.
    pub(super) error: fn(&Gpu, i32) -> Option<String>,
}

/// The library that drives the devices.
pub(super) struct Gpu {
    library: Library,
    names: &'static Names,
}

impl Gpu {
    /// The first of these libraries that can be loaded. If none can, what ails one that is there, or
    /// that the last is not.
    pub(super) fn load(files: &[String], names: &'static Names) -> Result<Self, String> {
        let (mut ails, mut absent) = (None, String::new());
        for file in files {
            match open(file) {
                Ok(library) => return Ok(Gpu { library, names }),
                Err(error) if error.starts_with(file.as_str()) => absent = error,
                Err(error) => ails = ails.or(Some(error)),
            }
        }
        Err(ails.unwrap_or(absent))
    }

    /// An entry point, as the program sees it: the shim's hook where there is one.
    pub(super) fn entry<T: Copy>(&self, name: &str) -> Result<T, String> {
        entry(&self.library, name)
    }

    pub(super) fn version(&self) -> Result<i32, String> {
        let mut version = 0;
        let entry: extern "C" fn(&mut i32) -> i32 = self.entry(self.names.version)?;
        self.checked(self.names.version, entry(&mut version))?;
        Ok(version)
    }

    pub(super) fn start(&self) -> Result<(), String> {
        let entry: extern "C" fn(u32) -> i32 = self.entry(self.names.start)?;
        self.checked(self.names.start, entry(0))
    }

    /// Names of the devices; one at least.
    pub(super) fn devices(&self) -> Result<Vec<String>, String> {
        let mut count = 0;
        let entry: extern "C" fn(&mut i32) -> i32 = self.entry(self.names.count)?;
        self.checked(self.names.count, entry(&mut count))?;
        if count == 0 {
            return Err("no device is visible".into());
        }
        let entry: extern "C" fn(*mut c_char, i32, i32) -> i32 = self.entry(self.names.name)?;
        let name = |device| {
            let mut name = [0; 128];
            self.checked(self.names.name, entry(name.as_mut_ptr(), 127, device))?;
            let bytes: Vec<u8> = name.iter().map(|byte| byte.cast_unsigned()).collect();
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        (0..count).map(name).collect()
    }

    pub(super) fn checked(&self, what: &str, result: i32) -> Result<(), String> {
        if result == 0 {
            return Ok(());
        }
        let name = (self.names.error)(self, result).unwrap_or_else(|| "unknown error".into());
        let what = what.trim_end_matches("_v2");
        Err(format!("{what} failed: {name} ({result})"))
    }
}

pub(super) fn open(file: &str) -> Result<Library, String> {
    // SAFETY: loading a driver runs its initialisers, as in every program that uses it.
    let library = unsafe { Library::new(file) };
    library.map_err(|error| match error {
        libloading::Error::DlOpen { source } => source.to_string(),
        error => error.to_string(),
    })
}

pub(super) fn entry<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: callers name the type that the library's header gives the function.
    let found = unsafe { library.get::<T>(name) };
    found.map(|entry| *entry).map_err(|error| error.to_string())
}

/// A name that the library has given.
pub(super) fn constant(text: *const c_char) -> Option<String> {
    // SAFETY: null, or the library's own constant string.
    let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })?;
    Some(text.to_string_lossy().into_owned())
}

/// The shim's `xsched_level`, if one is preloaded.
pub(super) fn shim_level() -> Option<extern "C" fn() -> i32> {
    // SAFETY: a function of the shim's of this type (`api.rs` of the shim).
    let found = unsafe { Library::this().get::<extern "C" fn() -> i32>(b"xsched_level\0") };
    found.ok().map(|level| *level)
}

/// Two matrices on the device and room for their product.
pub(super) struct Product<'a> {
    gpu: &'a Gpu,
    kernel: Handle,
    /// Product, left, right.
    places: [u64; 3],
    factors: [Vec<u32>; 2],
}

impl<'a> Product<'a> {
    /// `image` has the kernel `matmul_u32`, for the calling thread's device.
    pub(super) fn new(gpu: &'a Gpu, image: &[u8]) -> Result<Self, String> {
        let names = gpu.names;
        let (mut module, mut kernel) = (null_mut(), null_mut());
        let load: extern "C" fn(&mut Handle, *const u8) -> i32 = gpu.entry(names.load)?;
        gpu.checked(names.load, load(&mut module, image.as_ptr()))?;
        let get: extern "C" fn(&mut Handle, Handle, *const c_char) -> i32 =
            gpu.entry(names.function)?;
        let found = get(&mut kernel, module, c"matmul_u32".as_ptr());
        gpu.checked(names.function, found)?;

        let allocate: extern "C" fn(&mut u64, usize) -> i32 = gpu.entry(names.allocate)?;
        let mut places = [0; 3];
        for place in &mut places {
            gpu.checked(names.allocate, allocate(place, BYTES))?;
        }
        let factors = factors();
        let copy: extern "C" fn(u64, *const u32, usize) -> i32 = gpu.entry(names.upload)?;
        for (place, matrix) in places[1..].iter().zip(&factors) {
            gpu.checked(names.upload, copy(*place, matrix.as_ptr(), BYTES))?;
        }
        Ok(Product {
            gpu,
            kernel,
            places,
            factors,
        })
    }

    /// Computes the product on the device, and compares it with the host's.
    pub(super) fn check(&self) -> Result<(), String> {
        type Launch = extern "C" fn(
            Handle,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            Handle,
            *const *const c_void,
            Handle,
        ) -> i32;
        let (gpu, names) = (self.gpu, self.gpu.names);
        let (null, rows) = (null_mut(), ROWS);
        let [product, left, right] = self
            .places
            .each_ref()
            .map(|place| (&raw const *place).cast());
        let parameters = [product, left, right, (&raw const rows).cast::<c_void>()];
        let blocks = (COUNT as u32).div_ceil(THREADS);
        let launch: Launch = gpu.entry(names.launch)?;
        let launched = launch(
            self.kernel,
            blocks,
            1,
            1,
            THREADS,
            1,
            1,
            0,
            null,
            parameters.as_ptr(),
            null,
        );
        gpu.checked(names.launch, launched)?;
        let mut found = vec![0; COUNT];
        let copy: extern "C" fn(*mut u32, u64, usize) -> i32 = gpu.entry(names.download)?;
        let copied = copy(found.as_mut_ptr(), self.places[0], BYTES);
        gpu.checked(names.download, copied)?;
        compare(&found, &self.factors)
    }
}
