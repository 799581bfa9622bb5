//! A user's scenario as a TOML file, and one line for people when it says something that cannot be.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use xsched_hint::{HintKind, Hints};
use xsched_sched::policy;

use super::{Arrival, Completion, Mix, Task};
use crate::daemon::DEFAULT_POLICY;
use crate::task::is_name;
use crate::worker::Device;

/// Tasks at most.
const MOST_TASKS: usize = 64;
/// Rounds at most.
const MOST_ROUNDS: u32 = 99;
/// The longest time that can be asked for.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A scenario that cannot be run: one line with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadScenario(pub String);

impl Mix {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Mix, BadScenario> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            BadScenario(format!(
                "cannot read the scenario {name}: {error}: check the path"
            ))
        })?;
        Mix::parse(&text).map_err(|(line, why)| BadScenario(format!("{name}:{line}: {why}")))
    }

    /// Reads a text; a mistake is told with its line.
    pub fn parse(text: &str) -> Result<Mix, (usize, String)> {
        let mix: Mix = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..at].matches('\n').count() + 1;
            let why = error.message().split_whitespace().collect::<Vec<_>>();
            let why = why.join(" ").replace('`', "\"");
            let why = match key_at(text, at) {
                Some(key) => format!("key \"{key}\": {why}"),
                None => why,
            };
            (line, why)
        })?;
        mix.check(text)?;
        Ok(mix)
    }

    /// What the values say together.
    fn check(&self, text: &str) -> Result<(), (usize, String)> {
        for (index, task) in self.tasks.iter().enumerate() {
            let bad = |key: &str, why: String| {
                Err((line_of(text, index, key), format!("key \"{key}\": {why}")))
            };
            if self.tasks[..index].iter().any(|one| one.name == task.name) {
                return bad("name", format!("two are called \"{}\"", task.name));
            }
            match (&task.model, &task.command) {
                (Some(model), None) => {
                    if let Err(why) = self.device.check_model(model) {
                        return bad("model", why);
                    }
                }
                (None, Some(_)) => {}
                _ => return bad("model", "use either \"model\" or \"command\"".to_owned()),
            }
            let closed = task.arrival == Arrival::Closed;
            if closed && (task.drop_late || task.limits.dropped.is_some()) {
                let why = "needs an arrival with a rate or a period: back-to-back requests have no \
                           next one that could be there";
                return bad("drop_late", why.to_owned());
            }
            if task.limits.dropped.is_some() && !task.drop_late {
                return bad("limits", "\"dropped\" needs drop_late = true".to_owned());
            }
            let periodic = !matches!(task.arrival, Arrival::Closed | Arrival::Poisson(_));
            if task.limits.completion == Some(Completion::Period) && !periodic {
                let why = "completion = \"period\" needs an arrival at equal distances";
                return bad("limits", why.to_owned());
            }
        }
        Ok(())
    }
}

/// The key to which the text at this place belongs: the place is a value's or a key's.
fn key_at(text: &str, at: usize) -> Option<&str> {
    let key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let before = text[start..at].trim_end();
    let found = match before.strip_suffix('=') {
        Some(before) => {
            let before = before.trim_end();
            &before[before.trim_end_matches(key).len()..]
        }
        None => {
            let after = text[at..].trim_start_matches('[');
            &after[..after.len() - after.trim_start_matches(key).len()]
        }
    };
    (!found.is_empty()).then_some(found)
}

/// The line of a key of the task at this index, or that on which the task begins.
fn line_of(text: &str, task: usize, key: &str) -> usize {
    let mut begins = None;
    let mut tasks = 0;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("[[task]]") {
            tasks += 1;
            if tasks == task + 1 {
                begins = Some(index + 1);
            }
        }
        let name = line.split(['=', '.']).next().unwrap_or_default();
        if tasks == task + 1 && name.trim() == key {
            return index + 1;
        }
    }
    begins.unwrap_or(1)
}

pub(super) fn default_device() -> Device {
    Device::Cpu
}

