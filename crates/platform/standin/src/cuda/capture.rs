//! Stream capture: which calls become nodes, which are illegal, and what an illegal call ruins.

use std::{
    collections::HashSet,
    thread::{self, ThreadId},
};

use super::{
    abi::Handle,
    driver::{Driver, Tables, capture_mode},
    graph::{Body, Graph, Node, NodeKind},
    result::{
        CAPTURE_IMPLICIT, CAPTURE_INVALIDATED, CAPTURE_UNJOINED, CAPTURE_UNMATCHED,
        CAPTURE_UNSUPPORTED, CAPTURE_WRONG_THREAD, ILLEGAL_STATE, INVALID_VALUE, Result,
    },
    stream::Kind,
};

/// `CUstreamCaptureMode`.
pub(crate) const GLOBAL: u32 = 0;
pub(crate) const THREAD_LOCAL: u32 = 1;
pub(crate) const RELAXED: u32 = 2;

pub(crate) struct Capture {
    pub(crate) context: Handle,
    pub(crate) graph: Handle,
    /// The stream in which it began and has to end.
    origin: Handle,
    thread: ThreadId,
    mode: u32,
    valid: bool,
    /// Streams that belong to it.
    pub(crate) members: HashSet<Handle>,
    /// What `cuStreamGetCaptureInfo` pointed a caller to.
    pub(crate) shown: Box<[Handle]>,
}

impl Capture {
    pub(crate) fn is_valid(&self) -> bool {
        self.valid
    }
}

impl Driver {
    /// For calls that are potentially unsafe while a capture goes on: refuses them where the
    /// thread's mode says so, and invalidates the captures that they would have spoiled.
    pub(crate) fn check_capture(&self) -> Result<()> {
        let mut tables = self.tables();
        if tables.captures.is_empty() {
            return Ok(());
        }
        let mode = capture_mode().get();
        let me = thread::current().id();
        let hit: Vec<_> = tables
            .captures
            .iter()
            .filter(|(_, capture)| match mode {
                GLOBAL => {
                    capture.mode == GLOBAL || (capture.thread == me && capture.mode != RELAXED)
                }
                THREAD_LOCAL => capture.thread == me && capture.mode != RELAXED,
                _ => false,
            })
            .map(|(&id, _)| id)
            .collect();
        tables.refuse_for(hit)
    }

    /// For calls on a whole context, illegal while any of its streams is capturing.
    pub(crate) fn check_no_capture_in(&self, context: Handle) -> Result<()> {
        let mut tables = self.tables();
        let captures = tables.captures.iter();
        let hit: Vec<_> = captures
            .filter(|(_, capture)| capture.context == context)
            .map(|(&id, _)| id)
            .collect();
        tables.refuse_for(hit)
    }

    /// For calls on a stream that are illegal while it is capturing, or, for the legacy stream,
    /// while a blocking one is.
    pub(crate) fn check_not_capturing(&self, stream: Handle) -> Result<()> {
        let mut tables = self.tables();
        if tables.stream(stream)?.capture.is_some() {
            tables.invalidate(stream);
            return Err(CAPTURE_UNSUPPORTED);
        }
        tables.check_implicit_capture(stream)
    }

    /// Whether the legacy stream is asked about while a blocking one is capturing: refused, but
    /// nothing is spoiled.
    pub(crate) fn check_question(&self, stream: Handle) -> Result<()> {
        if self.tables().blocking_captures(stream)?.is_empty() {
            Ok(())
        } else {
            Err(CAPTURE_IMPLICIT)
        }
    }

    pub(crate) fn begin_capture(&self, stream: Handle, mode: u32) -> Result<()> {
        if mode > RELAXED {
            return Err(INVALID_VALUE);
        }
        let mut tables = self.tables();
        let state = tables.stream(stream)?;
        let (kind, context) = (state.kind, state.context);
        if kind == Kind::Legacy {
            return Err(CAPTURE_UNSUPPORTED);
        }
        if state.capture.is_some() {
            return Err(ILLEGAL_STATE);
        }
        let graph = tables.handle();
        tables.graphs.insert(graph, Graph::default());
        let id = tables.handle();
        let capture = Capture {
            context,
            graph,
            origin: stream,
            thread: thread::current().id(),
            mode,
            valid: true,
            members: HashSet::from([stream]),
            shown: Box::default(),
        };
        tables.captures.insert(id, capture);
        let state = tables.stream(stream)?;
        state.capture = Some(id);
        state.tail.clear();
        Ok(())
    }

