//! Copies and fills, blocking and not, of lines, rows and layers.
//!
//! A copy from pageable host memory takes the bytes at the call; one to pageable host memory
//! returns when they are there. Blocking copies within the device and blocking fills return at once.

use std::sync::Arc;

use super::{
    abi::{Copy2d, Copy3d, Handle, In, Side2d, Side3d},
    api,
    driver::Driver,
    graph::NodeKind,
    memory::Kind,
    result::{INVALID_HANDLE, INVALID_VALUE, Result},
};
use crate::core::{
    memory::Address,
    work::{Copy, Fill, Place, Start, Work},
};

/// `CUmemorytype`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// Whether the caller waits, where the kinds of memory leave a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Blocking,
    Async,
}

/// A side of a copy in rows and layers.
struct Side {
    start: Address,
    pitch: usize,
    layer: usize,
    must_be_known: bool,
}

impl Driver {
    fn transfer(&self, stream: Handle, mut copy: Copy, mode: Mode) -> Result<()> {
        if mode == Mode::Blocking {
            self.check_capture()?;
        }
        let (rows, layers) = (copy.height, copy.depth);
        if copy.width == 0 || rows == 0 || layers == 0 {
            return Ok(());
        }
        let extent =
            |pitch: usize, layer: usize| (layers - 1) * layer + (rows - 1) * pitch + copy.width;
        let (from_length, to_length) = (
            extent(copy.from.pitch, copy.from.layer),
            extent(copy.to_pitch, copy.to_layer),
        );
        let Start::Memory(source) = copy.from.start else {
            return Err(INVALID_VALUE);
        };
        let (from, to, capturing) = {
            let mut tables = self.tables();
            (
                tables.kind(source, from_length),
                tables.kind(copy.to, to_length),
                tables.capturing(stream)?.is_some(),
            )
        };
        if mode == Mode::Async && from.is_none() && !capturing {
            copy.from.start = Start::Staged(Arc::new(source.read(from_length)));
        }
        let inside = (from, to) == (Some(Kind::Device), Some(Kind::Device));
        let wait = to.is_none() || (mode == Mode::Blocking && !inside);
        let submitted = self.submit(stream, NodeKind::Memcpy, vec![Work::Copy(Box::new(copy))])?;
        if wait {
            self.finish(submitted);
        }
        Ok(())
    }

    /// A copy of `length` bytes, with the sides that have to be known to the driver checked.
    pub(crate) fn line(
        &self,
        stream: Handle,
        (to, to_known): (Address, bool),
        (from, from_known): (Address, bool),
        length: usize,
        mode: Mode,
    ) -> Result<()> {
        for (address, known) in [(to, to_known), (from, from_known)] {
            if known {
                self.tables().check_known(address, length)?;
            } else if address.is_null() && length > 0 {
                return Err(INVALID_VALUE);
            }
        }
        self.transfer(stream, Copy::line(to, Start::Memory(from), length), mode)
    }

    /// Start of a line in an array.
    fn array(&self, array: Handle, offset: usize, length: usize) -> Result<Address> {
        let tables = self.tables();
        let array = tables.arrays.get(&array).ok_or(INVALID_HANDLE)?;
        let end = offset.checked_add(length).ok_or(INVALID_VALUE)?;
        if end > array.length() {
            return Err(INVALID_VALUE);
        }
        Ok(array.start().offset(offset))
    }

    fn side(&self, side: &Side3d, width: usize) -> Result<Side> {
        let (start, pitch, height, must_be_known) = match side.kind {
            HOST => (side.host, side.pitch, side.height, false),
            DEVICE => (side.device, side.pitch, side.height, true),
            UNIFIED => (side.device, side.pitch, side.height, false),
            ARRAY => {
                let tables = self.tables();
                let array = tables.arrays.get(&side.array).ok_or(INVALID_HANDLE)?;
                (array.start(), array.pitch, array.height, false)
            }
            _ => return Err(INVALID_VALUE),
        };
        let pitch = if pitch == 0 { width } else { pitch };
        let layer = pitch * height;
        if start.is_null() || pitch < width {
            return Err(INVALID_VALUE);
        }
        Ok(Side {
            start: start.offset(side.z * layer + side.y * pitch + side.x),
            pitch,
            layer,
            must_be_known,
        })
    }

