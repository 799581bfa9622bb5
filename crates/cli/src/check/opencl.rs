//! What OpenCL needs: loader, driver, device, shim, level. Each is tried by a program that uses them.

use std::path::Path;

use xsched_server::api::Queue;
use xsched_wire::env;

use super::{
    Check,
    cuda::{Probe, Scheduler, equal, shim_file},
};
use crate::probe::{Found, Step};

const PROBE: &[&str] = &["--opencl"];

/// All checks. Those that need what has failed are left out.
pub(crate) fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    let usable = unscheduled(&mut checks);
    let shim = shim_file(&mut checks, "libshimopencl.so", "xsched-opencl");
    if let (true, Some((shim, _))) = (usable, shim) {
        scheduled(&mut checks, &shim);
    }
    checks
}

/// Loader, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>) -> bool {
    let found = match Probe::start_with(PROBE, None).and_then(|mut probe| probe.read()) {
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

/// The same product with the shim, under a daemon of its own, and what that daemon is told.
fn scheduled(checks: &mut Vec<Check>, shim: &Path) {
    const NAME: &str = "preload";
    const REPORT: &str = "run the program with XSCHED_LOG=debug and report what it says; \
                          XSCHED_DISABLE=1 switches scheduling off";
    let result = Scheduler::start().and_then(|scheduler| {
        let mut probe = Probe::start_with(PROBE, Some((&scheduler, shim)))?;
        let found = probe.read()?;
        Ok((found, scheduler.queue_of(probe.child.id())))
    });
    let failed = |detail: String| Check::failed(NAME, detail, REPORT);
    let (found, queue) = match result {
        Ok(result) => result,
        Err(error) => {
            checks.push(failed(format!("{error:#}")));
            return;
        }
    };
    match (found, queue) {
        (Found { shim: None, .. }, _) => checks.push(failed(format!(
            "the loader did not preload {}",
            shim.display()
        ))),
        (
            Found {
                failure: Some((_, error)),
                ..
            },
            _,
        ) => checks.push(failed(error)),
        (Found { level: 0, .. }, _) | (_, None) => checks.push(failed(
            "the program was not taken over by the scheduler".into(),
        )),
        (Found { rows, .. }, Some(queue)) => {
            let equal = equal(rows.unwrap_or(0));
            let detail = format!("{equal}, scheduled as {}", queue.device);
            checks.push(Check::passed(NAME, detail));
            checks.push(level(&queue));
        }
    }
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
