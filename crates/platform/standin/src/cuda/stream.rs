//! Streams: what a stream handle means, and what orders a stream's commands after others'.

use std::thread;

use super::{
    abi::Handle,
    context::Context,
    driver::{Driver, Mark, Tables, broken},
    result::{CONTEXT_IS_DESTROYED, INVALID_HANDLE, Result, STREAM_DETACHED},
};
use crate::core::engine::LaneId;

/// Greatest and least priority of a stream.
pub(crate) const PRIORITIES: (i32, i32) = (-5, 0);
/// `CU_STREAM_NON_BLOCKING`.
pub(crate) const NON_BLOCKING: u32 = 1;

/// Handles that mean default streams whichever way a program was built.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

/// Which default stream a null handle means: that depends on the entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Null {
    Legacy,
    PerThread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits for every blocking stream of its context, and they for it.
    Legacy,
    PerThread,
    Created,
}

pub(crate) struct Stream {
    pub(crate) context: Handle,
    pub(crate) device: usize,
    pub(crate) lane: LaneId,
    pub(crate) kind: Kind,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// The green context that it belongs to; 0: none.
    pub(crate) green: Handle,
    /// Its green context has ended.
    pub(crate) is_detached: bool,
    /// The last command that was submitted.
    pub(crate) last: Option<Mark>,
    /// The capture that it belongs to.
    pub(crate) capture: Option<Handle>,
    /// Nodes of the capture that the next one depends on.
    pub(crate) tail: Vec<Handle>,
}

impl Stream {
    pub(crate) fn new(
        context: Handle,
        device: usize,
        lane: LaneId,
        kind: Kind,
        flags: u32,
        priority: i32,
    ) -> Self {
        Self {
            context,
            device,
            lane,
            kind,
            flags,
            priority,
            green: 0,
            is_detached: false,
            last: None,
            capture: None,
            tail: Vec::new(),
        }
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.kind != Kind::Legacy && self.flags & NON_BLOCKING == 0
    }
}

impl Driver {
    /// The stream that a handle means in the calling thread.
    pub(crate) fn stream(&self, handle: Handle, null: Null) -> Result<Handle> {
        let handle = match (handle, null) {
            (0, Null::Legacy) => LEGACY,
            (0, Null::PerThread) => PER_THREAD,
            (handle, _) => handle,
        };
        match handle {
            LEGACY => {
                let context = self.current()?;
                Ok(self.tables().context(context)?.legacy)
            }
            PER_THREAD => self.per_thread_stream(),
            handle => match self.tables().streams.get(&handle) {
                Some(stream) if stream.is_detached => Err(STREAM_DETACHED),
                Some(_) => Ok(handle),
                None => Err(INVALID_HANDLE),
            },
        }
    }

    fn per_thread_stream(&self) -> Result<Handle> {
        let context = self.current()?;
        let me = thread::current().id();
        let known = |state: &Context| state.per_thread.get(&me).copied();
        if let Some(stream) = known(self.tables().context(context)?) {
            return Ok(stream);
        }
        let stream = self.open_stream(context, Kind::PerThread, 0, 0)?;
        let mut tables = self.tables();
        tables.context(context)?.per_thread.insert(me, stream);
        Ok(stream)
    }

    pub(crate) fn open_stream(
        &self,
        context: Handle,
        kind: Kind,
        flags: u32,
        priority: i32,
    ) -> Result<Handle> {
        let priority = priority.clamp(PRIORITIES.0, PRIORITIES.1);
        let device = self.tables().context(context)?.device;
        let lane = self
            .machine
            .edit(device, |engine, _| engine.open(priority))
            .map_err(broken)?;
        let mut tables = self.tables();
        let handle = tables.handle();
        let stream = Stream::new(context, device, lane, kind, flags, priority);
        tables.streams.insert(handle, stream);
        Ok(handle)
    }

    /// The commands that a synchronization of the stream waits for.
    pub(crate) fn stream_marks(&self, stream: Handle) -> Result<Vec<Mark>> {
        let mut tables = self.tables();
        let mut marks = tables.implicit(stream)?;
        marks.extend(tables.stream(stream)?.last.clone());
        Ok(marks)
    }
}

impl Tables {
    /// What a command of the stream waits for because of the legacy default stream.
    pub(crate) fn implicit(&mut self, handle: Handle) -> Result<Vec<Mark>> {
        let stream = self.stream(handle)?;
        let (kind, context) = (stream.kind, stream.context);
        let blocking = stream.is_blocking();
        let pending = |stream: &Stream| stream.last.clone().filter(|mark| !mark.is_done());
        if kind == Kind::Legacy {
            let streams = self.streams.values();
            let streams =
                streams.filter(|stream| stream.context == context && stream.is_blocking());
            let mut marks: Vec<_> = streams.filter_map(pending).collect();
            let context = self.contexts.get(&context).ok_or(CONTEXT_IS_DESTROYED)?;
            let draining = context.draining.iter().filter(|mark| !mark.is_done());
            marks.extend(draining.cloned());
            Ok(marks)
        } else if blocking {
            let context = self.contexts.get(&context).ok_or(CONTEXT_IS_DESTROYED)?;
            let legacy = self.streams.get(&context.legacy);
            Ok(legacy.and_then(pending).into_iter().collect())
        } else {
            Ok(Vec::new())
        }
    }
}
