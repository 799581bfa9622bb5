//! Streams, events, captures, graphs, values in memory, host functions.

use std::ffi::c_void;

use super::{api, kfd, memory};
use crate::{
    core::memory::Address,
    cuda::{
        abi::{Handle, Out},
        driver::Driver,
        event, graph_api,
        result::INVALID_VALUE,
        stream_api::*,
    },
};

type HostFunction = extern "C" fn(*mut c_void);
type StreamCallback = extern "C" fn(usize, i32, *mut c_void);

fn created(result: i32) -> i32 {
    if result == 0 {
        kfd::another_stream(super::DEVICE.get());
    }
    result
}

api! {
    fn hipStreamCreate(stream: Out<Handle>) { created(cuStreamCreate(stream, 0)) }
    fn hipStreamCreateWithFlags(stream: Out<Handle>, flags: u32) {
        created(cuStreamCreate(stream, flags))
    }
    fn hipStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        created(cuStreamCreateWithPriority(stream, flags, priority))
    }
    fn hipStreamDestroy(stream: Handle) { cuStreamDestroy_v2(stream) }
    fn hipStreamSynchronize(stream: Handle) { cuStreamSynchronize(stream) }
    fn hipStreamSynchronize_spt(stream: Handle) { cuStreamSynchronize_ptsz(stream) }
    fn hipStreamQuery(stream: Handle) { cuStreamQuery(stream) }
    fn hipStreamQuery_spt(stream: Handle) { cuStreamQuery_ptsz(stream) }
    fn hipStreamGetFlags(stream: Handle, flags: Out<u32>) { cuStreamGetFlags(stream, flags) }
    fn hipStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        event::cuStreamWaitEvent(stream, event, flags)
    }
    fn hipStreamAddCallback(
        stream: Handle, function: Option<StreamCallback>, data: usize, flags: u32,
    ) {
        cuStreamAddCallback(stream, function, data, flags)
    }
    fn hipStreamAddCallback_spt(
        stream: Handle, function: Option<StreamCallback>, data: usize, flags: u32,
    ) {
        cuStreamAddCallback_ptsz(stream, function, data, flags)
    }
    fn hipLaunchHostFunc(stream: Handle, function: Option<HostFunction>, data: usize) {
        cuLaunchHostFunc(stream, function, data)
    }
    fn hipLaunchHostFunc_spt(stream: Handle, function: Option<HostFunction>, data: usize) {
        cuLaunchHostFunc_ptsz(stream, function, data)
    }
    // The wait takes a mask; what it waits on depends on the device.
    fn hipStreamWaitValue32(stream: Handle, word: Address, value: u32, flags: u32, mask: u32) {
        if mask != u32::MAX || !memory::can_wait_on(word) {
            return INVALID_VALUE.0;
        }
        cuStreamWaitValue32_v2(stream, word, value, flags)
    }
    fn hipStreamWriteValue32(stream: Handle, word: Address, value: u32, flags: u32) {
        cuStreamWriteValue32_v2(stream, word, value, flags)
    }
    fn hipStreamBeginCapture(stream: Handle, mode: u32) { cuStreamBeginCapture_v2(stream, mode) }
    fn hipStreamBeginCapture_spt(stream: Handle, mode: u32) {
        cuStreamBeginCapture_v2_ptsz(stream, mode)
    }
    fn hipStreamEndCapture(stream: Handle, graph: Out<Handle>) { cuStreamEndCapture(stream, graph) }
    fn hipStreamEndCapture_spt(stream: Handle, graph: Out<Handle>) {
        cuStreamEndCapture_ptsz(stream, graph)
    }
    fn hipStreamIsCapturing(stream: Handle, status: Out<u32>) {
        cuStreamIsCapturing(stream, status)
    }
    fn hipThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        cuThreadExchangeStreamCaptureMode(mode)
    }
    fn hipGraphInstantiate(
        executable: Out<Handle>, graph: Handle, _node: usize, _log: usize, _bytes: usize,
    ) {
        graph_api::cuGraphInstantiateWithFlags(executable, graph, 0)
    }
    fn hipGraphLaunch(executable: Handle, stream: Handle) {
        graph_api::cuGraphLaunch(executable, stream)
    }
    fn hipGraphLaunch_spt(executable: Handle, stream: Handle) {
        graph_api::cuGraphLaunch_ptsz(executable, stream)
    }
    fn hipGraphExecDestroy(executable: Handle) { graph_api::cuGraphExecDestroy(executable) }
    fn hipGraphDestroy(graph: Handle) { graph_api::cuGraphDestroy(graph) }
    fn hipEventCreate(event: Out<Handle>) { event::cuEventCreate(event, 0) }
    fn hipEventCreateWithFlags(event: Out<Handle>, flags: u32) {
        event::cuEventCreate(event, flags)
    }
    fn hipEventRecord(event: Handle, stream: Handle) { event::cuEventRecord(event, stream) }
    fn hipEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        event::cuEventRecordWithFlags(event, stream, flags)
    }
    fn hipEventRecord_spt(event: Handle, stream: Handle) {
        event::cuEventRecord_ptsz(event, stream)
    }
    fn hipEventQuery(event: Handle) { event::cuEventQuery(event) }
    fn hipEventSynchronize(event: Handle) { event::cuEventSynchronize(event) }
    fn hipEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        event::cuEventElapsedTime(milliseconds, start, end)
    }
    fn hipEventDestroy(event: Handle) { event::cuEventDestroy_v2(event) }
}

/// The device of a stream, or -1: no code.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case, reason = "the API's own name")]
pub(super) extern "C" fn hipGetStreamDeviceId(stream: Handle) -> i32 {
    if super::context(Driver::get()).is_err() {
        return -1;
    }
    let driver = Driver::get();
    let found = driver
        .stream(stream, crate::cuda::stream::Null::Legacy)
        .and_then(|stream| Ok(driver.tables().stream(stream)?.device));
    found.map_or(-1, |device| i32::try_from(device).unwrap_or(-1))
}
