//! What HIP needs: runtime, device, shim, versions of its symbols, levels, torch. Each is tried by a
//! program that uses them.

use std::path::{Path, PathBuf};

use serde::Serialize;
use xsched_server::api::Queue;
use xsched_wire::env;

use super::{Check, Verdict, program};
use crate::{
    probe::Found,
    symbols::{self, Versions},
};

const INTERFACE: &str = "hip";
const SHIM: &str = "libshimhip.so";
const HAL: &str = "libhalhip.so";
/// What every version of the runtime's symbols begins with.
const VERSIONS: &str = "hip_";
/// A symbol that has the same version in every release.
const KNOWN: (&str, &str) = ("hipMalloc", "hip_4.2");
const TORCH: &str = "nothing else needs it; to try it install torch for ROCm";

/// What was found, for programs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// The runtime's library.
    library: Option<String>,
    /// 10 000 000 × major + 100 000 × minor + patch.
    runtime_version: Option<i32>,
    /// Names of the visible devices.
    devices: Vec<String>,
    /// The shim's file.
    shim: Option<PathBuf>,
    /// Bytes of it.
    shim_bytes: Option<u64>,
    /// The file of the library for programs that make XQueues by themselves.
    hal: Option<PathBuf>,
    /// Bytes of it.
    hal_bytes: Option<u64>,
    /// Symbols that the shim exports with a version.
    symbols: Option<usize>,
    /// Those of them that the runtime has only with another version.
    mismatches: Vec<String>,
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
    let Some((shim, bytes)) = program::shim_file(&mut checks, SHIM) else {
        return (checks, facts);
    };
    facts.shim_bytes = bytes;
    hal(&mut checks, &mut facts, &shim);
    let versions = versions(&shim, &mut facts);
    // One that lacks a version of this runtime's still schedules the rest.
    let works = versions.verdict == Verdict::Passed || !facts.mismatches.is_empty();
    checks.push(versions);
    if usable && works {
        program::scheduled(&mut checks, INTERFACE, &shim, |checks, scheduler, queue| {
            if let Some(queue) = queue {
                facts.level = Some(queue.level);
                facts.reason = queue.reason.as_deref().map(str::to_owned);
                levels(checks, &queue);
            }
            checks.push(program::torch(scheduler, &shim, TORCH));
        });
    }
    facts.shim = Some(shim);
    (checks, facts)
}

/// Runtime, device and a product, without the shim. True: a device computes.
fn unscheduled(checks: &mut Vec<Check>, facts: &mut Facts) -> bool {
    let remedy = "check that `rocminfo` works";
    let Some(found) = program::unscheduled(checks, INTERFACE, "runtime", remedy) else {
        return false;
    };
    facts.library = found.library.clone();
    facts.runtime_version = found.version;
    facts.devices = found.devices.clone();
    checks.push(runtime(&found));
    let no_product = if found.error().contains("hiprtc") {
        "the check compiles its kernel by HIP's runtime compiler: install it with ROCm (package \
         hip-runtime-amd), or name a runtime that has it beside itself in XSCHED_HIP_LIB"
    } else {
        "the device fails without xsched, too: check `rocm-smi` and the kernel's log"
    };
    found.loaded()
        && program::computes(
            checks,
            &found,
            "check that `rocminfo` lists it, that HIP_VISIBLE_DEVICES names it, that this user may open \
             /dev/kfd and /dev/dri (groups `render` and `video`), and that a container was given both",
            no_product,
        )
}

fn runtime(found: &Found) -> Check {
    const NAME: &str = "runtime";
    let Some(library) = &found.library else {
        return Check::failed(
            NAME,
            found.error(),
            format!(
                "install ROCm, or name its libamdhip64.so (torch's own is in torch/lib) in {}",
                env::HIP_LIB.name
            ),
        );
    };
    let version = found.version.unwrap_or(0);
    let (major, minor) = (version / 10_000_000, version / 100_000 % 100);
    Check::passed(NAME, format!("HIP {major}.{minor} at {library}"))
}

