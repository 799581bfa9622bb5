//! The HTTP API as its callers see it: schema, permissions, errors.

mod common;

use std::{os::unix::fs::PermissionsExt, path::Path};

use common::*;
use insta::assert_json_snapshot;
use rustix::{process::Uid, thread::set_thread_res_uid};
use serde_json::{Value, json};
use xsched_server::{
    Client, ClientError,
    api::{self, path},
};
use xsched_wire::endpoint::http_socket;

#[test]
fn the_schema_is_pinned() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    check_scheduled(&high, &low);
    let api = daemon.api();
    let get = |path: &str| api.get::<Value>(path).unwrap();
    assert_json_snapshot!("status", get(path::STATUS), {
        ".pid" => "[pid]", ".owner_uid" => "[uid]", ".version" => "[version]",
        ".socket" => "[socket]", ".uptime_ms" => "[ms]",
    });
    assert_json_snapshot!("queues", get(path::QUEUES), {
        ".queues[].pid" => "[pid]", ".queues[].uid" => "[uid]", ".queues[].group" => "[group]",
        ".queues[].served_ms" => "[ms]", ".queues[].waiting_ms" => "[ms]",
    });
    // The default one; more may follow.
    assert_json_snapshot!("policies", get(path::POLICIES)["policies"][0]);
    assert_json_snapshot!("policy", get(path::POLICY));
    let hint = json!({"name": "low", "priority": -7});
    let answer: Value = api.post(path::HINTS, &hint).unwrap();
    assert_json_snapshot!("hint", answer, { ".pids[]" => "[pid]" });
}

#[test]
fn the_page_about_the_api_names_every_path_and_field() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md");
    let page = std::fs::read_to_string(page).unwrap();
    let check = |word: &str| assert!(page.contains(&format!("`{word}`")), "{word}");
    let daemon = TestDaemon::start();
    let (_high, _low) = high_and_low(&daemon);
    let api = daemon.api();
    for path in [path::STATUS, path::QUEUES, path::POLICIES, path::POLICY] {
        check(path);
        let answer: Value = api.get(path).unwrap();
        let list = answer
            .as_object()
            .unwrap()
            .values()
            .find_map(Value::as_array);
        let first = list.map(|list| &list[0]);
        for fields in [Some(&answer), first].into_iter().flatten() {
            fields
                .as_object()
                .unwrap()
                .keys()
                .for_each(|key| check(key));
        }
    }
    check(path::HINTS);
    check(path::ACTIVE_WINDOW);
}

#[track_caller]
fn check_error<T: std::fmt::Debug>(
    result: Result<T, ClientError>,
    expect: (u16, &str),
    expect_message: &str,
) {
    let error = result.unwrap_err();
    let line = error.to_string();
    let ClientError::Api { status, code, .. } = error else {
        panic!("{line}");
    };
    assert_eq!((status, &*code), expect, "{line}");
    assert!(line.contains(expect_message), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[test]
fn hints_take_effect() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    let api = daemon.api();
    let hint = |request: Value| api.post::<api::HintAnswer>(path::HINTS, &request).unwrap();
    let pid = std::process::id();

    let answer = hint(json!({"name": "low", "priority": 200}));
    assert_eq!(
        (answer.pids, &answer.hints["priority"]),
        (vec![pid], &json!(200))
    );
    low.wait_open(0, true);
    high.wait_open(0, false);

    // Both sessions of this process: equals run together.
    assert_eq!(hint(json!({"pid": pid, "priority": 1})).pids, [pid]);
    high.wait_open(0, true);
    low.wait_open(0, true);

    let queues: api::Queues = api.get(path::QUEUES).unwrap();
    let queue = queues.queues.iter().find(|q| &*q.name == "low").unwrap();
    assert_eq!(queue.priority, 1);
    hint(json!({"queue": queue.id, "priority": -256}));
    low.wait_open(0, false);
    low.create(1, "cpu:0");
    assert!(low.is_open(1), "its process has kept its own priority");
}

#[test]
fn a_hint_before_the_first_queue_is_kept() {
    let daemon = TestDaemon::start();
    let client = RawClient::join(&daemon, "early", None);
    let api = daemon.api();
    let request = json!({"name": "early", "priority": -3});
    let _: api::HintAnswer = api.post(path::HINTS, &request).unwrap();
    client.create(0, "cpu:0");
    let queues: api::Queues = api.get(path::QUEUES).unwrap();
    assert_eq!(queues.queues[0].priority, -3);
}

#[test]
fn bad_requests_say_why() {
    let daemon = TestDaemon::start();
    let (_high, low) = high_and_low(&daemon);
    let api = daemon.api();
    let hint = |request: Value| api.post::<Value>(path::HINTS, &request);
    let (bad, range) = ((400, "bad_request"), (400, "out_of_range"));
    check_error(hint(json!({"name": "low", "priority": 256})), range, "255");
    check_error(
        hint(json!({"name": "low", "priority": -257})),
        range,
        "-256",
    );
    check_error(hint(json!({"priority": 1})), bad, "exactly one");
    let two = json!({"pid": 1, "name": "low", "priority": 1});
    check_error(hint(two), bad, "exactly one");
    check_error(hint(json!({"name": "low"})), bad, "priority");
    let share = hint(json!({"name": "low", "utilization": 30}));
    check_error(share, (422, "not_for_policy"), "up, pup, spup");
    let target = hint(json!({"name": "low", "latency_target": "99us"}));
    check_error(target, range, "100us to 60s");
    let misspelt = json!({"name": "low", "priority": 1, "prio": 1});
    check_error(hint(misspelt), bad, "prio");
    check_error(hint(json!([1])), bad, "expected");
    let gone = (404, "not_found");
    check_error(hint(json!({"pid": 1, "priority": 0})), gone, "process 1");
    check_error(hint(json!({"queue": 99, "priority": 0})), gone, "queue 99");
    check_error(hint(json!({"name": "x", "priority": 0})), gone, "'x'");

    let unknown = json!({"name": "best"});
    let unknown = api.put::<Value>(path::POLICY, &unknown);
    check_error(unknown, (400, "unknown_policy"), "hpf");
    check_error(api.get::<Value>("/v1/nothing"), gone, "path");
    let method = (405, "method_not_allowed");
    check_error(api.get::<Value>(path::HINTS), method, "method");
    let huge = json!({"name": "x".repeat(3 << 20)});
    let huge = api.put::<Value>(path::POLICY, &huge);
    assert!(huge.is_err(), "more than a request needs");

    let queues: api::Queues = api.get(path::QUEUES).unwrap();
    assert_eq!(queues.queues[1].priority, -100, "nothing has changed");
    assert!(low.is_open(0));
}

#[test]
fn the_policy_changes_at_once() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    high.submit(0);
    low.wait_open(0, false);
    let api = daemon.api();
    let put = |name: &str| {
        let request = api::Policy { name: name.into() };
        api.put::<api::Policy>(path::POLICY, &request).unwrap()
    };
    assert_eq!(put("fifo").name, "fifo");
    low.wait_open(0, true);
    assert!(high.is_open(0));
    let status: api::Status = api.get(path::STATUS).unwrap();
    assert_eq!(status.policy, "fifo");
    put("hpf");
    low.wait_open(0, false);
}

