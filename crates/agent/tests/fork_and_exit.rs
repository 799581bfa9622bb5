//! Fork and exit while a queue is held. One process each: both end the process they run in.

mod common;

use common::{agent, counting, has_role, queue, run, until};
use xsched_agent::Agent;
use xsched_wire::env::Scheduler;

#[test]
fn exit_with_a_closed_gate_ends_at_once() {
    assert_eq!(run("exit_while_held", &[]).code(), Some(7));
}

#[test]
fn exit_while_held() {
    if !has_role("exit_while_held") {
        return;
    }
    let agent = agent(Scheduler::Application);
    let queue = queue(&agent, 0);
    let done = Default::default();
    queue.suspend();
    queue.launch(counting(&done)).unwrap();
    // A driver's teardown waits for its queues; so does this.
    extern "C" fn teardown() {
        TEARDOWN.get().unwrap().0.synchronize().unwrap();
    }
    struct Held(xsched_xqueue::XQueue<xsched_cpu::CpuQueue>);
    static TEARDOWN: std::sync::OnceLock<Held> = std::sync::OnceLock::new();
    assert!(TEARDOWN.set(Held(queue)).is_ok());
    // SAFETY: a function without arguments that stays mapped. Handlers run in reverse order.
    unsafe { libc::atexit(teardown) };
    release_first();
    std::process::exit(7);
}

/// Registers a handler that runs before `teardown`, as the agent's does in a program whose driver
/// was initialised before its first queue.
fn release_first() {
    extern "C" fn release() {
        xsched_agent::release_at_exit();
    }
    // SAFETY: a function without arguments that stays mapped.
    unsafe { libc::atexit(release) };
}

#[test]
fn a_forked_child_is_free_and_starts_afresh() {
    assert!(run("fork_while_held", &[]).success());
}

#[test]
fn fork_while_held() {
    if !has_role("fork_while_held") {
        return;
    }
    let parent = agent(Scheduler::Application);
    let queue = queue(&parent, 0);
    drop(queue.admit());
    queue.suspend();
    let submitted = queue.slot().block.state().submitted();
    // SAFETY: the child only uses what this test is about, then leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = in_child(&parent, &queue);
        // SAFETY: ends the process without running the parent's handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child; `status` is a valid place.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status), "child was killed: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0);
    assert_eq!(
        queue.slot().block.state().submitted(),
        submitted,
        "the child wrote elsewhere"
    );
    assert!(
        !queue.slot().block.is_open(),
        "the parent's gate is as it was"
    );
    queue.resume();
}

/// 0, or the number of what is wrong.
fn in_child(parent: &Agent, queue: &xsched_xqueue::XQueue<xsched_cpu::CpuQueue>) -> i32 {
    if !queue.slot().block.is_open() {
        return 1; // inherited queues hold nothing back
    }
    drop(queue.admit());
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let ours = fds.filter(|fd| {
        let link = std::fs::read_link(fd.as_ref().unwrap().path()).unwrap_or_default();
        link.to_string_lossy().contains("memfd:xsched")
    });
    if ours.count() != 0 {
        return 2; // descriptors are closed
    }
    let Err(error) = parent.attach(xsched_cpu::CpuQueue::new(1).unwrap(), "cpu:0") else {
        return 3; // the parent's agent refuses
    };
    if !error.to_string().contains("forked") {
        return 4;
    }
    let fresh = agent(Scheduler::Local(None));
    let Ok(own) = fresh.attach(xsched_cpu::CpuQueue::new(1).unwrap(), "cpu:0") else {
        return 5; // a new agent works
    };
    until("the child's own scheduler takes over", || {
        !own.slot().block.is_bypassed()
    });
    if own
        .launch(Box::new(|| Ok(())))
        .and_then(|()| own.synchronize())
        .is_err()
    {
        return 6;
    }
    0
}
