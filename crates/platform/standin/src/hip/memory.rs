//! Memory, and which of it a stream can wait on.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::api;
use crate::{
    core::memory::Address,
    cuda::{
        abi::{ArrayShape, Handle, In, Out},
        config::Waits,
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
    fn hipMallocFromPoolAsync(place: Out<Address>, length: usize, pool: Handle, stream: Handle) {
        cuMemAllocFromPoolAsync(place, length, pool, stream)
    }
    fn hipMemPrefetchAsync(address: Address, length: usize, device: i32, stream: Handle) {
        cuMemPrefetchAsync(address, length, device, stream)
    }
    // hipMemLocation, 8 bytes, comes in a register.
    fn hipMemPrefetchAsync_v2(
        address: Address, length: usize, location: u64, flags: u32, stream: Handle,
    ) {
        cuMemPrefetchAsync_v2(address, length, location, flags, stream)
    }
    fn hipHostAlloc(place: Out<Address>, length: usize, flags: u32) {
        cuMemHostAlloc(place, length, flags)
    }
    fn hipMallocHost(place: Out<Address>, length: usize) { cuMemHostAlloc(place, length, 0) }
    fn hipMemAllocHost(place: Out<Address>, length: usize) { cuMemHostAlloc(place, length, 0) }
    fn hipFreeHost(address: Address) { cuMemFreeHost(address) }
    fn hipMallocManaged(place: Out<Address>, length: usize, flags: u32) {
        cuMemAllocManaged(place, length, flags)
    }
    fn hipFreeArray(array: Handle) { cuArrayDestroy(array) }
    fn hipArrayCreate(array: Out<Handle>, shape: In<ArrayShape>) {
        cuArrayCreate_v2(array, shape)
    }
    fn hipArrayDestroy(array: Handle) { cuArrayDestroy(array) }
}
