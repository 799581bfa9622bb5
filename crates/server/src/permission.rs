//! Who may do what, as pure functions of user ids.
//!
//! | who | own processes | others' processes | hints that take from others | policy, active window |
//! |---|---|---|---|---|
//! | root, the daemon's owner | yes | yes | yes | yes |
//! | any other user | yes | no | no | no |
//!
//! What takes from others: a priority above normal (that of laxity included), a weight above the default, a share of the
//! device, a latency target, how many deadlines count.

use xsched_sched::{Hint, HintKind, Hints, Priority};

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
    /// At others' expense.
    #[error(
        "{kind} {value} takes from others, which only the daemon's owner (user {owner}) and root may give: use {instead}"
    )]
    Takes {
        kind: HintKind,
        value: i64,
        owner: u32,
        instead: &'static str,
    },
    /// Concerns everybody.
    #[error(
        "the policy and the active window concern everybody: only the daemon's owner (user {owner}) and root may change it"
    )]
    Policy { owner: u32 },
}

impl Denied {
    /// What became of a program's own wish that was denied.
    pub(crate) fn notice(self) -> String {
        match self {
            Denied::Raise { .. } => format!("priority lowered to normal (0): {self}"),
            _ => format!("a hint is not taken: {self}"),
        }
    }
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

    /// May this user give this hint to a process that it may change?
    pub(crate) fn may_give(self, hint: Hint) -> Result<(), Denied> {
        if self.is_privileged() {
            return Ok(());
        }
        let owner = self.owner;
        let (value, instead) = match hint {
            Hint::Priority(priority) if priority > Priority::NORMAL => {
                return Err(Denied::Raise { priority, owner });
            }
            Hint::Laxity(laxity) if laxity.lax.max(laxity.critical) > Priority::NORMAL => (
                laxity.lax.max(laxity.critical).get().into(),
                "priorities of 0 or less",
            ),
            Hint::Weight(weight) if weight.get() > 100 => (weight.get() as i64, "100 or less"),
            Hint::Utilization(share) => (share.get() as i64, "none"),
            Hint::LatencyTarget(target) => (target.get() as i64, "none"),
            Hint::KDeadline(k) => (k.get() as i64, "none"),
            _ => return Ok(()),
        };
        Err(Denied::Takes {
            kind: hint.kind(),
            value,
            owner,
            instead,
        })
    }

    /// May this user change the policy?
    pub(crate) fn may_set_policy(self) -> Result<(), Denied> {
        if self.is_privileged() {
            return Ok(());
        }
        Err(Denied::Policy { owner: self.owner })
    }

    /// What a program gets that asked for `hints`: as much as its user may give, and why less.
    pub(crate) fn grant(self, hints: Hints) -> (Hints, Option<Denied>) {
        let mut denied = None;
        let granted = hints.iter().filter_map(|hint| match self.may_give(hint) {
            Ok(()) => Some(hint),
            Err(why) => {
                denied.get_or_insert(why);
                let is_priority = hint.kind() == HintKind::Priority;
                is_priority.then_some(Hint::Priority(Priority::NORMAL))
            }
        });
        (granted.collect(), denied)
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
            let one = |kind: HintKind, text: &str| {
                let hints: Hints = [kind.parse(text).unwrap()].into_iter().collect();
                hints
            };
            let high = one(HintKind::Priority, "1");
            assert!(actor.may_change(uid).is_ok(), "{uid}: own process");
            assert_eq!(actor.may_change(300).is_ok(), others, "{uid}: other's");
            let takes = [
                high,
                one(HintKind::Laxity, "1ms:-5:1"),
                one(HintKind::Weight, "101"),
                one(HintKind::Utilization, "0"),
                one(HintKind::LatencyTarget, "1ms"),
                one(HintKind::KDeadline, "1"),
            ];
            for hint in takes.iter().flat_map(Hints::iter) {
                assert_eq!(actor.may_give(hint).is_ok(), raise, "{uid}: {hint}");
            }
            assert_eq!(actor.grant(high).0 == high, raise, "{uid}: granted");
            assert_eq!(actor.grant(high).1.is_none(), raise, "{uid}: notice");
            assert_eq!(actor.may_set_policy().is_ok(), policy, "{uid}: policy");
            let fine = [
                one(HintKind::Priority, "0"),
                one(HintKind::Priority, "-100"),
                one(HintKind::Priority, "-256"),
                one(HintKind::Laxity, "1ms:-5:0"),
                one(HintKind::Weight, "100"),
                one(HintKind::Deadline, "1us"),
                one(HintKind::TimeSlice, "1ms"),
            ];
            for low in fine {
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
        let high = Hint::Priority(Priority::new(7).unwrap());
        for line in [
            actor.may_change(300).unwrap_err().to_string(),
            actor.may_give(high).unwrap_err().to_string(),
            actor.may_set_policy().unwrap_err().to_string(),
        ] {
            assert!(line.contains("user 100") && line.contains("root"), "{line}");
        }
        let granted = actor.grant([high].into_iter().collect()).0;
        assert_eq!(granted.priority, Some(Priority::NORMAL));
    }
}
