//! Level 3 as an ordinary user: without the right to leave `SCHED_IDLE` again it is refused.
//!
//! The process gives its rights up for good, so this test stands alone in its file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xsched_cpu::{CpuQueue, class};
use xsched_wire::{Level, Share};
use xsched_xqueue::HwQueue;

#[test]
fn level_three_is_refused_without_the_right_to_come_back() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Nice, none).expect("limits may be lowered");
    if rustix::process::geteuid().is_root() {
        drop_capabilities();
    }
    assert_eq!(getrlimit(Resource::Nice).current, Some(0));

    let reason = xsched_cpu::lv3_refusal().expect("no way back from SCHED_IDLE");
    assert!(reason.contains("RLIMIT_NICE"), "{reason}");
    let queue = CpuQueue::new(2).unwrap();
    assert_eq!(queue.support().level, Level::Lv2);
    assert!(queue.set_share(Share::Background).is_err());
    assert!(
        queue
            .workers()
            .iter()
            .all(|&worker| !class::is_idle(worker).unwrap())
    );
}

/// Gives up every capability of this thread, which all threads made later inherit.
fn drop_capabilities() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let empty = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, empty).expect("capabilities may be dropped");
}
