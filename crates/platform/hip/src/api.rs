//! C entry points for programs that know the shim, for instance from Python by ctypes.

use xsched_shim::state;
use xsched_wire::{Hints, Priority};

use crate::{
    streams::{self, Flavour},
    sys::*,
};

/// The preemption level in force on this process's streams, 1 to 3: the lowest of them.
/// 0: nobody schedules this process, or it has not used a stream yet.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_level() -> i32 {
    let level = || {
        if !state::is_active() || !state::agent()?.is_scheduled() {
            return None;
        }
        streams::queues().filter_map(|queue| queue.level()).min()
    };
    state::guarded(level)
        .flatten()
        .map_or(0, |level| level as i32)
}

/// Lets the commands of all threads pass unscheduled (0), or schedules them again (anything else). What
/// stands behind a closed gate already still waits for it.
/// Returns 0, or 2 if nobody schedules this process.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_set_enabled(on: i32) -> i32 {
    match state::guarded(|| state::set_enabled(on != 0)) {
        Some(true) => 0,
        _ => 2,
    }
}

/// Gives a created stream a priority of its own, -255 to 255, larger is more urgent; it becomes its
/// own task group. A default stream cannot have one: blocking streams wait for it and it for them, so
/// the priority becomes that of all streams of the process without one of their own.
/// Returns 0, or 1 if the priority is out of range, or 2 if the stream is not scheduled.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_set_stream_priority(stream: hipStream_t, priority: i32) -> i32 {
    let Ok(priority) = Priority::new(priority) else {
        return 1;
    };
    let hints = Hints {
        priority: Some(priority),
        ..Hints::default()
    };
    let set = || {
        let queue = streams::way(stream, Flavour::Legacy)?;
        let agent = state::agent()?;
        if streams::is_blocking(stream) {
            agent.hint_process(hints);
        } else {
            agent.hint(queue, hints);
        }
        Some(())
    };
    match state::guarded(set).flatten() {
        Some(()) => 0,
        None => 2,
    }
}
