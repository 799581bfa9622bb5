//! Fork and exit: the only file of this crate with `unsafe`.
//!
//! Agents are never freed: hooks may run until the last moment of a process, and a forked child
//! inherits them half alive: memory, but no thread. In the child each one is declared dead, its
//! descriptors are closed, and private memory with open gates takes the segment's place; the next
//! use makes a fresh agent. At exit every gate opens, before the
//! driver's own teardown waits for what stands behind one.

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc, Once,
        atomic::{AtomicPtr, Ordering},
    },
};

use xsched_wire::segment::OwnSegment;

use crate::shared::Shared;

/// All agents of the process, newest first. Nodes are never freed and never change.
struct Node {
    shared: Arc<Shared>,
    next: *const Node,
}

static AGENTS: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());

/// Takes an agent into the care of the fork and exit handlers, for ever.
pub(crate) fn watch(shared: &Arc<Shared>) {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: the handlers live as long as this code is mapped; a shim is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // SAFETY: as above.
        unsafe { libc::atexit(at_exit) };
    });
    let node = Box::into_raw(Box::new(Node {
        shared: shared.clone(),
        next: std::ptr::null(),
    }));
    let mut head = AGENTS.load(Ordering::Acquire);
    loop {
        // SAFETY: not published yet, so nobody else looks at the node.
        unsafe { (*node).next = head };
        match AGENTS.compare_exchange_weak(head, node, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

/// The agent that a process-wide pointer holds.
pub(crate) fn load(cell: &AtomicPtr<Shared>) -> Option<Arc<Shared>> {
    let pointer = cell.load(Ordering::Acquire);
    if pointer.is_null() {
        return None;
    }
    // SAFETY: `publish` put an `Arc`'s pointer there and gave its count away for ever.
    unsafe { Arc::increment_strong_count(pointer) };
    // SAFETY: the count was just raised for this `Arc`.
    Some(unsafe { Arc::from_raw(pointer) })
}

/// Makes `fresh` the process's agent, unless another thread was first; the winner is returned.
pub(crate) fn publish(cell: &AtomicPtr<Shared>, fresh: Arc<Shared>) -> Arc<Shared> {
    let pointer = Arc::into_raw(fresh.clone()).cast_mut();
    let won = cell.compare_exchange(
        std::ptr::null_mut(),
        pointer,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if won.is_ok() {
        return fresh;
    }
    // SAFETY: the pointer was not stored, so its count is still ours.
    drop(unsafe { Arc::from_raw(pointer) });
    load(cell).unwrap_or(fresh)
}

/// What a thread does to itself. Blocked, such a signal kills the process past its handler: a
/// sandbox answers system calls by one.
const OF_THE_THREAD_ITSELF: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Blocks every other signal in this thread until it is dropped. Threads made meanwhile have them
/// blocked for ever, so that the host program's handlers run on its own threads.
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    pub(crate) fn new() -> Self {
        // SAFETY: a set of signals is plain data; both are written by the calls below.
        let (mut all, mut before) =
            unsafe { std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>() };
        // SAFETY: a valid place for the result.
        unsafe { libc::sigfillset(&mut all) };
        for signal in OF_THE_THREAD_ITSELF {
            // SAFETY: a valid set and the number of a signal.
            unsafe { libc::sigdelset(&mut all, signal) };
        }
        // SAFETY: valid sets; changes this thread only.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
        BlockedSignals { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

fn each_agent(mut visit: impl FnMut(&Shared)) {
    let mut node: *const Node = AGENTS.load(Ordering::Acquire);
    // SAFETY: nodes are published complete and are never freed or changed.
    while let Some(current) = unsafe { node.as_ref() } {
        visit(&current.shared);
        node = current.next;
    }
}

/// After fork, in the child, which has one thread: no lock is taken, nothing is allocated.
extern "C" fn in_child() {
    each_agent(|shared| {
        if shared.is_dead() {
            return;
        }
        shared.mark_dead();
        let session = shared.session_fd.load(Ordering::SeqCst);
        let own = [shared.segment_fd(), shared.doorbell(), shared.wake_fd()];
        for fd in own.map(|fd| fd.as_raw_fd()).into_iter().chain([session]) {
            if fd >= 0 {
                // SAFETY: ours, and never used again: the agent is dead and never dropped.
                unsafe { libc::close(fd) };
            }
        }
        // SAFETY: the child's only thread is here.
        unsafe { OwnSegment::replace_in_child(shared.layout(), shared.used()) };
    });
    crate::PROCESS.store(std::ptr::null_mut(), Ordering::Release);
}

pub(crate) extern "C" fn at_exit() {
    each_agent(Shared::release_at_exit);
}