/// Runs `task` on a thread that is another user's; `None` where this user may not become one.
fn as_another_user<T: Send>(task: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let user = Uid::from_raw(OTHER);
            set_thread_res_uid(user, user, user).ok()?;
            Some(task())
        });
        thread.join().unwrap()
    })
}

const OTHER: u32 = 12_345;

/// As the system's daemon has it: everybody may connect.
fn open_for_all(daemon: &TestDaemon) {
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(daemon.dir.path(), 0o755);
    open(&daemon.socket, 0o666);
    open(&http_socket(&daemon.socket), 0o666);
}

#[test]
fn other_users_change_what_is_theirs_and_never_above_normal() {
    let daemon = TestDaemon::start();
    let (high, low) = high_and_low(&daemon);
    let refused = as_another_user(|| Client::connect(&daemon.socket).err());
    let Some(refused) = refused else {
        eprintln!("skipped: only root can become another user");
        return;
    };
    let private = matches!(refused, Some(ClientError::NotAllowed { .. }));
    assert!(private, "{refused:?}");

    open_for_all(&daemon);
    let forbidden = (403, "forbidden");
    as_another_user(|| {
        let api = Client::connect(&daemon.socket).unwrap();
        let hint = |name: &str, priority: i32| {
            let request = json!({"name": name, "priority": priority});
            api.post::<api::HintAnswer>(path::HINTS, &request)
        };
        check_error(hint("low", -200), forbidden, "belongs to user");
        let policy = api.put::<Value>(path::POLICY, &json!({"name": "fifo"}));
        check_error(policy, forbidden, "policy");

        let guest = RawClient::join(&daemon, "guest", Some(50));
        let notice = guest.admitted.notice.as_deref().unwrap();
        assert!(notice.contains("lowered to normal"), "{notice}");
        guest.create(0, "cpu:0");
        let mut info = queue_info(1, "cpu:0");
        info.hints = hints(Some(255));
        guest.create_as(info);
        let priorities = || {
            let queues: api::Queues = api.get(path::QUEUES).unwrap();
            let guests = queues.queues.iter().filter(|queue| queue.uid == OTHER);
            guests.map(|queue| queue.priority).collect::<Vec<_>>()
        };
        assert_eq!(priorities(), [0, 0]);
        check_error(hint("guest", 1), forbidden, "above normal");
        assert_eq!(hint("guest", -5).unwrap().hints["priority"], -5);
        assert_eq!(priorities(), [-5, 0]);
        hint("guest", 0).unwrap();
    });
    // The owner may give others more.
    let guest = as_another_user(|| RawClient::join(&daemon, "guest", None)).unwrap();
    let request = json!({"name": "guest", "priority": 150});
    let _: api::HintAnswer = daemon.api().post(path::HINTS, &request).unwrap();
    guest.create(0, "cpu:0");
    guest.submit(0);
    high.submit(0);
    high.wait_open(0, false);
    low.wait_open(0, false);
    assert!(guest.is_open(0));
}

#[test]
fn no_daemon_is_told_from_a_dead_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let error = Client::connect(&socket).err().unwrap();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    assert!(error.to_string().contains("xsched serve"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(http_socket(&socket)).unwrap());
    let error = Client::connect(&socket).err().unwrap();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
}
