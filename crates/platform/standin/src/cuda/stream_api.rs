//! Entry points on streams: life, synchronization, capture, values in memory, host functions.

use std::ffi::c_void;

use super::{
    abi::{Handle, In, MemoryOperation, Out},
    api,
    capture::{GLOBAL, RELAXED},
    driver::{Driver, broken, capture_mode},
    graph::NodeKind,
    result::{INVALID_HANDLE, INVALID_VALUE, NOT_READY, NOT_SUPPORTED, Result},
    stream::{Kind, NON_BLOCKING},
};
use crate::core::{
    memory::Address,
    work::{Callback, Condition, Wait, Word, Work},
};

/// `CUstreamCaptureStatus`.
const NOT_CAPTURING: u32 = 0;
const CAPTURING: u32 = 1;
const INVALIDATED: u32 = 2;

/// `CUstreamBatchMemOpType`.
const WAIT_32: u32 = 1;
const WRITE_32: u32 = 2;
const FLUSH: u32 = 3;
const WAIT_64: u32 = 4;
const WRITE_64: u32 = 5;
const BARRIER: u32 = 6;

/// `CU_STREAM_WAIT_VALUE_FLUSH`.
const WAIT_FLUSH: u32 = 1 << 30;

type HostFunction = extern "C" fn(*mut c_void);
type StreamCallback = extern "C" fn(usize, i32, *mut c_void);

impl Driver {
    fn create_stream(&self, stream: Out<Handle>, flags: u32, priority: i32) -> Result<()> {
        if flags > NON_BLOCKING || stream.is_null() {
            return Err(INVALID_VALUE);
        }
        let context = self.current()?;
        self.wait_for_context(context)?;
        stream.set(self.open_stream(context, Kind::Created, flags, priority)?)
    }

    fn destroy_stream(&self, handle: Handle) -> Result<()> {
        let mut tables = self.tables();
        if tables.stream(handle)?.kind != Kind::Created {
            return Err(INVALID_HANDLE);
        }
        tables.invalidate(handle);
        let stream = tables.streams.remove(&handle).ok_or(INVALID_HANDLE)?;
        if let Ok(context) = tables.context(stream.context) {
            context.draining.retain(|mark| !mark.is_done());
            // What is under way in a non-blocking stream concerns nobody but the context.
            context.draining.extend(stream.last);
        }
        drop(tables);
        self.machine
            .edit(stream.device, |engine, _| engine.close(stream.lane))
            .map_err(broken)
    }

    fn synchronize_stream(&self, stream: Handle) -> Result<()> {
        self.check_not_capturing(stream)?;
        self.check_capture()?;
        let marks = self.stream_marks(stream)?;
        self.machine.wait(&marks);
        Ok(())
    }

    fn query_stream(&self, stream: Handle) -> Result<()> {
        self.check_not_capturing(stream)?;
        self.check_capture()?;
        let marks = self.stream_marks(stream)?;
        if marks.iter().all(|mark| mark.is_done()) {
            Ok(())
        } else {
            Err(NOT_READY)
        }
    }

    /// The operation on a word that the API's arguments mean.
    pub(crate) fn memory_operation(&self, operation: &MemoryOperation) -> Result<Option<Work>> {
        let wide = matches!(operation.operation, WAIT_64 | WRITE_64);
        let word = Word {
            address: operation.address,
            value: operation.value,
            wide,
        };
        match operation.operation {
            FLUSH | BARRIER => return Ok(None),
            WAIT_32 | WAIT_64 | WRITE_32 | WRITE_64 => {}
            _ => return Err(INVALID_VALUE),
        }
        let size = if wide { 8 } else { 4 };
        if !word.address.is_aligned(size) {
            return Err(INVALID_VALUE);
        }
        self.tables().check_known(word.address, size)?;
        if matches!(operation.operation, WRITE_32 | WRITE_64) {
            return Ok(Some(Work::Write(word)));
        }
        let condition = match operation.flags & !WAIT_FLUSH {
            0 => Condition::GreaterOrEqual,
            1 => Condition::Equal,
            2 => Condition::And,
            3 => Condition::Nor,
            _ => return Err(INVALID_VALUE),
        };
        Ok(Some(Work::Wait(Wait { word, condition })))
    }

