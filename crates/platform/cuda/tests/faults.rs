//! What is missing, refused, killed or stopped around a program: its results and exit code stay
//! its own, and at most one line says so.

mod common;

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::atomic::AtomicU32,
    thread,
    time::Duration,
};

use common::{
    Daemon, Gated, LOCAL, NON_BLOCKING, View, a_moment, level, observed, preloaded, said, scene,
    shim, shimmed, shimmed_saying,
    support::{self, Cuda, Handle, Peer, SUCCESS, Value::*, driver_folder},
    text, until, value, write,
};
use xsched_server::api::Queue;

// ---- the machine lacks something ----

/// Runs `body` without and with the shim; both must end alike, and the shim says nothing.
fn the_same_with_the_shim(environment: &[(&str, &str)], body: impl Fn()) {
    let Some(plain) = observed(environment, &body) else {
        return;
    };
    let shim = shim();
    let mut all = preloaded(&shim, &[LOCAL]);
    all.extend(environment);
    let shimmed = observed(&all, &body).expect("not in a client");
    assert!(plain.status.success(), "{}", text(&plain));
    assert_eq!(plain.status, shimmed.status, "{}", text(&shimmed));
    said(&shimmed, None);
}

#[test]
fn no_driver() {
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    the_same_with_the_shim(&[("LD_LIBRARY_PATH", folder)], || {
        // SAFETY: C strings.
        let own = unsafe { libc::dlopen(c"libxsched-none.so.1".as_ptr(), libc::RTLD_LAZY) };
        assert!(own.is_null());
        // SAFETY: as above. A machine with a GPU has one elsewhere; that stays untouched.
        let _driver = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
    });
}

#[test]
fn no_device() {
    the_same_with_the_shim(&[("CUDA_VISIBLE_DEVICES", "")], || {
        let cuda = Cuda::load();
        assert_eq!(cu!(cuda, cuInit(0 => u32)), 100);
        let (mut count, mut context) = (9, 0);
        assert_eq!(cu!(cuda, cuDeviceGetCount(&mut count => &mut i32)), 3);
        let result = cu!(cuda, cuCtxCreate_v2(&mut context => &mut Handle, 0 => u32, 0 => i32));
        assert_eq!(result, 3);
    });
}

#[test]
fn out_of_device_memory() {
    the_same_with_the_shim(&[("STANDIN_MEMORY_MIB", "8")], || {
        let cuda = Cuda::load();
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        let mut address = 0;
        for round in 1..20 {
            let result = cu!(cuda, cuMemAlloc_v2(&mut address => &mut usize, 9 << 20 => usize));
            assert_eq!(result, 2);
            let result = cu!(cuda, cuMemAllocAsync(
                &mut address => &mut usize, 9 << 20 => usize, stream => Handle,
            ));
            assert_eq!(result, 2);
            write(&cuda, stream, place, round);
            cuda.synchronize(stream);
            assert_eq!(value(place), round);
        }
    });
}

#[test]
fn bad_arguments_get_the_drivers_own_answers() {
    the_same_with_the_shim(&[], || {
        let cuda = Cuda::load();
        // Before cuInit, then with handles that are none.
        assert_eq!(cu!(cuda, cuStreamSynchronize(0 => Handle)), 3);
        cuda.start();
        let add = cuda.function("add_u32");
        let nothing = 0xdead_0000;
        assert_eq!(cuda.launch(nothing, add, &[Word(1)]), 400);
        assert_eq!(cu!(cuda, cuStreamSynchronize(nothing => Handle)), 400);
        assert_eq!(cu!(cuda, cuStreamQuery(nothing => Handle)), 400);
        assert_eq!(cu!(cuda, cuStreamDestroy_v2(nothing => Handle)), 400);
        assert_eq!(cu!(cuda, cuEventSynchronize(nothing => Handle)), 400);
        assert_eq!(
            cu!(cuda, cuEventRecord(nothing => Handle, 0 => Handle)),
            400
        );
        assert_eq!(cu!(cuda, cuCtxDestroy_v2(nothing => Handle)), 201);
        assert_eq!(cu!(cuda, cuGraphLaunch(nothing => Handle, 0 => Handle)), 1);
        assert_eq!(
            cu!(cuda, cuMemcpyDtoH_v2(0 => usize, 0 => usize, 4 => usize)),
            1
        );
        assert_eq!(
            cu!(cuda, cuLaunchKernelEx(
                0 => usize, add => Handle, 0 => usize, 0 => usize,
            )),
            1
        );
    });
}