    pub(crate) fn copy_3d(&self, stream: Handle, copy: &Copy3d, mode: Mode) -> Result<()> {
        let (from, to) = (
            self.side(&copy.from, copy.width)?,
            self.side(&copy.to, copy.width)?,
        );
        if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
            return Ok(());
        }
        for side in [&from, &to] {
            let extent =
                (copy.depth - 1) * side.layer + (copy.height - 1) * side.pitch + copy.width;
            if side.must_be_known {
                self.tables().check_known(side.start, extent)?;
            }
        }
        let plan = Copy {
            to: to.start,
            to_pitch: to.pitch,
            to_layer: to.layer,
            from: Place {
                start: Start::Memory(from.start),
                pitch: from.pitch,
                layer: from.layer,
            },
            width: copy.width,
            height: copy.height,
            depth: copy.depth,
        };
        self.transfer(stream, plan, mode)
    }

    fn copy_2d(&self, stream: Handle, copy: In<Copy2d>, mode: Mode) -> Result<()> {
        let copy = copy.get()?;
        let side = |side: &Side2d| Side3d {
            x: side.x,
            y: side.y,
            z: 0,
            level: 0,
            kind: side.kind,
            host: side.host,
            device: side.device,
            array: side.array,
            context: 0,
            pitch: side.pitch,
            height: copy.height,
        };
        let copy = Copy3d {
            from: side(&copy.from),
            to: side(&copy.to),
            width: copy.width,
            height: copy.height,
            depth: 1,
        };
        self.copy_3d(stream, &copy, mode)
    }

    /// Sets `height` rows of `width` elements, `pitch` bytes apart, to a pattern.
    pub(crate) fn fill(
        &self,
        stream: Handle,
        (to, pitch): (Address, usize),
        (pattern, element): (u32, usize),
        (width, height): (usize, usize),
        mode: Mode,
    ) -> Result<()> {
        if mode == Mode::Blocking {
            self.check_capture()?;
        }
        if width == 0 || height == 0 {
            return Ok(());
        }
        let row = width.checked_mul(element).ok_or(INVALID_VALUE)?;
        let pitch = if height == 1 { row } else { pitch };
        if pitch < row || !to.is_aligned(element) {
            return Err(INVALID_VALUE);
        }
        self.tables().check_known(to, (height - 1) * pitch + row)?;
        let fill = Fill {
            to,
            pitch,
            pattern,
            element,
            width,
            height,
        };
        self.submit(stream, NodeKind::Memset, vec![Work::Fill(fill)])
            .map(drop)
    }
}

