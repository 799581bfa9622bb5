//! Memory: allocation, registration of host memory, what is known about an address.

use std::sync::Arc;

use super::{
    abi::{ArrayShape, Handle, In, Out},
    api,
    driver::{Driver, Tables},
    graph::NodeKind,
    result::{
        ALREADY_REGISTERED, INVALID_HANDLE, INVALID_VALUE, NOT_REGISTERED, OUT_OF_MEMORY, Result,
    },
};
use crate::core::{
    memory::{Address, Block},
    work::{Wait, Work},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    /// Host memory that the driver allocated.
    Pinned,
    /// Host memory of the client's that was registered.
    Registered,
}

/// Memory that the driver knows.
pub(crate) struct Range {
    start: Address,
    length: usize,
    kind: Kind,
    pub(crate) context: Handle,
    device: usize,
    /// Seen by all contexts, not only by its own.
    portable: bool,
    block: Option<Arc<Block>>,
}

/// `CU_MEMHOSTREGISTER_PORTABLE`.
const PORTABLE: u32 = 1;

/// An array: rows of elements.
pub(crate) struct Array {
    block: Arc<Block>,
    /// Bytes of a row.
    pub(crate) pitch: usize,
    pub(crate) height: usize,
}

impl Array {
    pub(crate) fn start(&self) -> Address {
        self.block.start()
    }

    pub(crate) fn length(&self) -> usize {
        self.pitch * self.height
    }

    fn holds(&self, address: Address) -> bool {
        let start = self.start().value();
        (start..start + self.length()).contains(&address.value())
    }
}

impl Tables {
    /// The range that holds all of `length` bytes at `address`.
    fn range(&self, address: Address, length: usize) -> Option<&Range> {
        let (&start, range) = self.memory.range(..=address.value()).next_back()?;
        let end = address.value().checked_add(length)?;
        (end <= start + range.length).then_some(range)
    }

    /// Refuses addresses that the device could not reach.
    pub(crate) fn check_known(&self, address: Address, length: usize) -> Result<()> {
        self.range(address, length).map(drop).ok_or(INVALID_VALUE)
    }

    /// Refuses words of a command that the context does not see: another's registered memory.
    pub(crate) fn check_seen(&self, work: &[Work], context: Handle) -> Result<()> {
        for work in work {
            let (Work::Write(word) | Work::Wait(Wait { word, .. })) = work else {
                continue;
            };
            let range = self.range(word.address, word.bytes());
            let seen = |range: &&Range| range.portable || range.context == context;
            range.filter(seen).ok_or(INVALID_VALUE)?;
        }
        Ok(())
    }

    /// What is known about memory; nothing = pageable host memory, which the device cannot reach.
    pub(crate) fn kind(&self, address: Address, length: usize) -> Option<Kind> {
        let known = self.range(address, length).map(|range| range.kind);
        let in_array = || self.arrays.values().any(|array| array.holds(address));
        known.or_else(|| in_array().then_some(Kind::Device))
    }

    /// Drops what is known about the range that begins at `start`.
    pub(crate) fn forget(&mut self, start: usize) -> Option<Range> {
        let range = self.memory.remove(&start)?;
        if range.kind == Kind::Device {
            self.used[range.device] -= range.length;
        }
        Some(range)
    }
}

impl Driver {
    fn allocate(&self, length: usize, kind: Kind) -> Result<Address> {
        let context = self.current()?;
        let mut tables = self.tables();
        let device = tables.context(context)?.device;
        if length == 0 {
            return Err(INVALID_VALUE);
        }
        if kind == Kind::Device && length > self.config.memory - tables.used[device] {
            return Err(OUT_OF_MEMORY);
        }
        let block = Arc::new(Block::new(length).ok_or(OUT_OF_MEMORY)?);
        let start = block.start();
        if kind == Kind::Device {
            tables.used[device] += length;
        }
        let range = Range {
            start,
            length,
            kind,
            context,
            device,
            portable: true,
            block: Some(block),
        };
        tables.memory.insert(start.value(), range);
        Ok(start)
    }

