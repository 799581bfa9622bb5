//! Queues on the CPU platform, with a link that records what the scheduler would hear.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use xsched_cpu::{Command, CpuQueue};
use xsched_wire::{Attributes, ControlBlock, LevelChoice, env::LaunchConfig};
use xsched_xqueue::{Link, Managing, Slot, XQueue};

/// Records; its `hold` works the gate as a scheduler would.
#[derive(Default)]
pub struct Recorder {
    pub rings: AtomicUsize,
    pub levels: Mutex<Vec<Attributes>>,
    pub released: AtomicUsize,
}

impl Link for Recorder {
    fn changed(&self, _: Slot) {
        self.rings.fetch_add(1, Ordering::SeqCst);
    }
    fn hold(&self, slot: Slot, held: bool) {
        set_gate(slot.block, !held);
    }
    fn level(&self, _: Slot, attributes: Attributes) {
        self.levels.lock().unwrap().push(attributes);
    }
    fn closing(&self, slot: Slot) {
        if slot.block.set_bypass(true) {
            slot.block.wake_gate();
        }
    }
    fn released(&self, _: Slot) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }
}

pub fn set_gate(block: &ControlBlock, open: bool) {
    if !open {
        let _ = block.close_gate();
    } else if block.open_gate() {
        block.wake_gate();
    }
}

/// A scheduled queue with its gate open.
pub fn queue(
    level: LevelChoice,
    launch: LaunchConfig,
) -> (XQueue<CpuQueue>, &'static ControlBlock, Arc<Recorder>) {
    let block: &'static ControlBlock = Box::leak(Box::new(ControlBlock::new()));
    let _ = block.open_gate();
    let _ = block.set_bypass(false);
    let link = Arc::new(Recorder::default());
    let hw = CpuQueue::new(2).unwrap();
    let slot = Slot { index: 0, block };
    let queue = XQueue::new(hw, slot, link.clone(), Some(Managing { level, launch }));
    (queue, block, link)
}

/// A command that counts itself.
pub fn counting(counter: &Arc<AtomicUsize>) -> Command {
    let counter = counter.clone();
    Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

/// Looks until a condition holds; a test that waits for ever is ended by whoever runs it.
pub fn until(holds: impl Fn() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}
