//! Policies: the rule by which groups are chosen. Snapshot in, decision out.
//!
//! To add one: copy `template.rs`, name it in [`POLICIES`]; the conformance suite then runs on it. What several share
//! stands in `classes` (the highest class executes), `shares` (virtual time) and `standing` (idle groups with an open
//! gate).

mod awf;
mod cfs;
mod chpf;
mod classes;
mod fifo;
mod hhpf;
mod hpf;
mod kedf;
mod lax;
mod mlfq;
mod pup;
mod shares;
mod slo;
mod spup;
mod standing;
mod template;
mod up;
mod view;

pub use awf::Awf;
pub use cfs::Cfs;
pub use chpf::Chpf;
pub use fifo::Fifo;
pub use hhpf::Hhpf;
pub use hpf::Hpf;
pub use kedf::Kedf;
pub use lax::Lax;
pub use mlfq::Mlfq;
pub use pup::Pup;
pub use slo::Slo;
pub use spup::Spup;
pub use template::Turns;
pub use up::Up;
pub use view::GroupView;

use crate::{
    event::HwShare,
    ids::{DeviceId, GroupId, Nanos},
    registry::{Group, Slab},
};
use xsched_hint::{Hint, HintKind};

/// The rule by which the groups of a device are chosen. It suspends nothing itself: the engine compares its decision
/// with what stands and acts on the differences.
pub trait Policy: Send {
    /// The name by which users choose it.
    fn name(&self) -> &'static str;

    /// Says which groups of one device may run now. Called whenever something changed there, and when the time that it
    /// last asked for has come.
    fn decide(&mut self, now: Nanos, snapshot: &Snapshot<'_>, decision: &mut Decision);

    /// The group is gone and its name will be used again: drop what is kept about it.
    fn forget(&mut self, group: &GroupView);
}

/// What is known of a policy without making one.
pub struct About {
    /// The name by which users choose it.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// The hints that have a meaning to it. The engine keeps the others, for the next policy; "do not run" is heeded by
    /// all.
    pub hints: &'static [HintKind],
    /// A device with work never stands idle.
    pub work_conserving: bool,
    /// What it decides depends on when groups had work before.
    pub remembers: bool,
    /// Makes one with its defaults.
    pub make: fn() -> Box<dyn Policy>,
}

impl About {
    /// Whether a hint has a meaning to it.
    pub fn heeds(&self, hint: Hint) -> bool {
        self.hints.contains(&hint.kind()) || hint.is_about_running()
    }
}

/// The policies that users can choose, the default first.
pub const POLICIES: &[About] = &[
    hpf::ABOUT,
    fifo::ABOUT,
    template::ABOUT,
    hhpf::ABOUT,
    chpf::ABOUT,
    up::ABOUT,
    pup::ABOUT,
    spup::ABOUT,
    kedf::ABOUT,
    lax::ABOUT,
    awf::ABOUT,
    cfs::ABOUT,
    mlfq::ABOUT,
    slo::ABOUT,
];

/// The names of [`POLICIES`].
pub fn names() -> impl Iterator<Item = &'static str> {
    POLICIES.iter().map(|about| about.name)
}

/// What is known of a policy, by its name. Upstream writes names in capitals: case does not count.
pub fn about(name: &str) -> Result<&'static About, UnknownPolicy> {
    let known = POLICIES
        .iter()
        .find(|about| about.name.eq_ignore_ascii_case(name));
    known.ok_or_else(|| UnknownPolicy(name.to_owned()))
}

/// A policy by its name.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>, UnknownPolicy> {
    about(name).map(|about| (about.make)())
}

/// There is no policy of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use one of {known}", known = names().collect::<Vec<_>>().join(", "))]
pub struct UnknownPolicy(pub String);

/// One device as a policy sees it.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    /// Which.
    pub device: DeviceId,
    /// Its time slicer takes slices, but groups of [`HwShare::Background`] of two processes starve each other there.
    pub one_background: bool,
    /// The groups of this device that came, or whose work or hints changed, or that were served by the guard, since the
    /// last decision; all of them after a change of policy. May repeat. For those that went see [`Policy::forget`].
    pub changed: &'a [GroupId],
    pub(crate) groups: &'a Slab<Group>,
}

impl<'a> Snapshot<'a> {
    /// A registered group, on whatever device.
    pub fn group(&self, id: GroupId) -> &'a GroupView {
        &self.groups[id.index()].view
    }

    /// The groups in `changed`.
    pub fn changed(&self) -> impl Iterator<Item = &'a GroupView> + use<'a> {
        let groups = self.groups;
        self.changed.iter().map(|id| &groups[id.index()].view)
    }
}

/// What a policy wants. It stays as the last decision was, with new groups closed, so only differences need to be
/// written.
#[derive(Debug, Default)]
pub struct Decision {
    /// By group.
    verdicts: Vec<Verdict>,
    /// Groups whose verdict changed. May repeat.
    pub(crate) changed: Vec<GroupId>,
    pub(crate) ask_again: Option<Nanos>,
    pub(crate) everywhere: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) run: bool,
    pub(crate) share: HwShare,
}

impl Decision {
    /// The group may run (its gate is open, whether it has work or not), or may not. It must be one of the snapshot's
    /// device.
    pub fn run(&mut self, group: GroupId, run: bool) {
        let verdict = &mut self.verdicts[group.index()];
        if verdict.run != run {
            verdict.run = run;
            self.changed.push(group);
        }
    }

    /// How the hardware treats the group, which must be one of the snapshot's device.
    pub fn share(&mut self, group: GroupId, share: HwShare) {
        let verdict = &mut self.verdicts[group.index()];
        if verdict.share != share {
            verdict.share = share;
            self.changed.push(group);
        }
    }

    /// Whether it runs by what was decided so far.
    pub fn runs(&self, group: GroupId) -> bool {
        self.verdicts[group.index()].run
    }

    /// Decide again at this time at the latest. To be said in every decision for which it holds; the earliest counts.
    pub fn ask_again(&mut self, at: Nanos) {
        self.ask_again = Some(self.ask_again.map_or(at, |earlier| earlier.min(at)));
    }

    /// Decide on every other device as well, at once: something changed that they heed.
    pub fn decide_everywhere(&mut self) {
        self.everywhere = true;
    }

    pub(crate) fn verdict(&self, group: GroupId) -> Verdict {
        self.verdicts[group.index()]
    }

    /// A new group, closed.
    pub(crate) fn add(&mut self, group: GroupId) {
        if self.verdicts.len() <= group.index() {
            self.verdicts.resize(group.index() + 1, Verdict::default());
        }
        self.verdicts[group.index()] = Verdict::default();
    }
}

#[cfg(test)]
pub(crate) mod testing;
