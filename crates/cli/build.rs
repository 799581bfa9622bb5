//! Notes the commit that is built, for the records of benchmarks; without git there is none.

use std::process::Command;

fn main() {
    // All crates: what differs from the commit is said.
    println!("cargo::rerun-if-changed=..");
    if let Some(path) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={path}");
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return;
    };
    let changed = git(&[
        "--no-optional-locks",
        "status",
        "--porcelain",
        "--untracked-files=no",
    ])
    .is_some();
    let and = if changed { " and changes" } else { "" };
    println!("cargo::rustc-env=BUILT_COMMIT={commit}{and}");
}

/// What a command of git prints; `None` if it fails, or prints nothing.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
