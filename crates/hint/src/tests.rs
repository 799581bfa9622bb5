//! Every kind of hint through its text form.

use super::*;

#[track_caller]
fn check(kind: HintKind, text: &str, expect: Option<&str>) {
    match (kind.parse(text), expect) {
        (Ok(hint), Some(value)) => {
            assert_eq!((hint.kind(), &*hint.to_string()), (kind, value), "{text}");
            assert_eq!(kind.parse(value), Ok(hint), "the text form is read back");
            let json = serde_json::to_string(&hint).unwrap();
            assert_eq!(serde_json::from_str::<Hint>(&json).unwrap(), hint);
        }
        (Err(error), None) => {
            let line = error.to_string();
            assert!(
                line.contains(kind.name()) && line.contains(kind.allowed()),
                "{line}"
            );
            assert!(
                line.contains(&format!("\"{text}\"")),
                "names the value: {line}"
            );
        }
        (result, _) => panic!("{kind} {text}: {result:?}"),
    }
}

#[test]
fn values_are_read_within_their_ranges() {
    let priority = [
        ("realtime", "200"),
        ("high", "100"),
        ("normal", "0"),
        ("low", "-100"),
        ("idle", "-200"),
        (" 17 ", "17"),
        ("255", "255"),
        ("-255", "-255"),
        ("-256", "-256"),
    ];
    for (text, value) in priority {
        check(HintKind::Priority, text, Some(value));
    }
    for text in [
        "256",
        "-257",
        "99999",
        "-40000",
        "99999999999",
        "urgent",
        "",
    ] {
        check(HintKind::Priority, text, None);
    }
    let good = [
        (HintKind::Utilization, "0", "0"),
        (HintKind::Utilization, "100", "100"),
        (HintKind::TimeSlice, "100", "100"),
        (HintKind::TimeSlice, "5ms", "5000"),
        (HintKind::TimeSlice, "10s", "10000000"),
        (HintKind::Deadline, "1", "1"),
        (HintKind::Deadline, "1.5ms", "1500"),
        (HintKind::Deadline, "33 ms", "33000"),
        (HintKind::KDeadline, "2", "2"),
        (HintKind::Laxity, "2500", "2500:0:255"),
        (HintKind::Laxity, "10ms:low", "10000:-100:255"),
        (HintKind::Laxity, "10ms:-5:200", "10000:-5:200"),
        (HintKind::Weight, "1", "1"),
        (HintKind::Weight, "10000", "10000"),
        (HintKind::LatencyTarget, "50ms", "50000"),
    ];
    for (kind, text, value) in good {
        check(kind, text, Some(value));
    }
    let bad = [
        (HintKind::Utilization, "101"),
        (HintKind::Utilization, "-1"),
        (HintKind::Utilization, "50%"),
        (HintKind::TimeSlice, "99"),
        (HintKind::TimeSlice, "10000001"),
        (HintKind::TimeSlice, "11s"),
        (HintKind::Deadline, "0"),
        (HintKind::Deadline, "soon"),
        (HintKind::Deadline, "2h"),
        (HintKind::Deadline, "inf"),
        (HintKind::Deadline, "1e300"),
        (HintKind::KDeadline, "0"),
        (HintKind::KDeadline, "1025"),
        (HintKind::Laxity, "0"),
        (HintKind::Laxity, "1ms:0:300"),
        (HintKind::Laxity, "1ms:0:0:0"),
        (HintKind::Laxity, "1ms:-256:0"),
        (HintKind::Weight, "0"),
        (HintKind::Weight, "10001"),
        (HintKind::LatencyTarget, "99"),
        (HintKind::LatencyTarget, "61s"),
    ];
    for (kind, text) in bad {
        check(kind, text, None);
    }
}

#[test]
fn every_kind_answers_to_its_name() {
    for kind in HintKind::ALL {
        assert_eq!(HintKind::by_name(kind.name()), Ok(kind));
    }
    assert_eq!(
        HintKind::by_name("latency-target"),
        Ok(HintKind::LatencyTarget)
    );
    let line = HintKind::by_name("nice").unwrap_err().to_string();
    assert!(
        line.contains("\"nice\"") && line.contains("utilization"),
        "{line}"
    );
}

#[test]
fn a_value_from_outside_is_checked_too() {
    for json in [
        r#"{"priority":300}"#,
        r#"{"utilization":101}"#,
        r#"{"time_slice":99}"#,
        r#"{"deadline":0}"#,
        r#"{"laxity":{"laxity":1,"lax":0,"critical":256}}"#,
    ] {
        let error = serde_json::from_str::<Hint>(json).unwrap_err().to_string();
        assert!(error.contains("use"), "{error}");
    }
}

#[test]
fn hints_gather_and_come_back() {
    let all = [
        HintKind::Priority.parse("5"),
        HintKind::Utilization.parse("50"),
        HintKind::TimeSlice.parse("1ms"),
        HintKind::Deadline.parse("2ms"),
        HintKind::KDeadline.parse("3"),
        HintKind::Laxity.parse("4ms:1:2"),
        HintKind::Weight.parse("6"),
        HintKind::LatencyTarget.parse("7ms"),
    ]
    .map(Result::unwrap);
    let hints: Hints = all.into_iter().collect();
    assert!(hints.iter().eq(all));
    assert_eq!(Hints::default().iter().count(), 0);
    assert_eq!(
        (Hints::default().priority(), hints.priority().get()),
        (Priority::NORMAL, 5)
    );
    assert!(!Priority::NO_RUN.runs() && Priority::MIN.runs());
}
