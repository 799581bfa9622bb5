//! C entry points for programs that know the shim, for instance from Python by ctypes.

use xsched_wire::{Hints, Priority};

use crate::{
    state, stream,
    streams::{self, Flavour, Scheduled, Way},
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
        streams::all()
            .filter_map(|stream| stream.queue.level())
            .min()
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

/// Gives a stream (a `cudaStream_t` or `CUstream`; null: the legacy default stream of the current
/// context) a priority of its own, -255 to 255, larger is more urgent; it becomes its own task
/// group. A blocking stream cannot: it waits for the legacy default stream and that for it, so the
/// priority becomes that of all streams of the process without one of their own.
/// Returns 0, or 1 if the priority is out of range, or 2 if the stream is not scheduled.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_set_stream_priority(stream: CUstream, priority: i32) -> i32 {
    let Ok(priority) = Priority::new(priority) else {
        return 1;
    };
    let hints = Hints {
        priority: Some(priority),
        ..Hints::default()
    };
    let set = || {
        let Way::Scheduled(Scheduled { queue, .. }) = streams::way(stream, Flavour::Legacy) else {
            return None;
        };
        let agent = state::agent()?;
        if stream::is_blocking(stream) {
            agent.hint_process(hints);
        } else {
            agent.hint(queue, hints);
        }
        Some(())
    };
    if state::guarded(set).flatten().is_some() {
        0
    } else {
        2
    }
}
