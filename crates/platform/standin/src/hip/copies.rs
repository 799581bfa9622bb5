//! Copies and fills, blocking and not, of lines, rows and layers.
//!
//! A symbol of the program's is an address, and an array's elements are bytes.

use super::api;
use crate::{
    core::memory::Address,
    cuda::{
        abi::{Copy2d, Copy3d, Handle, In, Plain, Side3d, code},
        copy::{Mode::*, *},
        driver::Driver,
        result::Result,
        stream::Null,
    },
};

/// `CUmemorytype`, which HIP's is since ROCm 6.
const ANY: u32 = 4;
const ARRAY: u32 = 3;

/// `hipPitchedPtr`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pitched {
    address: Address,
    pitch: usize,
    width: usize,
    height: usize,
}

/// `hipExtent`, and `hipPos`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Extent([usize; 3]);

#[derive(Clone, Copy)]
#[repr(C)]
struct ParametersSide {
    array: Handle,
    at: Extent,
    memory: Pitched,
}

/// `hipMemcpy3DParms`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Parameters3d {
    from: ParametersSide,
    to: ParametersSide,
    extent: Extent,
    kind: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct PeerSide {
    side: ParametersSide,
    device: u64,
}

/// `hipMemcpy3DPeerParms`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Parameters3dPeer {
    from: PeerSide,
    to: PeerSide,
    extent: Extent,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct DriverSide {
    at: [u32; 4],
    kind: u32,
    host: Address,
    device: Address,
    array: Handle,
    pitch: u32,
    height: u32,
}

/// `HIP_MEMCPY3D` of ROCm 5 and 6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Driver3d {
    from: DriverSide,
    to: DriverSide,
    extent: [u32; 3],
}

// SAFETY: integers and addresses.
unsafe impl Plain for Parameters3d {}
// SAFETY: as above.
unsafe impl Plain for Parameters3dPeer {}
// SAFETY: as above.
unsafe impl Plain for Driver3d {}

const _: () = {
    assert!(size_of::<Pitched>() == 32);
    assert!(size_of::<Parameters3d>() == 160);
    assert!(size_of::<Driver3d>() == 128);
};

/// Bytes in rows that lie `pitch` apart, at a place of an array or of memory.
fn side(
    array: Handle,
    memory: Address,
    [x, y, z]: [usize; 3],
    pitch: usize,
    height: usize,
) -> Side3d {
    Side3d {
        x,
        y,
        z,
        level: 0,
        kind: if array == 0 { ANY } else { ARRAY },
        host: memory,
        device: memory,
        array,
        context: 0,
        pitch,
        height,
    }
}

fn copy(
    (stream, null): (Handle, Null),
    to: Side3d,
    from: Side3d,
    extent: [usize; 3],
    mode: Mode,
) -> i32 {
    let driver = Driver::get();
    let [width, height, depth] = extent;
    let copy = Copy3d {
        from,
        to,
        width,
        height,
        depth,
    };
    let stream = driver.stream(stream, null);
    code(stream.and_then(|stream| driver.copy_3d(stream, &copy, mode)))
}

/// Rows between two places in memory.
fn rows(
    place: (Handle, Null),
    (to, to_pitch): (Address, usize),
    (from, from_pitch): (Address, usize),
    (width, height): (usize, usize),
    mode: Mode,
) -> i32 {
    let to = side(0, to, [0; 3], to_pitch, height);
    let from = side(0, from, [0; 3], from_pitch, height);
    copy(place, to, from, [width, height, 1], mode)
}

/// Between devices, whose memory has addresses of its own.
fn layers_of_devices(place: (Handle, Null), parameters: In<Parameters3dPeer>, mode: Mode) -> i32 {
    let parameters = match parameters.get() {
        Ok(parameters) => parameters,
        Err(error) => return error.0,
    };
    let (to, from) = (parameters.to.side.place(), parameters.from.side.place());
    copy(place, to, from, parameters.extent.0, mode)
}

fn layers(place: (Handle, Null), parameters: In<Parameters3d>, mode: Mode) -> i32 {
    let parameters = match parameters.get() {
        Ok(parameters) => parameters,
        Err(error) => return error.0,
    };
    let (to, from) = (parameters.to.place(), parameters.from.place());
    copy(place, to, from, parameters.extent.0, mode)
}

impl ParametersSide {
    fn place(&self) -> Side3d {
        let memory = self.memory;
        side(
            self.array,
            memory.address,
            self.at.0,
            memory.pitch,
            memory.height,
        )
    }
}

