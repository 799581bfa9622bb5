//! Modules, functions that programs register at their start, and launches of all forms.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use super::api;
use crate::cuda::{
    abi::{Extra, Handle, In, Out, Parameters, Text, code},
    driver::Driver,
    launch::*,
    result::INVALID_VALUE,
    stream::Null,
};

/// `hipErrorInvalidDeviceFunction`.
const INVALID_DEVICE_FUNCTION: i32 = 98;

/// The one program that the compiler makes, and its image.
const PROGRAM: Handle = 1;
const IMAGE: &[u8] = b"\0";
/// `HIPRTC_ERROR_INVALID_PROGRAM`.
const INVALID_PROGRAM: i32 = 4;

fn known(program: Handle) -> i32 {
    if program == PROGRAM {
        0
    } else {
        INVALID_PROGRAM
    }
}

/// `dim3`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Dim3([u32; 3]);

/// By the address that the program launches.
#[derive(Default)]
struct Registered {
    names: HashMap<usize, String>,
    /// By address and context.
    functions: HashMap<(usize, Handle), Handle>,
}

fn registered() -> MutexGuard<'static, Registered> {
    static REGISTERED: LazyLock<Mutex<Registered>> = LazyLock::new(Mutex::default);
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The function that an address of the program's means in the calling thread's context.
fn function(host: usize) -> Option<Handle> {
    let context = Driver::get().current().ok()?;
    let mut registered = registered();
    if let Some(&known) = registered.functions.get(&(host, context)) {
        return Some(known);
    }
    let name = registered.names.get(&host)?;
    let made = Driver::get().function_named(name).ok()?;
    registered.functions.insert((host, context), made);
    Some(made)
}

fn launch(host: usize, parameters: Parameters, stream: Handle, null: Null) -> i32 {
    let driver = Driver::get();
    let Some(function) = function(host) else {
        return INVALID_DEVICE_FUNCTION;
    };
    let stream = driver.stream(stream, null);
    code(stream.and_then(|stream| driver.launch(stream, function, parameters, Extra::NONE)))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "the API's own name")]
extern "C" fn __hipRegisterFatBinary(image: usize) -> usize {
    image.max(1)
}

#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "the API's own name")]
extern "C" fn __hipRegisterFunction(
    _modules: usize,
    host: usize,
    _device_function: Text,
    name: Text,
    _threads: u32,
) {
    if let Ok(name) = name.read() {
        registered().names.insert(host, name);
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "the API's own name")]
extern "C" fn __hipUnregisterFatBinary(_modules: usize) {}

/// The same of functions of modules.
fn launch_functions(list: In<FunctionOfSeveral>, count: i32) -> i32 {
    let driver = Driver::get();
    let one = |one: FunctionOfSeveral| {
        let stream = driver.stream(one.stream, Null::Legacy)?;
        driver.launch(stream, one.function, one.parameters, Extra::NONE)
    };
    let list = list.list(usize::try_from(count).unwrap_or(0));
    code(list.and_then(|list| list.into_iter().try_for_each(one)))
}

thread_local! {
    /// Of the thread's next `hipLaunchByPtr`.
    static CONFIGURED: Cell<Handle> = const { Cell::new(0) };
}

fn launch_on_several(list: In<OneOfSeveral>, count: i32) -> i32 {
    let list = list.list(usize::try_from(count).unwrap_or(0));
    let results = list.map(|list| {
        let one =
            |one: &OneOfSeveral| launch(one.function, one.parameters, one.stream, Null::Legacy);
        list.iter()
            .map(one)
            .find(|&result| result != 0)
            .unwrap_or(0)
    });
    results.unwrap_or(INVALID_VALUE.0)
}

/// What programs call before `main`.
pub(super) fn registration() -> [(&'static str, usize); 3] {
    [
        (
            "__hipRegisterFatBinary",
            __hipRegisterFatBinary as *const () as usize,
        ),
        (
            "__hipRegisterFunction",
            __hipRegisterFunction as *const () as usize,
        ),
        (
            "__hipUnregisterFatBinary",
            __hipUnregisterFatBinary as *const () as usize,
        ),
    ]
}

/// `hipLaunchConfig_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    dimensions: [u32; 6],
    shared: usize,
    stream: Handle,
    attributes: usize,
    attribute_count: u32,
}

// SAFETY: integers.
unsafe impl crate::cuda::abi::Plain for LaunchConfig {}

const _: () = {
    assert!(size_of::<LaunchConfig>() == 56);
    assert!(std::mem::offset_of!(LaunchConfig, stream) == 32);
};

/// `hipLaunchParams`, of a launch on several devices.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct OneOfSeveral {
    function: usize,
    dimensions: [u32; 6],
    parameters: Parameters,
    shared: usize,
    stream: Handle,
}

// SAFETY: integers, and a pointer behind a type of `abi`.
unsafe impl crate::cuda::abi::Plain for OneOfSeveral {}

const _: () = assert!(size_of::<OneOfSeveral>() == 56);

/// `hipFunctionLaunchParams`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FunctionOfSeveral {
    function: Handle,
    dimensions: [u32; 6],
    shared: u32,
    stream: Handle,
    parameters: Parameters,
}

