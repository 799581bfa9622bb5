//! Every environment name, in one table, and the settings that an agent reads from them.
//!
//! Names with a meaning in upstream XSched keep it. A value that cannot be understood is reported
//! (`Settings::warnings`) and treated as unset: a guest never fails its host.

use crate::level::LevelChoice;
use xsched_hint::{Hint, HintKind, Hints, Laxity};

/// One environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, for help texts.
    pub meaning: &'static str,
}

impl Variable {
    /// Its value, if set, not empty, and text.
    pub fn get(&self) -> Option<String> {
        std::env::var(self.name)
            .ok()
            .filter(|value| !value.is_empty())
    }
}

macro_rules! variables {
    ($($ident:ident = $name:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $ident: Variable = Variable { name: $name, meaning: $meaning };)*
        /// All of them.
        pub const ALL: &[Variable] = &[$($ident),*];
    };
}

variables! {
    DISABLE = "XSCHED_DISABLE", "1: off switch, programs run as if nothing were installed";
    SOCKET = "XSCHED_SOCKET", "the daemon's socket, for every command and agent";
    LOG = "XSCHED_LOG", "what to log to stderr: error, warn (default), info, debug, trace";
    NAME = "XSCHED_NAME", "what people call this program (xsched run --name)";
    JOB = "XSCHED_JOB", "number shared by all processes of one xsched run";
    SCHEDULER = "XSCHED_SCHEDULER", "GLB: the daemon (default); LCL: inside the process; APP: the application itself";
    POLICY = "XSCHED_POLICY", "policy of the local scheduler; setting it makes the scheduler local";
    AUTO_XQUEUE = "XSCHED_AUTO_XQUEUE", "ON (default) or OFF: make an XQueue of every hw queue";
    LEVEL = "XSCHED_AUTO_XQUEUE_LEVEL", "preemption level: 1, 2, 3 or auto (default: the highest that works)";
    THRESHOLD = "XSCHED_AUTO_XQUEUE_THRESHOLD", "level 1: commands in flight at most (default 16)";
    BATCH_SIZE = "XSCHED_AUTO_XQUEUE_BATCH_SIZE", "level 1: commands a completion mark (default 8)";
    PRIORITY = "XSCHED_AUTO_XQUEUE_PRIORITY", "-255 … 255, larger is more urgent; -256: do not run";
    UTILIZATION = "XSCHED_AUTO_XQUEUE_UTILIZATION", "share of the device, 0 … 100 percent (up, pup, spup)";
    TIMESLICE = "XSCHED_AUTO_XQUEUE_TIMESLICE", "length of a turn, 100 … 10000000 µs (up, pup, spup, cfs)";
    DEADLINE = "XSCHED_AUTO_XQUEUE_DEADLINE", "time to get done in once ready, from 1 µs (kedf)";
    LAXITY = "XSCHED_AUTO_XQUEUE_LAXITY", "time for which it can be put off, from 1 µs: priority 0 until then, then XSCHED_AUTO_XQUEUE_PRIORITY; or TIME:LAX:CRITICAL (lax)";
    KDEADLINE = "XSCHED_AUTO_XQUEUE_KDEADLINE", "how many of the earliest deadlines execute at once, from 1 (kedf)";
    WEIGHT = "XSCHED_AUTO_XQUEUE_WEIGHT", "relative claim, 1 … 10000 (cfs)";
    LATENCY_TARGET = "XSCHED_AUTO_XQUEUE_LATENCY_TARGET", "time that 99 of 100 bursts should keep, 100 … 60000000 µs (slo)";
    CUDA_LIB = "XSCHED_CUDA_LIB", "path of the real libcuda.so.1";
    HIP_LIB = "XSCHED_HIP_LIB", "path of the real libamdhip64.so";
    OPENCL_LIB = "XSCHED_OPENCL_LIB", "path of the real libOpenCL.so.1";
}

/// The CUDA driver's variable for the hardware connections of a context, and as many as it takes, where streams of one
/// process are to be told apart; `None` if it is set. Streams beyond them share one and wait for each other, also behind a
/// closed gate. The driver has 8 and takes 1 to 32 (CUDA C++ Programming Guide, environment variables).
pub fn cuda_connections() -> Option<(&'static str, &'static str)> {
    const VARIABLE: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
    std::env::var_os(VARIABLE)
        .is_none()
        .then_some((VARIABLE, "32"))
}

