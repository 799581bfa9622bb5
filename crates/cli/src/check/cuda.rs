//! What CUDA needs: driver, device, shim, levels, torch. Each is tried by a program that uses them.

use std::path::PathBuf;

use serde::Serialize;
use xsched_server::api::Queue;
use xsched_wire::env;

use super::{
    Check,
    program::{self, Probe, Scheduler, equal},
};
use crate::probe::{Found, Step};

const INTERFACE: &str = "cuda";
/// The first driver that has the commands that gates are made of (CUDA 11.7).
const GATES_SINCE: i32 = 11_070;
const SHIM: &str = "libshimcuda.so";
const TORCH: &str = "nothing else needs it; for `bench --device cuda` install torch with CUDA";

/// What was found, for programs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// The driver's library.
    library: Option<String>,
    /// 1000 × major + 10 × minor.
    driver_version: Option<i32>,
    /// Names of the visible devices.
    devices: Vec<String>,
    /// The shim's file.
    shim: Option<PathBuf>,
    /// Bytes of it.
    shim_bytes: Option<u64>,
    /// Preemption level in force under the shim.
    level: Option<u8>,
    /// Why no higher one is.
    reason: Option<String>,
}

/// All checks, and what they found. Those that need what has failed are left out.
pub(crate) fn all() -> (Vec<Check>, Facts) {
    let mut facts = Facts::default();
    let mut checks = Vec::new();
    let usable = unscheduled(&mut checks, &mut facts);
    let shim = installed(&mut checks, &mut facts);
    if let (true, Some(shim)) = (usable, shim) {
        match Scheduler::start() {
            Ok(scheduler) => {
                let queue = program::preloaded(&mut checks, INTERFACE, &scheduler, &shim);
                if let Some(queue) = queue {
                    facts.level = Some(queue.level);
                    facts.reason = queue.reason.as_deref().map(str::to_owned);
                    levels(&mut checks, &queue);
                }
                checks.push(program::torch(&scheduler, &shim, TORCH));
            }
            Err(error) => checks.push(program::no_daemon(&error)),
        }
    }
    (checks, facts)
}

/// Driver, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>, facts: &mut Facts) -> bool {
    let found = match Probe::start(INTERFACE, None).and_then(|mut probe| probe.read()) {
        Ok(found) => found,
        Err(error) => {
            checks.push(Check::failed(
                "driver",
                format!("a program that uses it failed: {error:#}"),
                "check that `nvidia-smi` works",
            ));
            return false;
        }
    };
    facts.library = found.library.clone();
    facts.driver_version = found.version;
    facts.devices = found.devices.clone();
    let step = found.failure.as_ref().map(|(step, _)| *step);
    let error = found.failure.as_ref().map_or("", |(_, error)| error);
    checks.push(driver(&found, error));
    if step == Some(Step::Load) {
        return false;
    }
    if step == Some(Step::Device) {
        checks.push(Check::failed(
            "device",
            error,
            "check that `nvidia-smi` lists it, that CUDA_VISIBLE_DEVICES names it, and that a \
             container was given it (`--gpus all`)",
        ));
        return false;
    }
    let devices = found.devices.join(", ");
    checks.push(Check::passed(
        "device",
        format!("{}: {devices}", found.devices.len()),
    ));
    checks.push(match found.rows {
        Some(rows) if step.is_none() => Check::passed("matmul", equal(rows)),
        _ => Check::failed(
            "matmul",
            error,
            "the device fails without xsched, too: check `nvidia-smi -q` and the kernel's log",
        ),
    });
    step.is_none()
}

fn driver(found: &Found, error: &str) -> Check {
    const NAME: &str = "driver";
    let Some(library) = &found.library else {
        return Check::failed(
            NAME,
            error,
            format!(
                "install the NVIDIA driver, or name its libcuda.so.1 in {}",
                env::CUDA_LIB.name
            ),
        );
    };
    let version = found.version.unwrap_or(0);
    let detail = format!(
        "CUDA {}.{} at {library}",
        version / 1000,
        version % 1000 / 10
    );
    if version < GATES_SINCE {
        return Check::note(
            NAME,
            detail,
            "for levels above 1 use driver 515 (CUDA 11.7) or newer",
        );
    }
    Check::passed(NAME, detail)
}

/// The shim's file.
fn installed(checks: &mut Vec<Check>, facts: &mut Facts) -> Option<PathBuf> {
    let (path, bytes) = program::shim_file(checks, SHIM)?;
    facts.shim = Some(path.clone());
    facts.shim_bytes = bytes;
    Some(path)
}

/// Which level works, and what each of them needs.
fn levels(checks: &mut Vec<Check>, queue: &Queue) {
    let reason = queue.reason.as_deref().unwrap_or("no reason was given");
    checks.push(match queue.level {
        1 => Check::note(
            "gates",
            reason,
            "programs get level 1; level 2 needs driver 515 or newer, and memory that may be locked \
             (`ulimit -l`)",
        ),
        _ => Check::passed("gates", "mapped into the device"),
    });
    match queue.level {
        1 => {}
        2 => checks.push(Check::note(
            "time slices",
            reason,
            "programs get level 2; level 3 needs NVIDIA's kernel driver without MPS, and a container \
             that lets ioctl on /dev/nvidiactl through",
        )),
        _ => checks.push(Check::passed("time slices", "may be set by this user")),
    }
    checks.push(program::level(queue));
}