/// A folder with a driver that lacks these symbols, as one before their time does.
fn driver_without(names: &[&str], folder: &Path) {
    let mut library = fs::read(driver_folder().join("libcuda.so.1")).unwrap();
    for name in names {
        let symbol = common::dynamic_symbol(&library, name).unwrap_or_else(|| panic!("no {name}"));
        // Binding (upper half of the fifth byte) local: lookups from outside do not see it.
        library[symbol + 4] &= 0x0f;
    }
    for name in ["libcuda.so.1", "libcuda.so"] {
        fs::write(folder.join(name), &library).unwrap();
    }
}

#[test]
fn a_driver_that_is_too_old_for_gates_gets_level_one() {
    let folder = tempfile::tempdir().unwrap();
    driver_without(
        &[
            "cuGetProcAddress_v2",
            "cuStreamWaitValue32_v2",
            "cuStreamWriteValue32_v2",
        ],
        folder.path(),
    );
    let path = folder.path().to_str().unwrap();
    let old = [
        LOCAL,
        ("LD_LIBRARY_PATH", path),
        ("STANDIN_DRIVER_VERSION", "11040"),
    ];
    shimmed_saying(None, &old, |cuda| {
        let context = cuda.start();
        // SAFETY: C strings.
        let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
        // SAFETY: a handle and a C string.
        let found = unsafe { libc::dlsym(handle, c"cuGetProcAddress_v2".as_ptr()) };
        assert!(found.is_null(), "as without the shim");

        let gated = Gated::stream(cuda, cuda.stream(NON_BLOCKING));
        assert_eq!(level(), 1);
        let place = cuda.word();
        gated.close();
        thread::scope(|scope| {
            scope.spawn(|| {
                ok!(cuda, cuCtxSetCurrent(context => Handle));
                write(cuda, gated.stream, place, 1);
            });
            until("the thread is held", || gated.block.waiting() == 1);
            a_moment();
            assert_eq!(value(place), 0);
            gated.open();
        });
        cuda.synchronize(gated.stream);
        assert_eq!(value(place), 1);
    });
}

#[test]
fn a_stream_that_fails_lets_its_window_go() {
    // A kernel that faults: whoever asks the stream is told so, and no mark behind it is reached.
    let environment = [
        LOCAL,
        ("XSCHED_AUTO_XQUEUE_LEVEL", "1"),
        ("XSCHED_AUTO_XQUEUE_THRESHOLD", "2"),
        ("STANDIN_FAIL", "cuStreamQuery:700"),
    ];
    shimmed(&environment, |cuda| {
        cuda.start();
        let (stream, word, place) = (cuda.stream(NON_BLOCKING), cuda.word(), cuda.word());
        cuda.hold(stream, word, 1);
        for number in 1..10 {
            write(cuda, stream, place, number);
        }
        assert_eq!(value(place), 0, "the stream stands still");
        cuda.open(word);
        cuda.synchronize(stream);
        assert_eq!(value(place), 9);
    });
}

#[test]
fn no_daemon() {
    let none = [("XSCHED_SOCKET", "/nowhere/xsched.sock")];
    shimmed_saying(
        Some("no scheduler at /nowhere/xsched.sock"),
        &none,
        |cuda| {
            cuda.start();
            let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
            for round in 1..10 {
                write(cuda, stream, place, round);
                cuda.synchronize(stream);
                assert_eq!(value(place), round);
                // Past the agent's next attempt.
                thread::sleep(Duration::from_millis(40));
            }
            assert_eq!(level(), 0);
        },
    );
}

#[test]
fn a_policy_that_there_is_not() {
    let unknown = [("XSCHED_POLICY", "wishful")];
    shimmed_saying(Some("wishful"), &unknown, |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        write(cuda, stream, place, 1);
        cuda.synchronize(stream);
        assert_eq!((value(place), level()), (1, 0));
        until("the agent has said so and ended", || threads() == before);
    });
}

// ---- clients of a daemon ----