/// The variable of each hint.
pub const HINTS: [(HintKind, Variable); 8] = [
    (HintKind::Priority, PRIORITY),
    (HintKind::Utilization, UTILIZATION),
    (HintKind::TimeSlice, TIMESLICE),
    (HintKind::Deadline, DEADLINE),
    (HintKind::KDeadline, KDEADLINE),
    (HintKind::Laxity, LAXITY),
    (HintKind::Weight, WEIGHT),
    (HintKind::LatencyTarget, LATENCY_TARGET),
];

/// Who schedules this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Nobody: everything passes through.
    Off,
    /// The daemon.
    Global,
    /// A scheduler inside the process, with the policy of this name.
    Local(Option<String>),
    /// The application: queues stay open until it suspends them.
    Application,
}

/// The window of level 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Commands in flight at most, ≥ 1.
    pub threshold: u32,
    /// Commands a completion mark, 1 ..= threshold.
    pub batch: u32,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        LaunchConfig {
            threshold: 16,
            batch: 8,
        }
    }
}

impl LaunchConfig {
    /// Checks the ranges; `None` if they do not hold.
    pub fn new(threshold: u32, batch: u32) -> Option<Self> {
        (threshold >= 1 && (1..=threshold).contains(&batch))
            .then_some(LaunchConfig { threshold, batch })
    }
}

/// What an agent takes from its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who schedules.
    pub scheduler: Scheduler,
    /// Level that was asked for.
    pub level: LevelChoice,
    /// Window that was asked for.
    pub launch: LaunchConfig,
    /// Hints for the process.
    pub hints: Hints,
    /// What people call the program.
    pub name: String,
    /// The job it belongs to; 0 = none.
    pub job: u64,
    /// What could not be understood, one line each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the process's environment.
    pub fn from_env() -> Self {
        Self::read(|variable| variable.get())
    }

    /// Reads an environment given as a function.
    pub fn read(get: impl Fn(Variable) -> Option<String>) -> Self {
        let mut warnings = Vec::new();
        let mut warn = |variable: Variable, value: &str, expected: &str| {
            warnings.push(format!(
                "{}='{value}' is ignored: use {expected}",
                variable.name
            ));
        };
        let mut number = |variable: Variable, range: std::ops::RangeInclusive<i64>| {
            let text = get(variable)?;
            match text.parse() {
                Ok(value) if range.contains(&value) => Some(value),
                _ => {
                    warn(
                        variable,
                        &text,
                        &format!("{} to {}", range.start(), range.end()),
                    );
                    None
                }
            }
        };

        let job = number(JOB, 0..=i64::MAX).unwrap_or(0) as u64;
        let standard = LaunchConfig::default();
        let threshold = number(THRESHOLD, 1..=65_536).map_or(standard.threshold, |v| v as u32);
        let batch = number(BATCH_SIZE, 1..=65_536).map(|v| v as u32);
        let launch = LaunchConfig {
            threshold,
            batch: batch.unwrap_or(threshold.div_ceil(2)).min(threshold),
        };
        let hints = hints(&get, &mut warn);
        let level = get(LEVEL).map_or(LevelChoice::Auto, |text| {
            text.parse().unwrap_or_else(|_| {
                warn(LEVEL, &text, "1, 2, 3 or auto");
                LevelChoice::Auto
            })
        });
        let policy = get(POLICY);
        let scheduler = match get(SCHEDULER)
            .map(|text| text.to_ascii_uppercase())
            .as_deref()
        {
            _ if get(DISABLE).is_some_and(|value| value != "0") => Scheduler::Off,
            _ if get(AUTO_XQUEUE).is_some_and(|v| v.eq_ignore_ascii_case("off")) => Scheduler::Off,
            Some("LCL") => Scheduler::Local(policy),
            Some("APP") => Scheduler::Application,
            Some("GLB") => Scheduler::Global,
            other => {
                if let Some(other) = other {
                    warn(SCHEDULER, other, "GLB, LCL or APP");
                }
                match policy {
                    Some(policy) => Scheduler::Local(Some(policy)),
                    None => Scheduler::Global,
                }
            }
        };
        Settings {
            scheduler,
            level,
            launch,
            hints,
            name: get(NAME).unwrap_or_else(executable_name),
            job,
            warnings,
        }
    }
}

/// The hints that are set and can be understood.
fn hints(
    get: impl Fn(Variable) -> Option<String>,
    warn: &mut impl FnMut(Variable, &str, &str),
) -> Hints {
    let mut hints = Hints::default();
    for (kind, variable) in HINTS {
        let Some(text) = get(variable) else { continue };
        match kind.parse(&text) {
            // As upstream has it, where the value is the time alone.
            Ok(Hint::Laxity(laxity)) if !text.contains(':') => hints.set(Hint::Laxity(Laxity {
                critical: hints.priority(),
                ..laxity
            })),
            Ok(hint) => hints.set(hint),
            Err(_) => warn(variable, &text, kind.allowed()),
        }
    }
    hints
}

