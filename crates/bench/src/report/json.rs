//! The result of a run as one JSON document, for `--output` and `--json`.

use serde_json::{Map, Value, json};

use super::{Record, reading_text};

/// The document. On top stand the keys of a phase's result file (the scheduled phase's, else the
/// only one's), so that a script that reads those files reads this, too; the rest of the run stands
/// beside them.
pub fn document(record: &Record) -> anyhow::Result<Value> {
    let mut keys = match record.scheduled.as_ref().or(record.baseline.as_ref()) {
        Some(phase) => match serde_json::to_value(phase)? {
            Value::Object(keys) => keys,
            _ => Map::new(),
        },
        None => Map::new(),
    };
    keys.insert("baseline".into(), serde_json::to_value(&record.baseline)?);
    keys.insert(
        "standalone".into(),
        serde_json::to_value(&record.standalone)?,
    );
    keys.insert(
        "comparison".into(),
        serde_json::to_value(&record.comparison)?,
    );
    keys.insert(
        "reading".into(),
        json!(record.comparison.as_ref().map(reading_text)),
    );
    keys.insert("verdict".into(), json!(record.verdict()));
    keys.insert("failure".into(), serde_json::to_value(&record.failure)?);
    keys.insert("notes".into(), json!(record.notes));
    keys.insert("manifest".into(), serde_json::to_value(&record.manifest)?);
    Ok(Value::Object(keys))
}

#[cfg(test)]
mod tests {
    use super::super::examples;
    use super::*;

    #[test]
    fn the_document_reads_like_a_result_file() {
        let value = document(&examples::record()).unwrap();
        assert_eq!(value["mode"], "XSched");
        assert_eq!(value["high_priority"]["latency_p99_ms"], 48.56);
        assert_eq!(value["baseline"]["high_priority"]["latency_p99_ms"], 45.23);
        assert_eq!(value["verdict"], "pass");
        assert!(value["comparison"]["useful_work"]["ratio"].is_f64());
        insta::assert_json_snapshot!("document", value);
    }

    #[test]
    fn an_incomplete_run_says_so() {
        let value = document(&examples::interrupted()).unwrap();
        assert_eq!(value["mode"], "Native");
        assert_eq!(value["verdict"], "incomplete");
        assert_eq!(value["failure"]["missing"][0], "scheduled");
    }
}
