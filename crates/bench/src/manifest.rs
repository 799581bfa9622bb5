//! Where a run's figures come from: command, version, host, time. Written beside the results. Records
//! are published, so that no folder of the machine stands in them.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use jiff::Zoned;
use serde::{Deserialize, Serialize};

/// The file of a run's manifest.
pub const FILE: &str = "manifest.json";

/// [`FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the scenario.
    pub scenario: String,
    /// The command line, word by word; of absolute paths the last name.
    pub command: Vec<String>,
    /// Version of xsched, and the commit that it was built from.
    pub version: String,
    /// Start of the run, with the time zone's offset.
    pub timestamp: String,
    /// The machine.
    pub host: Host,
    /// `XSCHED_…` variables of the caller, which may change what is measured.
    pub environment: Vec<(String, String)>,
}

/// The machine that the run was on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Model of the processor.
    pub cpu_model: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory, MiB.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Models of the GPUs that it has, as their driver calls them.
    #[serde(default)]
    pub accelerators: Vec<String>,
    /// Version of that driver.
    #[serde(default)]
    pub driver: Option<String>,
}

impl Manifest {
    /// Describes a run that starts now.
    pub fn now(scenario: &str, command: Vec<String>, version: &str) -> Manifest {
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    without_folders(&value.to_string_lossy()),
                )
            })
            .filter(|(name, _)| name.starts_with("XSCHED_"))
            .collect();
        environment.sort();
        let program = |word: &String| Path::new(word).file_name().map(OsStr::to_owned);
        let mut command: Vec<String> = command.iter().map(|word| without_folders(word)).collect();
        if let Some(word) = command.first_mut()
            && let Some(name) = program(word)
        {
            *word = name.to_string_lossy().into_owned();
        }
        Manifest {
            scenario: scenario.to_owned(),
            command,
            version: version.to_owned(),
            timestamp: timestamp(),
            host: Host::read(),
            environment,
        }
    }

    /// The command line as one would type it.
    pub fn command_line(&self) -> String {
        self.command
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// For people, one line.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for model in &self.accelerators {
            write!(f, "{model}, ")?;
        }
        if let Some(driver) = &self.driver {
            write!(f, "driver {driver}, ")?;
        }
        let (cpu, cores, kernel) = (&self.cpu_model, self.cores, &self.kernel);
        write!(f, "{cpu}, {cores} cores, Linux {kernel}")
    }
}

impl Host {
    fn read() -> Host {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Host {
            cpu_model: field("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores,
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|total| total.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
                |_| "unknown".to_owned(),
                |release| release.trim().to_owned(),
            ),
            accelerators: accelerators(),
            driver: driver(),
        }
    }
}

/// What the NVIDIA driver says of its GPUs.
fn accelerators() -> Vec<String> {
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus");
    let gpus = gpus.into_iter().flatten().flatten();
    let model = |gpu: std::fs::DirEntry| field(gpu.path().join("information"), "Model");
    let mut models: Vec<String> = gpus.filter_map(model).collect();
    models.sort();
    models
}

fn driver() -> Option<String> {
    let version = field("/proc/driver/nvidia/version", "NVRM version");
    let nvidia = version.and_then(|line| Some(format!("NVIDIA {}", version_in(&line)?)));
    nvidia.or_else(|| {
        let version = std::fs::read_to_string("/sys/module/amdgpu/version").ok()?;
        Some(format!("amdgpu {}", version.trim()))
    })
}

/// The first word with digits on both sides of a point.
fn version_in(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| {
        let parts = word.split('.').collect::<Vec<_>>();
        let number = |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        parts.len() > 1 && parts.iter().all(number)
    })
}

/// Text in which of every absolute path only the last name is left.
pub fn without_folders(text: &str) -> String {
    const AROUND: &str = " \t\n=:,;\"'()<>";
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let end = rest.find(|c| AROUND.contains(c)).unwrap_or(rest.len());
        // Not what stands behind `https:`.
        if next == '/' && AROUND.contains(before) && !rest.starts_with("//") {
            let name = rest[..end].trim_end_matches('/').rsplit('/').next();
            short.push_str(name.unwrap_or_default());
            rest = &rest[end..];
            before = 'x';
        } else {
            let end = end.max(next.len_utf8());
            short.push_str(&rest[..end]);
            before = rest[..end].chars().next_back().unwrap_or(next);
            rest = &rest[end..];
        }
    }
    short
}

/// Now, to the second, with the time zone's offset.
pub fn timestamp() -> String {
    Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// Now, as the name of a directory.
pub fn stamp() -> String {
    Zoned::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// The value of the first line `name : value` of a file under `/proc`.
fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// A word as the shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_described() {
        let manifest = Manifest::now(
            "dual-model",
            vec!["xsched".into(), "bench".into(), "a b".into()],
            "0.1.0",
        );
        assert!(manifest.host.cores >= 1 && manifest.host.memory_mib > 0);
        assert_ne!(manifest.host.kernel, "unknown");
        assert_eq!(manifest.command_line(), "xsched bench 'a b'");
        assert!(manifest.timestamp.parse::<jiff::Timestamp>().is_ok());
    }

    #[test]
    fn no_folder_of_the_machine_stands_in_a_record() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        let command = "../target/release/xsched bench custom /home/me/mine.toml --out=/tmp/a/b/ -q";
        let manifest = Manifest::now("custom", words(command), "0.1.0");
        let expect = "xsched bench custom mine.toml --out=b -q";
        assert_eq!(manifest.command_line(), expect);
        for (text, expect) in [
            (
                "theirs=/opt/x/run -n 3 {command}",
                "theirs=run -n 3 {command}",
            ),
            ("log: /tmp/out/logs/high.log", "log: high.log"),
            (
                "a/b 3 images/s, \"/x/y\" ∕ /ü/é",
                "a/b 3 images/s, \"y\" ∕ é",
            ),
            ("https://example.org/a", "https://example.org/a"),
            ("/a:/b/c", "a:c"),
            ("/", ""),
        ] {
            assert_eq!(without_folders(text), expect);
        }
    }

    #[test]
    fn a_drivers_version_is_found_in_its_line() {
        let line =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build";
        assert_eq!(version_in(line), Some("580.159.03"));
        assert_eq!(version_in("none of 3 words. here"), None);
    }
}
