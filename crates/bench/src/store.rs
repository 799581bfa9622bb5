//! The files of one run. Each is written under a temporary name and renamed, so that none is ever
//! half-written.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::phase::Measurement;
use crate::{UsageError, manifest, run};

/// The output directory of a run, and the extra file of `--output`.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    output: Option<PathBuf>,
}

impl Store {
    /// Checks that everything can be written before anything runs, and nothing is written over. `dir` defaults
    /// to `./results/<time stamp>`.
    pub fn open(
        dir: Option<&Path>,
        output: Option<&Path>,
        stamp: &str,
    ) -> Result<Store, UsageError> {
        if let Some(dir) = dir.filter(|dir| holds_run(dir)) {
            let dir = dir.display();
            return Err(UsageError(format!(
                "--out {dir}: there is a run already: name another folder, or remove this one"
            )));
        }
        Store::open_any(dir, output, stamp)
    }

    /// The same, where a run may add to what an earlier one left.
    pub fn open_any(
        dir: Option<&Path>,
        output: Option<&Path>,
        stamp: &str,
    ) -> Result<Store, UsageError> {
        if let Some(file) = output {
            check_output(file)?;
        }
        let dir = match dir {
            Some(dir) => create_dir(dir)?,
            None => create_stamped_dir(Path::new("results"), stamp)?,
        };
        try_write(&dir).map_err(|error| cannot_write(&dir, &error))?;
        Ok(Store {
            dir,
            output: output.map(Path::to_owned),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes what an earlier run left under these names, so that it is not taken for this run's.
    pub fn forget(&self, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!("{} cannot be replaced", self.path(name).display())
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a text file.
    pub fn write_text(&self, name: &str, text: &str) -> anyhow::Result<()> {
        write_whole(&self.path(name), text.as_bytes())
    }

    /// Writes a JSON file.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        write_whole(&self.path(name), json_text(value)?.as_bytes())
    }

    /// Writes the document of `--output`, if that was given.
    pub fn write_output(&self, value: &impl Serialize) -> anyhow::Result<()> {
        match &self.output {
            Some(file) => write_whole(file, json_text(value)?.as_bytes()),
            None => Ok(()),
        }
    }

    /// Writes the raw samples of a phase as CSV, round by round, in the order of arrival within each
    /// task.
    pub fn write_samples(
        &self,
        name: &str,
        rounds: &[impl AsRef<[Measurement]>],
    ) -> anyhow::Result<()> {
        let mut text = String::from("task,arrival_ms,start_ms,latency_ms,round\n");
        for (index, measured) in rounds.iter().enumerate() {
            let round = index + 1;
            for measurement in measured.as_ref() {
                let task = &measurement.task.name;
                for [arrival, start, latency] in &measurement.samples {
                    text.push_str(&format!(
                        "{task},{arrival:.3},{start:.3},{latency:.3},{round}\n"
                    ));
                }
            }
        }
        self.write_text(name, &text)
    }
}

/// JSON for people and scripts, with a line feed at its end.
pub fn json_text(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// Whether a run was kept in this folder, whole or not.
pub(crate) fn holds_run(dir: &Path) -> bool {
    let files = [manifest::FILE, run::FILE];
    files.iter().any(|file| dir.join(file).exists())
}

fn check_output(file: &Path) -> Result<(), UsageError> {
    let parent = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if file.is_dir() || file.file_name().is_none() {
        return Err(UsageError(format!(
            "--output {}: this is a directory; name a file",
            file.display()
        )));
    }
    try_write(parent).map_err(|error| cannot_write(file, &error))
}

fn create_dir(dir: &Path) -> Result<PathBuf, UsageError> {
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))?;
    Ok(dir.to_owned())
}

/// A new directory `parent/stamp`, with a number behind it where that exists already.
fn create_stamped_dir(parent: &Path, stamp: &str) -> Result<PathBuf, UsageError> {
    create_dir(parent)?;
    for number in 1.. {
        let dir = match number {
            1 => parent.join(stamp),
            _ => parent.join(format!("{stamp}-{number}")),
        };
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_write(&dir, &error)),
            Ok(()) => return Ok(dir),
        }
    }
    unreachable!("the numbers never end")
}

fn try_write(dir: &Path) -> io::Result<()> {
    tempfile::tempfile_in(dir).map(drop)
}

fn cannot_write(path: &Path, error: &io::Error) -> UsageError {
    UsageError(format!(
        "cannot write to {}: {error}; choose another place with --out DIR or --output FILE",
        path.display()
    ))
}

pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_whole_files_appear() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("long_test.json");
        let store = Store::open(Some(&root.path().join("a/b")), Some(&output), "now").unwrap();
        assert_eq!(names(store.dir()), Vec::<String>::new());
        store.write_json("baseline_result.json", &[1, 2]).unwrap();
        store.write_output(&true).unwrap();
        assert_eq!(names(store.dir()), ["baseline_result.json"]);
        assert_eq!(fs::read_to_string(output).unwrap(), "true\n");
        store
            .forget(&["baseline_result.json", "never_there.json"])
            .unwrap();
        assert_eq!(names(store.dir()), Vec::<String>::new());
    }

    #[test]
    fn unwritable_places_are_refused_at_once_and_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let out = root.path().join("out");
        let refused = |dir: &Path, output: Option<&Path>| {
            let message = Store::open(Some(dir), output, "now").unwrap_err().0;
            assert!(!message.contains('\n'));
            message
        };
        assert!(refused(&file.join("below"), None).contains("file/below"));
        assert!(
            refused(&out, Some(&root.path().join("missing/x.json"))).contains("missing/x.json")
        );
        assert!(refused(&out, Some(root.path())).contains("name a file"));
        assert_eq!(names(root.path()), ["file"]);
    }

    #[test]
    fn a_second_run_in_the_same_second_gets_a_directory_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let first = create_stamped_dir(root.path(), "20260101-000000").unwrap();
        let second = create_stamped_dir(root.path(), "20260101-000000").unwrap();
        assert_ne!(first, second);
        assert_eq!(names(root.path()), ["20260101-000000", "20260101-000000-2"]);
    }
}
