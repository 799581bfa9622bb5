//! Memory, and which of it a stream can wait on.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::api;
use crate::{
    core::memory::Address,
    cuda::{
        abi::{Handle, Out},
        config::Waits,
        copy::*,
        driver::Driver,
        memory::*,
        result::INVALID_VALUE,
    },
};

/// `hipMallocSignalMemory`, and how long such memory is.
const SIGNAL: u32 = 2;
const SIGNAL_BYTES: usize = 8;

fn signals() -> MutexGuard<'static, Option<HashSet<Address>>> {
    static SIGNALS: Mutex<Option<HashSet<Address>>> = Mutex::new(None);
    SIGNALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the device can wait on a word.
pub(super) fn can_wait_on(word: Address) -> bool {
    match Driver::get().config.waits {
        None => false,
        Some(Waits::Anywhere) => true,
        Some(Waits::Signals) => signals()
            .as_ref()
            .is_some_and(|known| known.contains(&word)),
    }
}

api! {
    fn hipMalloc(place: Out<Address>, length: usize) { cuMemAlloc_v2(place, length) }
    fn hipFree(address: Address) {
        // Signal memory is the host's.
        let signal = signals().as_mut().is_some_and(|known| known.remove(&address));
        if signal { cuMemFreeHost(address) } else { cuMemFree_v2(address) }
    }
    fn hipExtMallocWithFlags(place: Out<Address>, length: usize, flags: u32) {
        if flags != SIGNAL {
            return cuMemAlloc_v2(place, length);
        }
        if length != SIGNAL_BYTES {
            return INVALID_VALUE.0;
        }
        let result = cuMemHostAlloc(place, length, 0);
        if let (0, Ok(address)) = (result, place.get()) {
            signals().get_or_insert_default().insert(address);
        }
        result
    }
    fn hipHostMalloc(place: Out<Address>, length: usize, flags: u32) {
        cuMemHostAlloc(place, length, flags)
    }
    fn hipHostFree(address: Address) { cuMemFreeHost(address) }
    fn hipHostRegister(address: Address, length: usize, flags: u32) {
        cuMemHostRegister_v2(address, length, flags)
    }
    fn hipHostUnregister(address: Address) { cuMemHostUnregister(address) }
    fn hipHostGetDevicePointer(device: Out<Address>, host: Address, flags: u32) {
        cuMemHostGetDevicePointer_v2(device, host, flags)
    }
    fn hipMallocAsync(place: Out<Address>, length: usize, stream: Handle) {
        cuMemAllocAsync(place, length, stream)
    }
    fn hipFreeAsync(address: Address, stream: Handle) { cuMemFreeAsync(address, stream) }
    fn hipMemcpy(to: Address, from: Address, length: usize, _kind: i32) {
        cuMemcpy(to, from, length)
    }
    fn hipMemcpyAsync(to: Address, from: Address, length: usize, _kind: i32, stream: Handle) {
        cuMemcpyAsync(to, from, length, stream)
    }
    fn hipMemcpyAsync_spt(to: Address, from: Address, length: usize, _kind: i32, stream: Handle) {
        cuMemcpyAsync_ptsz(to, from, length, stream)
    }
    fn hipMemcpyHtoDAsync(to: Address, from: Address, length: usize, stream: Handle) {
        cuMemcpyHtoDAsync_v2(to, from, length, stream)
    }
    fn hipMemcpyDtoHAsync(to: Address, from: Address, length: usize, stream: Handle) {
        cuMemcpyDtoHAsync_v2(to, from, length, stream)
    }
    fn hipMemcpyDtoDAsync(to: Address, from: Address, length: usize, stream: Handle) {
        cuMemcpyDtoDAsync_v2(to, from, length, stream)
    }
    fn hipMemcpyHtoD(to: Address, from: Address, length: usize) {
        cuMemcpyHtoD_v2(to, from, length)
    }
    fn hipMemcpyDtoH(to: Address, from: Address, length: usize) {
        cuMemcpyDtoH_v2(to, from, length)
    }
    fn hipMemset(to: Address, value: i32, length: usize) {
        cuMemsetD8_v2(to, value.to_le_bytes()[0], length)
    }
    fn hipMemsetAsync(to: Address, value: i32, length: usize, stream: Handle) {
        cuMemsetD8Async(to, value.to_le_bytes()[0], length, stream)
    }
    fn hipMemsetD8Async(to: Address, value: u8, count: usize, stream: Handle) {
        cuMemsetD8Async(to, value, count, stream)
    }
    fn hipMemsetD16Async(to: Address, value: u16, count: usize, stream: Handle) {
        cuMemsetD16Async(to, value, count, stream)
    }
    fn hipMemsetD32Async(to: Address, value: u32, count: usize, stream: Handle) {
        cuMemsetD32Async(to, value, count, stream)
    }
}
