//! Scenario files: what they may say, and one line for people when they say something else.

use crate::work::{Arrival, Length, Time};
use serde::{Deserialize, de::Error as _};
use std::{collections::BTreeMap, fs, path::Path};
use xsched_hint::{HintKind, Hints};
use xsched_sched::{Nanos, policy};

/// Devices at most.
const MAX_DEVICES: u32 = 10_000;
/// Tasks at most.
const MAX_TASKS: u32 = 100_000;

/// Devices and tasks, and under which policies they are played.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What to call it.
    pub name: String,
    /// How long it lasts.
    pub duration: Time,
    /// The time at first of which no figures are kept.
    #[serde(default)]
    pub warm_up: Time,
    /// Chance begins here.
    #[serde(default = "one")]
    pub seed: u64,
    /// The policies to compare.
    #[serde(default = "default_policies", deserialize_with = "policies")]
    pub policies: Vec<String>,
    /// The share of a device that every group is guaranteed, percent.
    #[serde(default = "default_min_share", deserialize_with = "min_share")]
    pub min_share: f64,
    /// The devices.
    #[serde(rename = "device", deserialize_with = "not_empty")]
    pub devices: Vec<DeviceSpec>,
    /// The tasks.
    #[serde(rename = "task", deserialize_with = "not_empty")]
    pub tasks: Vec<TaskSpec>,
}

/// Equal devices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// What tasks call them.
    pub name: String,
    /// How many of them.
    #[serde(default = "one", deserialize_with = "device_count")]
    pub count: u32,
    /// Preemption level of tasks on them, 1 to 3.
    #[serde(default = "two", deserialize_with = "level")]
    pub level: u8,
    /// Level 1: commands in flight at most.
    #[serde(default = "default_window", deserialize_with = "at_least_one")]
    pub window: u32,
    /// Level 2: commands from gate to gate.
    #[serde(default = "one", deserialize_with = "at_least_one")]
    pub gate_interval: u32,
    /// How long the device's own slicer lets a task execute while others have work; none: until its commands are done.
    pub slice: Option<Time>,
    /// What it costs to go over to another task.
    #[serde(default)]
    pub switch: Time,
    /// From an event to the gate that the scheduler stores for it.
    #[serde(default)]
    pub reaction: Time,
    /// The slicer takes slices, but starves background tasks that execute at the same time.
    #[serde(default)]
    pub one_background: bool,
}

/// Equal tasks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// What to call them.
    pub name: String,
    /// How many of them, spread over the devices.
    #[serde(default = "one", deserialize_with = "task_count")]
    pub count: u32,
    /// The devices, by name; the first one unless said.
    pub device: Option<String>,
    /// When requests arrive.
    pub arrival: Arrival,
    /// Commands a request.
    #[serde(default = "one", deserialize_with = "at_least_one")]
    pub commands: u32,
    /// How long a command takes.
    pub command: Length,
    /// When its first request may arrive.
    #[serde(default)]
    pub start: Time,
    /// When the last one may.
    pub stop: Option<Time>,
    /// The nice value of its process.
    #[serde(default, deserialize_with = "nice")]
    pub nice: i8,
    /// Its window is the active one.
    #[serde(default)]
    pub foreground: bool,
    /// What the policy knows.
    #[serde(default, deserialize_with = "hints")]
    pub hints: Hints,
    /// The requests of a trace: arrival, commands, length of a command.
    #[serde(skip)]
    pub trace: Vec<(Nanos, u32, Nanos)>,
}

fn one<T: From<u8>>() -> T {
    1.into()
}

fn two() -> u8 {
    2
}

fn default_window() -> u32 {
    16
}

fn default_min_share() -> f64 {
    5.0
}

fn default_policies() -> Vec<String> {
    vec!["hpf".into()]
}

fn checked<'de, D, T>(
    deserializer: D,
    is_good: impl Fn(&T) -> bool,
    allowed: &str,
) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + std::fmt::Display,
{
    let value = T::deserialize(deserializer)?;
    if is_good(&value) {
        return Ok(value);
    }
    Err(D::Error::custom(format!(
        "{value} is out of range: use {allowed}"
    )))
}

