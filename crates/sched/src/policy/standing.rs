//! Idle groups whose gate stands open, so that their next burst begins without waiting for the scheduler.
//!
//! Where a policy would let an idle group run at once if it became ready, its gate may stand open. To bound what one
//! event changes, that holds for the few that were active last.

use super::{Decision, Snapshot};
use crate::ids::GroupId;
use std::collections::VecDeque;

/// As many stand open on a device.
const MOST: usize = 8;

/// The groups of one device that were active last.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Latest first.
    recent: VecDeque<GroupId>,
}

impl Standing {
    /// A group went idle, or came: it is the latest. Gives the one that falls out of the list, which is to be closed if
    /// it is idle.
    pub(super) fn note(&mut self, id: GroupId) -> Option<GroupId> {
        if self.recent.front() == Some(&id) {
            return None;
        }
        self.recent.retain(|&known| known != id);
        self.recent.push_front(id);
        (self.recent.len() > MOST)
            .then(|| self.recent.pop_back())
            .flatten()
    }

    /// Opens or closes those that are idle, as `may` says.
    pub(super) fn apply(
        &self,
        snapshot: &Snapshot<'_>,
        decision: &mut Decision,
        may: impl Fn(GroupId) -> bool,
    ) {
        for &id in &self.recent {
            let group = snapshot.group(id);
            if !group.ready {
                decision.run(id, group.priority().runs() && may(id));
            }
        }
    }

    /// The group is gone.
    pub(super) fn forget(&mut self, id: GroupId) {
        self.recent.retain(|&known| known != id);
    }
}
