//! `xsched run` as a black box: exit codes, environment, preload, and the daemon that it starts.

mod common;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{Daemon, PATIENCE, Program, clean, executable, signal, status, wait_until, xsched};
use rustix::process::Signal;
use tempfile::TempDir;

/// What a program started by `xsched run` has in its environment.
fn environment(output: &Output) -> BTreeMap<String, String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[test]
fn the_exit_code_is_the_programs() {
    let daemon = Daemon::start();
    let check = |command: &[&str], code| {
        daemon
            .xsched()
            .arg("run")
            .arg("--")
            .args(command)
            .assert()
            .code(code)
    };
    check(&["true"], 0);
    check(&["sh", "-c", "exit 37"], 37);
    // The program is xsched's own process: a signal ends it as it would without.
    let output = daemon
        .xsched()
        .args(["run", "--", "sh", "-c", "kill -9 $$"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "{output:?}");

    let assert = check(&["/no/such/program"], 127);
    insta::assert_snapshot!(
        String::from_utf8_lossy(&assert.get_output().stderr),
        @"xsched: cannot run /no/such/program: No such file or directory (os error 2): check its name and PATH"
    );
    let file = daemon.dir().join("text");
    fs::write(&file, "text").unwrap();
    let assert = check(&[file.to_str().unwrap()], 126);
    let line = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        line.starts_with("xsched: cannot run /") && line.lines().count() == 1,
        "{line}"
    );
}

#[test]
fn the_program_takes_the_place_of_the_command() {
    let daemon = Daemon::start();
    let mut command = clean(executable());
    command
        .env("XSCHED_SOCKET", daemon.socket())
        .args(["run", "--", "sh", "-c", "echo $$"]);
    let mut program = Program::start(command.stdout(Stdio::piped()));
    let pid = program.pid();
    program.wait();
    let mut said = String::new();
    program
        .child()
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said.trim(), pid.to_string());
}

#[test]
fn the_environment_names_daemon_job_and_hints() {
    let daemon = Daemon::start();
    let run = |args: &[&str]| {
        let mut command = daemon.xsched();
        command
            .env("XSCHED_AUTO_XQUEUE_THRESHOLD", "4")
            .arg("run")
            .args(args);
        environment(&command.args(["--", "env"]).output().unwrap())
    };
    let full = run(&["--priority", "high", "--name", "server", "--level", "2"]);
    assert_eq!(full["XSCHED_SOCKET"], daemon.socket().to_str().unwrap());
    assert_eq!(full["XSCHED_NAME"], "server");
    assert_eq!(full["XSCHED_AUTO_XQUEUE_PRIORITY"], "100");
    assert_eq!(full["XSCHED_AUTO_XQUEUE_LEVEL"], "2");
    assert_eq!(full["XSCHED_AUTO_XQUEUE_THRESHOLD"], "4", "others pass");

    let bare = run(&[]);
    for name in [
        "XSCHED_NAME",
        "XSCHED_AUTO_XQUEUE_PRIORITY",
        "XSCHED_AUTO_XQUEUE_LEVEL",
    ] {
        assert!(!bare.contains_key(name), "{name} was not asked for");
    }
    let job = |environment: &BTreeMap<String, String>| -> u64 {
        environment["XSCHED_JOB"].parse().unwrap()
    };
    assert!(job(&full) > 0 && job(&full) <= i64::MAX as u64);
    assert_ne!(job(&full), job(&bare), "a job each");
    assert_eq!(
        run(&["--priority", "-256"])["XSCHED_AUTO_XQUEUE_PRIORITY"],
        "-256"
    );
    assert_eq!(run(&["--priority=-7"])["XSCHED_AUTO_XQUEUE_PRIORITY"], "-7");
}

#[test]
fn arguments_of_the_program_are_its_own() {
    let daemon = Daemon::start();
    let said = |args: &[&str]| {
        let output = daemon.xsched().arg("run").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["--", "echo", "--name", "x", "--"]), "--name x --\n");
    assert_eq!(
        said(&["--priority", "low", "echo", "--priority"]),
        "--priority\n"
    );
}

#[test]
fn bad_input_is_one_line_and_code_2() {
    let check = |args: &[&str], expect: &str| {
        let assert = xsched()
            .arg("run")
            .args(args)
            .args(["--", "true"])
            .assert()
            .code(2);
        let line = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(
            line.starts_with("xsched: ") && line.contains(expect),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1, "{line}");
    };
    check(&["--priority", "256"], "-255");
    check(
        &["--priority", "urgent"],
        "realtime, high, normal, low, idle",
    );
    check(&["--level", "4"], "1, 2, 3 or auto");
    check(&["--name", ""], "1 to 256 bytes");
    check(&["--name", "a\nb"], "control characters");
    check(&["--nice", "3"], "--nice");
    xsched().arg("run").assert().code(2);
}

