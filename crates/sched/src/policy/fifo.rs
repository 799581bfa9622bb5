//! `fifo`, no scheduling.
//!
//! For: comparing with the device's own scheduler through the same path, and switching the effect off at run time.
//! Hints: none, apart from "do not run".
//! Guarantee: every gate is open.
//! Not for: anything urgent.

use super::{Decision, Policy, Snapshot};
use crate::{event::HwShare, ids::Nanos};

/// No scheduling. See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn decide(&mut self, _now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision) {
        for (position, group) in snapshot.groups.iter().enumerate() {
            decision.run(position, group.priority.runs());
            decision.share(position, HwShare::Normal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    #[test]
    fn everything_is_open() {
        let groups = testing::groups(&[(255, true), (0, false), (-255, true), (-256, true)]);
        assert_eq!(
            testing::decide(&mut Fifo, 0, &groups),
            (vec![true, true, true, false], None)
        );
    }
}