fn layers_by_driver(place: (Handle, Null), copied: In<Driver3d>, mode: Mode) -> i32 {
    let copied = match copied.get() {
        Ok(copied) => copied,
        Err(error) => return error.0,
    };
    let wide = |value: u32| value as usize;
    let of = |it: DriverSide| Side3d {
        x: wide(it.at[0]),
        y: wide(it.at[1]),
        z: wide(it.at[2]),
        level: 0,
        kind: it.kind,
        host: it.host,
        device: it.device,
        array: it.array,
        context: 0,
        pitch: wide(it.pitch),
        height: wide(it.height),
    };
    copy(
        place,
        of(copied.to),
        of(copied.from),
        copied.extent.map(wide),
        mode,
    )
}

/// A line; which sides must be memory that the driver knows.
fn line(
    (stream, null): (Handle, Null),
    to: (Address, bool),
    from: (Address, bool),
    length: usize,
    mode: Mode,
) -> i32 {
    let driver = Driver::get();
    let stream = driver.stream(stream, null);
    code(stream.and_then(|stream| driver.line(stream, to, from, length, mode)))
}

fn fill(
    (stream, null): (Handle, Null),
    to: (Address, usize),
    value: i32,
    size: (usize, usize),
    mode: Mode,
) -> i32 {
    let driver = Driver::get();
    let pattern = (u32::from(value.to_le_bytes()[0]), 1);
    let fill = |stream| -> Result<()> { driver.fill(stream, to, pattern, size, mode) };
    code(driver.stream(stream, null).and_then(fill))
}

/// Layers as rows: those of a layer lie behind those of the one before.
fn fill_layers(place: (Handle, Null), to: Pitched, value: i32, extent: Extent, mode: Mode) -> i32 {
    let [width, height, depth] = extent.0;
    let rows = if depth == 1 {
        height
    } else {
        to.height * depth
    };
    fill(place, (to.address, to.pitch), value, (width, rows), mode)
}

