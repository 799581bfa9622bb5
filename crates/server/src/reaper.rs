//! Drops what clients leave behind, on threads that may wait for it.
//!
//! Closing a descriptor that a client sent can take as long as that client likes: a TCP socket
//! lingers, a file is served by a process of the client's. A session's socket closes whatever its
//! unread packets carry. So the scheduler thread closes nothing that a client had a hand in and
//! that was not seen to be harmless; it hands it over to here.

use std::{io, mem, sync::mpsc, thread};

/// Stack of a thread that only closes.
const STACK: usize = 64 << 10;

/// A thread that starts others; each drops one thing.
pub(crate) struct Reaper {
    queue: mpsc::Sender<Box<dyn Send>>,
}

impl Reaper {
    /// Starts the thread. It ends when the reaper is dropped and everything has been taken.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, left) = mpsc::channel::<Box<dyn Send>>();
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || left.into_iter().for_each(drop_apart))?;
        Ok(Reaper { queue })
    }

    /// Has this dropped, and waits for nothing.
    pub(crate) fn take(&self, remains: impl Send + 'static) {
        if let Err(mpsc::SendError(remains)) = self.queue.send(Box::new(remains)) {
            // Lost descriptors are better than a scheduler that stands still.
            mem::forget(remains);
        }
    }
}

/// A thread for each, so that one that waits for ever keeps no other descriptor open.
fn drop_apart(remains: Box<dyn Send>) {
    // Without a thread for it, it is dropped here, and others wait.
    let _ = thread::Builder::new()
        .name("closer".into())
        .stack_size(STACK)
        .spawn(move || drop(remains));
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::RecvTimeoutError, time::Duration};

    use super::*;

    struct Stuck(mpsc::Receiver<()>);

    impl Drop for Stuck {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    #[test]
    fn what_cannot_be_closed_keeps_nothing_else_open() {
        let reaper = Reaper::start().unwrap();
        let (release, stuck) = mpsc::channel();
        reaper.take(Stuck(stuck));
        let (open, closed) = mpsc::channel::<()>();
        reaper.take(open);
        let end = closed.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
        drop(release);
    }
}
