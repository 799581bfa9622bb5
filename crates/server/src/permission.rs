//! Who may do what, as pure functions of user ids.
//!
//! | who | own processes | others' processes | priority above normal | policy |
//! |---|---|---|---|---|
//! | root, the daemon's owner | yes | yes | yes | yes |
//! | any other user | yes | no | no | no |

use xsched_sched::Priority;

const ROOT: u32 = 0;

/// The user behind a connection, as the kernel names it, and the daemon's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// The user.
    pub(crate) uid: u32,
    /// Who the daemon runs as.
    pub(crate) owner: u32,
}

/// A refusal; `Display` is the line for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The process is somebody else's.
    #[error(
        "this program belongs to user {target}: only that user, the daemon's owner (user {owner}) and root may change it"
    )]
    NotYours { target: u32, owner: u32 },
    /// Above normal.
    #[error(
        "priority {priority} is above normal (0), which only the daemon's owner (user {owner}) and root may give: use 0 or less"
    )]
    Raise { priority: Priority, owner: u32 },
    /// Concerns everybody.
    #[error(
        "the policy concerns everybody: only the daemon's owner (user {owner}) and root may change it"
    )]
    Policy { owner: u32 },
}

impl Actor {
    fn is_privileged(self) -> bool {
        self.uid == ROOT || self.uid == self.owner
    }

    /// May this user change a process of user `target`?
    pub(crate) fn may_change(self, target: u32) -> Result<(), Denied> {
        if self.is_privileged() || self.uid == target {
            return Ok(());
        }
        Err(Denied::NotYours {
            target,
            owner: self.owner,
        })
    }

    /// May this user give this priority to a process that it may change?
    pub(crate) fn may_give(self, priority: Priority) -> Result<(), Denied> {
        if self.is_privileged() || priority <= Priority::NORMAL {
            return Ok(());
        }
        Err(Denied::Raise {
            priority,
            owner: self.owner,
        })
    }

    /// May this user change the policy?
    pub(crate) fn may_set_policy(self) -> Result<(), Denied> {
        if self.is_privileged() {
            return Ok(());
        }
        Err(Denied::Policy { owner: self.owner })
    }

    /// What a program gets that asked for `priority`: as much as its user may give, and why less.
    pub(crate) fn grant(self, priority: Priority) -> (Priority, Option<Denied>) {
        match self.may_give(priority) {
            Ok(()) => (priority, None),
            Err(denied) => (Priority::NORMAL, Some(denied)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        const OWNER: u32 = 100;
        // user, other's process, above normal, policy
        let check = |uid: u32, others: bool, raise: bool, policy: bool| {
            let actor = Actor { uid, owner: OWNER };
            let high = Priority::new(1).unwrap();
            assert!(actor.may_change(uid).is_ok(), "{uid}: own process");
            assert_eq!(actor.may_change(300).is_ok(), others, "{uid}: other's");
            assert_eq!(actor.may_give(high).is_ok(), raise, "{uid}: raise");
            assert_eq!(actor.grant(high).0 == high, raise, "{uid}: granted");
            assert_eq!(actor.grant(high).1.is_none(), raise, "{uid}: notice");
            assert_eq!(actor.may_set_policy().is_ok(), policy, "{uid}: policy");
            for low in [Priority::NORMAL, Priority::LOW, Priority::NO_RUN] {
                assert_eq!(actor.grant(low), (low, None), "{uid}: lower");
            }
        };
        check(ROOT, true, true, true);
        check(OWNER, true, true, true);
        check(200, false, false, false);
    }

    #[test]
    fn a_refusal_says_who_may() {
        let actor = Actor {
            uid: 200,
            owner: 100,
        };
        let high = Priority::new(7).unwrap();
        for line in [
            actor.may_change(300).unwrap_err().to_string(),
            actor.may_give(high).unwrap_err().to_string(),
            actor.may_set_policy().unwrap_err().to_string(),
        ] {
            assert!(line.contains("user 100") && line.contains("root"), "{line}");
        }
        assert_eq!(actor.grant(high).0, Priority::NORMAL);
    }
}
