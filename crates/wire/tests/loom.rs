//! Loom models of the control block's protocols; run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use xsched_wire::ControlBlock;

/// What stands around a block: the dirty bit, doorbell and gate futex, and a hw queue's count.
struct World {
    block: ControlBlock,
    dirty: AtomicU64,
    quiet: AtomicU64,
    doorbell: Notify,
    gate_futex: Notify,
    in_queue: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let block = ControlBlock::new();
        let _ = block.open_gate();
        let _ = block.set_bypass(false);
        Arc::new(World {
            block,
            dirty: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            doorbell: Notify::new(),
            gate_futex: Notify::new(),
            in_queue: AtomicU64::new(0),
        })
    }

    fn ring(&self) {
        self.dirty.fetch_or(1, Ordering::SeqCst);
        if self.quiet.load(Ordering::SeqCst) == 0 {
            self.doorbell.notify();
        }
    }

    fn launch(&self) {
        if self.block.publish().became_ready {
            self.ring();
        }
        self.in_queue.fetch_add(1, Ordering::SeqCst);
        self.block.forwarded();
    }

    /// A synchronization: everything that the driver has received completes.
    fn synchronize(&self) {
        let point = self.block.drain_point();
        self.in_queue.store(0, Ordering::SeqCst);
        if point.is_some_and(|point| self.block.drained(point)) {
            self.ring();
        }
    }

    /// A launch that level 1 holds at a closed gate.
    fn launch_at_gate(&self) {
        if self.block.publish().became_ready {
            self.ring();
        }
        while !self.block.is_open() {
            self.gate_futex.wait();
        }
        self.block.forwarded();
    }

    /// The scheduler waits until it knows of the launch, and opens.
    fn open_when_ready(&self, mut believes_ready: bool) {
        while !believes_ready {
            self.doorbell.wait();
            self.look(&mut believes_ready);
        }
        if self.block.open_gate() {
            self.gate_futex.notify();
        }
    }

    /// One turn of the scheduler: what it believes after it took the dirty bit.
    fn look(&self, believes_ready: &mut bool) {
        if self.dirty.swap(0, Ordering::SeqCst) != 0 {
            *believes_ready = self.block.state().is_ready();
        }
    }
}

/// Two threads launch and synchronize on one queue: the queue is never idle with a command in
/// the hw queue, and after the last ring the scheduler believes what is true.
#[test]
fn idle_means_empty_and_the_scheduler_knows() {
    loom::model(|| {
        let world = World::new();
        let launcher = thread::spawn({
            let world = world.clone();
            move || world.launch()
        });
        let scheduler = thread::spawn({
            let world = world.clone();
            move || {
                let mut believes = false;
                world.look(&mut believes);
                believes
            }
        });
        world.launch();
        world.synchronize();
        launcher.join().unwrap();
        let mut believes = scheduler.join().unwrap();
        world.look(&mut believes);

        let ready = world.block.state().is_ready();
        assert!(ready || world.in_queue.load(Ordering::SeqCst) == 0);
        assert_eq!(believes, ready);
    });
}

/// A launch into a closed gate is always heard: publish, ring, then wait; take the bit, look, open.
#[test]
fn a_held_launch_is_heard() {
    loom::model(|| {
        let world = World::new();
        let _ = world.block.close_gate();
        let application = thread::spawn({
            let world = world.clone();
            move || world.launch_at_gate()
        });
        world.open_when_ready(false);
        application.join().unwrap();
    });
}

/// A launch while the scheduler closes the gate of a queue that need not ring: either the scheduler sees
/// it after it closed, or it rings.
#[test]
fn a_launch_that_did_not_ring_is_heard_before_a_gate_closes() {
    loom::model(|| {
        let world = World::new();
        world.quiet.store(1, Ordering::SeqCst);
        let application = thread::spawn({
            let world = world.clone();
            move || world.launch_at_gate()
        });
        world.quiet.store(0, Ordering::SeqCst);
        let _ = world.block.close_gate();
        let mut believes_ready = false;
        world.look(&mut believes_ready);
        world.open_when_ready(believes_ready);
        application.join().unwrap();
    });
}

/// Scheduler and agent change their own bits only: neither's store is lost.
#[test]
fn gate_bits_do_not_disturb_each_other() {
    loom::model(|| {
        let world = World::new();
        let agent = thread::spawn({
            let world = world.clone();
            move || world.block.set_bypass(true)
        });
        let _ = world.block.close_gate();
        let _ = agent.join().unwrap();
        assert!(world.block.is_open(), "bypass holds");
        let _ = world.block.set_bypass(false);
        assert!(!world.block.is_open(), "the scheduler's bit stayed closed");
    });
}