    /// Frees what was allocated as `kind`, when all of its context's work is done.
    fn free(&self, address: Address, kind: Kind) -> Result<()> {
        self.check_capture()?;
        if address.is_null() {
            return Ok(());
        }
        self.wait_for_owner(address, kind, INVALID_VALUE)?;
        self.tables().forget(address.value());
        Ok(())
    }

    fn wait_for_owner(
        &self,
        address: Address,
        kind: Kind,
        otherwise: super::result::Error,
    ) -> Result<()> {
        let context = {
            let tables = self.tables();
            let range = tables.memory.get(&address.value());
            range
                .filter(|range| range.kind == kind)
                .ok_or(otherwise)?
                .context
        };
        self.wait_for_context(context)
    }

    fn allocate_host(&self, address: Out<Address>, length: usize) -> Result<()> {
        self.check_capture()?;
        address.set(self.allocate(length, Kind::Pinned)?)
    }

    fn register(&self, address: Address, length: usize, flags: u32) -> Result<()> {
        self.check_capture()?;
        let context = self.current()?;
        if address.is_null() || length == 0 {
            return Err(INVALID_VALUE);
        }
        let mut tables = self.tables();
        let device = tables.context(context)?.device;
        let end = address.value().checked_add(length).ok_or(INVALID_VALUE)?;
        let before = tables.memory.range(..end).next_back();
        if before.is_some_and(|(&start, range)| start + range.length > address.value()) {
            return Err(ALREADY_REGISTERED);
        }
        let range = Range {
            start: address,
            length,
            kind: Kind::Registered,
            context,
            device,
            portable: flags & PORTABLE != 0,
            block: None,
        };
        tables.memory.insert(address.value(), range);
        Ok(())
    }

    fn allocate_async(&self, address: Out<Address>, length: usize, stream: Handle) -> Result<()> {
        if address.is_null() {
            return Err(INVALID_VALUE);
        }
        let start = self.allocate(length, Kind::Device)?;
        self.submit(stream, NodeKind::MemoryAllocation, Vec::new())?;
        address.set(start)
    }

    /// The memory itself goes when the stream gets there. A graph's goes never: it may be replayed.
    fn free_async(&self, address: Address, stream: Handle) -> Result<()> {
        if address.is_null() {
            return Ok(());
        }
        let capturing = self.tables().capturing(stream)?.is_some();
        let block = {
            let mut tables = self.tables();
            let range = tables.memory.get(&address.value());
            if range.is_none_or(|range| range.kind != Kind::Device) {
                return Err(INVALID_VALUE);
            }
            if capturing {
                None
            } else {
                tables.forget(address.value()).and_then(|range| range.block)
            }
        };
        let work = block.into_iter().map(Work::Release).collect();
        self.submit(stream, NodeKind::MemoryFree, work).map(drop)
    }

    fn create_array(&self, array: Out<Handle>, shape: In<ArrayShape>) -> Result<()> {
        let shape = shape.get()?;
        // CUarray_format: 8, 16 and 32 bits, and half precision.
        let element = match shape.format {
            0x01 | 0x08 => 1,
            0x02 | 0x09 | 0x10 => 2,
            0x03 | 0x0a | 0x20 => 4,
            _ => return Err(INVALID_VALUE),
        };
        let pitch = shape.width * element * shape.channels as usize;
        let height = shape.height.max(1);
        let block = Arc::new(Block::new(pitch * height).ok_or(INVALID_VALUE)?);
        let mut tables = self.tables();
        let handle = tables.handle();
        tables.arrays.insert(
            handle,
            Array {
                block,
                pitch,
                height,
            },
        );
        array.set(handle)
    }
}

