//! What CUDA needs: driver, device, shim, levels, torch. Each is tried by a program that uses them.

use std::path::PathBuf;

use serde::Serialize;
use xsched_server::api::Queue;
use xsched_wire::env;

use super::{Check, program};
use crate::probe::Found;

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
        program::scheduled(&mut checks, INTERFACE, &shim, |checks, scheduler, queue| {
            if let Some(queue) = queue {
                facts.level = Some(queue.level);
                facts.reason = queue.reason.as_deref().map(str::to_owned);
                levels(checks, &queue);
            }
            checks.push(program::torch(scheduler, &shim, TORCH));
        });
    }
    (checks, facts)
}

/// Driver, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>, facts: &mut Facts) -> bool {
    let remedy = "check that `nvidia-smi` works";
    let Some(found) = program::unscheduled(checks, INTERFACE, "driver", remedy) else {
        return false;
    };
    facts.library = found.library.clone();
    facts.driver_version = found.version;
    facts.devices = found.devices.clone();
    checks.push(driver(&found));
    found.loaded()
        && program::computes(
            checks,
            &found,
            "check that `nvidia-smi` lists it, that CUDA_VISIBLE_DEVICES names it, and that a \
             container was given it (`--gpus all`)",
            "the device fails without xsched, too: check `nvidia-smi -q` and the kernel's log",
        )
}

fn driver(found: &Found) -> Check {
    const NAME: &str = "driver";
    let Some(library) = &found.library else {
        return Check::failed(
            NAME,
            found.error(),
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