/// A client told by lines what to do: `launch` (adds one), `wait`, `closed` (waits until its gate
/// is), `exit N`.
fn client() {
    if let Some(path) = std::env::var_os("TEST_LOG") {
        let file = fs::File::create(path).unwrap();
        // SAFETY: both are descriptors; stderr goes to the file from now on.
        assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), 2) }, 2);
    }
    let cuda = Cuda::load();
    cuda.start();
    let (stream, add) = (cuda.stream(NON_BLOCKING), cuda.function("add_u32"));
    // Not by registration, which a test may have refused.
    let mut place = 0;
    ok!(cuda, cuMemAllocHost_v2(&mut place => &mut usize, 4 => usize));
    // SAFETY: memory of the driver's, which lasts as long as the process.
    let place = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(place) };
    println!("ready");
    loop {
        let line = support::listen();
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("launch", _) => {
                let values = [Address(place.as_ptr().addr()), Word(1)];
                assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
                println!("launched");
            }
            ("wait", _) => {
                cuda.synchronize(stream);
                println!("value {}.", value(place));
            }
            ("closed", _) => {
                let view = View::own().unwrap();
                until("the gate is closed", || !view.first().is_open());
                println!("closed");
            }
            ("exit", code) => std::process::exit(code.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Never runs while a scheduler decides.
const HELD: (&str, &str) = ("XSCHED_AUTO_XQUEUE_PRIORITY", "-256");

/// Starts a client of a daemon, with one command launched.
fn start(daemon: &Daemon, more: &[(&str, &str)]) -> Peer {
    let mut all = vec![daemon.variable()];
    all.extend(more);
    let mut peer = Peer::start("client", &preloaded(&shim(), &all));
    peer.expect("ready");
    peer.say("launch");
    peer.expect("launched");
    peer
}

fn queue_of(daemon: &Daemon, peer: &Peer) -> Option<Queue> {
    let mut queues = daemon.queues().into_iter();
    queues.find(|queue| queue.pid == peer.id())
}

/// Launches a command that the daemon holds.
fn hold(daemon: &Daemon, peer: &mut Peer) {
    peer.say("closed");
    peer.expect("closed");
    peer.say("launch");
    peer.expect("launched");
    until("the queue is held", || {
        queue_of(daemon, peer).is_some_and(|queue| queue.ready && !queue.open)
    });
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("client.log")
}

/// What the shim has said in the client's log.
fn lines(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(log_file(folder)).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("xsched"));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_daemon_that_is_killed_frees_its_programs_and_the_next_one_takes_them() {
    scene(&[("client", client)], || {
        let folder = tempfile::tempdir().unwrap();
        let log = log_file(folder.path());
        let mut daemon = Daemon::start();
        let mut peer = start(&daemon, &[HELD, ("TEST_LOG", log.to_str().unwrap())]);
        hold(&daemon, &mut peer);
        daemon.peer.kill();
        peer.say("wait");
        peer.expect("value 2.");
        // Past several attempts to find another.
        thread::sleep(Duration::from_millis(800));
        let said = lines(folder.path());
        assert!(
            said.len() == 1 && said[0].contains("lost the scheduler"),
            "{said:?}"
        );

        daemon.restart();
        hold(&daemon, &mut peer);
        daemon.peer.kill();
        peer.say("wait");
        peer.expect("value 3.");
        peer.say("exit 7");
        assert_eq!(peer.finish().code(), Some(7));
    });
}

#[test]
fn a_daemon_that_is_stopped_holds_nobody() {
    scene(&[("client", client)], || {
        let folder = tempfile::tempdir().unwrap();
        let log = log_file(folder.path());
        let daemon = Daemon::start();
        let mut peer = start(&daemon, &[HELD, ("TEST_LOG", log.to_str().unwrap())]);
        hold(&daemon, &mut peer);
        daemon.signal(libc::SIGSTOP);
        peer.say("wait");
        peer.expect("value 2.");
        // Gates open first.
        let says = |line: &String| line.contains("no heartbeat");
        until("it says so", || lines(folder.path()).iter().any(says));
        assert_eq!(lines(folder.path()).len(), 1);
        daemon.signal(libc::SIGCONT);
        hold(&daemon, &mut peer);
        peer.say("exit 7");
        assert_eq!(peer.finish().code(), Some(7), "exit with a closed gate");
    });
}

#[test]
fn a_program_that_is_killed_behind_a_closed_gate_leaves_the_device_to_the_others() {
    scene(&[("client", client)], || {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        let shared = ("STANDIN_SHM", device.to_str().unwrap());
        let daemon = Daemon::start();
        let mut low = start(&daemon, &[HELD, shared]);
        hold(&daemon, &mut low);
        low.kill();
        let mut high = start(&daemon, &[shared]);
        for number in 2..50 {
            high.say("wait");
            high.expect(&format!("value {}.", number - 1));
            high.say("launch");
            high.expect("launched");
        }
        until("the dead one's queue is gone", || {
            queue_of(&daemon, &low).is_none()
        });
        until("the living one's queue is known", || {
            queue_of(&daemon, &high).is_some()
        });
        high.say("exit 7");
        assert_eq!(high.finish().code(), Some(7));
    });
}

#[test]
fn sixty_four_processes_share_one_device() {
    scene(&[("client", client)], || {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        let daemon = Daemon::start();
        let shim = shim();
        let all = preloaded(
            &shim,
            &[daemon.variable(), ("STANDIN_SHM", device.to_str().unwrap())],
        );
        let mut peers: Vec<_> = (0..64).map(|_| Peer::start("client", &all)).collect();
        for peer in &mut peers {
            peer.expect("ready");
        }
        for _ in 0..10 {
            for peer in &mut peers {
                peer.say("launch");
            }
        }
        for peer in &mut peers {
            peer.say("wait");
        }
        for peer in &mut peers {
            peer.expect("value 10.");
        }
        // Each agent makes its queue known in its own time.
        until("all queues are known", || daemon.queues().len() == 64);
        let queues = daemon.queues();
        assert_eq!(queues.len(), 64);
        assert!(queues.iter().all(|queue| queue.device == queues[0].device));
        for (number, mut peer) in peers.into_iter().enumerate() {
            peer.say(&format!("exit {number}"));
            assert_eq!(peer.finish().code(), Some(number as i32));
        }
        until("all are gone", || daemon.queues().is_empty());
    });
}

/// What is missing, the level that is left, and why.
type Lack<'a> = (&'a [(&'a str, &'a str)], u8, &'a str);

const LACKS: [Lack<'_>; 5] = [
    (&[], 3, ""),
    (&[("STANDIN_MPS", "1")], 2, "under MPS"),
    (
        &[("STANDIN_FAIL", "ioctl:EPERM")],
        2,
        "refused a time slice",
    ),
    (
        &[("STANDIN_FAIL", "cuMemHostRegister:801")],
        1,
        "refused to map the gates",
    ),
    (&[("XSCHED_AUTO_XQUEUE_LEVEL", "1")], 1, ""),
];

#[test]
fn the_daemon_is_told_the_level_and_why_it_is_no_higher() {
    scene(&[("client", client)], || {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start();
        for (environment, level, reason) in LACKS {
            let log = log_file(folder.path());
            let mut all = environment.to_vec();
            all.push(("TEST_LOG", log.to_str().unwrap()));
            let mut peer = start(&daemon, &all);
            peer.say("wait");
            peer.expect("value 1.");
            until("the daemon has the queue", || {
                queue_of(&daemon, &peer).is_some()
            });
            let queue = queue_of(&daemon, &peer).unwrap();
            assert_eq!(queue.level, level, "{environment:?}");
            let found = queue.reason.unwrap_or_default();
            let fits = if reason.is_empty() {
                found.is_empty()
            } else {
                found.contains(reason)
            };
            assert!(fits, "{environment:?}: {found}");
            assert_eq!(lines(folder.path()), [""; 0], "{environment:?}");
            peer.say("exit 7");
            assert_eq!(peer.finish().code(), Some(7));
        }
    });
}

#[test]
fn a_device_has_one_name_whatever_is_visible() {
    scene(&[("client", client)], || {
        let daemon = Daemon::start();
        let name = |visible| {
            let mut peer = start(
                &daemon,
                &[("STANDIN_DEVICES", "3"), ("CUDA_VISIBLE_DEVICES", visible)],
            );
            peer.say("wait");
            peer.expect("value 1.");
            until("the daemon has the queue", || {
                queue_of(&daemon, &peer).is_some()
            });
            queue_of(&daemon, &peer).unwrap().device
        };
        let names = ["0,1", "1,0", "1", "2"].map(name);
        assert_eq!(names[1], names[2]);
        assert!(names[0] != names[1] && names[3] != names[1], "{names:?}");
    });
}

#[test]
fn a_refused_environment_is_said_once_and_ignored() {
    let odd = [LOCAL, ("XSCHED_AUTO_XQUEUE_PRIORITY", "urgent")];
    shimmed_saying(
        Some("XSCHED_AUTO_XQUEUE_PRIORITY='urgent' is ignored"),
        &odd,
        |cuda| {
            cuda.start();
            let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
            write(cuda, stream, place, 1);
            cuda.synchronize(stream);
            assert_eq!(value(place), 1);
        },
    );
}

#[test]
fn the_off_switch_says_nothing_and_starts_nothing() {
    shimmed(&[("XSCHED_DISABLE", "1")], |cuda| {
        cuda.start();
        let (stream, place) = (cuda.stream(NON_BLOCKING), cuda.word());
        write(cuda, stream, place, 1);
        cuda.synchronize(stream);
        assert_eq!(value(place), 1);
        assert!(View::own().is_none());
    });
}
