//! Whether the shim acts in this process, and its one agent.

use std::{
    io::Write,
    sync::atomic::{AtomicU8, Ordering},
};

use xsched_agent::Agent;
use xsched_wire::env::{Scheduler, Settings};

const UNDECIDED: u8 = 0;
const ACTIVE: u8 = 1;
const OFF: u8 = 2;
/// By the program itself, which may come back.
const PAUSED: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Whether commands are scheduled; the environment decides at the first one.
#[inline]
pub fn is_active() -> bool {
    match STATE.load(Ordering::Relaxed) {
        ACTIVE => true,
        OFF | PAUSED => false,
        _ => decide(),
    }
}

#[cold]
fn decide() -> bool {
    let wanted = guarded(|| Settings::from_env().scheduler != Scheduler::Off).unwrap_or(false);
    let state = if wanted { ACTIVE } else { OFF };
    let _ = STATE.compare_exchange(UNDECIDED, state, Ordering::Relaxed, Ordering::Relaxed);
    STATE.load(Ordering::Relaxed) == ACTIVE
}

/// Lets commands pass unscheduled from now on, or schedules them again, as the program asks. False: the
/// shim does not act in this process.
pub fn set_enabled(on: bool) -> bool {
    is_active();
    let (from, to) = if on {
        (PAUSED, ACTIVE)
    } else {
        (ACTIVE, PAUSED)
    };
    let result = STATE.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    result.map_or_else(|state| state == to, |_| true)
}

/// Switches the shim off for this process: everything passes through from now on.
#[cold]
pub fn switch_off(reason: &str) {
    if STATE.swap(OFF, Ordering::Relaxed) != OFF {
        xsched_agent::release_at_exit();
        say(&format!("{reason}: this program runs unscheduled"));
    }
}

/// The process's agent.
pub fn agent() -> Option<Agent> {
    match Agent::from_env() {
        Ok(agent) => Some(agent),
        Err(error) => {
            switch_off(&error.to_string());
            None
        }
    }
}

/// Runs code that is off the hot path; a panic in it switches the shim off instead of ending the
/// host program.
pub fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    result
        .map_err(|_| switch_off("internal error in a shim"))
        .ok()
}

/// One line for people.
pub fn say(message: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "xsched[{}]: {message}",
        std::process::id()
    );
}
