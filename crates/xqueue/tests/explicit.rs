//! The explicit API: submit, wait, query, suspend, resume.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use common::{counting, queue};
use xsched_wire::{Level, LevelChoice, env::LaunchConfig};
use xsched_xqueue::{Error, HwError, HwQueue};

fn levels() -> [LevelChoice; 3] {
    [
        LevelChoice::Exactly(Level::Lv1),
        LevelChoice::Exactly(Level::Lv2),
        LevelChoice::Auto,
    ]
}

#[test]
fn wait_means_that_command_and_no_later_one() {
    for level in levels() {
        let (queue, _, _) = queue(level, LaunchConfig::default());
        let done = Arc::new(AtomicUsize::new(0));
        let (release, held) = mpsc::channel::<()>();
        let first = queue.submit(counting(&done)).unwrap();
        let blocked = queue
            .submit(Box::new(move || {
                held.recv().map_err(|error| error.to_string())
            }))
            .unwrap();
        queue.wait(first).unwrap();
        assert!(queue.query(first));
        assert!(!queue.query(blocked));
        assert_eq!(done.load(Ordering::SeqCst), 1);
        release.send(()).unwrap();
        queue.wait(blocked).unwrap();
        queue.wait_all().unwrap();
        assert!(queue.query(blocked));
    }
}

#[test]
fn suspend_keeps_what_is_buffered_and_resume_runs_it() {
    for level in levels() {
        let (queue, block, _) = queue(level, LaunchConfig::default());
        let done = Arc::new(AtomicUsize::new(0));
        queue.suspend();
        assert!(!block.is_open(), "the scheduler was told");
        let last = (0..50)
            .map(|_| queue.submit(counting(&done)).unwrap())
            .last()
            .unwrap();
        assert!(!queue.query(last));
        assert!(queue.hw().is_drained());
        assert_eq!(done.load(Ordering::SeqCst), 0);
        queue.resume();
        queue.wait(last).unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 50);
    }
}

#[test]
fn failures_arrive_at_wait_all() {
    let (queue, _, _) = queue(LevelChoice::Auto, LaunchConfig::default());
    queue.submit(Box::new(|| Err("no memory".into()))).unwrap();
    let error = queue.wait_all().unwrap_err();
    assert_eq!(error, Error::Hw(HwError::Command("no memory".into())));
    queue.wait_all().unwrap();
}

#[test]
fn dropping_a_suspended_queue_runs_its_buffer() {
    let (queue, block, link) = queue(LevelChoice::Exactly(Level::Lv1), LaunchConfig::default());
    let done = Arc::new(AtomicUsize::new(0));
    queue.suspend();
    for _ in 0..10 {
        queue.submit(counting(&done)).unwrap();
    }
    common::set_gate(block, true);
    drop(queue);
    while done.load(Ordering::SeqCst) < 10 {
        std::thread::yield_now();
    }
    assert_eq!(link.released.load(Ordering::SeqCst), 1);
}
