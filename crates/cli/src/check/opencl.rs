//! What OpenCL needs: loader, driver, device, shim, level. Each is tried by a program that uses them.

use xsched_server::api::Queue;
use xsched_wire::env;

use super::{Check, program};

const INTERFACE: &str = "opencl";

/// All checks. Those that need what has failed are left out.
pub(crate) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    let usable = unscheduled(&mut checks);
    let shim = program::shim_file(&mut checks, "libshimopencl.so");
    if let (true, Some((shim, _))) = (usable, shim) {
        program::scheduled(&mut checks, INTERFACE, &shim, |checks, _, queue| {
            checks.extend(queue.as_ref().map(level));
        });
    }
    checks
}

/// Loader, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>) -> bool {
    let remedy = "check that `clinfo` works";
    let Some(found) = program::unscheduled(checks, INTERFACE, "loader", remedy) else {
        return false;
    };
    let Some(library) = &found.library else {
        let name = env::OPENCL_LIB.name;
        checks.push(Check::failed(
            "loader",
            found.error(),
            format!("install one (Debian: ocl-icd-libopencl1), or name its file in {name}"),
        ));
        return false;
    };
    checks.push(Check::passed("loader", library));
    program::computes(
        checks,
        &found,
        "install the device's driver (for the CPU, Debian: pocl-opencl-icd), which registers itself in \
         /etc/OpenCL/vendors",
        "the device fails without xsched, too: check `clinfo`",
    )
}

/// Which level works, and why no higher one does.
fn level(queue: &Queue) -> Check {
    const NAME: &str = "level";
    match &queue.reason {
        None => Check::passed(NAME, queue.level.to_string()),
        Some(reason) => Check::note(
            NAME,
            format!("{}, since {reason}", queue.level),
            "nothing must be done; level 1 needs no more than OpenCL itself, level 2 user events \
             that hold a queue, level 3 a CPU device whose threads may be raised again",
        ),
    }
}
