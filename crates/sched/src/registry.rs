//! Who is registered: queues, and the groups that they form.

use crate::{
    event::{Action, HwShare},
    guard::Credit,
    ids::{GroupId, Nanos, ProcessId, QueueId},
    policy::GroupView,
};
use std::ops::{Index, IndexMut};

/// All queues and groups, by dense index.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) queues: Slab<Queue>,
    pub(crate) groups: Slab<Group>,
}

pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) process: ProcessId,
    pub(crate) group: GroupId,
    pub(crate) ready: bool,
    /// Suspended by the application itself.
    pub(crate) held: bool,
    /// When it last moved.
    pub(crate) last_progress: Nanos,
    /// It had work and the device for the limit, and did not move since.
    pub(crate) stalled: bool,
    /// What the host was last told; nothing yet for a new queue.
    pub(crate) gate: Option<bool>,
    pub(crate) share: HwShare,
}

impl Queue {
    /// Whether it has work that its application does not hold back.
    pub(crate) fn counts(&self) -> bool {
        self.ready && !self.held
    }

    /// Tells the host what differs from what it was told.
    pub(crate) fn sync(&mut self, open: bool, share: HwShare, batch: &mut Batch<'_>) {
        let (queue, open) = (self.id, open && !self.held);
        if self.gate != Some(open) {
            self.gate = Some(open);
            if open {
                &mut *batch.opens
            } else {
                &mut *batch.closes
            }
            .push(Action::Gate { queue, open });
        }
        if self.share != share {
            self.share = share;
            batch.shares.push(Action::Share { queue, share });
        }
    }
}

/// Where the actions of one event are gathered, so that closes come first and opens last.
pub(crate) struct Batch<'a> {
    pub(crate) closes: &'a mut Vec<Action>,
    pub(crate) shares: &'a mut Vec<Action>,
    pub(crate) opens: &'a mut Vec<Action>,
}

pub(crate) struct Group {
    pub(crate) view: GroupView,
    /// Index of its device in the engine.
    pub(crate) device: usize,
    pub(crate) queues: Vec<usize>,
    /// How many of its queues count as ready.
    pub(crate) ready_queues: usize,
    /// How many of those stalled.
    pub(crate) stalled_queues: usize,
    /// The host saw its process stopped.
    pub(crate) stopped: bool,
    /// When it was last given the device by the policy.
    pub(crate) runs_since: Nanos,
    /// How often it was closed while it had work.
    pub(crate) preemptions: u64,
    pub(crate) credit: Credit,
    /// Whether it waits or runs by the policy's decision, and where in its device's list of those that do.
    pub(crate) part: Part,
}

impl Group {
    /// Whether a queue of it has work and did not stall.
    pub(crate) fn moves(&self) -> bool {
        self.ready_queues > self.stalled_queues
    }
}

/// What a group does by the policy's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It has nothing to do, or must not.
    None,
    /// At this position among those that the policy runs.
    Runs(usize),
    /// At this position among those that wait.
    Waits(usize),
}

impl Registry {
    pub(crate) fn group(&mut self, group: GroupId) -> &mut Group {
        &mut self.groups[group.index()]
    }

    pub(crate) fn sync_group(&mut self, id: GroupId, batch: &mut Batch<'_>) {
        let Group { view, queues, .. } = &self.groups[id.index()];
        for &queue in queues {
            self.queues[queue].sync(view.open, view.share, batch);
        }
    }

    /// A new group without queues.
    pub(crate) fn add_group(
        &mut self,
        device: usize,
        now: Nanos,
        view: impl FnOnce(GroupId) -> GroupView,
    ) -> GroupId {
        let id = GroupId(self.groups.next_index() as u32);
        let view = view(id);
        self.groups.insert(Group {
            credit: Credit::new(view.times(now)),
            view,
            device,
            queues: Vec::with_capacity(1),
            ready_queues: 0,
            stalled_queues: 0,
            stopped: false,
            runs_since: now,
            preemptions: 0,
            part: Part::None,
        });
        id
    }
}

/// Values at dense indices that stay while the value does.
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    /// The index that the next insertion will give.
    pub(crate) fn next_index(&self) -> usize {
        self.free.last().copied().unwrap_or(self.entries.len())
    }

    pub(crate) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.entries[index] = Some(value);
                index
            }
            None => {
                self.entries.push(Some(value));
                self.entries.len() - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, index: usize) -> T {
        self.free.push(index);
        self.entries[index].take().expect("the index is in use")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Index<usize> for Slab<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.entries[index].as_ref().expect("the index is in use")
    }
}

impl<T> IndexMut<usize> for Slab<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.entries[index].as_mut().expect("the index is in use")
    }
}
