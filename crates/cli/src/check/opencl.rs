//! What OpenCL needs: loader, driver, device, shim, level. Each is tried by a program that uses them.

use xsched_server::api::Queue;
use xsched_wire::env;

use super::{
    Check,
    program::{self, Probe, Scheduler, equal},
};
use crate::probe::Step;

const INTERFACE: &str = "opencl";

/// All checks. Those that need what has failed are left out.
pub(crate) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    let usable = unscheduled(&mut checks);
    let shim = program::shim_file(&mut checks, "libshimopencl.so");
    if let (true, Some((shim, _))) = (usable, shim) {
        match Scheduler::start() {
            Ok(scheduler) => {
                let queue = program::preloaded(&mut checks, INTERFACE, &scheduler, &shim);
                checks.extend(queue.as_ref().map(level));
            }
            Err(error) => checks.push(program::no_daemon(&error)),
        }
    }
    checks
}

/// Loader, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>) -> bool {
    let found = match Probe::start(INTERFACE, None).and_then(|mut probe| probe.read()) {
        Ok(found) => found,
        Err(error) => {
            checks.push(Check::failed(
                "loader",
                format!("a program that uses it failed: {error:#}"),
                "check that `clinfo` works",
            ));
            return false;
        }
    };
    let step = found.failure.as_ref().map(|(step, _)| *step);
    let error = found.failure.as_ref().map_or("", |(_, error)| error);
    let Some(library) = &found.library else {
        let name = env::OPENCL_LIB.name;
        checks.push(Check::failed(
            "loader",
            error,
            format!("install one (Debian: ocl-icd-libopencl1), or name its file in {name}"),
        ));
        return false;
    };
    checks.push(Check::passed("loader", library));
    if step == Some(Step::Device) {
        checks.push(Check::failed(
            "device",
            error,
            "install the device's driver (for the CPU, Debian: pocl-opencl-icd), which registers \
             itself in /etc/OpenCL/vendors",
        ));
        return false;
    }
    let devices = found.devices.join(", ");
    let count = found.devices.len();
    checks.push(Check::passed("device", format!("{count}: {devices}")));
    checks.push(match found.rows {
        Some(rows) if step.is_none() => Check::passed("matmul", equal(rows)),
        _ => Check::failed(
            "matmul",
            error,
            "the device fails without xsched, too: check `clinfo`",
        ),
    });
    step.is_none()
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
