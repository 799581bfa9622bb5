//! Drops what clients leave behind, on threads that may wait for it.
//!
//! Closing a descriptor that a client sent can take as long as that client likes: a TCP socket
//! lingers, a file is served by a process of the client's. A session's socket closes whatever its
//! unread packets carry. So the scheduler thread closes nothing that a client had a hand in and
//! that was not seen to be harmless; it hands it over to here. One user's remains hold up nobody
//! else's: each user has threads of their own for it, and not many.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    sync::{Arc, mpsc},
    thread,
};

/// Stack of a thread that only closes.
const STACK: usize = 64 << 10;
/// Threads that close one user's remains; what is beyond them waits for one.
const MAX_CLOSERS_OF_ONE_USER: usize = 16;

/// A thread that starts others; each drops one thing.
pub(crate) struct Reaper {
    queue: mpsc::Sender<Message>,
    /// By user; whatever is not dropped yet has a copy.
    unfinished: HashMap<u32, Arc<()>>,
}

enum Message {
    Take(Remains),
    /// A closer of this user's has ended.
    Closed(u32),
    End,
}

/// What a client of this user left.
struct Remains {
    uid: u32,
    /// Before the next field, or it would count as dropped too early.
    _what: Box<dyn Send>,
    _unfinished: Arc<()>,
}

impl Reaper {
    /// Starts the thread. It ends when the reaper is dropped.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, messages) = mpsc::channel();
        let closed = queue.clone();
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || reap(&messages, &closed))?;
        Ok(Reaper {
            queue,
            unfinished: HashMap::new(),
        })
    }

    /// Has this, of a client of `uid`, dropped, and waits for nothing.
    pub(crate) fn take(&mut self, uid: u32, remains: impl Send + 'static) {
        self.unfinished
            .retain(|_, counted| Arc::strong_count(counted) > 1);
        let remains = Remains {
            uid,
            _what: Box::new(remains),
            _unfinished: self.unfinished.entry(uid).or_default().clone(),
        };
        if let Err(mpsc::SendError(remains)) = self.queue.send(Message::Take(remains)) {
            // Lost descriptors are better than a scheduler that stands still.
            mem::forget(remains);
        }
    }

    /// How much of this user's is not dropped yet.
    pub(crate) fn unfinished_of(&self, uid: u32) -> usize {
        self.unfinished.get(&uid).map_or(0, copies)
    }

    /// The same of all users, of each at most so much: what one leaves keeps nobody else out.
    pub(crate) fn unfinished(&self, of_each: usize) -> usize {
        let left = self.unfinished.values();
        left.map(|counted| copies(counted).min(of_each)).sum()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Gone already: nothing to end.
        let _ = self.queue.send(Message::End);
    }
}

fn copies(counted: &Arc<()>) -> usize {
    Arc::strong_count(counted) - 1
}

fn reap(messages: &mpsc::Receiver<Message>, closed: &mpsc::Sender<Message>) {
    let mut users = Users::default();
    for message in messages {
        let next = match message {
            Message::Take(remains) => users.take(remains),
            Message::Closed(uid) => users.closed(uid),
            Message::End => return,
        };
        if let Some(remains) = next {
            drop_apart(remains, closed.clone());
        }
    }
}

/// Whose remains are being closed, and what waits for that.
#[derive(Default)]
struct Users(HashMap<u32, User>);

#[derive(Default)]
struct User {
    closers: usize,
    waiting: VecDeque<Remains>,
}

impl Users {
    /// What a closer is to be started for, if anything.
    fn take(&mut self, remains: Remains) -> Option<Remains> {
        let user = self.0.entry(remains.uid).or_default();
        if user.closers < MAX_CLOSERS_OF_ONE_USER {
            user.closers += 1;
            return Some(remains);
        }
        user.waiting.push_back(remains);
        None
    }

    /// The same after a closer has ended.
    fn closed(&mut self, uid: u32) -> Option<Remains> {
        let user = self.0.get_mut(&uid)?;
        let next = user.waiting.pop_front();
        if next.is_none() {
            user.closers -= 1;
        }
        if user.closers == 0 {
            self.0.remove(&uid);
        }
        next
    }
}

/// A thread for each, so that one that waits for ever keeps no other descriptor open.
fn drop_apart(remains: Remains, closed: mpsc::Sender<Message>) {
    let uid = remains.uid;
    let ended = closed.clone();
    let close = move || {
        drop(remains);
        let _ = closed.send(Message::Closed(uid));
    };
    let builder = thread::Builder::new()
        .name("closer".into())
        .stack_size(STACK);
    if builder.spawn(close).is_err() {
        // Without a thread for it, it was dropped here, and others waited.
        let _ = ended.send(Message::Closed(uid));
    }
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

    /// Has something of this user's taken, and waits until it is dropped.
    #[track_caller]
    fn check_dropped(reaper: &mut Reaper, uid: u32) {
        let (open, closed) = mpsc::channel::<()>();
        reaper.take(uid, open);
        let end = closed.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn what_cannot_be_closed_keeps_nothing_else_open() {
        let mut reaper = Reaper::start().unwrap();
        let (release, stuck) = mpsc::channel();
        reaper.take(1, Stuck(stuck));
        check_dropped(&mut reaper, 1);
        drop(release);
    }

    #[test]
    fn what_one_user_leaves_holds_up_nobody_else_and_is_closed_in_the_end() {
        let mut reaper = Reaper::start().unwrap();
        let mut releases = Vec::new();
        for _ in 0..2 * MAX_CLOSERS_OF_ONE_USER {
            let (release, stuck) = mpsc::channel();
            reaper.take(1, Stuck(stuck));
            releases.push(release);
        }
        check_dropped(&mut reaper, 2);
        assert_eq!(reaper.unfinished_of(1), releases.len());
        assert!(reaper.unfinished(usize::MAX) >= releases.len());
        assert!(reaper.unfinished(3) <= 2 * 3, "of each of two users");
        drop(releases);
        check_dropped(&mut reaper, 1);
    }

    #[test]
    fn one_user_has_so_many_closers_at_most() {
        let mut users = Users::default();
        let remains = |uid| Remains {
            uid,
            _what: Box::new(()),
            _unfinished: Arc::default(),
        };
        for _ in 0..MAX_CLOSERS_OF_ONE_USER {
            assert!(users.take(remains(1)).is_some());
        }
        assert!(users.take(remains(1)).is_none());
        assert!(users.take(remains(2)).is_some(), "another user's");
        assert!(users.closed(1).is_some(), "what waited");
        for _ in 0..MAX_CLOSERS_OF_ONE_USER {
            assert!(users.closed(1).is_none());
        }
        assert!(users.closed(2).is_none());
        assert!(users.0.is_empty());
    }
}