fn executable_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use xsched_hint::Priority;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        Settings::read(|variable| {
            let found = pairs.iter().find(|(name, _)| *name == variable.name);
            found.map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn unset_means_on_global_best_level() {
        let settings = read(&[]);
        assert_eq!(settings.scheduler, Scheduler::Global);
        assert_eq!(settings.level, LevelChoice::Auto);
        assert_eq!(settings.hints, Hints::default());
        assert_eq!(
            settings.launch,
            LaunchConfig {
                threshold: 16,
                batch: 8
            }
        );
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn upstream_names_keep_their_meaning() {
        let check = |pairs: &[(&str, &str)], expect: Scheduler| {
            assert_eq!(read(pairs).scheduler, expect, "{pairs:?}");
        };
        check(
            &[("XSCHED_SCHEDULER", "GLB"), ("XSCHED_POLICY", "HPF")],
            Scheduler::Global,
        );
        check(&[("XSCHED_SCHEDULER", "lcl")], Scheduler::Local(None));
        check(
            &[("XSCHED_POLICY", "HPF")],
            Scheduler::Local(Some("HPF".into())),
        );
        check(&[("XSCHED_SCHEDULER", "APP")], Scheduler::Application);
        check(&[("XSCHED_AUTO_XQUEUE", "OFF")], Scheduler::Off);
        check(
            &[("XSCHED_DISABLE", "1"), ("XSCHED_SCHEDULER", "LCL")],
            Scheduler::Off,
        );
        check(&[("XSCHED_DISABLE", "0")], Scheduler::Global);
        let settings = read(&[
            ("XSCHED_AUTO_XQUEUE_LEVEL", "2"),
            ("XSCHED_AUTO_XQUEUE_PRIORITY", "-256"),
            ("XSCHED_AUTO_XQUEUE_THRESHOLD", "4"),
        ]);
        assert_eq!(settings.level, LevelChoice::Exactly(Level::Lv2));
        assert_eq!(settings.hints.priority, Some(Priority::NO_RUN));
        assert_eq!(
            settings.launch,
            LaunchConfig {
                threshold: 4,
                batch: 2
            }
        );
    }

    #[test]
    fn nonsense_is_reported_and_ignored() {
        let settings = read(&[
            ("XSCHED_AUTO_XQUEUE_PRIORITY", "300"),
            ("XSCHED_AUTO_XQUEUE_LEVEL", "9"),
            ("XSCHED_SCHEDULER", "?"),
        ]);
        assert_eq!(settings.hints.priority, None);
        assert_eq!(settings.scheduler, Scheduler::Global);
        assert_eq!(settings.warnings.len(), 3);
        assert!(
            settings.warnings[0].contains("-255 (last) to 255"),
            "{:?}",
            settings.warnings
        );
    }

    #[test]
    fn hints_are_read_as_upstream_has_them() {
        let settings = read(&[
            ("XSCHED_AUTO_XQUEUE_PRIORITY", "7"),
            ("XSCHED_AUTO_XQUEUE_UTILIZATION", "75"),
            ("XSCHED_AUTO_XQUEUE_TIMESLICE", "5000"),
            ("XSCHED_AUTO_XQUEUE_DEADLINE", "33000"),
            ("XSCHED_AUTO_XQUEUE_LAXITY", "1000"),
            ("XSCHED_AUTO_XQUEUE_KDEADLINE", "2"),
        ]);
        assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
        let texts: Vec<String> = settings.hints.iter().map(|hint| hint.to_string()).collect();
        assert_eq!(texts, ["7", "75", "5000", "33000", "2", "1000:0:7"]);
        let bad = read(&[
            ("XSCHED_AUTO_XQUEUE_UTILIZATION", "101"),
            ("XSCHED_AUTO_XQUEUE_TIMESLICE", "99"),
            ("XSCHED_AUTO_XQUEUE_DEADLINE", "0"),
        ]);
        assert_eq!((bad.hints, bad.warnings.len()), (Hints::default(), 3));
        assert!(bad.warnings[2].contains("1us to 1h"), "{:?}", bad.warnings);
    }

    #[test]
    fn every_name_starts_with_ours_and_stands_once() {
        let mut names: Vec<_> = ALL.iter().map(|variable| variable.name).collect();
        assert!(names.iter().all(|name| name.starts_with("XSCHED_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
