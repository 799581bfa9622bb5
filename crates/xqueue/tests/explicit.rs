//! The explicit API: submit, wait, query, suspend, resume.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use common::{counting, queue};
use xsched_cpu::Command;
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
    // One command is held at level 1; 300 are more than go behind a gate at level 2.
    for level in levels() {
        let (queue, _, link) = queue(level, LaunchConfig::default());
        let done = Arc::new(AtomicUsize::new(0));
        queue.suspend();
        for _ in 0..300 {
            queue.submit(counting(&done)).unwrap();
        }
        drop(queue);
        while done.load(Ordering::SeqCst) < 300 {
            std::thread::yield_now();
        }
        assert_eq!(link.released.load(Ordering::SeqCst), 1);
    }
}

/// A command that tells that it has begun, and goes on when it is told to.
fn stopping(counter: &Arc<AtomicUsize>) -> (Command, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, told) = mpsc::channel();
    let counter = counter.clone();
    let command = move || {
        begun.send(()).map_err(|error| error.to_string())?;
        told.recv().map_err(|error| error.to_string())?;
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    (Box::new(command), has_begun, go_on)
}

#[test]
fn suspend_and_wait_returns_when_nothing_executes() {
    for level in levels() {
        let (queue, block, _) = queue(level, LaunchConfig::default());
        let (done, rest) = (Arc::default(), Arc::default());
        let (command, has_begun, go_on) = stopping(&done);
        queue.submit(command).unwrap();
        has_begun.recv().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                queue.suspend_and_wait().unwrap();
                done.load(Ordering::SeqCst)
            });
            common::until(|| queue.is_suspended());
            let last = queue.submit(counting(&rest)).unwrap();
            go_on.send(()).unwrap();
            assert_eq!(waits.join().unwrap(), 1, "what executed is over");
            assert!(!block.is_open() && queue.hw().is_drained());
            queue.suspend_and_wait().unwrap(); // a second time changes nothing
            assert_eq!(rest.load(Ordering::SeqCst), 0, "what is buffered stays");
            queue.resume();
            queue.wait(last).unwrap();
        });
        assert_eq!(rest.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn resume_can_drop_what_is_buffered() {
    for level in levels() {
        let (queue, _, _) = queue(level, LaunchConfig::default());
        let (dropped, kept) = (Arc::default(), Arc::default());
        queue.submit(counting(&kept)).unwrap();
        queue.wait_all().unwrap();
        queue.suspend();
        let submit = |counter| queue.submit(counting(counter)).unwrap();
        let tickets: Vec<_> = (0..50).map(|_| submit(&dropped)).collect();
        let last = tickets[49];
        queue.resume_dropping();
        queue.wait(last).unwrap();
        assert!(queue.query(last), "what was dropped counts as completed");
        let last = submit(&kept);
        queue.resume_dropping(); // not suspended: nothing is lost
        queue.wait(last).unwrap();
        queue.wait_all().unwrap();
        let count = |counter: &Arc<AtomicUsize>| counter.load(Ordering::SeqCst);
        assert_eq!((count(&dropped), count(&kept)), (0, 2));
    }
}

#[test]
fn wait_holds_while_other_threads_launch_in_place() {
    let window = LaunchConfig::new(4, 2).unwrap();
    for level in levels() {
        let (queue, block, _) = queue(level, window);
        let done = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..500).for_each(|_| queue.launch(counting(&done)).unwrap()));
            }
            scope.spawn(|| {
                for _ in 0..200 {
                    common::set_gate(block, false);
                    std::thread::yield_now();
                    common::set_gate(block, true);
                }
            });
            for _ in 0..500 {
                let own = Arc::new(AtomicUsize::new(0));
                let ticket = queue.submit(counting(&own)).unwrap();
                queue.wait(ticket).unwrap();
                assert_eq!(
                    own.load(Ordering::SeqCst),
                    1,
                    "waited for, but not executed"
                );
            }
        });
        queue.wait_all().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert!(!block.state().is_ready());
    }
}