    fn value(
        &self,
        stream: Handle,
        operation: u32,
        address: Address,
        value: u64,
        flags: u32,
    ) -> Result<()> {
        let operation = MemoryOperation {
            operation,
            address,
            value,
            flags,
            alias: 0,
            reserved: 0,
        };
        let work = self.memory_operation(&operation)?;
        self.submit(
            stream,
            NodeKind::BatchMemoryOperation,
            work.into_iter().collect(),
        )
        .map(drop)
    }

    fn capture_info(&self, stream: Handle, info: &CaptureInfo) -> Result<()> {
        self.check_question(stream)?;
        let mut tables = self.tables();
        let state = tables.stream(stream)?;
        let (capture, tail) = (state.capture, state.tail.clone());
        let Some((id, capture)) = capture.and_then(|id| Some((id, tables.captures.get_mut(&id)?)))
        else {
            return info.status.set(NOT_CAPTURING);
        };
        if !capture.is_valid() {
            return info.status.set(INVALIDATED);
        }
        info.status.set(CAPTURING)?;
        info.id.set_if_wanted(id as u64);
        if let Some(graph) = info.graph {
            graph.set_if_wanted(capture.graph);
        }
        capture.shown = tail.into_boxed_slice();
        if let Some((list, count)) = info.tail {
            list.set_if_wanted(capture.shown.as_ptr().expose_provenance());
            count.set_if_wanted(capture.shown.len());
        }
        Ok(())
    }

    fn update_capture(
        &self,
        stream: Handle,
        nodes: In<Handle>,
        count: usize,
        flags: u32,
    ) -> Result<()> {
        const REPLACE: u32 = 1;
        let nodes = nodes.list(count)?;
        let mut tables = self.tables();
        let capture = tables.capturing(stream)?;
        let capture = capture.ok_or(super::result::ILLEGAL_STATE)?;
        if flags & REPLACE != 0 {
            tables.stream(stream)?.tail.clear();
        }
        tables.join_capture(stream, capture, &nodes);
        Ok(())
    }
}

/// The API's arguments for an operation on a word; `None` for other work.
pub(crate) fn operation_of(work: &Work) -> Option<MemoryOperation> {
    let (word, operation, flags) = match work {
        Work::Write(word) => (word, if word.wide { WRITE_64 } else { WRITE_32 }, 0),
        Work::Wait(Wait { word, condition }) => {
            let flags = match condition {
                Condition::GreaterOrEqual => 0,
                Condition::Equal => 1,
                Condition::And => 2,
                Condition::Nor => 3,
            };
            (word, if word.wide { WAIT_64 } else { WAIT_32 }, flags)
        }
        _ => return None,
    };
    Some(MemoryOperation {
        operation,
        address: word.address,
        value: word.value,
        flags,
        alias: 0,
        reserved: 0,
    })
}

/// Where a caller of `cuStreamGetCaptureInfo` wants what.
struct CaptureInfo {
    status: Out<u32>,
    id: Out<u64>,
    graph: Option<Out<Handle>>,
    /// Address of the list, and its length.
    tail: Option<(Out<usize>, Out<usize>)>,
}

api! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) |driver| {
        driver.create_stream(stream, flags, 0)
    }
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) |driver| {
        driver.create_stream(stream, flags, priority)
    }
    fn cuStreamDestroy_v2(stream: Handle) |driver| {
        driver.destroy_stream(stream)
    }
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) |_driver| {
        let wanted = mode.get()?;
        if !(GLOBAL..=RELAXED).contains(&wanted) {
            return Err(INVALID_VALUE);
        }
        mode.set(capture_mode().replace(wanted))
    }
    ;
    fn cuStreamSynchronize / cuStreamSynchronize_ptsz(stream: Handle) |driver, null| {
        driver.synchronize_stream(driver.stream(stream, null)?)
    }
    fn cuStreamQuery / cuStreamQuery_ptsz(stream: Handle) |driver, null| {
        driver.query_stream(driver.stream(stream, null)?)
    }
    fn cuStreamGetFlags / cuStreamGetFlags_ptsz(stream: Handle, flags: Out<u32>) |driver, null| {
        let stream = driver.stream(stream, null)?;
        flags.set(driver.tables().stream(stream)?.flags)
    }
    fn cuStreamGetPriority / cuStreamGetPriority_ptsz(
        stream: Handle, priority: Out<i32>,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        priority.set(driver.tables().stream(stream)?.priority)
    }
    fn cuStreamGetId / cuStreamGetId_ptsz(stream: Handle, id: Out<u64>) |driver, null| {
        id.set(driver.stream(stream, null)? as u64)
    }
    fn cuStreamGetCtx / cuStreamGetCtx_ptsz(stream: Handle, context: Out<Handle>) |driver, null| {
        let stream = driver.stream(stream, null)?;
        context.set(driver.tables().stream(stream)?.context)
    }
    fn cuStreamGetDevice / cuStreamGetDevice_ptsz(stream: Handle, device: Out<i32>) |driver, null| {
        let stream = driver.stream(stream, null)?;
        let index = driver.tables().stream(stream)?.device;
        device.set(i32::try_from(index).unwrap_or(i32::MAX))
    }
    fn cuStreamIsCapturing / cuStreamIsCapturing_ptsz(
        stream: Handle, status: Out<u32>,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.check_question(stream)?;
        let tables = driver.tables();
        let capture = tables.streams.get(&stream).and_then(|stream| stream.capture);
        let capture = capture.and_then(|id| tables.captures.get(&id));
        status.set(match capture {
            None => NOT_CAPTURING,
            Some(capture) if capture.is_valid() => CAPTURING,
            Some(_) => INVALIDATED,
        })
    }
    fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz(
        stream: Handle, mode: u32,
    ) |driver, null| {
        driver.begin_capture(driver.stream(stream, null)?, mode)
    }
    fn cuStreamEndCapture / cuStreamEndCapture_ptsz(
        stream: Handle, graph: Out<Handle>,
    ) |driver, null| {
        let ended = driver.end_capture(driver.stream(stream, null)?);
        graph.set(ended.unwrap_or(0))?;
        ended.map(drop)
    }
    fn cuStreamGetCaptureInfo_v2 / cuStreamGetCaptureInfo_v2_ptsz(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        nodes: Out<usize>, count: Out<usize>,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        let info = CaptureInfo { status, id, graph: Some(graph), tail: Some((nodes, count)) };
        driver.capture_info(stream, &info)
    }
    fn cuStreamGetCaptureInfo_v3 / cuStreamGetCaptureInfo_v3_ptsz(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        nodes: Out<usize>, edges: Out<usize>, count: Out<usize>,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        edges.set_if_wanted(0);
        let info = CaptureInfo { status, id, graph: Some(graph), tail: Some((nodes, count)) };
        driver.capture_info(stream, &info)
    }
    fn cuStreamGetCaptureInfo / cuStreamGetCaptureInfo_ptsz(
        stream: Handle, status: Out<u32>, id: Out<u64>,
    ) |driver, null| {
        let stream = driver.stream(stream, null)?;
        driver.capture_info(stream, &CaptureInfo { status, id, graph: None, tail: None })
    }
    fn cuStreamUpdateCaptureDependencies / cuStreamUpdateCaptureDependencies_ptsz(
        stream: Handle, nodes: In<Handle>, count: usize, flags: u32,
    ) |driver, null| {
        driver.update_capture(driver.stream(stream, null)?, nodes, count, flags)
    }
    fn cuStreamUpdateCaptureDependencies_v2 / cuStreamUpdateCaptureDependencies_v2_ptsz(
        stream: Handle, nodes: In<Handle>, _edges: In<u64>, count: usize, flags: u32,
    ) |driver, null| {
        driver.update_capture(driver.stream(stream, null)?, nodes, count, flags)
    }
    fn cuStreamWaitValue32 / cuStreamWaitValue32_ptsz(
        stream: Handle, address: Address, value: u32, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WAIT_32, address, u64::from(value), flags)
    }
    fn cuStreamWaitValue32_v2 / cuStreamWaitValue32_v2_ptsz(
        stream: Handle, address: Address, value: u32, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WAIT_32, address, u64::from(value), flags)
    }
    fn cuStreamWaitValue64 / cuStreamWaitValue64_ptsz(
        stream: Handle, address: Address, value: u64, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WAIT_64, address, value, flags)
    }
    fn cuStreamWaitValue64_v2 / cuStreamWaitValue64_v2_ptsz(
        stream: Handle, address: Address, value: u64, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WAIT_64, address, value, flags)
    }
    fn cuStreamWriteValue32 / cuStreamWriteValue32_ptsz(
        stream: Handle, address: Address, value: u32, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WRITE_32, address, u64::from(value), flags)
    }
    fn cuStreamWriteValue32_v2 / cuStreamWriteValue32_v2_ptsz(
        stream: Handle, address: Address, value: u32, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WRITE_32, address, u64::from(value), flags)
    }
    fn cuStreamWriteValue64 / cuStreamWriteValue64_ptsz(
        stream: Handle, address: Address, value: u64, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WRITE_64, address, value, flags)
    }
    fn cuStreamWriteValue64_v2 / cuStreamWriteValue64_v2_ptsz(
        stream: Handle, address: Address, value: u64, flags: u32,
    ) |driver, null| {
        driver.value(driver.stream(stream, null)?, WRITE_64, address, value, flags)
    }
    fn cuStreamBatchMemOp_v2 / cuStreamBatchMemOp_v2_ptsz(
        stream: Handle, count: u32, list: In<MemoryOperation>, flags: u32,
    ) |driver, null| {
        if flags != 0 || count > 256 {
            return Err(INVALID_VALUE);
        }
        let list = list.list(count as usize)?;
        let work = list.iter().map(|operation| driver.memory_operation(operation));
        let work = work.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
        let stream = driver.stream(stream, null)?;
        driver.submit(stream, NodeKind::BatchMemoryOperation, work).map(drop)
    }
    fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz(
        stream: Handle, function: Option<HostFunction>, data: usize,
    ) |driver, null| {
        let function = function.ok_or(INVALID_VALUE)?;
        let work = vec![Work::Host(Callback::Plain(function, data))];
        driver.submit(driver.stream(stream, null)?, NodeKind::Host, work).map(drop)
    }
    fn cuStreamAddCallback / cuStreamAddCallback_ptsz(
        stream: Handle, function: Option<StreamCallback>, data: usize, flags: u32,
    ) |driver, null| {
        let function = function.ok_or(INVALID_VALUE)?;
        let handle = driver.stream(stream, null)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if driver.tables().capturing(handle)?.is_some() {
            driver.tables().invalidate(handle);
            return Err(super::result::CAPTURE_UNSUPPORTED);
        }
        let work = vec![Work::Host(Callback::WithStatus(function, stream, data))];
        driver.submit(handle, NodeKind::Host, work).map(drop)
    }
    fn cuStreamAttachMemAsync / cuStreamAttachMemAsync_ptsz(
        _stream: Handle, _address: Address, _length: usize, _flags: u32,
    ) |_driver, _null| {
        Err(NOT_SUPPORTED)
    }
}
