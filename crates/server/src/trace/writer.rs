//! The file of a trace: the JSON array of the trace event format, an event a line.
//!
//! Tracks: a process for each program, in it one for each queue, with a slice *ready* from the first
//! command to the last, and in it slices *running* (gate open) and *held* (gate closed); a process for
//! the scheduler, with its decisions and, for each device, how many queues run and are held.
//! Slices begin and end by events of their own, so a file that breaks off is still a trace: the format
//! lets an array end without its bracket.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use serde_json::{Value, json};
use xsched_sched::{HwShare, Nanos, QueueId};

use super::{Change, Owner, Record};

/// Bytes that are kept for the end of the file.
const RESERVE: u64 = 64 * 1024;
/// Bytes that are written at once.
const BLOCK: usize = 256 * 1024;

/// Track of the decisions, in the process of the scheduler.
const DECISIONS: u64 = 0;

/// What is known of a queue.
struct Queue {
    owner: Owner,
    ready: bool,
    open: bool,
}

impl Queue {
    /// The slice inside *ready*.
    fn state(&self) -> &'static str {
        if self.open { "running" } else { "held" }
    }
}

/// Queues of a device that have work.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    running: u64,
    held: u64,
}

pub(super) struct Writer {
    file: File,
    limit: u64,
    written: u64,
    /// Whole lines, yet to be written.
    lines: Vec<u8>,
    empty: bool,
    /// The limit is reached: nothing more is written.
    full: bool,
    scheduler: u32,
    queues: BTreeMap<QueueId, Queue>,
    loads: BTreeMap<Arc<str>, Load>,
}

impl Writer {
    pub(super) fn new(file: File, limit: u64) -> Writer {
        Writer {
            file,
            limit,
            written: 0,
            lines: Vec::new(),
            empty: true,
            full: false,
            scheduler: std::process::id(),
            queues: BTreeMap::new(),
            loads: BTreeMap::new(),
        }
    }

    /// Opens the array and names the scheduler's tracks.
    pub(super) fn begin(&mut self, at: Nanos) -> io::Result<()> {
        let scheduler = self.scheduler;
        self.name("process_name", scheduler, DECISIONS, "xsched scheduler");
        self.name("thread_name", scheduler, DECISIONS, "decisions");
        self.instant(scheduler, DECISIONS, at, "trace began", json!({}));
        self.flush()
    }

    /// Writes what a record changes.
    pub(super) fn take(&mut self, record: Record) -> io::Result<()> {
        if self.full {
            return Ok(());
        }
        let at = record.ended();
        match record {
            Record::Queue { queue, owner, .. } => self.created(queue, owner),
            Record::Decision {
                start,
                end,
                policy,
                event,
                change,
                actions,
            } => {
                let queue = change.map(|(queue, _)| queue.0);
                self.event(json!({
                    "ph": "X",
                    "pid": self.scheduler,
                    "tid": DECISIONS,
                    "ts": micros(start),
                    "dur": micros(end.saturating_sub(start)),
                    "name": event,
                    "args": { "policy": policy, "queue": queue, "actions": actions },
                }));
                if let Some((queue, change)) = change {
                    self.change(queue, change, start);
                }
            }
            Record::Gate { at, queue, open } => self.gate(queue, open, at),
            Record::Share { at, queue, share } => {
                let share = match share {
                    HwShare::Background => "share background".to_owned(),
                    HwShare::Slice(micros) => format!("share {micros} µs"),
                    _ => "share normal".to_owned(),
                };
                if let Some(pid) = self.queues.get(&queue).map(|known| known.owner.pid) {
                    self.instant(pid, queue.0, at, &share, json!({}));
                }
            }
            Record::Gone { at, queue } => self.change(queue, Change::Gone, at),
        }
        if self.written + self.lines.len() as u64 + RESERVE > self.limit {
            let limit = self.limit;
            self.close_all(at);
            let args = json!({ "limit_bytes": limit });
            self.instant(self.scheduler, DECISIONS, at, "trace is full", args);
            self.full = true;
        } else if self.lines.len() >= BLOCK {
            return self.flush();
        }
        Ok(())
    }

    /// Says that records were dropped.
    pub(super) fn lost(&mut self, count: u64, at: Nanos) {
        if count > 0 && !self.full {
            let name = format!("{count} events lost");
            let args = json!({ "lost": count });
            self.instant(self.scheduler, DECISIONS, at, &name, args);
        }
    }

