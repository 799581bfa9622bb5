//! A sleep on several words at once, which other processes change.

use std::{sync::atomic::AtomicU32, time::Duration};

use rustix::{
    io::Errno,
    thread::{
        ClockId,
        futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags},
    },
    time::{self, Timespec, clock_gettime},
};

/// Words that one call can wait for.
const WORDS: usize = 128;
/// How often words are looked at that cannot be waited for all together.
const STEP: Duration = Duration::from_millis(1);

/// Sleeps until the thread's own word differs from `seen`, one of the others from what was read there, or
/// so much time has passed. May return for nothing: the caller looks again.
pub fn sleep(own: &AtomicU32, seen: u32, others: &[(*const u32, u32)], at_most: Option<Duration>) {
    let wait = |address: *const u32, value: u32| {
        let mut wait = Wait::new();
        wait.val = value.into();
        wait.uaddr = WaitPtr::new(address.cast_mut().cast());
        wait.flags = WaitFlags::SIZE_U32; // shared: the waker is another process
        wait
    };
    let mut waits = vec![wait(own.as_ptr(), seen)];
    let others_of = others.iter().take(WORDS - 1);
    waits.extend(others_of.map(|&(word, value)| wait(word, value)));
    if waits.len() == others.len() + 1 {
        let until = at_most
            .and_then(timespec)
            .map(|time| clock_gettime(time::ClockId::Monotonic) + time);
        let flags = WaitvFlags::empty();
        match futex::waitv(&waits, flags, until.as_ref(), ClockId::Monotonic) {
            // Woken, or changed already.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => return,
            // The kernel is too old, or a filter of the program's refuses the call.
            Err(_) => {}
        }
    }
    let step = (!others.is_empty()).then_some(STEP);
    let timeout = at_most.into_iter().chain(step).min().and_then(timespec);
    let _ = futex::wait(own, futex::Flags::empty(), seen, timeout.as_ref());
}

fn timespec(time: Duration) -> Option<Timespec> {
    time.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Instant};

    use super::*;

    #[test]
    fn what_has_changed_ends_a_sleep() {
        let (own, other) = (AtomicU32::new(1), AtomicU32::new(2));
        sleep(&own, 0, &[], None);
        sleep(&own, 1, &[(other.as_ptr(), 0)], None);
        other.store(0, Ordering::SeqCst);
        sleep(&own, 0, &[(other.as_ptr(), 0)], None);
    }

    #[test]
    fn where_the_kernel_refuses_it_sleeps_in_steps() {
        let own = AtomicU32::new(0);
        // No word is there: the kernel refuses to wait for all.
        let refused = [(std::ptr::without_provenance(1), 0)];
        let start = Instant::now();
        for _ in 0..20 {
            sleep(&own, 0, &refused, None);
        }
        assert!(start.elapsed() >= 20 * STEP, "it returned at once");
    }
}