macro_rules! ranges {
    ($($name:ident: $type:ty, $range:expr, $allowed:expr;)*) => {$(
        fn $name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
            checked(deserializer, |value| ($range).contains(value), $allowed)
        }
    )*};
}

ranges! {
    min_share: f64, 0.0..=25.0, "0 (none) to 25 percent";
    device_count: u32, 1..=MAX_DEVICES, "1 to 10000";
    task_count: u32, 1..=MAX_TASKS, "1 to 100000";
    level: u8, 1..=3, "1, 2 or 3";
    at_least_one: u32, 1..=1_000_000, "1 to 1000000";
    nice: i8, -20..=19, "-20 to 19";
}

fn not_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(D::Error::custom("there must be at least one"));
    }
    Ok(list)
}

fn policies<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names: Vec<String> = not_empty(deserializer)?;
    for name in &names {
        policy::about(name).map_err(D::Error::custom)?;
    }
    Ok(names)
}

fn hints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hints, D::Error> {
    let map: BTreeMap<String, toml::Value> = BTreeMap::deserialize(deserializer)?;
    map.into_iter()
        .map(|(name, value)| {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                other => format!("{other:?}"),
            };
            HintKind::by_name(&name)?.parse(&text)
        })
        .collect::<Result<Hints, _>>()
        .map_err(D::Error::custom)
}

/// A scenario that cannot be played: one line for people, with the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadScenario(String);

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Scenario, BadScenario> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            BadScenario(format!(
                "cannot read the scenario {name}: {error}: check the path"
            ))
        })?;
        let located = |error: BadScenario| BadScenario(format!("{name}: {error}"));
        let mut scenario = Scenario::parse(&text).map_err(located)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for (index, task) in scenario.tasks.iter_mut().enumerate() {
            if let Arrival::Trace(file) = &task.arrival {
                let line = line_of(&text, index, "arrival");
                task.trace = read_trace(&folder.join(file)).map_err(|error| {
                    located(BadScenario(format!(
                        "line {line}, key \"arrival\": {error}"
                    )))
                })?;
            }
        }
        Ok(scenario)
    }

    /// Reads a text; traces are not loaded.
    pub fn parse(text: &str) -> Result<Scenario, BadScenario> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            BadScenario(format!(
                "line {}{}: {}",
                line_at(text, at),
                key_at(text, at),
                one_line(error.message())
            ))
        })?;
        scenario.check(text)?;
        Ok(scenario)
    }

    /// What the values say together.
    fn check(&self, text: &str) -> Result<(), BadScenario> {
        let bad = |line: usize, key: &str, why: String| {
            Err(BadScenario(format!("line {line}, key \"{key}\": {why}")))
        };
        let top = |key: &str| {
            let is_key = |line: &str| {
                line.split('=')
                    .next()
                    .is_some_and(|name| name.trim() == key)
            };
            text.lines().position(is_key).map_or(1, |line| line + 1)
        };
        if self.duration.0 == 0 || self.warm_up >= self.duration {
            let why = "use a duration that is longer than the warm-up".into();
            return bad(top("duration"), "duration", why);
        }
        let mut names: Vec<&str> = self.devices.iter().map(|device| &*device.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad(
                1,
                "device",
                format!("two are called \"{}\": use another name", twice[0]),
            );
        }
        let total = |counts: &mut dyn Iterator<Item = u32>| counts.map(u64::from).sum::<u64>();
        if total(&mut self.devices.iter().map(|device| device.count)) > MAX_DEVICES.into() {
            return bad(1, "count", format!("use {MAX_DEVICES} devices at most"));
        }
        if total(&mut self.tasks.iter().map(|task| task.count)) > MAX_TASKS.into() {
            return bad(1, "count", format!("use {MAX_TASKS} tasks at most"));
        }
        let mut stated: BTreeMap<&str, u64> = BTreeMap::new();
        for (index, task) in self.tasks.iter().enumerate() {
            let line = |key| line_of(text, index, key);
            let device = self.device_of(task);
            let Some(device) = device else {
                let known: Vec<&str> = self.devices.iter().map(|device| &*device.name).collect();
                let name = task.device.as_deref().unwrap_or_default();
                let why = format!("there is no device \"{name}\": use {}", known.join(", "));
                return bad(line("device"), "device", why);
            };
            let zero = match task.arrival {
                Arrival::Periodic(time) | Arrival::Poisson(time) => time.0 == 0,
                Arrival::Bursty { count, every } => count == 0 || every.0 == 0,
                Arrival::Closed(_) | Arrival::Trace(_) => false,
            };
            if zero {
                return bad(line("arrival"), "arrival", "use a time above 0".into());
            }
            let length = match task.command {
                Length::Fixed(time) | Length::Exponential(time) => time.0 > 0,
                Length::Uniform(least, most) => least.0 > 0 && least <= most,
                Length::Lognormal { median, sigma } => median.0 > 0 && (0.0..=5.0).contains(&sigma),
            };
            if !length {
                let why = "use times above 0, the smaller one first, and a sigma of 0 to 5".into();
                return bad(line("command"), "command", why);
            }
            if task.stop.is_some_and(|stop| stop <= task.start) {
                return bad(line("stop"), "stop", "use a time after start".into());
            }
            // As many of them as meet on one device.
            let meet = u64::from(task.count.div_ceil(device.count));
            let share = task.hints.utilization.map_or(0, |percent| percent.get());
            let sum = stated.entry(&device.name).or_default();
            *sum += share * meet;
            if *sum > 100 {
                let why = format!(
                    "utilizations on \"{}\" add up to {sum} percent: use 100 at most",
                    device.name
                );
                return bad(line("hints"), "hints", why);
            }
        }
        Ok(())
    }

    /// The devices that a task executes on.
    pub(crate) fn device_of(&self, task: &TaskSpec) -> Option<&DeviceSpec> {
        match &task.device {
            None => self.devices.first(),
            Some(name) => self.devices.iter().find(|device| device.name == *name),
        }
    }
}

