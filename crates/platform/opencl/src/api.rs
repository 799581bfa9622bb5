//! C entry points for programs that know the shim, for instance from Python by ctypes.

use xsched_wire::{Hints, Priority};

use crate::{queues, sys::*};
use xsched_shim::state;

/// The preemption level in force on a command queue, 1 to 3. 0: nobody schedules it.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_opencl_level(queue: Queue) -> i32 {
    let level = || {
        let kept = queues::keep(queue)?;
        let scheduled = kept.scheduled()?;
        if !state::agent()?.is_scheduled() {
            return None;
        }
        scheduled.queue.level()
    };
    state::guarded(level)
        .flatten()
        .map_or(0, |level| level as i32)
}

/// Lets the commands of all threads pass unscheduled (0), or schedules them again (anything else). What
/// stands behind a closed gate already still waits for it.
/// Returns 0, or 2 if nobody schedules this process.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_opencl_set_enabled(on: i32) -> i32 {
    match state::guarded(|| state::set_enabled(on != 0)) {
        Some(true) => 0,
        _ => 2,
    }
}

/// Gives a command queue a priority of its own, -255 to 255, larger is more urgent (-256: do not
/// run); it becomes its own task group. Returns 0, or 1 if the priority is out of range, or 2 if
/// the queue is not scheduled.
#[unsafe(no_mangle)]
pub extern "C" fn xsched_opencl_set_priority(queue: Queue, priority: i32) -> i32 {
    let Ok(priority) = Priority::new(priority) else {
        return 1;
    };
    let hints = Hints {
        priority: Some(priority),
        ..Hints::default()
    };
    let set = || {
        let kept = queues::keep(queue)?;
        let scheduled = kept.scheduled()?;
        state::agent()?.hint(&scheduled.queue, hints);
        Some(())
    };
    if state::guarded(set).flatten().is_some() {
        0
    } else {
        2
    }
}
