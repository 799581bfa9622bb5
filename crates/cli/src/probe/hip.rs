//! A product of matrices on the first device of HIP's. The kernel is compiled by HIP's own runtime
//! compiler, since code for AMD GPUs is made for one model.

use std::{
    ffi::{CStr, c_char},
    path::Path,
    ptr::{null, null_mut},
};

use libloading::os::unix::Library;
use xsched_wire::env;

use super::{
    Failure, Found, Handle, Step, compute, file_at,
    gpu::{Gpu, Names, Product, constant, entry, open, shim_level},
};

const NAMES: Names = Names {
    version: "hipRuntimeGetVersion",
    start: "hipInit",
    count: "hipGetDeviceCount",
    name: "hipDeviceGetName",
    load: "hipModuleLoadData",
    function: "hipModuleGetFunction",
    allocate: "hipMalloc",
    upload: "hipMemcpyHtoD",
    download: "hipMemcpyDtoH",
    launch: "hipModuleLaunchKernel",
    error: error_name,
};

/// Releases whose library has a name of its own, the newest first.
const RELEASES: [u32; 3] = [7, 6, 5];

const SOURCE: &CStr =
    c"extern \"C\" __global__ void matmul_u32(unsigned *to, const unsigned *left, const unsigned *right,
                                              unsigned rows) {
    unsigned place = blockIdx.x * blockDim.x + threadIdx.x, sum = 0;
    if (place >= rows * rows) return;
    for (unsigned k = 0; k < rows; k++)
        sum += left[place / rows * rows + k] * right[k * rows + place % rows];
    to[place] = sum;
}";

/// Notes what it finds; gives the first step that failed, and why.
pub(super) fn look(found: &mut Found, scheduled: bool) -> Result<(), Failure> {
    let load = |error| (Step::Load, error);
    let released = RELEASES.map(|release| format!("libamdhip64.so.{release}"));
    let files = match env::HIP_LIB.get() {
        Some(named) => vec![named],
        None => [&released[..], &["libamdhip64.so".into()]].concat(),
    };
    let gpu = Gpu::load(&files, &NAMES).map_err(load)?;
    found.library = file_at(gpu.entry(NAMES.count).map_err(load)?);
    let level = shim_level();
    found.shim = level.and_then(|level| file_at(level as usize));

    let device = |error| (Step::Device, error);
    found.version = gpu.version().ok();
    gpu.start().map_err(device)?;
    found.devices = gpu.devices().map_err(device)?;

    let image = compile(&gpu, found.library.as_deref());
    let product = image.and_then(|image| Product::new(&gpu, &image));
    let product = product.map_err(|error| (Step::Compute, error))?;
    let level = || level.map_or(0, |level| level());
    compute(found, scheduled, level, || product.check())
}

/// The kernel for the calling thread's device. The compiler is a part of the runtime or, since ROCm 6,
/// a library beside it.
fn compile(gpu: &Gpu, runtime: Option<&str>) -> Result<Vec<u8>, String> {
    type Create = extern "C" fn(
        &mut Handle,
        *const c_char,
        *const c_char,
        i32,
        *const *const c_char,
        *const *const c_char,
    ) -> i32;
    let beside = match gpu.entry::<usize>("hiprtcCreateProgram") {
        Ok(_) => None,
        Err(_) => Some(compiler(runtime)?),
    };
    let compiler = Compiler {
        gpu,
        library: beside,
    };
    let mut program = null_mut();
    let create: Create = compiler.entry("hiprtcCreateProgram")?;
    let name = c"matmul.hip".as_ptr();
    let created = create(&mut program, SOURCE.as_ptr(), name, 0, null(), null());
    checked("hiprtcCreateProgram", created)?;
    let build: extern "C" fn(Handle, i32, *const *const c_char) -> i32 =
        compiler.entry("hiprtcCompileProgram")?;
    checked("hiprtcCompileProgram", build(program, 0, null()))?;
    let mut bytes = 0;
    let size: extern "C" fn(Handle, &mut usize) -> i32 = compiler.entry("hiprtcGetCodeSize")?;
    checked("hiprtcGetCodeSize", size(program, &mut bytes))?;
    let mut image = vec![0; bytes];
    let code: extern "C" fn(Handle, *mut u8) -> i32 = compiler.entry("hiprtcGetCode")?;
    checked("hiprtcGetCode", code(program, image.as_mut_ptr()))?;
    Ok(image)
}

/// Where the compiler's functions are.
struct Compiler<'a> {
    gpu: &'a Gpu,
    library: Option<Library>,
}

impl Compiler<'_> {
    fn entry<T: Copy>(&self, name: &str) -> Result<T, String> {
        match &self.library {
            Some(library) => entry(library, name),
            None => self.gpu.entry(name),
        }
    }
}

/// The compiler's library, in the runtime's folder or where the loader looks.
fn compiler(runtime: Option<&str>) -> Result<Library, String> {
    let folder = runtime.and_then(|file| Path::new(file).parent());
    let numbered = RELEASES.map(|release| format!("libhiprtc.so.{release}"));
    let names = numbered.iter().map(String::as_str).chain(["libhiprtc.so"]);
    let beside = folder
        .into_iter()
        .flat_map(|folder| names.clone().map(|name| folder.join(name)))
        .filter(|path| path.is_file())
        .map(|path| path.to_string_lossy().into_owned());
    let anywhere = names.clone().map(str::to_owned);
    let mut found = beside.chain(anywhere).map(|file| open(&file));
    found.find_map(Result::ok).ok_or_else(|| {
        "libhiprtc.so is neither beside the runtime nor where the loader looks".into()
    })
}

fn checked(what: &str, result: i32) -> Result<(), String> {
    match result {
        0 => Ok(()),
        error => Err(format!("{what} failed: error {error}")),
    }
}

fn error_name(gpu: &Gpu, error: i32) -> Option<String> {
    let entry: extern "C" fn(i32) -> *const c_char = gpu.entry("hipGetErrorName").ok()?;
    constant(entry(error))
}
