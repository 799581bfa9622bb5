//! The record of a scenario that is no run of tasks (`run.json`): one document, and the text that was made
//! of it. It is there from the start and says how far the run came.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::manifest::{self, Manifest};
use crate::store::Store;
use crate::{Context, UsageError};

const TEXT: &str = "result.txt";

/// A record that is being written.
pub(crate) struct Brief {
    store: Store,
    /// Name of the document.
    file: String,
}

impl Brief {
    /// A run begins: until it has a figure, its record says that it ended before.
    pub(crate) fn begin(store: Store, manifest: &Manifest) -> anyhow::Result<Brief> {
        let file = document(&manifest.scenario);
        store.forget(&[&file])?;
        store.write_json(manifest::FILE, manifest)?;
        let command = manifest.command.join(" ");
        let none = format!("`{command}` ended before it had a figure: run it again\n");
        store.write_text(TEXT, &none)?;
        Ok(Brief { store, file })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What is known so far, and how far that is.
    pub(crate) fn so_far(
        &self,
        progress: &str,
        result: &impl Serialize,
        text: impl Fn(&str) -> String,
    ) -> anyhow::Result<()> {
        self.store.write_json(&self.file, result)?;
        let text = format!("ended early, after {progress}\n{}", text(&self.file));
        self.store.write_text(TEXT, &text)
    }

    /// The result, which is also printed; `text` makes the text, given where the document is.
    pub(crate) fn end(
        &self,
        json: bool,
        result: &impl Serialize,
        text: impl Fn(&str) -> String,
        context: &mut Context,
    ) -> anyhow::Result<()> {
        self.store.write_json(&self.file, result)?;
        self.store.write_output(result)?;
        self.store.write_text(TEXT, &text(&self.file))?;
        let place = self.store.path(&self.file);
        context.print(json, result, &text(&place.display().to_string()))
    }
}

fn document(scenario: &str) -> String {
    format!("{}_result.json", scenario.replace('-', "_"))
}

/// A record that was written.
pub(crate) struct Written {
    pub(crate) text: String,
    /// Without it the run ended before it had a figure.
    pub(crate) document: Option<String>,
}

/// The record in a folder; `None`: it is of another kind, or there is none.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Option<Written>> {
    let Ok(text) = fs::read_to_string(dir.join(TEXT)) else {
        return Ok(None);
    };
    let path = dir.join(manifest::FILE);
    let unreadable = || UsageError(format!("{}: no record of a run", path.display()));
    let manifest = fs::read_to_string(&path).map_err(|_| unreadable())?;
    let manifest: Manifest = serde_json::from_str(&manifest).map_err(|_| unreadable())?;
    let document = fs::read_to_string(dir.join(document(&manifest.scenario)));
    Ok(Some(Written {
        text,
        document: document.ok(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_from_the_start_and_says_how_far_the_run_came() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let words = ["xsched", "bench", "preempt-latency"].map(String::from);
        let manifest = Manifest::now("preempt-latency", words.into(), "0");
        let store = Store::open(Some(folder.path()), None, "").unwrap();
        let brief = Brief::begin(store, &manifest).unwrap();
        let written = || read(folder.path()).unwrap().unwrap();
        assert_eq!(
            written().text,
            "`xsched bench preempt-latency` ended before it had a figure: run it again\n"
        );
        assert!(written().document.is_none());

        let text = |file: &str| format!("7 in {file}\n");
        brief.so_far("1 of 2 pairs", &7, text).unwrap();
        assert_eq!(
            written().text,
            "ended early, after 1 of 2 pairs\n7 in preempt_latency_result.json\n"
        );
        assert_eq!(written().document.as_deref(), Some("7\n"));

        // The next run in the same folder.
        assert!(Store::open(Some(folder.path()), None, "").is_err());
        let store = Store::open_any(Some(folder.path()), None, "").unwrap();
        Brief::begin(store, &manifest).unwrap();
        assert!(written().document.is_none());
    }
}