fn read_trace(path: &Path) -> Result<Vec<(Nanos, u32, Nanos)>, BadScenario> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| BadScenario(format!("cannot read the trace {name}: {error}")))?;
    let mut requests: Vec<(Nanos, u32, Nanos)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // A heading may stand first.
        if line.trim().is_empty() || (index == 0 && line.starts_with("arrival_us")) {
            continue;
        }
        let fields: Vec<Option<f64>> = line
            .split(',')
            .map(|field| field.trim().parse().ok())
            .collect();
        let [Some(arrival), Some(commands), Some(command)] = fields[..] else {
            return Err(BadScenario(format!(
                "{name} line {}: use arrival_us,commands,command_us",
                index + 1
            )));
        };
        let good =
            arrival >= 0.0 && (1.0..=1e6).contains(&commands) && (1e-3..=1e9).contains(&command);
        let arrival = (arrival * 1e3) as Nanos;
        if !good || requests.last().is_some_and(|(last, ..)| *last > arrival) {
            return Err(BadScenario(format!(
                "{name} line {}: use times from 0 that do not go back, 1 to 1000000 commands, above 0 us each",
                index + 1
            )));
        }
        requests.push((arrival, commands as u32, (command * 1e3) as Nanos));
    }
    Ok(requests)
}

fn line_at(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

/// The key that the line at this place sets, if it sets one.
fn key_at(text: &str, at: usize) -> String {
    let line = text.lines().nth(line_at(text, at) - 1).unwrap_or_default();
    let key = line
        .split('=')
        .next()
        .unwrap_or_default()
        .trim()
        .trim_matches(['[', ']']);
    if key.is_empty() {
        String::new()
    } else {
        format!(", key \"{key}\"")
    }
}

/// The line of a key of the task at this index, or that on which the task begins.
fn line_of(text: &str, task: usize, key: &str) -> usize {
    let mut tasks = 0;
    let mut begins = 1;
    for (index, line) in text.lines().enumerate() {
        if line.trim() == "[[task]]" {
            if tasks == task {
                begins = index + 1;
            }
            tasks += 1;
        }
        if tasks == task + 1
            && line
                .split(['=', '.'])
                .next()
                .is_some_and(|name| name.trim() == key)
        {
            return index + 1;
        }
    }
    begins
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "two"
duration = "10s"
warm_up = "1s"
policies = ["hpf", "UP"]
min_share = 5.0

[[device]]
name = "gpu"
level = 3
slice = "2ms"

[[task]]
name = "high"
arrival = { periodic = "10ms" }
commands = 4
command = { fixed = "250us" }
hints = { priority = "high", utilization = 60 }

[[task]]
name = "low"
device = "gpu"
arrival = { closed = "0us" }
command = { lognormal = { median = "1ms", sigma = 0.3 } }
hints.utilization = 40
"#;

    #[test]
    fn a_good_one_is_read() {
        let scenario = Scenario::parse(GOOD).unwrap();
        assert_eq!(
            (scenario.duration, scenario.seed),
            (Time(10_000_000_000), 1)
        );
        assert_eq!(
            scenario.tasks[0].arrival,
            Arrival::Periodic(Time(10_000_000))
        );
        assert_eq!(scenario.tasks[1].hints.utilization.unwrap().get(), 40);
    }

    /// With one piece replaced it is refused, in one line that names all of these.
    #[track_caller]
    fn check(from: &str, to: &str, expect: &[&str]) {
        assert!(GOOD.contains(from), "{from}");
        let error = Scenario::parse(&GOOD.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in expect {
            assert!(error.contains(part), "{error} does not name {part}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        check(
            "duration = \"10s\"",
            "duration = \"soon\"",
            &["line 3, key \"duration\"", "\"5ms\""],
        );
        check(
            "duration = \"10s\"",
            "duration = 10",
            &["line 3, key \"duration\"", "such as \"5ms\""],
        );
        check(
            "duration = \"10s\"",
            "duration = \"1s\"",
            &["line 3, key \"duration\"", "longer"],
        );
        check("name = \"two\"\n", "", &["name"]);
        check(
            "\"UP\"",
            "\"best\"",
            &["line 5, key \"policies\"", "\"best\"", "hpf, fifo"],
        );
        check(
            "5.0",
            "30.0",
            &["line 6, key \"min_share\"", "0 (none) to 25"],
        );
        check(
            "level = 3",
            "level = 4",
            &["line 10, key \"level\"", "1, 2 or 3"],
        );
        check(
            "level = 3",
            "levl = 3",
            &["line 10, key \"levl\"", "gate_interval"],
        );
        check(
            "periodic = \"10ms\"",
            "periodic = \"0ms\"",
            &["line 15, key \"arrival\"", "above 0"],
        );
        check(
            "periodic",
            "often",
            &["line 15, key \"arrival\"", "poisson", "closed"],
        );
        check(
            "commands = 4",
            "commands = 0",
            &["line 16, key \"commands\"", "1 to 1000000"],
        );
        check(
            "fixed = \"250us\"",
            "fixed = \"0us\"",
            &["line 17, key \"command\"", "above 0"],
        );
        check(
            "\"high\", util",
            "\"urgent\", util",
            &["line 18, key \"hints\"", "realtime", "-255"],
        );
        check(
            "utilization = 60",
            "utilization = 61",
            &["line 25, key \"hints\"", "101 percent", "100 at most"],
        );
        check(
            "utilization = 60",
            "deadline = 0",
            &["line 18, key \"hints\"", "1us to 1h"],
        );
        check(
            "utilization = 60",
            "nice = 3",
            &["line 18", "unknown hint", "latency_target"],
        );
        check(
            "device = \"gpu\"\narrival",
            "device = \"tpu\"\narrival",
            &["line 22, key \"device\"", "\"tpu\"", "gpu"],
        );
        check(
            "sigma = 0.3",
            "sigma = 9",
            &["line 24, key \"command\"", "0 to 5"],
        );
        check("[[device]]", "[[device]", &["line 8"]);
    }
}
