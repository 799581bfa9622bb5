//! Devices, errors, lookups.

use std::ffi::c_char;

use super::{DEVICE, LAST_ERROR, all_entries, api, kfd};
use crate::cuda::{
    abi::{Handle, Out, Text, code},
    context::cuCtxSynchronize,
    device::{
        cuDeviceGetAttribute, cuDeviceGetCount, cuDeviceGetName, cuDeviceGetPCIBusId,
        cuMemPoolTrimTo,
    },
    driver::Driver,
    result::{INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, NOT_FOUND},
};

/// `hipDeviceAttributeCanUseStreamWaitValue`.
const CAN_WAIT: i32 = 10_013;

fn find(name: Text, place: Out<usize>, status: Out<u32>) -> i32 {
    let find = || {
        let name = name.read()?;
        let found = all_entries().into_iter().find(|entry| entry.0 == name);
        status.set_if_wanted(u32::from(found.is_none()));
        place.set(found.ok_or(NOT_FOUND)?.1)
    };
    code(find())
}

api! {
    fn hipInit(flags: u32) {
        if flags == 0 { 0 } else { INVALID_VALUE.0 }
    }
    fn hipGetDeviceCount(count: Out<i32>) {
        if let Err(error) = Driver::get().initialise() {
            count.set_if_wanted(0);
            return error.0;
        }
        match Driver::get().config.devices.len() {
            0 => NO_DEVICE.0,
            _ => cuDeviceGetCount(count),
        }
    }
    fn hipGetDevice(device: Out<i32>) {
        code(device.set(i32::try_from(DEVICE.get()).unwrap_or(i32::MAX)))
    }
    fn hipSetDevice(device: i32) {
        match Driver::get().device(device) {
            Ok(index) => {
                DEVICE.set(index);
                0
            }
            Err(_) => INVALID_DEVICE.0,
        }
    }
    fn hipDeviceGetAttribute(value: Out<i32>, number: i32, device: i32) {
        if number == CAN_WAIT {
            let waits = Driver::get().config.waits.is_some();
            return code(Driver::get().device(device).and_then(|_| value.set(i32::from(waits))));
        }
        cuDeviceGetAttribute(value, number, device)
    }
    fn hipDeviceGetName(name: Out<u8>, room: i32, device: i32) {
        cuDeviceGetName(name, room, device)
    }
    fn hipDeviceGetPCIBusId(name: Out<u8>, room: i32, device: i32) {
        cuDeviceGetPCIBusId(name, room, device)
    }
    fn hipRuntimeGetVersion(version: Out<i32>) {
        code(version.set(60_443_482))
    }
    fn hipDeviceSynchronize() {
        cuCtxSynchronize()
    }
    fn hipCtxSynchronize() {
        cuCtxSynchronize()
    }
    fn hipMemPoolTrimTo(pool: Handle, keep: usize) {
        cuMemPoolTrimTo(pool, keep)
    }
    fn hipDeviceReset() {
        kfd::close(DEVICE.get());
        code(Driver::get().reset_primary(DEVICE.get()))
    }
    fn hipGetLastError() {
        LAST_ERROR.replace(0)
    }
    fn hipPeekAtLastError() {
        LAST_ERROR.get()
    }
    fn hipGetProcAddress(
        name: Text, place: Out<usize>, _version: i32, _flags: u64, status: Out<u32>,
    ) {
        find(name, place, status)
    }
    fn hipGetProcAddress_spt(
        name: Text, place: Out<usize>, _version: i32, _flags: u64, status: Out<u32>,
    ) {
        find(name, place, status)
    }
    fn hipGetDriverEntryPoint(name: Text, place: Out<usize>, _flags: u64, status: Out<u32>) {
        find(name, place, status)
    }
    fn hipGetDriverEntryPoint_spt(name: Text, place: Out<usize>, _flags: u64, status: Out<u32>) {
        find(name, place, status)
    }
}

/// What an error is called: text, no code.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "the API's own name")]
pub(super) extern "C" fn hipGetErrorName(error: i32) -> *const c_char {
    let name = match error {
        0 => c"hipSuccess",
        1 => c"hipErrorInvalidValue",
        2 => c"hipErrorOutOfMemory",
        98 => c"hipErrorInvalidDeviceFunction",
        100 => c"hipErrorNoDevice",
        101 => c"hipErrorInvalidDevice",
        719 => c"hipErrorLaunchFailure",
        _ => c"hipErrorUnknown",
    };
    name.as_ptr()
}
