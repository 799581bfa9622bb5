//! `xsched sim`: plays a scenario in virtual time and compares policies.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context;
use xsched_sched::policy;
use xsched_sim::{Report, Scenario, Segment, Time};

use crate::failure::{self, BadInput};

/// Simulate devices and tenants under one or several policies.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Scenarios that are shipped: crates/sim/scenarios. A run is repeatable from its seed."
)]
pub(crate) struct SimArgs {
    /// The scenario
    #[arg(value_name = "SCENARIO.toml")]
    scenario: PathBuf,
    /// Policy to play, instead of the scenario's own; may be given several times
    #[arg(long, value_name = "NAME", value_parser = known_policy)]
    policy: Vec<String>,
    /// Where chance begins, instead of the scenario's own
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// All figures, a line a task
    #[arg(long, value_name = "PATH")]
    csv: Option<PathBuf>,
    /// All figures
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// A picture of who executes when; for a few tasks
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
    /// How much of the time the picture shows
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "300ms", requires = "svg")]
    until: Time,
}

/// Most tasks in a picture.
const MOST_LANES: u32 = 40;

/// Plays, prints, writes.
pub(crate) fn run(args: &SimArgs) -> anyhow::Result<ExitCode> {
    let load = Scenario::load(&args.scenario);
    let mut scenario = load.map_err(|error| BadInput(error.to_string()))?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    if !args.policy.is_empty() {
        scenario.policies.clone_from(&args.policy);
    }
    let lanes: u32 = scenario.tasks.iter().map(|task| task.count).sum();
    if args.svg.is_some() && lanes > MOST_LANES {
        let why =
            format!("a picture shows {MOST_LANES} tasks at most, not {lanes}: leave out --svg");
        return Err(BadInput(why).into());
    }
    let start = Instant::now();
    let mut reports: Vec<Report> = Vec::new();
    let mut pictures: Vec<(String, Vec<Segment>)> = Vec::new();
    for name in &scenario.policies {
        let policy = policy::by_name(name).map_err(|error| BadInput(error.to_string()))?;
        let (report, segments) = xsched_sim::run_with(&scenario, policy, args.svg.is_some());
        failure::print(&format!("{}\n", xsched_sim::table(&report)))?;
        pictures.push((report.policy.clone(), segments));
        reports.push(report);
    }
    let seconds = start.elapsed().as_secs_f64();
    if reports.len() > 1 {
        failure::print(&xsched_sim::comparison(&reports))?;
    }
    if let Some(path) = &args.csv {
        write(path, &xsched_sim::csv(&reports))?;
    }
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&reports)? + "\n"))?;
    }
    if let Some(path) = &args.svg {
        write(
            path,
            &xsched_sim::timeline(&scenario, &pictures, args.until.0),
        )?;
    }
    let commands: u64 = reports.iter().map(|report| report.commands).sum();
    // Nobody may be left to read it.
    let _ = writeln!(
        io::stderr(),
        "{commands} commands in {seconds:.2} s, {:.2} million a second",
        commands as f64 / seconds / 1e6
    );
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("cannot write {}: name another file", path.display());
    fs::write(path, text).with_context(what)
}

fn known_policy(name: &str) -> Result<String, policy::UnknownPolicy> {
    policy::about(name).map(|about| about.name.to_owned())
}

fn time(text: &str) -> Result<Time, String> {
    Time::try_from(text.to_owned()).and_then(|time| match time.0 {
        0 => Err("use a time above 0".into()),
        _ => Ok(time),
    })
}
