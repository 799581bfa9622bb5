//! Processes that called the HTTP API, as long as they live.
//!
//! `xsched run` asks whether a daemon answers, and becomes the program that is to register there: a
//! daemon that ends when it is unused must not do so in between.

use std::{collections::HashMap, os::fd::OwnedFd};

use rustix::process::Pid;

use crate::reactor::{Reactor, Source};

/// Processes at a time; those beyond are not waited for.
const MAX_CALLERS: usize = 256;

/// Their pidfds.
#[derive(Default)]
pub(crate) struct Callers(HashMap<Pid, OwnedFd>);

impl Callers {
    /// This process called. One that had its number before has ended.
    pub(crate) fn note(&mut self, pid: Pid, pidfd: OwnedFd, reactor: &Reactor) {
        if self.0.len() >= MAX_CALLERS && !self.0.contains_key(&pid) {
            return;
        }
        if reactor.watch(&pidfd, Source::Caller(pid)).is_ok()
            && let Some(before) = self.0.insert(pid, pidfd)
        {
            reactor.forget(before);
        }
    }

    /// This process has ended.
    pub(crate) fn ended(&mut self, pid: Pid, reactor: &Reactor) {
        if let Some(pidfd) = self.0.remove(&pid) {
            reactor.forget(pidfd);
        }
    }

    /// Whether none lives.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_process_counts_once_and_only_so_many_are_kept() {
        let (mut callers, mut reactor) = (Callers::default(), Reactor::new().unwrap());
        let pid = |number| Pid::from_raw(number).unwrap();
        let alive = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let ended = || eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        callers.note(pid(1), ended(), &reactor);
        assert_eq!(reactor.next_chore().unwrap(), Some(Source::Caller(pid(1))));
        // Another process has its number by now.
        callers.note(pid(1), alive(), &reactor);
        assert_eq!(reactor.next_chore().unwrap(), None);
        for number in 2..=MAX_CALLERS as i32 {
            callers.note(pid(number), alive(), &reactor);
        }
        callers.note(pid(5000), ended(), &reactor);
        assert_eq!(reactor.next_chore().unwrap(), None);
        for number in 1..=MAX_CALLERS as i32 {
            assert!(!callers.is_empty());
            callers.ended(pid(number), &reactor);
        }
        callers.ended(pid(1), &reactor);
        assert!(callers.is_empty());
    }
}