#[test]
fn installed_shims_come_first_in_ld_preload() {
    let daemon = Daemon::start();
    let install = installation();
    let lib = install.path().join("lib");
    let preload = |existing: Option<&str>| {
        let mut command = clean(install.path().join("bin/xsched"));
        command
            .env("XSCHED_SOCKET", daemon.socket())
            .env_remove("LD_PRELOAD");
        command.envs(existing.map(|value| ("LD_PRELOAD", value)));
        // The loader complains about an empty library and goes on.
        let output = command.args(["run", "--", "env"]).output().unwrap();
        environment(&output).get("LD_PRELOAD").cloned()
    };
    assert_eq!(preload(None), None);
    for library in ["libshimopencl.so", "libshimcuda.so", "libhalcuda.so"] {
        fs::write(lib.join(library), "").unwrap();
    }
    let ours = format!("{0}/libshimcuda.so:{0}/libshimopencl.so", lib.display());
    assert_eq!(preload(None), Some(ours.clone()));
    assert_eq!(
        preload(Some("libz.so /b/a.so")),
        Some(format!("{ours}:libz.so:/b/a.so"))
    );
    assert_eq!(
        preload(Some(&ours)),
        Some(ours.clone()),
        "an outer run had them already"
    );
}

/// `bin/xsched` and an empty `lib` in a directory of their own.
fn installation() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["bin", "lib"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    let to = dir.path().join("bin/xsched");
    fs::hard_link(executable(), &to)
        .or_else(|_| fs::copy(executable(), &to).map(drop))
        .unwrap();
    dir
}

#[test]
fn the_off_switch_leaves_everything_as_it_is() {
    let home = Home::new();
    let mut command = home.xsched();
    command
        .env("XSCHED_DISABLE", "1")
        .args(["run", "--priority", "high", "--", "env"]);
    let environment = environment(&command.output().unwrap());
    let ours: Vec<_> = environment
        .keys()
        .filter(|name| name.starts_with("XSCHED_"))
        .collect();
    assert_eq!(ours, ["XSCHED_DISABLE"]);
    assert!(
        !home.socket().parent().unwrap().exists(),
        "no daemon, nor a place for one"
    );
}