    /// Ends the capture in `stream`; the graph that it made.
    pub(crate) fn end_capture(&self, stream: Handle) -> Result<Handle> {
        let mut tables = self.tables();
        let id = tables.stream(stream)?.capture.ok_or(ILLEGAL_STATE)?;
        let capture = tables.captures.get(&id).ok_or(ILLEGAL_STATE)?;
        if capture.origin != stream {
            tables.invalidate_capture(id);
            return Err(CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != thread::current().id() {
            return Err(CAPTURE_WRONG_THREAD);
        }
        let joined = tables.is_joined(id);
        let capture = tables.captures.remove(&id).ok_or(ILLEGAL_STATE)?;
        for member in &capture.members {
            if let Ok(member) = tables.stream(*member) {
                member.capture = None;
                member.tail.clear();
            }
        }
        let verdict = match (capture.valid, joined) {
            (false, _) => Err(CAPTURE_INVALIDATED),
            (true, false) => Err(CAPTURE_UNJOINED),
            (true, true) => Ok(capture.graph),
        };
        if verdict.is_err() {
            tables.graphs.remove(&capture.graph);
        }
        verdict
    }
}

impl Tables {
    /// The capture that the stream belongs to; an error if that was invalidated.
    pub(crate) fn capturing(&mut self, stream: Handle) -> Result<Option<Handle>> {
        let Some(id) = self.stream(stream)?.capture else {
            return Ok(None);
        };
        match self.captures.get(&id) {
            Some(capture) if capture.valid => Ok(Some(id)),
            Some(_) => Err(CAPTURE_INVALIDATED),
            None => Ok(None),
        }
    }

    /// Adds a node behind the stream's last ones.
    pub(crate) fn append(&mut self, stream: Handle, kind: NodeKind, body: Body) -> Result<Handle> {
        let id = self.capturing(stream)?.ok_or(ILLEGAL_STATE)?;
        let node = self.handle();
        let state = self.stream(stream)?;
        let after = std::mem::replace(&mut state.tail, vec![node]);
        let graph = self.captures.get(&id).ok_or(ILLEGAL_STATE)?.graph;
        let nodes = &mut self.graph(graph)?.nodes;
        nodes.insert(node, Node { kind, body, after });
        Ok(node)
    }

    /// For the legacy stream: captures of blocking streams, which it would have to wait for.
    fn blocking_captures(&mut self, handle: Handle) -> Result<Vec<Handle>> {
        let stream = self.stream(handle)?;
        let (kind, context) = (stream.kind, stream.context);
        if kind != Kind::Legacy {
            return Ok(Vec::new());
        }
        let streams = self.streams.values();
        let blocking = streams.filter(|stream| stream.context == context && stream.is_blocking());
        Ok(blocking.filter_map(|stream| stream.capture).collect())
    }

    /// Work on the legacy stream would order itself behind blocking streams that are capturing.
    pub(crate) fn check_implicit_capture(&mut self, stream: Handle) -> Result<()> {
        let hit = self.blocking_captures(stream)?;
        for capture in &hit {
            self.invalidate_capture(*capture);
        }
        if hit.is_empty() {
            Ok(())
        } else {
            Err(CAPTURE_IMPLICIT)
        }
    }

    /// The stream becomes part of a capture, behind `nodes`.
    pub(crate) fn join_capture(&mut self, stream: Handle, capture: Handle, nodes: &[Handle]) {
        if let Some(state) = self.captures.get_mut(&capture) {
            state.members.insert(stream);
        }
        if let Ok(state) = self.stream(stream) {
            if state.capture.is_none() {
                state.tail.clear();
            }
            state.capture = Some(capture);
            for node in nodes {
                if !state.tail.contains(node) {
                    state.tail.push(*node);
                }
            }
        }
    }

    /// Spoils the capture that the stream belongs to.
    pub(crate) fn invalidate(&mut self, stream: Handle) {
        let capture = self.streams.get(&stream).and_then(|stream| stream.capture);
        if let Some(capture) = capture {
            self.invalidate_capture(capture);
        }
    }

    /// Refuses a call that would spoil these captures, and invalidates them.
    fn refuse_for(&mut self, captures: Vec<Handle>) -> Result<()> {
        if captures.is_empty() {
            return Ok(());
        }
        for capture in captures {
            self.invalidate_capture(capture);
        }
        Err(CAPTURE_UNSUPPORTED)
    }

    pub(crate) fn invalidate_capture(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.valid = false;
        }
    }

    /// Whether all that other streams of the capture did leads back to its origin.
    fn is_joined(&self, capture: Handle) -> bool {
        let Some(capture) = self.captures.get(&capture) else {
            return false;
        };
        let Some(graph) = self.graphs.get(&capture.graph) else {
            return false;
        };
        let tail = |stream: &Handle| {
            let stream = self.streams.get(stream);
            stream.map(|stream| stream.tail.clone()).unwrap_or_default()
        };
        let mut reached = HashSet::new();
        let mut queue = tail(&capture.origin);
        while let Some(node) = queue.pop() {
            if reached.insert(node)
                && let Some(node) = graph.nodes.get(&node)
            {
                queue.extend(&node.after);
            }
        }
        let mut members = capture.members.iter();
        members.all(|member| tail(member).iter().all(|node| reached.contains(node)))
    }
}
