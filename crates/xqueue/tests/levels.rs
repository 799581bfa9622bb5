//! What each level holds back, on a real asynchronous queue.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use common::{counting, queue, set_gate};
use xsched_wire::{Level, LevelChoice, Share, env::LaunchConfig};
use xsched_xqueue::{Error, HwQueue};

fn window(threshold: u32, batch: u32) -> LaunchConfig {
    LaunchConfig::new(threshold, batch).unwrap()
}

#[test]
fn level_one_holds_the_calling_thread() {
    let (queue, block, _) = queue(LevelChoice::Exactly(Level::Lv1), LaunchConfig::default());
    let done = Arc::new(AtomicUsize::new(0));
    set_gate(block, false);
    std::thread::scope(|scope| {
        let launcher = scope.spawn(|| queue.launch(counting(&done)));
        while block.state().submitted() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(block.waiting(), 1, "published, not forwarded");
        assert!(
            queue.begin_synchronize().is_none(),
            "a synchronization would prove nothing"
        );
        assert_eq!(done.load(Ordering::SeqCst), 0);
        set_gate(block, true);
        launcher.join().unwrap().unwrap();
    });
    queue.synchronize().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert!(!block.state().is_ready());
}

#[test]
fn level_one_keeps_at_most_a_window_in_flight() {
    for (threshold, batch) in [(1, 1), (4, 2), (8, 8), (7, 3)] {
        let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv1), window(threshold, batch));
        let done = Arc::new(AtomicUsize::new(0));
        let mut worst = 0;
        for launched in 1..=100 {
            queue.launch(counting(&done)).unwrap();
            worst = worst.max(launched - done.load(Ordering::SeqCst));
        }
        assert!(
            worst <= threshold as usize,
            "{worst} in flight, window {threshold}/{batch}"
        );
        queue.synchronize().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}

#[test]
fn the_window_can_change_while_running() {
    let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv1), window(64, 32));
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..50 {
        queue.launch(counting(&done)).unwrap();
    }
    queue.set_launch_config(2, 1).unwrap();
    for launched in 51..=100 {
        queue.launch(counting(&done)).unwrap();
        assert!(launched - done.load(Ordering::SeqCst) <= 2);
    }
    let error = queue.set_launch_config(2, 3).unwrap_err();
    assert!(matches!(error, Error::Window { .. }), "{error}");
}

#[test]
fn level_two_stops_what_is_in_flight_at_the_next_command() {
    let (queue, block, _) = queue(LevelChoice::Exactly(Level::Lv2), LaunchConfig::default());
    let done = Arc::new(AtomicUsize::new(0));
    let (started, running) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    queue
        .launch(Box::new(move || {
            started.send(()).map_err(|error| error.to_string())?;
            held.recv().map_err(|error| error.to_string())
        }))
        .unwrap();
    for _ in 0..100 {
        queue.launch(counting(&done)).unwrap(); // forwarded, none held back by the CPU
    }
    running.recv().unwrap();
    set_gate(block, false);
    release.send(()).unwrap();
    // The running command ends; the one behind it stands at its gate.
    while queue.hw().is_drained() {
        std::thread::yield_now();
    }
    assert_eq!(done.load(Ordering::SeqCst), 0);
    set_gate(block, true);
    queue.synchronize().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 100);
}

#[test]
fn level_two_takes_a_bounded_number_behind_a_closed_gate() {
    let (queue, block, _) = queue(LevelChoice::Exactly(Level::Lv2), LaunchConfig::default());
    let done = Arc::new(AtomicUsize::new(0));
    set_gate(block, false);
    let bound = xsched_xqueue::admission::BEHIND_GATE;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..bound + 100 {
                queue.launch(counting(&done)).unwrap();
            }
        });
        while block.waiting() == 0 || block.state().submitted() <= bound {
            std::thread::yield_now();
        }
        assert_eq!(block.forwarded_count(), bound);
        assert_eq!(done.load(Ordering::SeqCst), 0);
        set_gate(block, true);
    });
    queue.synchronize().unwrap();
    assert_eq!(done.load(Ordering::SeqCst) as u64, bound + 100);
}

#[test]
fn levels_rise_and_fall_while_running() {
    let (queue, block, link) = queue(LevelChoice::Exactly(Level::Lv1), window(4, 2));
    let highest = queue.hw().support().level;
    let done = Arc::new(AtomicUsize::new(0));
    let mut launched = 0;
    for level in [Level::Lv2, Level::Lv1, highest, Level::Lv1, Level::Lv2] {
        queue.set_level(level).unwrap();
        assert_eq!(queue.level(), Some(level));
        for _ in 0..20 {
            queue.launch(counting(&done)).unwrap();
            launched += 1;
        }
    }
    queue.synchronize().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), launched);
    assert!(!block.state().is_ready());
    assert_eq!(link.levels.lock().unwrap().len(), 5);
}

#[test]
fn the_share_is_applied_at_level_three_only() {
    let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv2), LaunchConfig::default());
    let idle = || {
        let workers = queue.hw().workers();
        workers
            .iter()
            .all(|&worker| xsched_cpu::class::is_idle(worker).unwrap())
    };
    let managed = queue.managed().upgrade().unwrap();
    managed.apply_share(Share::Background);
    assert!(!idle());
    if queue.hw().support().level < Level::Lv3 {
        let error = queue.set_level(Level::Lv3).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
        assert_eq!(queue.level(), Some(Level::Lv2), "nothing changed");
        return;
    }
    queue.set_level(Level::Lv3).unwrap();
    assert!(idle(), "remembered and applied");
    queue.set_level(Level::Lv2).unwrap();
    assert!(!idle(), "restored");
}

#[test]
fn idle_is_found_without_a_synchronization() {
    let (queue, block, link) = queue(LevelChoice::Auto, LaunchConfig::default());
    let done = Arc::new(AtomicUsize::new(0));
    queue.launch(counting(&done)).unwrap();
    let managed = queue.managed().upgrade().unwrap();
    while block.state().is_ready() {
        managed.tend(true);
        std::thread::yield_now();
    }
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert_eq!(link.rings.load(Ordering::SeqCst), 2, "ready, idle");
}
