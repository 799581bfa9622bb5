//! What the environment tells the stand-in: the table in the crate's documentation.

use std::{collections::HashMap, env, path::PathBuf};

/// Read once, at the first call.
#[derive(Debug)]
pub(crate) struct Config {
    /// Physical device of each visible one.
    pub(crate) devices: Vec<usize>,
    pub(crate) shared: Option<PathBuf>,
    pub(crate) driver_version: i32,
    /// Bytes of memory of a device.
    pub(crate) memory: usize,
    pub(crate) launch_blocking: bool,
    /// Connections of a device, which streams share.
    pub(crate) connections: usize,
    pub(crate) eager_loading: bool,
    /// The device is shared by the service of that name.
    pub(crate) mps: bool,
    /// The exit of the process waits for its commands.
    pub(crate) exit_waits: bool,
    /// What a stream of HIP's can wait on; none: it cannot wait.
    pub(crate) waits: Option<Waits>,
    failures: HashMap<String, i32>,
}

/// Words that a stream of HIP's can wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Those of signal memory.
    Signals,
    /// Any that the device reaches.
    Anywhere,
}

impl Config {
    pub(crate) fn from_environment() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str, default: usize| {
            let value = text(name).map(|value| value.parse());
            value
                .unwrap_or(Ok(default))
                .unwrap_or_else(|_| panic!("stand-in driver: {name} is not a number"))
        };
        let physical = number("STANDIN_DEVICES", 1);
        let version = number("STANDIN_DRIVER_VERSION", 13_000);
        Self {
            devices: visible(
                physical,
                env::var("CUDA_VISIBLE_DEVICES")
                    .or_else(|_| env::var("HIP_VISIBLE_DEVICES"))
                    .ok()
                    .as_deref(),
            ),
            shared: text("STANDIN_SHM").map(PathBuf::from),
            driver_version: i32::try_from(version).unwrap_or(i32::MAX),
            memory: number("STANDIN_MEMORY_MIB", 4096) << 20,
            launch_blocking: text("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value != "0"),
            connections: number("CUDA_DEVICE_MAX_CONNECTIONS", 8).clamp(1, 32),
            eager_loading: text("CUDA_MODULE_LOADING").is_some_and(|value| value == "EAGER"),
            mps: text("STANDIN_MPS").is_some(),
            exit_waits: text("STANDIN_EXIT").is_some_and(|value| value == "wait"),
            waits: match text("STANDIN_WAIT").as_deref() {
                None | Some("signals") => Some(Waits::Signals),
                Some("anywhere") => Some(Waits::Anywhere),
                Some("none") => None,
                Some(other) => panic!("stand-in driver: STANDIN_WAIT: {other}"),
            },
            failures: failures(&text("STANDIN_FAIL").unwrap_or_default()),
        }
    }

    /// The result that the entry point `name`, in whichever version, was told to give.
    pub(crate) fn failure(&self, name: &str) -> Option<i32> {
        if self.failures.is_empty() {
            return None;
        }
        let base = base(name);
        self.failures.get(base).copied()
    }
}

/// `cuMemAlloc` for `cuMemAlloc_v2`, `cuMemsetD8Async` for `cuMemsetD8Async_ptsz`.
pub(crate) fn base(name: &str) -> &str {
    let name = name.trim_end_matches("_ptsz").trim_end_matches("_ptds");
    let versions = ["_v2", "_v3", "_v4"];
    let stripped = versions
        .iter()
        .find_map(|version| name.strip_suffix(version));
    stripped.unwrap_or(name)
}

/// Physical devices in the order that `CUDA_VISIBLE_DEVICES` names; the list ends at the first
/// name that is none.
fn visible(physical: usize, list: Option<&str>) -> Vec<usize> {
    let Some(list) = list else {
        return (0..physical).collect();
    };
    let names = list.split(',').map(|name| name.trim().parse().ok());
    names
        .map_while(|name| name.filter(|&index: &usize| index < physical))
        .collect()
}

fn failures(list: &str) -> HashMap<String, i32> {
    let entries = list.split(',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, code) = entry.split_once(':').unwrap_or((entry, "999"));
            let code = match code {
                "EPERM" => libc::EPERM,
                "EINVAL" => libc::EINVAL,
                "ENOTTY" => libc::ENOTTY,
                number => number
                    .parse()
                    .unwrap_or_else(|_| panic!("stand-in driver: STANDIN_FAIL: {entry}")),
            };
            (base(name).to_owned(), code)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_suffixes() {
        for (name, expected) in [
            ("cuMemAlloc_v2", "cuMemAlloc"),
            ("cuMemcpyHtoDAsync_v2_ptsz", "cuMemcpyHtoDAsync"),
            ("cuStreamQuery_ptsz", "cuStreamQuery"),
            ("cuCtxCreate_v4", "cuCtxCreate"),
            ("cuInit", "cuInit"),
        ] {
            assert_eq!(base(name), expected);
        }
    }

    #[test]
    fn visible_devices_follow_the_list() {
        assert_eq!(visible(3, None), [0, 1, 2]);
        assert_eq!(visible(3, Some("2,0")), [2, 0]);
        assert_eq!(visible(3, Some("1,7,0")), [1]);
        assert_eq!(visible(3, Some("")), Vec::<usize>::new());
    }

    #[test]
    fn failures_are_names_with_codes() {
        let failures = failures("cuMemHostRegister_v2:801,ioctl:EPERM");
        assert_eq!(failures.get("cuMemHostRegister"), Some(&801));
        assert_eq!(failures.get("ioctl"), Some(&libc::EPERM));
    }
}