/// The hal's file, beside the shim.
fn hal(checks: &mut Vec<Check>, facts: &mut Facts, shim: &Path) {
    const NAME: &str = "hal";
    let path = shim.with_file_name(HAL);
    if path.is_file() {
        facts.hal_bytes = program::size(checks, NAME, &path);
        facts.hal = Some(path);
    } else {
        checks.push(Check::failed(
            NAME,
            format!("{} is missing", path.display()),
            "build it with `cargo xtask build --release`; programs that are preloaded do not need it",
        ));
    }
}

/// Whether programs that link to the runtime's symbols, with their versions, find the shim's.
fn versions(shim: &Path, facts: &mut Facts) -> Check {
    const NAME: &str = "symbols";
    const RELINK: &str =
        "build it with `cargo xtask build --release`, which links it with versions";
    let ours = match symbols::exported(shim, VERSIONS) {
        Ok(ours) => ours,
        Err(error) => {
            let detail = format!("{} cannot be read: {error:#}", shim.display());
            return Check::failed(NAME, detail, RELINK);
        }
    };
    facts.symbols = Some(ours.len());
    let (name, version) = KNOWN;
    let shown = format!("{name}@@{version}");
    if !ours.get(name).is_some_and(|own| own.contains(version)) {
        return Check::failed(NAME, format!("{SHIM} has no {shown}"), RELINK);
    }
    let count = ours.len();
    let library = facts.library.as_deref();
    let Some(real) = library.and_then(|file| symbols::exported(Path::new(file), VERSIONS).ok())
    else {
        return Check::passed(NAME, format!("{shown} and {} more", count - 1));
    };
    facts.mismatches = lacking(&ours, &real);
    // The rest are other runtimes'.
    let common = ours.keys().filter(|name| real.contains_key(*name)).count();
    match &facts.mismatches[..] {
        [] => Check::passed(
            NAME,
            format!(
                "{shown} and {} more of {}, as this runtime has them",
                common.saturating_sub(1),
                count - 1
            ),
        ),
        lacking => Check::failed(
            NAME,
            format!("{SHIM} lacks {} of this runtime", lacking.join(", ")),
            "report this line: what programs link to under these names is not scheduled",
        ),
    }
}

/// What a shim lacks of a runtime: versions of symbols that it has. A runtime without the symbol has no
/// program that links to it.
fn lacking(shim: &Versions, runtime: &Versions) -> Vec<String> {
    let common = shim
        .iter()
        .filter_map(|(name, ours)| Some((name, ours, runtime.get(name)?)));
    common
        .flat_map(|(name, ours, theirs)| {
            let missing = theirs.difference(ours);
            missing.map(move |version| format!("{name}@{version}"))
        })
        .collect()
}

/// Which level works, and what each of them needs.
fn levels(checks: &mut Vec<Check>, queue: &Queue) {
    let reason = queue.reason.as_deref().unwrap_or("no reason was given");
    checks.push(match queue.level {
        1 => Check::note(
            "signals",
            reason,
            "programs get level 1; level 2 needs a device whose streams wait for values, and signal \
             memory",
        ),
        _ => Check::passed("signals", "streams wait for them"),
    });
    match queue.level {
        1 => {}
        2 => checks.push(Check::note(
            "compute queues",
            reason,
            "programs get level 2; level 3 needs AMD's kernel driver, and a container that lets ioctl \
             on /dev/kfd through",
        )),
        _ => checks.push(Check::passed(
            "compute queues",
            "may be taken off by this user",
        )),
    }
    checks.push(program::level(queue));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_the_runtimes_that_the_shim_lacks_is_named() {
        let versions = |list: &[(&str, &str)]| {
            let mut versions = Versions::new();
            for &(name, version) in list {
                let known = versions.entry(name.into()).or_default();
                known.insert(version.to_owned());
            }
            versions
        };
        let ours = versions(&[("hipMalloc", "hip_4.2"), ("hipNew", "hip_6.1")]);
        let check = |runtime: &[(&str, &str)], expect: &[&str]| {
            assert_eq!(lacking(&ours, &versions(runtime)), expect);
        };
        check(&[("hipMalloc", "hip_4.2"), ("hipOther", "hip_4.2")], &[]);
        check(
            &[("hipMalloc", "hip_4.2"), ("hipNew", "hip_6.0")],
            &["hipNew@hip_6.0"],
        );
        check(
            &[("hipMalloc", "hip_4.2"), ("hipMalloc", "hip_7.0")],
            &["hipMalloc@hip_7.0"],
        );
    }
}