api! {
    fn cuMemAlloc_v2(address: Out<Address>, length: usize) |driver| {
        driver.check_capture()?;
        if address.is_null() {
            return Err(INVALID_VALUE);
        }
        address.set(driver.allocate(length, Kind::Device)?)
    }
    fn cuMemAllocPitch_v2(
        address: Out<Address>, pitch: Out<usize>, width: usize, height: usize, _element: u32,
    ) |driver| {
        driver.check_capture()?;
        let row = width.next_multiple_of(512);
        address.set(driver.allocate(row * height, Kind::Device)?)?;
        pitch.set(row)
    }
    fn cuMemAllocManaged(address: Out<Address>, length: usize, _flags: u32) |driver| {
        driver.check_capture()?;
        address.set(driver.allocate(length, Kind::Device)?)
    }
    fn cuMemFree_v2(address: Address) |driver| {
        driver.free(address, Kind::Device)
    }
    fn cuMemAllocHost_v2(address: Out<Address>, length: usize) |driver| {
        driver.allocate_host(address, length)
    }
    fn cuMemHostAlloc(address: Out<Address>, length: usize, _flags: u32) |driver| {
        driver.allocate_host(address, length)
    }
    fn cuMemFreeHost(address: Address) |driver| {
        driver.free(address, Kind::Pinned)
    }
    fn cuMemHostRegister_v2(address: Address, length: usize, flags: u32) |driver| {
        driver.register(address, length, flags)
    }
    fn cuMemHostUnregister(address: Address) |driver| {
        driver.check_capture()?;
        driver.wait_for_owner(address, Kind::Registered, NOT_REGISTERED)?;
        driver.tables().forget(address.value());
        Ok(())
    }
    fn cuMemHostGetDevicePointer_v2(device: Out<Address>, host: Address, flags: u32) |driver| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let context = driver.current()?;
        let tables = driver.tables();
        let range = tables.range(host, 1).filter(|range| {
            range.kind != Kind::Device && (range.portable || range.context == context)
        });
        range.ok_or(INVALID_VALUE)?;
        device.set(host)
    }
    fn cuMemHostGetFlags(flags: Out<u32>, host: Address) |driver| {
        driver.tables().check_known(host, 1)?;
        flags.set(0)
    }
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |driver| {
        let device = driver.current_device()?;
        free.set(driver.config.memory - driver.tables().used[device])?;
        total.set(driver.config.memory)
    }
    fn cuMemGetAddressRange_v2(
        start: Out<Address>, length: Out<usize>, address: Address,
    ) |driver| {
        let tables = driver.tables();
        let range = tables.range(address, 1).ok_or(INVALID_VALUE)?;
        start.set_if_wanted(range.start);
        length.set_if_wanted(range.length);
        Ok(())
    }
    fn cuArrayCreate_v2(array: Out<Handle>, shape: In<ArrayShape>) |driver| {
        driver.check_capture()?;
        driver.create_array(array, shape)
    }
    fn cuArrayDestroy(array: Handle) |driver| {
        driver.check_capture()?;
        driver.wait_for_context(driver.current()?)?;
        driver.tables().arrays.remove(&array).map(drop).ok_or(INVALID_HANDLE)
    }
    ;
    fn cuMemAllocAsync / cuMemAllocAsync_ptsz(
        address: Out<Address>, length: usize, stream: Handle,
    ) |driver, null| {
        driver.allocate_async(address, length, driver.stream(stream, null)?)
    }
    fn cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz(
        address: Out<Address>, length: usize, _pool: Handle, stream: Handle,
    ) |driver, null| {
        driver.allocate_async(address, length, driver.stream(stream, null)?)
    }
    fn cuMemFreeAsync / cuMemFreeAsync_ptsz(address: Address, stream: Handle) |driver, null| {
        driver.free_async(address, driver.stream(stream, null)?)
    }
    fn cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz(
        address: Address, length: usize, _device: i32, stream: Handle,
    ) |driver, null| {
        driver.tables().check_known(address, length)?;
        driver.submit(driver.stream(stream, null)?, NodeKind::Empty, Vec::new()).map(drop)
    }
    // CUmemLocation, 8 bytes, comes in a register.
    fn cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz(
        address: Address, length: usize, _location: u64, _flags: u32, stream: Handle,
    ) |driver, null| {
        driver.tables().check_known(address, length)?;
        driver.submit(driver.stream(stream, null)?, NodeKind::Empty, Vec::new()).map(drop)
    }
}
