//! Which commands are the first after a queue was idle.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many are.
const COMMANDS: u32 = 8;

/// Counts the first commands of a queue after it was idle. What threads leave behind without waiting for it is
/// mostly short: where nobody else may ask whether such a queue is idle, something that tells stands behind
/// these, and costs time on host and device behind no others.
#[derive(Default)]
pub struct AfterIdle {
    left: AtomicU32,
}

impl AfterIdle {
    /// Whether the command that is about to be submitted is one of them.
    pub fn counts(&self, is_idle: bool) -> bool {
        let left = match is_idle {
            true => COMMANDS,
            false => self.left.load(Ordering::Relaxed),
        };
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_commands_count_each_time() {
        let commands = AfterIdle::default();
        assert!(!commands.counts(false), "it was not idle yet");
        for _ in 0..2 {
            assert!(commands.counts(true));
            let counted = (0..100).filter(|_| commands.counts(false)).count();
            assert_eq!(counted as u32, COMMANDS - 1);
        }
    }
}