#[test]
fn hints_that_the_policy_does_not_heed_are_said() {
    let daemon = Daemon::start();
    let said = |args: &[&str]| {
        let mut command = daemon.xsched();
        command.arg("run").args(args).args(["--", "true"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines()
            .find(|line| line.contains("does not heed"))
            .map(str::to_owned)
    };
    let line = said(&["--utilization", "30", "--weight", "5", "--priority", "high"]).unwrap();
    assert!(
        line.starts_with("xsched: policy hpf does not heed utilization, weight: "),
        "{line}"
    );
    assert_eq!(said(&["--priority", "high"]), None);
    assert_eq!(said(&[]), None);
}

#[test]
fn a_local_scheduler_needs_no_daemon() {
    let home = Home::new();
    let mut command = home.xsched();
    command
        .env("XSCHED_POLICY", "hpf")
        .args(["run", "--priority", "low", "--", "env"]);
    let environment = environment(&command.output().unwrap());
    assert_eq!(environment["XSCHED_AUTO_XQUEUE_PRIORITY"], "-100");
    assert!(!environment.contains_key("XSCHED_SOCKET"));
    assert!(!home.socket().exists());
}

#[test]
fn queues_that_a_process_tells_apart_have_connections_of_their_own() {
    const CONNECTIONS: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
    let home = Home::new();
    let connections = |variables: &[(&str, &str)]| {
        let mut command = home.xsched();
        command
            .env_remove(CONNECTIONS)
            .envs(variables.iter().copied());
        let output = command.args(["run", "--", "env"]).output().unwrap();
        environment(&output).remove(CONNECTIONS)
    };
    for scheduler in ["LCL", "APP"] {
        let scheduler = ("XSCHED_SCHEDULER", scheduler);
        assert_eq!(connections(&[scheduler]).as_deref(), Some("32"));
        let own = connections(&[scheduler, (CONNECTIONS, "1")]);
        assert_eq!(own.as_deref(), Some("1"), "the user's stays");
        assert_eq!(connections(&[scheduler, ("XSCHED_DISABLE", "1")]), None);
    }
}

#[test]
fn a_named_daemon_that_is_not_there_is_said_and_the_program_runs() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("xsched.sock");
    let mut command = xsched();
    command
        .env("XSCHED_SOCKET", &socket)
        .args(["run", "--", "sh", "-c", "exit 5"]);
    let assert = command.assert().code(5);
    let line = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        line.contains("runs unscheduled") && line.contains("xsched serve --socket"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        !socket.exists(),
        "a socket that was named is not ours to make"
    );
}

#[test]
fn no_place_for_a_daemon_is_said_and_the_program_runs() {
    let home = Home::new();
    let dir = home.socket().parent().unwrap().to_owned();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let assert = home.run(&["sh", "-c", "exit 5"]).assert().code(5);
    let line = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        line.contains("runs unscheduled") && line.contains("0700"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn a_daemon_that_hangs_is_said_and_the_program_runs() {
    let daemon = Daemon::start();
    signal(daemon.pid(), Signal::STOP).unwrap();
    let assert = daemon
        .xsched()
        .args(["run", "--", "sh", "-c", "exit 5"])
        .assert()
        .code(5);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(
        text.contains("does not answer") && text.contains("runs unscheduled"),
        "{text}"
    );
}

#[test]
fn the_users_own_daemon_is_started_once() {
    let home = Home::new();
    let output = home.run(&["env"]).output().unwrap();
    let daemon = home.daemon().expect("it was started");
    assert_eq!(
        environment(&output)["XSCHED_SOCKET"],
        home.socket().to_str().unwrap()
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(home.socket().parent().unwrap()), 0o700);
    assert_eq!(mode(&home.log()), 0o600);
    assert!(fs::read_to_string(home.log()).unwrap().contains("ready on"));

    // The next run finds it, and so does every other command.
    home.run(&["true"]).assert().success();
    assert_eq!(home.daemon(), Some(daemon));
    home.xsched().arg("list").assert().success().stderr("");
}

#[test]
fn the_users_own_daemon_ends_itself_when_unused() {
    let home = Home::new();
    home.xsched()
        .args(["run", "--exit-when-unused", "1", "--", "true"])
        .assert()
        .success();
    assert!(
        fs::read_to_string(home.log()).unwrap().contains("ready on"),
        "it was started"
    );
    wait_until(
        || !home.socket().exists() && home.servers().is_empty(),
        PATIENCE,
    );
}

#[test]
fn runs_at_the_same_time_end_with_one_daemon() {
    let home = Home::new();
    let mut runs: Vec<Program> = (0..4)
        .map(|_| Program::start(home.run_std(&["env"]).stdout(Stdio::piped())))
        .collect();
    for run in &mut runs {
        assert!(run.wait().success());
        let mut said = String::new();
        run.child()
            .stdout
            .as_mut()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(
            said.contains(&format!("XSCHED_SOCKET={}\n", home.socket().display())),
            "{said}"
        );
    }
    // Those that lost may still be on their way out.
    wait_until(|| home.servers().len() == 1, PATIENCE);
    assert_eq!(home.daemon(), Some(home.servers()[0]));
}

#[test]
fn the_daemon_is_a_stranger_to_the_program_that_started_it() {
    let home = Home::new();
    let lock = home.0.path().join("lock");
    let mut shell = home.clean_std("sh");
    shell
        .args(["-c", "exec 9>\"$0\" \"$@\""])
        .arg(&lock)
        .arg(executable());
    shell.args(["run", "--", "sleep", "1000"]);
    let program = Program::start(&mut shell);
    wait_until(|| home.daemon().is_some(), PATIENCE);
    let daemon = home.daemon().unwrap();

    // Read from /proc for both: a leader outside the namespace is 0 there, and a panic in `getsid`.
    let [parent, session, terminal] = lineage(daemon);
    let [_, shell_session, _] = lineage(program.pid());
    assert_ne!(parent, i64::from(program.pid()), "`wait` must not find it");
    assert_ne!(session, shell_session);
    assert_eq!(terminal, 0);

    let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{daemon}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    assert!(open.contains(&home.log()), "{open:?}");
    assert!(
        !open.contains(&lock),
        "a lock that the shell holds would stay taken: {open:?}"
    );
    let program_has = fs::read_link(format!("/proc/{}/fd/9", program.pid())).unwrap();
    assert_eq!(program_has, lock, "but the program keeps what it was given");
}

/// Parent, session and controlling terminal of a process, as `/proc/PID/stat` numbers them (`proc(5)`).
fn lineage(pid: u32) -> [i64; 3] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<i64> = stat.rsplit(") ").next().unwrap()[2..]
        .split(' ')
        .map_while(|n| n.parse().ok())
        .collect();
    [fields[0], fields[2], fields[3]]
}

/// A home without a daemon. Its guard ends the daemon that came up there.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let system = Path::new(xsched_wire::endpoint::SYSTEM_SOCKET);
        assert!(
            status(system).is_none(),
            "end the system's xsched daemon before these tests"
        );
        Home(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("xsched/xsched.sock")
    }

    fn daemon(&self) -> Option<u32> {
        Some(status(&self.socket())?.pid)
    }

    fn log(&self) -> PathBuf {
        self.socket().with_file_name("xsched.log")
    }

    /// Processes that serve here, or are about to.
    fn servers(&self) -> Vec<u32> {
        let socket = self.socket().into_os_string().into_string().unwrap();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                let words: Vec<&str> = line.split('\0').collect();
                words.contains(&"serve") && words.contains(&socket.as_str())
            })
            .collect()
    }

    fn clean_std(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = clean(program);
        command
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("HOME", self.0.path());
        command
    }

    fn xsched(&self) -> assert_cmd::Command {
        assert_cmd::Command::from_std(self.clean_std(executable()))
    }

    fn run_std(&self, command: &[&str]) -> Command {
        let mut run = self.clean_std(executable());
        run.args(["run", "--"]).args(command);
        run
    }

    fn run(&self, command: &[&str]) -> assert_cmd::Command {
        assert_cmd::Command::from_std(self.run_std(command))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for daemon in self.servers() {
            let _ = signal(daemon, Signal::KILL);
        }
    }
}
