//! The hot path's promises: no allocation, no system call, no lock.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};

use common::queue;
use rustix::thread::{SecureComputingMode, set_secure_computing_mode};
use xsched_wire::{Level, LevelChoice, env::LaunchConfig};

/// Counts this thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A window so large that no mark is due during a test; at level 1 no gate is ever placed.
fn quiet() -> LaunchConfig {
    LaunchConfig::new(1 << 20, 1 << 19).unwrap()
}

#[test]
fn admission_does_not_allocate() {
    let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv1), quiet());
    drop(queue.admit());
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        drop(queue.admit());
    }
    assert_eq!(ALLOCATIONS.get(), before);
    drop(Box::new(0_u64));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
}

/// In a child process of this test: a system call other than read, write and exit ends the thread.
const CHILD: &str = "XSCHED_TEST_SECCOMP_CHILD";

#[test]
fn admission_makes_no_system_call() {
    let me = std::env::current_exe().unwrap();
    let run = |body: &str| {
        std::process::Command::new(&me)
            .args(["--exact", "seccomp_child", "--nocapture"])
            .env(CHILD, body)
            .output()
            .unwrap()
            .status
    };
    assert!(run("admit").success());
    assert!(!run("syscall").success(), "the trap traps");
}

#[test]
fn seccomp_child() {
    let Ok(body) = std::env::var(CHILD) else {
        return;
    };
    static DONE: AtomicBool = AtomicBool::new(false);
    let (id, ids) = std::sync::mpsc::channel();
    let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv1), quiet());
    drop(queue.admit());
    let thread = std::thread::spawn(move || {
        let _ = id.send(rustix::thread::gettid());
        set_secure_computing_mode(SecureComputingMode::Strict).unwrap();
        for _ in 0..1000 {
            drop(queue.admit());
        }
        if body == "syscall" {
            let _ = rustix::process::getppid();
        }
        DONE.store(true, Ordering::SeqCst);
        loop {
            std::hint::spin_loop(); // even ending the thread would be a system call
        }
    });
    let task = format!("/proc/self/task/{}", ids.recv().unwrap().as_raw_nonzero());
    drop(thread);
    // The trap kills the thread alone, so its end is the sign.
    while !DONE.load(Ordering::SeqCst) && std::path::Path::new(&task).exists() {
        std::thread::yield_now();
    }
    std::process::exit(i32::from(!DONE.load(Ordering::SeqCst)));
}

/// A thread that stops anywhere between admission and driver holds no other thread up.
#[test]
fn admission_takes_no_lock() {
    let (queue, _, _) = queue(LevelChoice::Exactly(Level::Lv1), quiet());
    let stopped = queue.admit();
    std::thread::scope(|scope| {
        scope
            .spawn(|| (0..1000).for_each(|_| drop(queue.admit())))
            .join()
            .unwrap();
    });
    assert_eq!(queue.admit().number(), 1002);
    drop(stopped);
}
