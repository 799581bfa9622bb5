//! The thread that launches submitted commands, on a queue whose commands are calls that it makes: what
//! waits for it, what ends it, and what a forked child does about it.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    mpsc::{self, Receiver, Sender},
};

use common::{Recorder, until};
use xsched_wire::{ControlBlock, Level, LevelChoice, Share, env::LaunchConfig};
use xsched_xqueue::{Error, HwError, HwQueue, Managing, Slot, Spacing, Support, XQueue};

/// Runs a command where it is launched. What `is_drained` does in between is the test's.
struct InPlace {
    asked: fn(),
    /// Whether marks are refused.
    unmarked: bool,
    /// Threads that were told to launch here.
    entered: AtomicU32,
}

impl HwQueue for InPlace {
    type Command = Box<dyn FnOnce() + Send>;

    fn support(&self) -> Support {
        Support {
            level: Level::Lv1,
            reason: Some("a test".into()),
            one_background: false,
            independent: true,
        }
    }
    fn launch(&self, command: Self::Command) -> Result<(), HwError> {
        assert!(self.entered.load(SeqCst) > 0, "told first");
        command();
        Ok(())
    }
    fn synchronize(&self) -> Result<(), HwError> {
        Ok(())
    }
    fn is_drained(&self) -> bool {
        (self.asked)();
        true
    }
    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        if self.unmarked {
            return Err(HwError::Unsupported("a test".into()));
        }
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
        Spacing::Commands(1)
    }
    fn enter_thread(&self) {
        self.entered.fetch_add(1, SeqCst);
    }
}

type Queue = XQueue<InPlace>;

fn queue_that(unmarked: bool, asked: fn()) -> (&'static Queue, Arc<Recorder>) {
    let block: &'static ControlBlock = Box::leak(Box::new(ControlBlock::new()));
    let _ = block.open_gate();
    let _ = block.set_bypass(false);
    let link = Arc::new(Recorder::default());
    let slot = Slot { index: 0, block };
    let hw = InPlace {
        asked,
        unmarked,
        entered: AtomicU32::new(0),
    };
    let managing = Managing {
        level: LevelChoice::Auto,
        launch: LaunchConfig::default(),
    };
    let queue = XQueue::new(hw, slot, link.clone(), Some(managing));
    (Box::leak(Box::new(queue)), link)
}

fn queue() -> (&'static Queue, Arc<Recorder>) {
    queue_that(false, || ())
}

/// A command that says that it is being launched, and returns when it is told to.
fn stopping() -> (Box<dyn FnOnce() + Send>, Receiver<()>, Sender<()>) {
    let (say, said) = mpsc::channel();
    let (tell, told) = mpsc::channel::<()>();
    let command = move || {
        say.send(()).unwrap();
        told.recv().unwrap();
    };
    (Box::new(command), said, tell)
}

fn submit_counting(queue: &Queue, count: &Arc<AtomicUsize>) -> xsched_xqueue::Ticket {
    let count = count.clone();
    let command = move || {
        count.fetch_add(1, SeqCst);
    };
    queue.submit(Box::new(command)).unwrap()
}

#[test]
fn what_was_submitted_is_launched_when_the_wait_for_it_returns() {
    let (queue, _) = queue();
    let count = Arc::default();
    let (command, launches, go_on) = stopping();
    queue.submit(command).unwrap();
    launches.recv().unwrap();
    for _ in 0..50 {
        submit_counting(queue, &count);
    }
    let waits = std::thread::spawn(|| queue.wait_launched());
    assert!(!waits.is_finished() && count.load(SeqCst) == 0);
    go_on.send(()).unwrap();
    waits.join().unwrap().unwrap();
    assert_eq!(count.load(SeqCst), 50);
}

/// A command that waited for itself would wait for ever.
#[test]
fn a_command_waits_for_no_launch_of_its_own_queue_and_may_end_it() {
    let (queue, link) = queue();
    let (say, said) = mpsc::channel();
    let later = Arc::default();
    let command = move || {
        say.send(queue.wait_launched()).unwrap();
        let behind_it = queue.submit(Box::new(|| ())).unwrap();
        say.send(queue.wait(behind_it)).unwrap();
        queue.retire();
        say.send(Ok(())).unwrap();
    };
    queue.suspend();
    queue.submit(Box::new(command)).unwrap();
    let last = submit_counting(queue, &later);
    queue.resume();
    for _ in 0..3 {
        assert_eq!(said.recv().unwrap(), Ok(()));
    }
    assert_eq!(queue.wait(last), Err(Error::Ended));
    assert_eq!(later.load(SeqCst), 0);
    let released = || link.released.load(SeqCst);
    assert_eq!(released(), 0, "the command still has its pass");
    // SAFETY: leaked by `queue_that`, and used by nobody any more.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(queue).cast_mut()) });
    assert_eq!(released(), 1);
}

#[test]
fn a_queue_that_retires_drops_what_is_pending_and_waits_for_what_is_being_launched() {
    let (queue, link) = queue();
    let count = Arc::default();
    let (command, launches, go_on) = stopping();
    let first = queue.submit(command).unwrap();
    launches.recv().unwrap();
    let last = (0..50).map(|_| submit_counting(queue, &count)).last();
    let retires = std::thread::spawn(|| queue.retire());
    until(|| matches!(queue.submit(Box::new(|| ())), Err(Error::Ended)));
    let released = || link.released.load(SeqCst);
    assert!(!retires.is_finished() && released() == 0);
    go_on.send(()).unwrap();
    retires.join().unwrap();
    assert_eq!((count.load(SeqCst), released()), (0, 1));
    assert_eq!(queue.wait(last.unwrap()), Err(Error::Ended));
    let nobody_may_be_asked = queue.wait(first);
    assert_eq!(nobody_may_be_asked, Err(Error::Ended));
}

/// The child has none of the threads that may hold a lock.
#[test]
fn a_queue_that_has_ended_takes_nothing_though_its_thread_never_ran() {
    let (queue, link) = queue();
    queue.retire();
    assert_eq!(queue.submit(Box::new(|| ())), Err(Error::Ended));
    assert_eq!(queue.synchronize(), Err(Error::Ended));
    assert_eq!(link.released.load(SeqCst), 1);
}

#[test]
fn a_forked_child_drops_a_queue_whose_lock_was_held() {
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    fn held() {
        INSIDE.fetch_add(1, SeqCst);
        until(|| INSIDE.load(SeqCst) == 2);
    }
    let (queue, _) = queue_that(true, held);
    let ticket = queue.submit(Box::new(|| ())).unwrap();
    let _refused = queue.wait_launched();
    // Without a mark the hw queue itself is asked, under the lock.
    let asks = std::thread::spawn(move || queue.query(ticket));
    until(|| INSIDE.load(SeqCst) == 1);
    // SAFETY: the child drops the queue, which needs no other thread, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child if it waits for ever.
        unsafe { libc::alarm(10) };
        // SAFETY: leaked by `queue_that`; the child has no other user of it.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(queue).cast_mut()) });
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: a child of ours; a valid place for the result.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    INSIDE.store(2, SeqCst);
    asks.join().unwrap();
    assert_eq!(status, 7 << 8, "it ended by itself");
}
