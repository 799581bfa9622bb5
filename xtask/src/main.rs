//! `cargo xtask`: everything that a person or CI does to this repository, as one command each.

mod build;
mod setup;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and set-up tasks")]
enum Task {
    /// Everything that must pass before a push: set-up, fmt, clippy, tests, loom models, docs, tidy
    Test,
    /// Build the command and all shims, side by side in target/debug or target/release
    Build {
        /// Optimised
        #[arg(long)]
        release: bool,
    },
    /// Build optimised, and lay out bin/ and lib/ under a folder
    Dist {
        /// That folder
        #[arg(long)]
        prefix: PathBuf,
        /// Not optimised
        #[arg(long)]
        debug: bool,
    },
    /// Install what building and testing needs (by apt as root, else say what is missing)
    Setup,
    /// Check the map against the tree: crates, paths, files with unsafe, guarantees
    Tidy,
    /// Make the marked regions of README.md, and their images, from the records under docs/results
    Readme,
    /// Run the loom models of the shared-memory protocols
    Loom,
    /// Run the small benchmarks (criterion): admission, engine
    Bench,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = root();
    match Task::parse() {
        Task::Test => test(&root),
        Task::Build { release } => build::all(&root, release).map(drop),
        Task::Dist { prefix, debug } => build::dist(&root, &prefix, !debug),
        Task::Setup => setup::run(),
        Task::Tidy => tidy::run(&root),
        Task::Readme => readme(&root),
        Task::Loom => loom(&root),
        Task::Bench => {
            cargo(&root, &["bench", "-p", "xsched-xqueue", "--bench", "admit"])?;
            cargo(&root, &["bench", "-p", "xsched-sched", "--bench", "engine"])
        }
    }
}

fn test(root: &Path) -> Result<()> {
    setup::run()?;
    tidy::run(root)?;
    cargo(root, &["fmt", "--all", "--check"])?;
    cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    // First what black-box tests start and preload.
    build::all(root, false)?;
    cargo(root, &["test", "--workspace"])?;
    loom(root)?;
    step(
        Command::new(env!("CARGO"))
            .current_dir(root)
            .env("RUSTDOCFLAGS", "-D warnings")
            .args(["doc", "--workspace", "--no-deps"]),
    )?;
    println!("xtask: everything passed");
    Ok(())
}

/// The models run with a cfg of their own, so they get a target directory of their own.
fn loom(root: &Path) -> Result<()> {
    step(
        Command::new(env!("CARGO"))
            .current_dir(root)
            .env("RUSTFLAGS", "--cfg loom")
            .env("LOOM_MAX_PREEMPTIONS", "3")
            .env("CARGO_TARGET_DIR", root.join("target/loom"))
            .args(["test", "--release", "-p", "xsched-wire", "--test", "loom"]),
    )
}

/// The test that compares them writes them instead.
fn readme(root: &Path) -> Result<()> {
    step(
        Command::new(env!("CARGO"))
            .current_dir(root)
            .env("README_WRITE", "1")
            .args([
                "test",
                "-p",
                "xsched-bench",
                "--test",
                "readme",
                "the_readme",
            ]),
    )
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    step(
        Command::new(env!("CARGO"))
            .current_dir(root)
            .args(arguments),
    )
}

/// Runs one step, says how long it took, and ends everything if it fails.
fn step(command: &mut Command) -> Result<()> {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    let line = format!("cargo {}", words.join(" "));
    println!("xtask: {line}");
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line} failed ({status})");
    }
    println!("xtask: {line}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
