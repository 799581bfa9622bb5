//! Cost of admission with the gate open and nothing due, by level.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use xsched_wire::{ControlBlock, Level, LevelChoice, Share, env::LaunchConfig};
use xsched_xqueue::{HwError, HwQueue, Managing, NoLink, Slot, Spacing, Support, XQueue};

/// A hw queue that does nothing, so that admission alone is measured.
struct Bare;

impl HwQueue for Bare {
    type Command = ();

    fn support(&self) -> Support {
        Support {
            level: Level::Lv3,
            reason: None,
            one_background: false,
            independent: true,
        }
    }
    fn launch(&self, (): ()) -> Result<(), HwError> {
        Ok(())
    }
    fn synchronize(&self) -> Result<(), HwError> {
        Ok(())
    }
    fn is_drained(&self) -> bool {
        true
    }
    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        block.complete(value);
        Ok(())
    }
    fn gate(&self, _: &'static ControlBlock) -> Result<(), HwError> {
        Ok(())
    }
    fn set_share(&self, _: Share) -> Result<(), HwError> {
        Ok(())
    }
    fn spacing(&self, _: Level) -> Spacing {
        Spacing::Commands(u32::MAX)
    }
}

fn queue(level: Option<Level>) -> XQueue<Bare> {
    let block: &'static ControlBlock = Box::leak(Box::new(ControlBlock::new()));
    let window = LaunchConfig::new(1 << 30, 1 << 29).expect("a window that is never full");
    let managing = level.map(|level| Managing {
        level: LevelChoice::Exactly(level),
        launch: window,
    });
    let queue = XQueue::new(Bare, Slot { index: 0, block }, Arc::new(NoLink), managing);
    drop(queue.admit()); // ready, first gate placed
    queue
}

fn admit(criterion: &mut Criterion) {
    let levels = [None, Some(Level::Lv1), Some(Level::Lv2), Some(Level::Lv3)];
    for level in levels {
        let name = level.map_or("pass-through".into(), |level| format!("level {level}"));
        let queue = queue(level);
        criterion.bench_function(&format!("admit, open, nothing due, {name}"), |bencher| {
            bencher.iter(|| drop(black_box(queue.admit())));
        });
    }
}

criterion_group!(benches, admit);
criterion_main!(benches);