api! {
    ;
    fn cuMemcpy / cuMemcpy_ptds(
        to: Address, from: Address, length: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpyAsync / cuMemcpyAsync_ptsz(
        to: Address, from: Address, length: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Async)
    }
    fn cuMemcpyPeer / cuMemcpyPeer_ptds(
        to: Address, _to_context: Handle, from: Address, _from_context: Handle, length: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, true), (from, true), length, Mode::Blocking)
    }
    fn cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz(
        to: Address, _to_context: Handle, from: Address, _from_context: Handle, length: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, true), (from, true), length, Mode::Async)
    }
    fn cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds(
        to: Address, from: Address, length: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, true), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz(
        to: Address, from: Address, length: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, true), (from, false), length, Mode::Async)
    }
    fn cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds(
        to: Address, from: Address, length: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, true), length, Mode::Blocking)
    }
    fn cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz(
        to: Address, from: Address, length: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, false), (from, true), length, Mode::Async)
    }
    fn cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds(
        to: Address, from: Address, length: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, true), (from, true), length, Mode::Blocking)
    }
    fn cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz(
        to: Address, from: Address, length: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, true), (from, true), length, Mode::Async)
    }
    fn cuMemcpyHtoA_v2 / cuMemcpyHtoA_v2_ptds(
        to: Handle, offset: usize, from: Address, length: usize,
    ) |driver, null| {
        let to = driver.array(to, offset, length)?;
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpyHtoAAsync_v2 / cuMemcpyHtoAAsync_v2_ptsz(
        to: Handle, offset: usize, from: Address, length: usize, stream: Handle,
    ) |driver, null| {
        let to = driver.array(to, offset, length)?;
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Async)
    }
    fn cuMemcpyAtoH_v2 / cuMemcpyAtoH_v2_ptds(
        to: Address, from: Handle, offset: usize, length: usize,
    ) |driver, null| {
        let from = driver.array(from, offset, length)?;
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpyAtoHAsync_v2 / cuMemcpyAtoHAsync_v2_ptsz(
        to: Address, from: Handle, offset: usize, length: usize, stream: Handle,
    ) |driver, null| {
        let from = driver.array(from, offset, length)?;
        let stream = driver.stream(stream, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Async)
    }
    fn cuMemcpyDtoA_v2 / cuMemcpyDtoA_v2_ptds(
        to: Handle, offset: usize, from: Address, length: usize,
    ) |driver, null| {
        let to = driver.array(to, offset, length)?;
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, true), length, Mode::Blocking)
    }
    fn cuMemcpyAtoD_v2 / cuMemcpyAtoD_v2_ptds(
        to: Address, from: Handle, offset: usize, length: usize,
    ) |driver, null| {
        let from = driver.array(from, offset, length)?;
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, true), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpyAtoA_v2 / cuMemcpyAtoA_v2_ptds(
        to: Handle, to_offset: usize, from: Handle, offset: usize, length: usize,
    ) |driver, null| {
        let to = driver.array(to, to_offset, length)?;
        let from = driver.array(from, offset, length)?;
        let stream = driver.stream(0, null)?;
        driver.line(stream, (to, false), (from, false), length, Mode::Blocking)
    }
    fn cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds(
        copy: In<Copy2d>,
    ) |driver, null| {
        driver.copy_2d(driver.stream(0, null)?, copy, Mode::Blocking)
    }
    fn cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds(
        copy: In<Copy2d>,
    ) |driver, null| {
        driver.copy_2d(driver.stream(0, null)?, copy, Mode::Blocking)
    }
    fn cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz(
        copy: In<Copy2d>, stream: Handle,
    ) |driver, null| {
        driver.copy_2d(driver.stream(stream, null)?, copy, Mode::Async)
    }
    fn cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds(
        copy: In<Copy3d>,
    ) |driver, null| {
        driver.copy_3d(driver.stream(0, null)?, &copy.get()?, Mode::Blocking)
    }
    fn cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz(
        copy: In<Copy3d>, stream: Handle,
    ) |driver, null| {
        driver.copy_3d(driver.stream(stream, null)?, &copy.get()?, Mode::Async)
    }
    fn cuMemcpy3DPeer / cuMemcpy3DPeer_ptds(
        copy: In<Copy3d>,
    ) |driver, null| {
        driver.copy_3d(driver.stream(0, null)?, &copy.get()?, Mode::Blocking)
    }
    fn cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz(
        copy: In<Copy3d>, stream: Handle,
    ) |driver, null| {
        driver.copy_3d(driver.stream(stream, null)?, &copy.get()?, Mode::Async)
    }
    fn cuMemsetD8_v2 / cuMemsetD8_v2_ptds(
        to: Address, value: u8, count: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, 0), (u32::from(value), 1), (count, 1), Mode::Blocking)
    }
    fn cuMemsetD8Async / cuMemsetD8Async_ptsz(
        to: Address, value: u8, count: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, 0), (u32::from(value), 1), (count, 1), Mode::Async)
    }
    fn cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds(
        to: Address, pitch: usize, value: u8, width: usize, height: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, pitch), (u32::from(value), 1), (width, height), Mode::Blocking)
    }
    fn cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz(
        to: Address, pitch: usize, value: u8, width: usize, height: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, pitch), (u32::from(value), 1), (width, height), Mode::Async)
    }
    fn cuMemsetD16_v2 / cuMemsetD16_v2_ptds(
        to: Address, value: u16, count: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, 0), (u32::from(value), 2), (count, 1), Mode::Blocking)
    }
    fn cuMemsetD16Async / cuMemsetD16Async_ptsz(
        to: Address, value: u16, count: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, 0), (u32::from(value), 2), (count, 1), Mode::Async)
    }
    fn cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds(
        to: Address, pitch: usize, value: u16, width: usize, height: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, pitch), (u32::from(value), 2), (width, height), Mode::Blocking)
    }
    fn cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz(
        to: Address, pitch: usize, value: u16, width: usize, height: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, pitch), (u32::from(value), 2), (width, height), Mode::Async)
    }
    fn cuMemsetD32_v2 / cuMemsetD32_v2_ptds(
        to: Address, value: u32, count: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, 0), (value, 4), (count, 1), Mode::Blocking)
    }
    fn cuMemsetD32Async / cuMemsetD32Async_ptsz(
        to: Address, value: u32, count: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, 0), (value, 4), (count, 1), Mode::Async)
    }
    fn cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds(
        to: Address, pitch: usize, value: u32, width: usize, height: usize,
    ) |driver, null| {
        let stream = driver.stream(0, null)?;
        driver.fill(stream, (to, pitch), (value, 4), (width, height), Mode::Blocking)
    }
    fn cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz(
        to: Address, pitch: usize, value: u32, width: usize, height: usize, stream: Handle,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.fill(stream, (to, pitch), (value, 4), (width, height), Mode::Async)
    }
}
