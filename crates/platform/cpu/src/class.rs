//! Scheduling classes of worker threads: `SCHED_IDLE` for background queues.
//!
//! A `SCHED_IDLE` thread runs when nobody else wants the core and is preempted at once by a
//! thread that does (weight 3 against 1024, sched(7)). Leaving the class again needs
//! `RLIMIT_NICE` or `CAP_SYS_NICE`, which ordinary users often lack; a queue that could not be
//! raised again would starve, so the way back is tried on a throwaway thread before level 3 is
//! offered. The only file of this crate with `unsafe`.

use std::io;

use rustix::thread::Pid;

/// The policy that threads had before, restored by [`set_normal`].
#[derive(Clone, Copy, Debug)]
pub struct Normal {
    policy: i32,
    param: libc::sched_param,
}

/// Tries both directions on a throwaway thread. The error says why level 3 is refused.
pub fn probe() -> Result<Normal, String> {
    let attempt = std::thread::Builder::new()
        .name("xsched-probe".into())
        .spawn(|| {
            let me = rustix::thread::gettid();
            let normal = current(me)?;
            set_idle(me)?;
            set_normal(me, normal)?;
            Ok::<_, io::Error>(normal)
        });
    match attempt.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(normal))) => Ok(normal),
        Ok(Ok(Err(error))) => Err(format!(
            "a thread could not return from SCHED_IDLE ({error}): raise RLIMIT_NICE to 20 or \
             grant CAP_SYS_NICE"
        )),
        Ok(Err(_)) | Err(_) => Err("no thread could be started to try SCHED_IDLE".into()),
    }
}

/// Puts a thread into `SCHED_IDLE`.
pub fn set_idle(thread: Pid) -> io::Result<()> {
    set(
        thread,
        libc::SCHED_IDLE,
        libc::sched_param { sched_priority: 0 },
    )
}

/// Gives a thread its former policy back.
pub fn set_normal(thread: Pid, normal: Normal) -> io::Result<()> {
    set(thread, normal.policy, normal.param)
}

/// Whether a thread is in `SCHED_IDLE`.
pub fn is_idle(thread: Pid) -> io::Result<bool> {
    Ok(current(thread)?.policy == libc::SCHED_IDLE)
}

fn current(thread: Pid) -> io::Result<Normal> {
    let id = thread.as_raw_nonzero().get();
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: no pointers; an unknown id is an error result.
    let policy = check(unsafe { libc::sched_getscheduler(id) })?;
    // SAFETY: `param` is a valid place for the result, and outlives the call.
    check(unsafe { libc::sched_getparam(id, &mut param) })?;
    Ok(Normal { policy, param })
}

fn set(thread: Pid, policy: i32, param: libc::sched_param) -> io::Result<()> {
    let id = thread.as_raw_nonzero().get();
    // SAFETY: `param` is valid for reads during the call; an unknown id is an error result.
    check(unsafe { libc::sched_setscheduler(id, policy, &param) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
