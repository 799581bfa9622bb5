//! The keeper: one thread that completes gates when a closed queue opens, looks at marks for which the driver calls back
//! late, and releases objects that could not be released at once.
//!
//! A device does not read gate words, and the application's threads may all sleep in the driver
//! behind a gate, so somebody else waits on the words. The thread starts with the first gate.
//!
//! Releasing an object while a command waits for a user event that is not complete is undefined
//! (`clCreateUserEvent`). So a release waits here until every gate that stood in a queue when the
//! application asked for it is complete: what uses the object stands behind one of those.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::thread::futex;

use crate::{
    gates::{self, Gates},
    queues,
    release::Object,
};
use xsched_shim::{process::PerProcess, state::guarded, words};

static KEEPER: PerProcess<Keeper> = PerProcess::new();

/// This process's keeper.
pub(crate) fn get() -> &'static Keeper {
    KEEPER.get()
}

/// Whether any gate is not complete, so that a release must wait.
#[inline]
pub(crate) fn any_armed() -> bool {
    KEEPER
        .peek()
        .is_some_and(|keeper| keeper.armed.load(Ordering::SeqCst) != 0)
}

#[derive(Default)]
pub(crate) struct Keeper {
    /// Gates that are not complete.
    armed: AtomicUsize,
    is_running: AtomicBool,
    /// Changes when the thread is to look again.
    word: AtomicU32,
    /// Held while the thread looks at marks.
    looking: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Queues with a gate that stays closed.
    held: Vec<Arc<Gates>>,
    /// Open ones with a gate, whose marks are to be looked at.
    watched: Vec<Arc<Gates>>,
    /// Numbers of the gates that are not complete.
    numbers: BTreeSet<u64>,
    last_number: u64,
    deferred: VecDeque<Deferred>,
}

struct Deferred {
    /// The last gate that stood when the application asked.
    behind: u64,
    object: Object,
}

impl Keeper {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.word.fetch_add(1, Ordering::SeqCst);
        let _ = futex::wake(&self.word, futex::Flags::empty(), 1);
    }

    /// Starts the thread, if it does not run yet.
    pub(crate) fn start(&'static self) -> io::Result<()> {
        static AT_EXIT: Once = Once::new();
        if self.is_running.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Registered late, so that it runs early: before the driver's own teardown.
        AT_EXIT.call_once(|| {
            // SAFETY: the handler lives as long as this code is mapped; a shim is never unloaded.
            unsafe { libc::atexit(at_exit) };
        });
        let started = xsched_agent::spawn("xsched-gates", move || {
            guarded(|| self.run());
        });
        if started.is_err() {
            self.is_running.store(false, Ordering::SeqCst);
        }
        started
    }

    // ---- gates ----

    /// A gate is about to stand in a queue; gives its number.
    pub(crate) fn armed_one(&self) -> u64 {
        let mut state = self.state();
        state.last_number += 1;
        let number = state.last_number;
        state.numbers.insert(number);
        self.armed.fetch_add(1, Ordering::SeqCst);
        number
    }

    /// A gate is complete.
    pub(crate) fn passed(&self, number: u64) {
        let mut state = self.state();
        if state.numbers.remove(&number) {
            self.armed.fetch_sub(1, Ordering::SeqCst);
        }
        let is_due = state.next_is_due();
        drop(state);
        if is_due {
            self.wake();
        }
    }

    /// A queue is closed and has a gate.
    pub(crate) fn hold(&self, gates: &Arc<Gates>) {
        add(&mut self.state().held, gates);
        self.wake();
    }

    /// A queue is open and has a gate, and nobody says in time when it may be passed.
    pub(crate) fn watch(&self, gates: &Arc<Gates>) {
        if add(&mut self.state().watched, gates) {
            self.wake();
        }
    }

    // ---- releases ----

    /// Releases an object when every gate that stands now is complete. False: none stands.
    pub(crate) fn defer(&self, object: Object) -> bool {
        let mut state = self.state();
        let Some(&behind) = state.numbers.last() else {
            return false;
        };
        state.deferred.push_back(Deferred { behind, object });
        true
    }

    // ---- the thread ----

    fn run(&self) {
        loop {
            let seen = self.word.load(Ordering::SeqCst);
            let held: Vec<_> = self.state().held.clone();
            let mut closed = Vec::new();
            let mut over = Vec::new();
            for gates in &held {
                match gates.closed_word() {
                    Some(word) => closed.push((word, 0)),
                    None => over.push(gates),
                }
            }
            if !over.is_empty() {
                self.state()
                    .held
                    .retain(|held| !over.iter().any(|gates| Arc::ptr_eq(held, gates)));
                // May hold them again.
                over.into_iter().for_each(Gates::advance);
                continue;
            }
            self.release_due();
            words::sleep(&self.word, seen, &closed, self.look());
        }
    }

    /// Looks at the marks of those that are watched, and says when to look again.
    fn look(&self) -> Option<Duration> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out first: one that is to be watched meanwhile stays.
        let watched = std::mem::take(&mut self.state().watched);
        let mut next: Option<Duration> = None;
        for gates in watched {
            if let Some(after) = gates.watch() {
                add(&mut self.state().watched, &gates);
                next = Some(next.map_or(after, |next| next.min(after)));
            }
        }
        next
    }

    fn release_due(&self) {
        loop {
            let mut state = self.state();
            if !state.next_is_due() {
                return;
            }
            let Some(next) = state.deferred.pop_front() else {
                return;
            };
            drop(state);
            next.object.release();
        }
    }
}

impl State {
    fn next_is_due(&self) -> bool {
        let first = self.numbers.first();
        self.deferred
            .front()
            .is_some_and(|next| first.is_none_or(|&first| first > next.behind))
    }
}

/// True: it was not among them.
fn add(to: &mut Vec<Arc<Gates>>, gates: &Arc<Gates>) -> bool {
    let is_new = !to.iter().any(|known| Arc::ptr_eq(known, gates));
    if is_new {
        to.push(gates.clone());
    }
    is_new
}

/// Completes every gate: the driver's teardown may wait for what stands behind one.
extern "C" fn at_exit() {
    gates::exit();
    guarded(|| {
        // A look that goes on is over in a moment, unless a callback inside it ends the process.
        if let Some(keeper) = KEEPER.peek() {
            for _ in 0..20 {
                if keeper.looking.try_lock().is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for gates in queues::gates() {
            gates.open_all();
        }
    });
}