pub(super) fn default_duration() -> Duration {
    Duration::from_secs(20)
}

pub(super) fn default_rounds() -> u32 {
    3
}

pub(super) fn default_warmup() -> u32 {
    10
}

pub(super) fn default_seed() -> u64 {
    42
}

pub(super) fn default_policy() -> String {
    DEFAULT_POLICY.to_owned()
}

pub(super) fn default_batch() -> u32 {
    1
}

fn checked<'de, D, T>(
    deserializer: D,
    good: impl Fn(&T) -> bool,
    allowed: &str,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + std::fmt::Display,
{
    let value = T::deserialize(deserializer)?;
    if good(&value) {
        return Ok(value);
    }
    Err(D::Error::custom(format!("{value}: use {allowed}")))
}

macro_rules! ranges {
    ($($name:ident: $type:ty, $good:expr, $allowed:expr;)*) => {$(
        pub(super) fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
            checked(deserializer, $good, $allowed)
        }
    )*};
}

ranges! {
    rounds: u32, |value| (1..=MOST_ROUNDS).contains(value), "1 to 99";
    warmup: u32, |value| *value <= 10_000, "0 to 10000";
    batch: u32, |value| (1..=65_536).contains(value), "1 to 65536";
    positive: f64, |value| *value > 0.0 && *value <= 1e6, "a number above 0, at most 1000000";
    share: f64, |value| *value > 0.0 && *value <= 1.0, "a share above 0, at most 1";
    name: String, |value: &String| is_name(value),
        "1 to 32 small letters, digits and dashes";
}

/// A time with its unit, above 0.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    known_time(text).ok_or_else(|| {
        format!(
            "\"{text}\": use a time such as \"500us\", \"33ms\", \"20s\" or \"2h\", at most a day"
        )
    })
}

pub(super) fn known_time(text: &str) -> Option<Duration> {
    xsched_hint::micros_with_unit(text)
        .map(Duration::from_micros)
        .filter(|time| !time.is_zero() && *time <= LONGEST)
}

pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = "a time with its unit, such as \"20s\"";
    xsched_hint::from_text(deserializer, expected, parse_time)
}

pub(super) fn some_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

pub(super) fn some_positive<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<f64>, D::Error> {
    positive(deserializer).map(Some)
}

pub(super) fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    checked(deserializer, |level| (1..=3).contains(level), "1, 2 or 3").map(Some)
}

pub(super) fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Device, D::Error> {
    parse_device(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A device by its name.
pub(crate) fn parse_device(name: &str) -> Result<Device, String> {
    let known = Device::value_variants();
    let found = known.iter().find(|device| device.name() == name);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|device| device.name()).collect();
        format!("there is no device \"{name}\": use {}", known.join(", "))
    })
}

pub(super) fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    policy::about(&name).map_err(D::Error::custom)?;
    Ok(name)
}

pub(super) fn command<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let words: Vec<String> = Vec::deserialize(deserializer)?;
    if words.first().is_none_or(String::is_empty) {
        let why = "name a program, as in [\"python3\", \"infer.py\"]";
        return Err(D::Error::custom(why));
    }
    Ok(Some(words))
}

pub(super) fn tasks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Task>, D::Error> {
    let tasks: Vec<Task> = Vec::deserialize(deserializer)?;
    if !(1..=MOST_TASKS).contains(&tasks.len()) {
        let why = format!("{} tasks: use 1 to {MOST_TASKS}", tasks.len());
        return Err(D::Error::custom(why));
    }
    Ok(tasks)
}

