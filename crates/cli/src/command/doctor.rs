//! `xsched doctor`: checks what is needed on this machine, and says what to do.

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    check::{self, Check, Verdict, cuda, hip, opencl},
    failure::{self, BadInput},
    shim,
};

/// Check what scheduling needs on this machine.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The exit code is 0 if nothing FAILED, else 1. A NOTE is worth knowing, and \
                        nothing must be done about it."
)]
pub(crate) struct DoctorArgs {
    /// Accelerator to check
    #[arg(long, value_enum, default_value = "cpu")]
    platform: Platform,
    /// Also write the report here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Platforms that this build supports.
#[derive(Clone, Copy, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Platform {
    /// The processor itself.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// AMD's GPUs.
    Hip,
    /// Whatever OpenCL drives.
    Opencl,
}

/// What the JSON file holds.
#[derive(Serialize)]
struct Report {
    test_name: &'static str,
    version: &'static str,
    platform: Platform,
    passed: bool,
    paths: Paths,
    /// Of the platform `cuda`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cuda: Option<cuda::Facts>,
    /// Of the platform `hip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    hip: Option<hip::Facts>,
    checks: Vec<Check>,
}

/// Where things are.
#[derive(Serialize)]
struct Paths {
    /// The source of this build, if it is still there.
    source: Option<PathBuf>,
    /// Where `cargo xtask build` puts it, if it has.
    build: Option<PathBuf>,
    /// The prefix under which this command is installed, with the shims.
    install: Option<PathBuf>,
    /// What runs: this command, and the shims that it preloads.
    command: Option<PathBuf>,
    shims: Vec<PathBuf>,
}

impl Paths {
    fn find() -> Paths {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = manifest.ancestors().nth(2).map(Path::to_owned);
        let source = source.filter(|source| source.is_dir());
        let built = ["release", "debug"].map(|profile| Path::new("target").join(profile));
        let mut built = source
            .iter()
            .flat_map(|root| built.each_ref().map(|at| root.join(at)));
        let command = std::env::current_exe().ok();
        let shims = command.as_deref().map(shim::installed).unwrap_or_default();
        let prefix = command
            .as_deref()
            .and_then(|command| command.ancestors().nth(2));
        let prefix = prefix.filter(|prefix| {
            let lib = prefix.join("lib");
            shims.iter().any(|shim| shim.parent() == Some(&lib))
        });
        Paths {
            build: built.find(|folder| !shim::beside(folder).is_empty()),
            install: prefix.map(Path::to_owned),
            source,
            command,
            shims,
        }
    }
}

/// Prints the report; fails if a check did.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let file = args.json.as_deref().map(Output::open).transpose()?;
    let paths = Paths::find();
    let mut checks = check::system();
    let (mut cuda, mut hip) = (None, None);
    match args.platform {
        Platform::Cpu => {
            checks.extend(check::cpu());
            checks.push(others(&paths));
        }
        Platform::Cuda => {
            let (found, facts) = cuda::all();
            checks.extend(found);
            cuda = Some(facts);
        }
        Platform::Hip => {
            let (found, facts) = hip::all();
            checks.extend(found);
            hip = Some(facts);
        }
        Platform::Opencl => checks.extend(opencl::all()),
    }
    checks.extend(check::daemon());
    let report = Report {
        test_name: "phase4_test1",
        version: env!("CARGO_PKG_VERSION"),
        platform: args.platform,
        passed: checks.iter().all(|check| check.verdict != Verdict::Failed),
        paths,
        cuda,
        hip,
        checks,
    };
    if let Some(file) = file {
        file.write(serde_json::to_string_pretty(&report)? + "\n")?;
    }
    failure::print(&text(&report, args.json.as_ref())?)?;
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// That only the CPU was tried, and what other devices want.
fn others(paths: &Paths) -> Check {
    match paths.shims.is_empty() {
        true => Check::note(
            "others",
            "no shim stands beside this command: programs on GPUs or OpenCL run unscheduled",
            "`cargo xtask build --release` makes the shims",
        ),
        false => Check::note(
            "others",
            "devices other than the CPU were not tried",
            "`xsched doctor --platform cuda`, `hip` or `opencl`",
        ),
    }
}

fn text(report: &Report, file: Option<&PathBuf>) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for check in &report.checks {
        let Check {
            name,
            verdict,
            detail,
            remedy,
        } = check;
        writeln!(text, "{:<6}  {name}: {detail}", verdict.word())?;
        if let Some(remedy) = remedy {
            writeln!(text, "        -> {remedy}")?;
        }
    }
    let Paths {
        source,
        build,
        install,
        command,
        shims,
    } = &report.paths;
    let places = [
        ("source", source),
        ("build", build),
        ("install", install),
        ("command", command),
    ];
    let paths = places
        .into_iter()
        .filter_map(|(name, path)| Some((name, path.as_ref()?)));
    let paths = paths.chain(shims.iter().map(|path| ("shim", path)));
    writeln!(text)?;
    for (name, path) in paths.chain(file.map(|path| ("report", path))) {
        writeln!(text, "{name:<7} {}", path.display())?;
    }
    let failed = report
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failed)
        .count();
    match failed {
        0 => writeln!(text, "\nPASSED: this machine is ready")?,
        1 => writeln!(text, "\nFAILED: 1 check needs your attention")?,
        n => writeln!(text, "\nFAILED: {n} checks need your attention")?,
    }
    Ok(text)
}

/// A file that holds all of the report or what it held before.
enum Output {
    /// Written beside and renamed.
    Renamed {
        temporary: tempfile::NamedTempFile,
        path: PathBuf,
    },
    /// A pipe or device: written in place.
    InPlace(PathBuf),
}

impl Output {
    /// Refuses a path that cannot be written, before any check has run.
    fn open(path: &Path) -> anyhow::Result<Output> {
        use std::os::unix::fs::PermissionsExt;

        let refused = |error: io::Error| {
            BadInput(format!(
                "cannot write {}: {error}: choose another file",
                path.display()
            ))
        };
        // Resolved, so that a link stays a link.
        let path = match path.canonicalize() {
            Ok(existing) if existing.is_file() => existing,
            Ok(existing) if existing.is_dir() => {
                return Err(refused(io::ErrorKind::IsADirectory.into()).into());
            }
            Ok(_) => return Ok(Output::InPlace(path.into())),
            Err(_) => std::path::absolute(path).map_err(refused)?,
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        let temporary = tempfile::Builder::new()
            .prefix(".xsched-doctor")
            .permissions(std::fs::Permissions::from_mode(0o666)) // less the umask
            .tempfile_in(dir)
            .map_err(refused)?;
        Ok(Output::Renamed { temporary, path })
    }

    fn write(self, text: String) -> anyhow::Result<()> {
        match self {
            Output::Renamed { temporary, path } => {
                std::fs::write(temporary.path(), text)?;
                temporary
                    .persist(&path)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            Output::InPlace(path) => std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?,
        }
        Ok(())
    }
}
