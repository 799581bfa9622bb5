//! Events: marks in a stream that can be waited for, asked, and timed.

use super::{
    abi::{Handle, Out},
    api,
    driver::{Driver, Mark},
    graph::{Body, NodeKind},
    result::{
        CAPTURE_ISOLATION, CAPTURE_MERGE, CAPTURED_EVENT, INVALID_HANDLE, INVALID_VALUE, NOT_READY,
        Result,
    },
    submit::Submitted,
};

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;
/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`.
const EXTERNAL: u32 = 1;

pub(crate) struct Event {
    pub(crate) context: Handle,
    flags: u32,
    /// The command that it was last recorded behind, `None` = never.
    pub(crate) mark: Option<Mark>,
    /// The capture that it was last recorded in, and behind which nodes.
    captured: Option<(Handle, Vec<Handle>)>,
}

impl Driver {
    fn record(&self, event: Handle, stream: Handle, flags: u32) -> Result<()> {
        if flags > EXTERNAL {
            return Err(INVALID_VALUE);
        }
        self.tables().event(event)?;
        let capture = self.tables().capturing(stream)?;
        match capture {
            Some(_) if flags == EXTERNAL => {
                let mut tables = self.tables();
                tables.append(stream, NodeKind::EventRecord, Body::Record(event))?;
            }
            Some(capture) => {
                let mut tables = self.tables();
                let tail = tables.stream(stream)?.tail.clone();
                tables.event(event)?.captured = Some((capture, tail));
            }
            None => {
                if let Submitted::Queued(mark) = self.submit(stream, NodeKind::Empty, Vec::new())? {
                    let mut tables = self.tables();
                    let event = tables.event(event)?;
                    event.mark = Some(mark);
                    event.captured = None;
                }
            }
        }
        Ok(())
    }

    fn wait_event(&self, stream: Handle, event: Handle, flags: u32) -> Result<()> {
        if flags > EXTERNAL {
            return Err(INVALID_VALUE);
        }
        let (mark, captured) = {
            let mut tables = self.tables();
            let event = tables.event(event)?;
            (event.mark.clone(), event.captured.clone())
        };
        let capture = self.tables().capturing(stream)?;
        match (capture, captured) {
            (Some(_), None) if flags == EXTERNAL => {
                let mut tables = self.tables();
                tables.append(stream, NodeKind::WaitEvent, Body::WaitEvent(event))?;
            }
            (Some(_), None) => {
                // Never recorded = nothing to wait for.
                if mark.is_some() {
                    self.tables().invalidate(stream);
                    return Err(CAPTURE_ISOLATION);
                }
            }
            (own, Some((capture, nodes))) => {
                let mut tables = self.tables();
                if own.is_some_and(|own| own != capture) {
                    tables.invalidate(stream);
                    tables.invalidate_capture(capture);
                    return Err(CAPTURE_MERGE);
                }
                if !tables.captures.contains_key(&capture) {
                    return Err(CAPTURED_EVENT);
                }
                if tables.stream(stream)?.kind == super::stream::Kind::Legacy {
                    tables.invalidate_capture(capture);
                    return Err(super::result::CAPTURE_IMPLICIT);
                }
                tables.join_capture(stream, capture, &nodes);
            }
            (None, None) => {
                let after: Vec<_> = mark.into_iter().collect();
                if !after.is_empty() {
                    self.submit_after(stream, NodeKind::Empty, Vec::new(), after)?;
                }
            }
        }
        Ok(())
    }

    /// What an event stands for, for calls that ask or wait in the caller.
    fn mark(&self, event: Handle) -> Result<Option<Mark>> {
        let (mark, captured) = {
            let mut tables = self.tables();
            let event = tables.event(event)?;
            let captured = event.captured.as_ref().map(|(capture, _)| *capture);
            (event.mark.clone(), captured)
        };
        if let Some(capture) = captured {
            self.tables().invalidate_capture(capture);
            return Err(CAPTURED_EVENT);
        }
        self.check_capture()?;
        Ok(mark)
    }

    /// Device time of a completed event that has timing.
    fn event_time(&self, event: Handle) -> Result<u64> {
        let mut tables = self.tables();
        let event = tables.event(event)?;
        let mark = event.mark.as_ref();
        let mark = mark.filter(|_| event.flags & NO_TIMING == 0);
        mark.ok_or(INVALID_HANDLE)?.time().ok_or(NOT_READY)
    }

    fn elapsed(&self, milliseconds: Out<f32>, start: Handle, end: Handle) -> Result<()> {
        let (start, end) = (self.event_time(start)?, self.event_time(end)?);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "as the API has it"
        )]
        milliseconds.set((end.wrapping_sub(start).cast_signed() as f64 / 1e6) as f32)
    }
}

api! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) |driver| {
        let context = driver.current()?;
        let mut tables = driver.tables();
        let handle = tables.handle();
        tables.events.insert(handle, Event { context, flags, mark: None, captured: None });
        event.set(handle)
    }
    fn cuEventDestroy_v2(event: Handle) |driver| {
        driver.tables().events.remove(&event).map(drop).ok_or(INVALID_HANDLE)
    }
    fn cuEventQuery(event: Handle) |driver| {
        match driver.mark(event)? {
            Some(mark) if !mark.is_done() => Err(NOT_READY),
            _ => Ok(()),
        }
    }
    fn cuEventSynchronize(event: Handle) |driver| {
        if let Some(mark) = driver.mark(event)? {
            driver.machine.wait(&[mark]);
        }
        Ok(())
    }
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) |driver| {
        driver.elapsed(milliseconds, start, end)
    }
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) |driver| {
        driver.elapsed(milliseconds, start, end)
    }
    ;
    fn cuEventRecord / cuEventRecord_ptsz(event: Handle, stream: Handle) |driver, null| {
        driver.record(event, driver.stream(stream, null)?, 0)
    }
    fn cuEventRecordWithFlags / cuEventRecordWithFlags_ptsz(
        event: Handle, stream: Handle, flags: u32,
    ) |driver, null| {
        driver.record(event, driver.stream(stream, null)?, flags)
    }
    fn cuStreamWaitEvent / cuStreamWaitEvent_ptsz(
        stream: Handle, event: Handle, flags: u32,
    ) |driver, null| {
        driver.wait_event(driver.stream(stream, null)?, event, flags)
    }
}