    /// Writes whole lines, so that a kill leaves no half of one.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.lines)?;
        self.written += self.lines.len() as u64;
        self.lines.clear();
        Ok(())
    }

    /// Ends all slices and the array.
    pub(super) fn end(&mut self, at: Nanos) -> io::Result<()> {
        if !self.full {
            self.close_all(at);
        }
        self.lines.extend_from_slice(b"\n]\n");
        self.flush()
    }

    // ---- queues ----

    fn created(&mut self, queue: QueueId, owner: Owner) {
        let process = format!("{} ({})", owner.name, owner.pid);
        self.name("process_name", owner.pid, queue.0, &process);
        let track = format!("queue {} on {}", queue.0, owner.device);
        self.name("thread_name", owner.pid, queue.0, &track);
        let known = Queue {
            owner,
            ready: false,
            open: false,
        };
        self.queues.insert(queue, known);
    }

    fn change(&mut self, queue: QueueId, change: Change, at: Nanos) {
        let Some(known) = self.queues.get_mut(&queue) else {
            return; // its creation was lost
        };
        let was_ready = known.ready;
        match change {
            Change::Ready => known.ready = true,
            Change::Idle | Change::Gone => known.ready = false,
            Change::None => {}
        }
        let (is_ready, state, pid) = (known.ready, known.state(), known.owner.pid);
        let device = known.owner.device.clone();
        if !was_ready && is_ready {
            self.begin_slice(pid, queue, at, "ready");
            self.begin_slice(pid, queue, at, state);
        } else if was_ready && !is_ready {
            self.end_slices(pid, queue, at, 2);
        }
        if change == Change::Gone {
            self.queues.remove(&queue);
        }
        if was_ready != is_ready {
            self.load(device, at);
        }
    }

    fn gate(&mut self, queue: QueueId, open: bool, at: Nanos) {
        let Some(known) = self.queues.get_mut(&queue) else {
            return;
        };
        let changed = known.open != open;
        known.open = open;
        let (is_ready, state, pid) = (known.ready, known.state(), known.owner.pid);
        let device = known.owner.device.clone();
        if changed && is_ready {
            self.end_slices(pid, queue, at, 1);
            self.begin_slice(pid, queue, at, state);
            self.load(device, at);
        }
        let name = if open { "gate opens" } else { "gate closes" };
        self.instant(pid, queue.0, at, name, json!({}));
    }

    /// Writes how many queues of a device run and are held, if that changed.
    fn load(&mut self, device: Arc<str>, at: Nanos) {
        let mut load = Load::default();
        for queue in self.queues.values() {
            if queue.ready && queue.owner.device == device {
                load.running += u64::from(queue.open);
                load.held += u64::from(!queue.open);
            }
        }
        let name = format!("queues on {device}");
        if self.loads.insert(device, load) != Some(load) {
            self.event(json!({
                "ph": "C",
                "pid": self.scheduler,
                "ts": micros(at),
                "name": name,
                "args": { "running": load.running, "held": load.held },
            }));
        }
    }

    fn close_all(&mut self, at: Nanos) {
        for (queue, known) in std::mem::take(&mut self.queues) {
            if known.ready {
                self.end_slices(known.owner.pid, queue, at, 2);
            }
        }
    }

    // ---- events ----

    fn begin_slice(&mut self, pid: u32, queue: QueueId, at: Nanos, name: &str) {
        self.event(json!({
            "ph": "B",
            "pid": pid,
            "tid": queue.0,
            "ts": micros(at),
            "name": name,
        }));
    }

    /// Ends the innermost slices of a queue.
    fn end_slices(&mut self, pid: u32, queue: QueueId, at: Nanos, count: usize) {
        for _ in 0..count {
            self.event(json!({ "ph": "E", "pid": pid, "tid": queue.0, "ts": micros(at) }));
        }
    }

    fn instant(&mut self, pid: u32, tid: u64, at: Nanos, name: &str, args: Value) {
        self.event(json!({
            "ph": "i",
            "s": "t",
            "pid": pid,
            "tid": tid,
            "ts": micros(at),
            "name": name,
            "args": args,
        }));
    }

    /// Names a process or one of its tracks.
    fn name(&mut self, what: &str, pid: u32, tid: u64, name: &str) {
        self.event(json!({
            "ph": "M",
            "pid": pid,
            "tid": tid,
            "name": what,
            "args": { "name": name },
        }));
    }

    fn event(&mut self, event: Value) {
        let before: &[u8] = if self.empty { b"[\n" } else { b",\n" };
        self.empty = false;
        self.lines.extend_from_slice(before);
        self.lines.extend_from_slice(event.to_string().as_bytes());
    }
}

/// The format counts in microseconds; parts of one are kept.
fn micros(nanos: Nanos) -> f64 {
    nanos as f64 / 1e3
}
