//! Whether the shim acts in this process, its one agent, and calls that open its gates.

use xsched_agent::Agent;
pub(crate) use xsched_shim::state::{agent, guarded, is_active, say, set_enabled};

use crate::sys::CUresult;

/// Around a call that waits for a whole context. In a process of several task groups what it waits
/// for may be held, by a thread that itself is waited for: so all gates of the process open for the
/// duration. In any other, all that it could wait for is held together with it.
pub(crate) fn context_wide(call: impl FnOnce() -> CUresult) -> CUresult {
    match Agent::current().is_some_and(|agent| agent.has_several_groups()) {
        true => opened(call),
        false => call(),
    }
}

/// Around a call that may not wait for a gate, whatever the scheduler wants.
pub(crate) fn opened(call: impl FnOnce() -> CUresult) -> CUresult {
    let agent = Agent::current();
    let _open = agent
        .as_ref()
        .and_then(|agent| guarded(|| agent.open_while()));
    call()
}
