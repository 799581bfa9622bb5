//! Where a run's figures come from: command, version, host, time. Written beside the results.

use std::path::Path;

use jiff::Zoned;
use serde::{Deserialize, Serialize};

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the scenario.
    pub scenario: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// Version of xsched.
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
}

impl Manifest {
    /// Describes a run that starts now.
    pub fn now(scenario: &str, command: Vec<String>, version: &str) -> Manifest {
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .filter(|(name, _)| name.starts_with("XSCHED_"))
            .collect();
        environment.sort();
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
        }
    }
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
}
