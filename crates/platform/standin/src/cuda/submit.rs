//! The one way of commands: into a lane of the device, or into the graph of a capture.

use super::{
    abi::Handle,
    driver::{Driver, Mark, Tables, broken},
    graph::{Body, Flat, NodeKind},
    result::Result,
};
use crate::core::{
    engine::{Command, Engine, LaneId},
    work::{Token, Work},
};

/// Commands that a stream holds before a further one waits in the caller.
const ROOM: usize = 1_000;

/// What became of a command.
pub(crate) enum Submitted {
    /// It is on its way; the mark says when it is done.
    Queued(Mark),
    /// It became a node of a graph.
    Captured,
}

impl Driver {
    /// Submits `work`, in this order, to a stream.
    pub(crate) fn submit(
        &self,
        stream: Handle,
        kind: NodeKind,
        work: Vec<Work>,
    ) -> Result<Submitted> {
        self.submit_after(stream, kind, work, Vec::new())
    }

    /// As [`Driver::submit`], but also after `after` has completed.
    pub(crate) fn submit_after(
        &self,
        stream: Handle,
        kind: NodeKind,
        work: Vec<Work>,
        after: Vec<Mark>,
    ) -> Result<Submitted> {
        self.wait_for_room(stream)?;
        let mut tables = self.tables();
        tables.check_implicit_capture(stream)?;
        let context = tables.stream(stream)?.context;
        tables.check_seen(&work, context)?;
        if tables.capturing(stream)?.is_some() {
            tables.append(stream, kind, Body::Work(work))?;
            return Ok(Submitted::Captured);
        }
        let mark = self.enqueue(&mut tables, stream, after, |engine, now, lane, after| {
            queue(engine, now, lane, work, after)
        })?;
        Ok(Submitted::Queued(mark))
    }

    /// Submits a graph.
    pub(crate) fn submit_graph(&self, stream: Handle, executable: Handle) -> Result<Submitted> {
        self.wait_for_room(stream)?;
        let mut tables = self.tables();
        tables.check_implicit_capture(stream)?;
        let flat = tables.flat(executable)?;
        let context = tables.stream(stream)?.context;
        flat.check(&|work| tables.check_seen(work, context))?;
        if tables.capturing(stream)?.is_some() {
            tables.append(stream, NodeKind::Graph, Body::Child(flat))?;
            return Ok(Submitted::Captured);
        }
        // Launches of one executable graph do not overlap.
        let before = tables.last_launch(executable)?;
        let waits = tables.event_marks(&flat);
        let (mark, events) = {
            let mut events = Vec::new();
            let mark = self.enqueue(
                &mut tables,
                stream,
                before.into_iter().collect(),
                |engine, now, lane, after| {
                    let fork = queue(engine, now, lane, Vec::new(), after);
                    let ends = spread(engine, now, lane, &flat, &fork, &waits, &mut events);
                    queue(engine, now, lane, Vec::new(), ends)
                },
            )?;
            (mark, events)
        };
        for (event, mark) in events {
            if let Ok(event) = tables.event(event) {
                event.mark = Some(mark);
            }
        }
        tables.launched(executable, mark.clone());
        Ok(Submitted::Queued(mark))
    }

    /// Waits until the command is done, if it is on its way at all.
    pub(crate) fn finish(&self, submitted: Submitted) {
        if let Submitted::Queued(mark) = submitted {
            self.machine.wait(&[mark]);
        }
    }

    /// Orders a command of the stream and hands its lane to `submit`, which returns the mark of the
    /// last command that it queued.
    fn enqueue(
        &self,
        tables: &mut Tables,
        stream: Handle,
        mut after: Vec<Mark>,
        submit: impl FnOnce(&mut Engine, u64, LaneId, Vec<Mark>) -> Mark,
    ) -> Result<Mark> {
        after.extend(tables.implicit(stream)?);
        let state = tables.stream(stream)?;
        let (device, lane) = (state.device, state.lane);
        let mark = self
            .machine
            .edit(device, |engine, now| submit(engine, now, lane, after))
            .map_err(broken)?;
        tables.stream(stream)?.last = Some(mark.clone());
        Ok(mark)
    }

    fn wait_for_room(&self, stream: Handle) -> Result<()> {
        let (device, lane) = {
            let mut tables = self.tables();
            let stream = tables.stream(stream)?;
            (stream.device, stream.lane)
        };
        self.machine.wait_for_room(device, lane, ROOM);
        Ok(())
    }
}

/// Queues work in a lane, an empty list as a mark in the order. Returns the mark of the last.
fn queue(engine: &mut Engine, now: u64, lane: LaneId, work: Vec<Work>, after: Vec<Mark>) -> Mark {
    let mut after = after;
    let mut last = None;
    let list = if work.is_empty() {
        vec![Work::Nothing]
    } else {
        work
    };
    for work in list {
        let done = Token::pending();
        last = Some(done.clone());
        let command = Command {
            work,
            after: std::mem::take(&mut after),
            done,
            submitted: now,
        };
        engine.submit(lane, command);
    }
    last.expect("at least one command")
}

/// Queues a graph's nodes behind `fork`: each in the lane of a node that it follows, where it is the
/// first to do so, else in a lane of its own beside the one that launches it. Returns the marks of all
/// nodes.
fn spread(
    engine: &mut Engine,
    now: u64,
    launching: LaneId,
    flat: &Flat,
    fork: &Mark,
    waits: &[(Handle, Mark)],
    events: &mut Vec<(Handle, Mark)>,
) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut lanes: Vec<LaneId> = Vec::new();
    let mut tails: Vec<bool> = Vec::new();
    let mut opened = Vec::new();
    for node in &flat.nodes {
        let mut after: Vec<Mark> = node
            .after
            .iter()
            .map(|&index| marks[index].clone())
            .collect();
        if after.is_empty() {
            after.push(fork.clone());
        }
        let followed = node.after.iter().copied().find(|&index| tails[index]);
        let lane = if let Some(index) = followed {
            tails[index] = false;
            lanes[index]
        } else {
            let lane = engine.open_beside(launching, opened.len());
            opened.push(lane);
            lane
        };
        let mark = match &node.body {
            Body::Work(work) => queue(engine, now, lane, work.clone(), after),
            Body::Child(child) => {
                let fork = queue(engine, now, lane, Vec::new(), after);
                let ends = spread(engine, now, lane, child, &fork, waits, events);
                queue(engine, now, lane, Vec::new(), ends)
            }
            // A graph in executable form has children of that form only.
            Body::Graph(_) => queue(engine, now, lane, Vec::new(), after),
            Body::Record(event) => {
                let mark = queue(engine, now, lane, Vec::new(), after);
                events.push((*event, mark.clone()));
                mark
            }
            Body::WaitEvent(event) => {
                let known = waits.iter().filter(|(handle, _)| handle == event);
                after.extend(known.map(|(_, mark)| mark.clone()));
                queue(engine, now, lane, Vec::new(), after)
            }
        };
        marks.push(mark);
        lanes.push(lane);
        tails.push(true);
    }
    for lane in opened {
        engine.close(lane);
    }
    marks
}