api! {
    fn hipMemcpyWithStream(to: Address, from: Address, length: usize, _kind: i32, stream: Handle) {
        line((stream, Null::Legacy), (to, false), (from, false), length, Blocking)
    }
    fn hipMemcpyPeer(to: Address, _to_device: i32, from: Address, _from_device: i32, length: usize) {
        line((0, Null::Legacy), (to, true), (from, true), length, Blocking)
    }
    fn hipMemcpyPeerAsync(
        to: Address, _to_device: i32, from: Address, _from_device: i32, length: usize, stream: Handle,
    ) {
        line((stream, Null::Legacy), (to, true), (from, true), length, Async)
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
    fn hipMemcpyHtoAAsync(to: Handle, offset: usize, from: Address, length: usize, stream: Handle) {
        cuMemcpyHtoAAsync_v2(to, offset, from, length, stream)
    }
    fn hipMemcpyAtoHAsync(to: Address, from: Handle, offset: usize, length: usize, stream: Handle) {
        cuMemcpyAtoHAsync_v2(to, from, offset, length, stream)
    }
    fn hipMemcpyHtoD(to: Address, from: Address, length: usize) {
        cuMemcpyHtoD_v2(to, from, length)
    }
    fn hipMemcpyDtoH(to: Address, from: Address, length: usize) {
        cuMemcpyDtoH_v2(to, from, length)
    }
    fn hipMemcpyDtoD(to: Address, from: Address, length: usize) {
        cuMemcpyDtoD_v2(to, from, length)
    }
    fn hipMemcpyHtoA(to: Handle, offset: usize, from: Address, length: usize) {
        cuMemcpyHtoA_v2(to, offset, from, length)
    }
    fn hipMemcpyAtoH(to: Address, from: Handle, offset: usize, length: usize) {
        cuMemcpyAtoH_v2(to, from, offset, length)
    }
    fn hipMemcpyParam2D(copied: In<Copy2d>) { cuMemcpy2D_v2(copied) }
    fn hipMemcpyParam2DAsync(copied: In<Copy2d>, stream: Handle) {
        cuMemcpy2DAsync_v2(copied, stream)
    }
    fn hipDrvMemcpy2DUnaligned(copied: In<Copy2d>) { cuMemcpy2DUnaligned_v2(copied) }
    fn hipDrvMemcpy3D(copied: In<Driver3d>) {
        layers_by_driver((0, Null::Legacy), copied, Blocking)
    }
    fn hipDrvMemcpy3DAsync(copied: In<Driver3d>, stream: Handle) {
        layers_by_driver((stream, Null::Legacy), copied, Async)
    }
    fn hipMemcpyToArray(
        to: Handle, x: usize, y: usize, from: Address, length: usize, _kind: i32,
    ) {
        let place = side(to, from, [x, y, 0], 0, 0);
        copy((0, Null::Legacy), place, side(0, from, [0; 3], length, 1), [length, 1, 1], Blocking)
    }
    fn hipMemcpyAtoD(to: Address, from: Handle, offset: usize, length: usize) {
        cuMemcpyAtoD_v2(to, from, offset, length)
    }
    fn hipMemcpyDtoA(to: Handle, offset: usize, from: Address, length: usize) {
        cuMemcpyDtoA_v2(to, offset, from, length)
    }
    fn hipMemcpyAtoA(to: Handle, to_offset: usize, from: Handle, offset: usize, length: usize) {
        cuMemcpyAtoA_v2(to, to_offset, from, offset, length)
    }
    fn hipMemcpy2DArrayToArray(
        to: Handle, to_x: usize, to_y: usize, from: Handle, x: usize, y: usize, width: usize,
        height: usize, _kind: i32,
    ) {
        let nowhere = Address::default();
        let to = side(to, nowhere, [to_x, to_y, 0], 0, 0);
        let from = side(from, nowhere, [x, y, 0], 0, 0);
        copy((0, Null::Legacy), to, from, [width, height, 1], Blocking)
    }
    fn hipMemcpy3DPeer(copied: In<Parameters3dPeer>) {
        layers_of_devices((0, Null::Legacy), copied, Blocking)
    }
    fn hipMemcpy3DPeerAsync(copied: In<Parameters3dPeer>, stream: Handle) {
        layers_of_devices((stream, Null::Legacy), copied, Async)
    }
    fn hipMemsetD2D8(to: Address, pitch: usize, value: u8, width: usize, height: usize) {
        cuMemsetD2D8_v2(to, pitch, value, width, height)
    }
    fn hipMemsetD2D16(to: Address, pitch: usize, value: u16, width: usize, height: usize) {
        cuMemsetD2D16_v2(to, pitch, value, width, height)
    }
    fn hipMemsetD2D32(to: Address, pitch: usize, value: u32, width: usize, height: usize) {
        cuMemsetD2D32_v2(to, pitch, value, width, height)
    }
    fn hipMemsetD2D8Async(
        to: Address, pitch: usize, value: u8, width: usize, height: usize, stream: Handle,
    ) {
        cuMemsetD2D8Async(to, pitch, value, width, height, stream)
    }
    fn hipMemsetD2D16Async(
        to: Address, pitch: usize, value: u16, width: usize, height: usize, stream: Handle,
    ) {
        cuMemsetD2D16Async(to, pitch, value, width, height, stream)
    }
    fn hipMemsetD2D32Async(
        to: Address, pitch: usize, value: u32, width: usize, height: usize, stream: Handle,
    ) {
        cuMemsetD2D32Async(to, pitch, value, width, height, stream)
    }
    fn hipMemsetD8(to: Address, value: u8, count: usize) { cuMemsetD8_v2(to, value, count) }
    fn hipMemsetD16(to: Address, value: u16, count: usize) { cuMemsetD16_v2(to, value, count) }
    fn hipMemsetD32(to: Address, value: u32, count: usize) { cuMemsetD32_v2(to, value, count) }
    fn hipMemsetD8Async(to: Address, value: u8, count: usize, stream: Handle) {
        cuMemsetD8Async(to, value, count, stream)
    }
    fn hipMemsetD16Async(to: Address, value: u16, count: usize, stream: Handle) {
        cuMemsetD16Async(to, value, count, stream)
    }
    fn hipMemsetD32Async(to: Address, value: u32, count: usize, stream: Handle) {
        cuMemsetD32Async(to, value, count, stream)
    }
    ;
    fn hipMemcpy / hipMemcpy_spt(to: Address, from: Address, length: usize, _kind: i32) |null| {
        line((0, null), (to, false), (from, false), length, Blocking)
    }
    fn hipMemcpyAsync / hipMemcpyAsync_spt(
        to: Address, from: Address, length: usize, _kind: i32, stream: Handle,
    ) |null| {
        line((stream, null), (to, false), (from, false), length, Async)
    }
    fn hipMemcpy2D / hipMemcpy2D_spt(
        to: Address, to_pitch: usize, from: Address, from_pitch: usize, width: usize,
        height: usize, _kind: i32,
    ) |null| {
        rows((0, null), (to, to_pitch), (from, from_pitch), (width, height), Blocking)
    }
    fn hipMemcpy2DAsync / hipMemcpy2DAsync_spt(
        to: Address, to_pitch: usize, from: Address, from_pitch: usize, width: usize,
        height: usize, _kind: i32, stream: Handle,
    ) |null| {
        rows((stream, null), (to, to_pitch), (from, from_pitch), (width, height), Async)
    }
    fn hipMemcpy2DFromArray / hipMemcpy2DFromArray_spt(
        to: Address, pitch: usize, from: Handle, x: usize, y: usize, width: usize,
        height: usize, _kind: i32,
    ) |null| {
        let from = side(from, to, [x, y, 0], 0, 0);
        copy((0, null), side(0, to, [0; 3], pitch, height), from, [width, height, 1], Blocking)
    }
    fn hipMemcpy2DFromArrayAsync / hipMemcpy2DFromArrayAsync_spt(
        to: Address, pitch: usize, from: Handle, x: usize, y: usize, width: usize,
        height: usize, _kind: i32, stream: Handle,
    ) |null| {
        let from = side(from, to, [x, y, 0], 0, 0);
        copy((stream, null), side(0, to, [0; 3], pitch, height), from, [width, height, 1], Async)
    }
    fn hipMemcpyFromArray / hipMemcpyFromArray_spt(
        to: Address, from: Handle, x: usize, y: usize, length: usize, _kind: i32,
    ) |null| {
        let from = side(from, to, [x, y, 0], 0, 0);
        copy((0, null), side(0, to, [0; 3], length, 1), from, [length, 1, 1], Blocking)
    }
    fn hipMemcpy2DToArray / hipMemcpy2DToArray_spt(
        to: Handle, x: usize, y: usize, from: Address, pitch: usize, width: usize,
        height: usize, _kind: i32,
    ) |null| {
        let to = side(to, from, [x, y, 0], 0, 0);
        copy((0, null), to, side(0, from, [0; 3], pitch, height), [width, height, 1], Blocking)
    }
    fn hipMemcpy2DToArrayAsync / hipMemcpy2DToArrayAsync_spt(
        to: Handle, x: usize, y: usize, from: Address, pitch: usize, width: usize,
        height: usize, _kind: i32, stream: Handle,
    ) |null| {
        let to = side(to, from, [x, y, 0], 0, 0);
        copy((stream, null), to, side(0, from, [0; 3], pitch, height), [width, height, 1], Async)
    }
    fn hipMemcpy3D / hipMemcpy3D_spt(copied: In<Parameters3d>) |null| {
        layers((0, null), copied, Blocking)
    }
    fn hipMemcpy3DAsync / hipMemcpy3DAsync_spt(copied: In<Parameters3d>, stream: Handle) |null| {
        layers((stream, null), copied, Async)
    }
    fn hipMemcpyToSymbol / hipMemcpyToSymbol_spt(
        to: Address, from: Address, length: usize, offset: usize, _kind: i32,
    ) |null| {
        line((0, null), (to.offset(offset), true), (from, false), length, Blocking)
    }
    fn hipMemcpyToSymbolAsync / hipMemcpyToSymbolAsync_spt(
        to: Address, from: Address, length: usize, offset: usize, _kind: i32, stream: Handle,
    ) |null| {
        line((stream, null), (to.offset(offset), true), (from, false), length, Async)
    }
    fn hipMemcpyFromSymbol / hipMemcpyFromSymbol_spt(
        to: Address, from: Address, length: usize, offset: usize, _kind: i32,
    ) |null| {
        line((0, null), (to, false), (from.offset(offset), true), length, Blocking)
    }
    fn hipMemcpyFromSymbolAsync / hipMemcpyFromSymbolAsync_spt(
        to: Address, from: Address, length: usize, offset: usize, _kind: i32, stream: Handle,
    ) |null| {
        line((stream, null), (to, false), (from.offset(offset), true), length, Async)
    }
    fn hipMemset / hipMemset_spt(to: Address, value: i32, length: usize) |null| {
        fill((0, null), (to, 0), value, (length, 1), Blocking)
    }
    fn hipMemsetAsync / hipMemsetAsync_spt(
        to: Address, value: i32, length: usize, stream: Handle,
    ) |null| {
        fill((stream, null), (to, 0), value, (length, 1), Async)
    }
    fn hipMemset2D / hipMemset2D_spt(
        to: Address, pitch: usize, value: i32, width: usize, height: usize,
    ) |null| {
        fill((0, null), (to, pitch), value, (width, height), Blocking)
    }
    fn hipMemset2DAsync / hipMemset2DAsync_spt(
        to: Address, pitch: usize, value: i32, width: usize, height: usize, stream: Handle,
    ) |null| {
        fill((stream, null), (to, pitch), value, (width, height), Async)
    }
    fn hipMemset3D / hipMemset3D_spt(to: Pitched, value: i32, extent: Extent) |null| {
        fill_layers((0, null), to, value, extent, Blocking)
    }
    fn hipMemset3DAsync / hipMemset3DAsync_spt(
        to: Pitched, value: i32, extent: Extent, stream: Handle,
    ) |null| {
        fill_layers((stream, null), to, value, extent, Async)
    }
}
