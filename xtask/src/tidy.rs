//! Checks that no compiler makes: the map is true, `unsafe` stays where the map says, every
//! guarantee names a test that exists, every file says what it is for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

pub(crate) fn run(root: &Path) -> Result<()> {
    let files = rust_files(root)?;
    let mut problems = Vec::new();
    map_is_true(root, &mut problems)?;
    unsafe_is_listed(root, &files, &mut problems)?;
    guarantees_are_tested(root, &files, &mut problems)?;
    files_introduce_themselves(root, &files, &mut problems)?;
    if problems.is_empty() {
        println!("xtask: tidy: {} files", files.len());
        return Ok(());
    }
    bail!("tidy:\n  {}", problems.join("\n  "))
}

/// Every crate stands in ARCHITECTURE.md, and every path in it exists.
fn map_is_true(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let map = read(root, "ARCHITECTURE.md")?;
    for manifest in members(root)? {
        if !map.contains(&format!("`{manifest}`")) {
            problems.push(format!(
                "ARCHITECTURE.md does not name the crate `{manifest}`"
            ));
        }
    }
    for path in code_spans(&map).filter(|span| looks_like_path(span)) {
        if !root.join(path).exists() {
            problems.push(format!(
                "ARCHITECTURE.md names `{path}`, which does not exist"
            ));
        }
    }
    Ok(())
}

/// The files with `unsafe` are exactly those that ARCHITECTURE.md lists under "Unsafe code".
fn unsafe_is_listed(root: &Path, files: &[PathBuf], problems: &mut Vec<String>) -> Result<()> {
    let map = read(root, "ARCHITECTURE.md")?;
    let section = map
        .split("## Unsafe code")
        .nth(1)
        .context("no section 'Unsafe code'")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: BTreeSet<_> = code_spans(section)
        .filter(|span| looks_like_path(span))
        .collect();
    let is_test = |path: &str| path.contains("/tests/") || path.starts_with("xtask/");
    let mut found = BTreeSet::new();
    for file in files {
        let relative = relative(root, file);
        let text = fs::read_to_string(file)?;
        let has = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| code.contains(word))
        });
        if has && !is_test(&relative) {
            found.insert(relative);
        }
    }
    for file in &found {
        if !listed.contains(file.as_str()) {
            problems.push(format!(
                "{file} has `unsafe`, but ARCHITECTURE.md does not list it"
            ));
        }
    }
    for file in listed.iter().filter(|file| !found.contains(**file)) {
        problems.push(format!(
            "ARCHITECTURE.md lists {file}, which has no `unsafe`"
        ));
    }
    Ok(())
}

/// Every row of docs/guarantees.md names a test function that exists.
fn guarantees_are_tested(root: &Path, files: &[PathBuf], problems: &mut Vec<String>) -> Result<()> {
    let guarantees = read(root, "docs/guarantees.md")?;
    let sources = files
        .iter()
        .map(fs::read_to_string)
        .collect::<Result<Vec<_>, _>>()?
        .join("\n");
    let mut rows = 0;
    for row in guarantees.lines().filter(|line| line.starts_with("| G")) {
        rows += 1;
        let Some(test) = code_spans(row).last() else {
            problems.push(format!("docs/guarantees.md: no test in: {row}"));
            continue;
        };
        let name = test.rsplit("::").next().unwrap_or(test);
        if !sources.contains(&format!("fn {name}(")) {
            problems.push(format!(
                "docs/guarantees.md names the test `{test}`, which does not exist"
            ));
        }
    }
    if rows == 0 {
        problems.push("docs/guarantees.md has no rows".into());
    }
    Ok(())
}

fn files_introduce_themselves(
    root: &Path,
    files: &[PathBuf],
    problems: &mut Vec<String>,
) -> Result<()> {
    for file in files {
        if !fs::read_to_string(file)?.starts_with("//!") {
            problems.push(format!(
                "{} does not start with `//!`",
                relative(root, file)
            ));
        }
    }
    Ok(())
}

/// Directories of the workspace's members, as in Cargo.toml.
fn members(root: &Path) -> Result<Vec<String>> {
    let manifest = read(root, "Cargo.toml")?;
    let list = manifest
        .split("members = [")
        .nth(1)
        .context("no members in Cargo.toml")?;
    let list = list.split(']').next().unwrap_or_default();
    Ok(list
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect())
}

fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn looks_like_path(span: &str) -> bool {
    let top = ["crates/", "docs/", "xtask/", ".ci/"];
    top.iter().any(|top| span.starts_with(top)) && !span.contains([' ', '*', 'N'])
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .to_string_lossy()
        .into_owned()
}
