//! Every command queue of the application's, and its XQueue from the first command on.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use xsched_xqueue::XQueue;

use crate::{device::Device, driver, gates::Gates, queue::CommandQueue, sys::*};
use xsched_shim::{
    events::{self, Note},
    process::generation,
    state::{self, guarded},
    table::{Kept, Keyed, Table},
};

/// A command queue that the application has made.
pub(crate) struct Entry {
    raw: usize,
    context: usize,
    device: usize,
    /// Unique in the process: handles are used again.
    id: u64,
    /// The process that made it: queues do not survive a fork.
    generation: u32,
    /// The application's references; drivers add their own to what they report.
    references: AtomicU32,
    scheduled: OnceLock<Option<Scheduled>>,
}

/// A queue under a scheduler.
pub(crate) struct Scheduled {
    pub(crate) queue: XQueue<CommandQueue>,
    pub(crate) in_order: bool,
}

impl Keyed for Entry {
    type Key = usize;

    fn key(&self) -> usize {
        self.raw
    }
}

static TABLE: Table<Entry> = Table::new();

/// For a look at it; a hook that waits in the driver [keeps](keep) it.
fn entry(queue: Queue) -> Option<&'static Entry> {
    TABLE
        .get(queue as usize)
        .filter(|entry| entry.generation == generation())
}

/// A queue for as long as a hook needs it: it may wait at a gate or in the driver, and the queue end
/// meanwhile. `None`: nothing of it is scheduled.
#[inline]
pub(crate) fn keep(queue: Queue) -> Option<Kept<Entry>> {
    if !state::is_active() {
        return None;
    }
    TABLE
        .keep(queue as usize)
        .filter(|entry| entry.generation == generation())
}

// ---- coming and going ----

/// Around the creation of a queue.
pub(crate) fn create(context: Opaque, device: Opaque, call: impl FnOnce() -> Queue) -> Queue {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let queue = call();
    // Also while the program lets its commands pass: it may have them scheduled again.
    if !queue.is_null() {
        guarded(|| {
            TABLE.insert(Entry {
                raw: queue as usize,
                context: context as usize,
                device: device as usize,
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                generation: generation(),
                references: AtomicU32::new(1),
                scheduled: OnceLock::new(),
            })
        });
    }
    queue
}

/// Around one reference more.
pub(crate) fn retain(queue: Queue, call: impl FnOnce() -> i32) -> i32 {
    let result = call();
    if result == CL_SUCCESS
        && let Some(entry) = entry(queue)
    {
        entry.references.fetch_add(1, Ordering::SeqCst);
    }
    result
}

/// Before one reference less. True: it was the last.
pub(crate) fn drop_reference(queue: Queue) -> bool {
    entry(queue).is_some_and(|entry| entry.references.fetch_sub(1, Ordering::SeqCst) == 1)
}

/// The queue is about to end: nothing of ours holds what is in it.
pub(crate) fn retire(queue: Queue) {
    guarded(|| {
        let Some(entry) = entry(queue) else { return };
        if let Some(Some(scheduled)) = entry.scheduled.get() {
            scheduled.queue.hw().let_go();
            scheduled.queue.retire();
        }
        TABLE.remove_same(entry);
    });
}

/// The gates of every queue of this process.
pub(crate) fn gates() -> impl Iterator<Item = &'static Arc<Gates>> {
    TABLE
        .all()
        .filter(|entry| entry.generation == generation())
        .filter_map(|entry| Some(entry.scheduled.get()?.as_ref()?.queue.hw().gates()))
}

// ---- under a scheduler ----

impl Entry {
    /// What an event of this queue's command with this number stands behind.
    #[inline]
    pub(crate) fn note(&self, number: u64) -> Note {
        Note {
            key: self.raw,
            id: self.id,
            number,
        }
    }

    /// The queue under its scheduler, from its first command on. `None`: it is not scheduled.
    #[inline]
    pub(crate) fn scheduled(&self) -> Option<&Scheduled> {
        match self.scheduled.get() {
            Some(known) => known.as_ref(),
            None => self.first(),
        }
    }

    #[cold]
    fn first(&self) -> Option<&Scheduled> {
        self.scheduled
            .get_or_init(|| guarded(|| self.make()).flatten())
            .as_ref()
    }

    /// The queue under its scheduler, if it had a command before.
    fn known(&self) -> Option<&Scheduled> {
        self.scheduled.get()?.as_ref()
    }

    fn make(&self) -> Option<Scheduled> {
        let agent = state::agent()?;
        let device = Device::of(self.device as Opaque);
        let raw = self.raw as Queue;
        let properties = driver::property::<u64>(driver::queue_info, raw, CL_QUEUE_PROPERTIES);
        let in_order = properties? & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE == 0;
        let hw = CommandQueue::new(raw, self.context as Opaque, &device, in_order);
        match agent.attach(hw, device.name()) {
            Ok(queue) => {
                queue.hw().gates().set_block(queue.slot().block);
                Some(Scheduled { queue, in_order })
            }
            Err(error) => {
                state::say(&format!("a queue runs unscheduled: {error}"));
                None
            }
        }
    }
}

// ---- what is over ----

/// Around a wait for everything in a queue.
pub(crate) fn synchronize(queue: Queue, call: impl FnOnce() -> i32) -> i32 {
    let kept = keep(queue);
    // Only a queue that had a command before.
    let known = kept.as_deref().and_then(Entry::known);
    let point = known.and_then(|scheduled| scheduled.queue.begin_synchronize());
    let result = call();
    if result == CL_SUCCESS
        && let Some(scheduled) = known
    {
        scheduled.queue.end_synchronize(point);
    }
    result
}

/// A moment from which on the end of a queue's last command proves it idle.
pub(crate) struct Point {
    entry: Kept<Entry>,
    point: xsched_wire::block::DrainPoint,
}

/// To be taken before a wait for an event, or a look at it: `None` if the event proves nothing.
#[inline]
pub(crate) fn point(event: Event) -> Option<Point> {
    if !state::is_active() {
        return None;
    }
    let note = events::look_up(event as usize)?;
    let entry = keep(note.key as Queue).filter(|entry| entry.id == note.id)?;
    let scheduled = entry.known()?;
    if !scheduled.in_order {
        return None;
    }
    let point = scheduled.queue.begin_synchronize()?;
    (point.number() == note.number).then_some(Point { entry, point })
}

impl Point {
    /// The event is complete.
    pub(crate) fn reached(self) {
        if let Some(scheduled) = self.entry.known() {
            scheduled.queue.end_synchronize(Some(self.point));
        }
    }
}