// SAFETY: integers, and a pointer behind a type of `abi`.
unsafe impl crate::cuda::abi::Plain for FunctionOfSeveral {}

const _: () = assert!(size_of::<FunctionOfSeveral>() == 56);

api! {
    fn hipModuleLoadData(module: Out<Handle>, image: In<u8>) { cuModuleLoadData(module, image) }
    fn hipModuleUnload(module: Handle) { cuModuleUnload(module) }
    fn hipModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        cuModuleGetFunction(function, module, name)
    }
    fn hipModuleLoad(module: Out<Handle>, path: Text) {
        match path.read() {
            Ok(_) => code(Driver::get().load_any_module(module)),
            Err(error) => error.0,
        }
    }
    fn hipModuleLoadDataEx(
        module: Out<Handle>, image: In<u8>, _count: u32, _options: usize, _values: usize,
    ) {
        cuModuleLoadData(module, image)
    }
    fn hipLaunchKernelExC(config: In<LaunchConfig>, host: usize, parameters: Parameters) {
        match config.get() {
            Ok(config) => launch(host, parameters, config.stream, Null::Legacy),
            Err(error) => error.0,
        }
    }
    fn hipDrvLaunchKernelEx(
        config: In<crate::cuda::abi::LaunchConfig>, function: Handle, parameters: Parameters,
        extra: Extra,
    ) {
        cuLaunchKernelEx(config, function, parameters, extra)
    }
    fn hipConfigureCall(_grid: Dim3, _block: Dim3, _shared: usize, stream: Handle) {
        CONFIGURED.set(stream);
        0
    }
    // Of kernels without parameters alone.
    fn hipLaunchByPtr(host: usize) {
        launch(host, Parameters::NONE, CONFIGURED.get(), Null::Legacy)
    }
    fn hipModuleLoadFatBinary(module: Out<Handle>, image: In<u8>) {
        cuModuleLoadFatBinary(module, image)
    }
    fn hipModuleLaunchCooperativeKernelMultiDevice(
        list: In<FunctionOfSeveral>, count: i32, _flags: u32,
    ) {
        launch_functions(list, count)
    }
    fn hipLaunchCooperativeKernelMultiDevice(list: In<OneOfSeveral>, count: i32, _flags: u32) {
        launch_on_several(list, count)
    }
    fn hipExtLaunchMultiKernelMultiDevice(list: In<OneOfSeveral>, count: i32, _flags: u32) {
        launch_on_several(list, count)
    }
    fn hipExtLaunchKernel(
        host: usize, _grid: Dim3, _block: Dim3, parameters: Parameters, _shared: usize,
        stream: Handle, _start: Handle, _stop: Handle, _flags: i32,
    ) {
        launch(host, parameters, stream, Null::Legacy)
    }
    fn hipModuleLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: u32, stream: Handle, parameters: Parameters, extra: Extra,
    ) {
        cuLaunchKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream,
            parameters, extra,
        )
    }
    fn hipModuleLaunchCooperativeKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: u32, stream: Handle, parameters: Parameters,
    ) {
        cuLaunchCooperativeKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream,
            parameters,
        )
    }
    fn hipExtModuleLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, _shared: usize, stream: Handle, parameters: Parameters, extra: Extra,
        _start: Handle, _stop: Handle, _flags: u32,
    ) {
        cuLaunchKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, 0, stream, parameters,
            extra,
        )
    }
    // The same in C++, and its older name.
    fn _Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: usize, stream: Handle, parameters: Parameters, extra: Extra,
        start: Handle, stop: Handle, flags: u32,
    ) {
        hipExtModuleLaunchKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters,
            extra, start, stop, flags,
        )
    }
    fn _Z24hipHccModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared: usize, stream: Handle, parameters: Parameters, extra: Extra,
        start: Handle, stop: Handle,
    ) {
        hipExtModuleLaunchKernel(
            function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, parameters,
            extra, start, stop, 0,
        )
    }
    // The compiler: of any source it makes an image, which loads as any does.
    fn hiprtcCreateProgram(
        program: Out<Handle>, source: Text, _name: Text, _count: i32, _headers: usize, _names: usize,
    ) {
        code(source.read().and_then(|_| program.set(PROGRAM)))
    }
    fn hiprtcCompileProgram(program: Handle, _count: i32, _options: usize) { known(program) }
    fn hiprtcGetCodeSize(program: Handle, bytes: Out<usize>) {
        match known(program) {
            0 => code(bytes.set(IMAGE.len())),
            error => error,
        }
    }
    fn hiprtcGetCode(program: Handle, image: Out<u8>) {
        match known(program) {
            0 => code(image.set_all(IMAGE, IMAGE.len())),
            error => error,
        }
    }
    ;
    fn hipLaunchKernel / hipLaunchKernel_spt(
        host: usize, _grid: Dim3, _block: Dim3, parameters: Parameters, _shared: usize,
        stream: Handle,
    ) |null| {
        launch(host, parameters, stream, null)
    }
    fn hipLaunchCooperativeKernel / hipLaunchCooperativeKernel_spt(
        host: usize, _grid: Dim3, _block: Dim3, parameters: Parameters, _shared: u32,
        stream: Handle,
    ) |null| {
        launch(host, parameters, stream, null)
    }
}