pub(super) fn hints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hints, D::Error> {
    let map: BTreeMap<String, toml::Value> = BTreeMap::deserialize(deserializer)?;
    let hint = |(name, value): (String, toml::Value)| {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        HintKind::by_name(&name)?.parse(&text)
    };
    let hints: Result<Hints, _> = map.into_iter().map(hint).collect();
    hints.map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"name = "shop"
description = "A search and a batch job."
duration = "500ms"
rounds = 2
policy = "pup"

[[task]]
name = "search"
model = "resnet18"
hints = { priority = "high", utilization = 75 }
arrival = { rate = 30 }
drop_late = true
limits = { p99 = "40ms", p99_standalone = 1.6, dropped = 0, completion = "period" }

[[task]]
name = "job"
command = ["true"]
limits.throughput_standalone = 0.2

[[task]]
name = "late"
model = "resnet50"
arrival.period = "3s"
limits.completion.within = "3s"
"#;

    #[test]
    fn a_file_says_everything() {
        let mix = Mix::parse(GOOD).unwrap();
        assert_eq!((mix.name.as_str(), mix.rounds, mix.warmup), ("shop", 2, 10));
        assert_eq!((mix.device, mix.policy.as_str()), (Device::Cpu, "pup"));
        assert_eq!(mix.duration, Duration::from_millis(500));
        let [search, job, late] = &mix.tasks[..] else {
            panic!("{mix:?}")
        };
        assert_eq!(search.arrival, Arrival::Rate(30.0));
        assert_eq!(search.limits.p99, Some(Duration::from_millis(40)));
        assert_eq!(search.limits.completion, Some(Completion::Period));
        let spec = search.spec(crate::task::Arrival::Open { rate_hz: 30.0 });
        assert_eq!(spec.hints, ["--utilization", "75"]);
        assert_eq!(spec.options, ["--drop-late"]);
        assert_eq!(job.arrival, Arrival::Closed);
        let spec = job.spec(crate::task::Arrival::Closed);
        assert_eq!(
            (spec.model.as_str(), spec.options.join(" ")),
            ("command", "-- true".into())
        );
        assert_eq!(late.arrival, Arrival::Period(Duration::from_secs(3)));
        let within = Completion::Within(Duration::from_secs(3));
        assert_eq!(late.limits.completion, Some(within));
    }

    #[test]
    fn a_mistake_has_its_line_its_key_and_what_is_allowed() {
        let check = |from: &str, to: &str, line: usize, key: &str, says: &str| {
            assert!(GOOD.contains(from), "{from}");
            let (at, why) = Mix::parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert_eq!(at, line, "{why}");
            assert!(why.contains(&format!("key \"{key}\"")), "{why}");
            assert!(why.contains(says) && !why.contains('\n'), "{why}");
        };
        check("rounds = 2", "rounds = 0", 4, "rounds", "use 1 to 99");
        check("rounds = 2", "round = 2", 4, "round", "\"rounds\"");
        check("\"500ms\"", "500", 3, "duration", "such as \"20s\"");
        check("\"500ms\"", "\"500\"", 3, "duration", "\"33ms\"");
        check("\"pup\"", "\"best\"", 5, "policy", "hpf");
        check(
            "name = \"search\"",
            "name = \"A b\"",
            8,
            "name",
            "small letters",
        );
        check(
            "name = \"job\"",
            "name = \"search\"",
            16,
            "name",
            "two are called",
        );
        check("resnet18", "resnet1", 9, "model", "resnet50");
        check(
            "priority = \"high\"",
            "priority = 900",
            10,
            "hints",
            "255 (first)",
        );
        check("rate = 30", "rate = -1", 11, "arrival", "above 0");
        check("rate = 30", "speed = 1", 11, "speed", "\"poisson\"");
        check("dropped = 0", "drops = 0", 13, "drops", "\"dropped\"");
        check("drop_late = true", "", 13, "limits", "drop_late = true");
        check("[\"true\"]", "[]", 17, "command", "name a program");
        check("command = [\"true\"]", "", 15, "model", "\"command\"");
        check(
            "completion.within = \"3s\"",
            "completion = \"soon\"",
            24,
            "completion",
            "period",
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_one_line() {
        let error = Mix::load(Path::new("/nowhere/shop.toml")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nowhere/shop.toml") && !text.contains('\n'),
            "{text}"
        );
    }
}
