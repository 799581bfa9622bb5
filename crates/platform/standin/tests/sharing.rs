//! One device, several processes: turns and their cost, slices, killed and stopped peers. All
//! figures are device time, which does not depend on when threads wake.

mod support;

#[path = "support/channel.rs"]
mod channel;

use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

use channel::SET_TIMESLICE;
use support::{Cuda, NOT_READY, Peer, SUCCESS, Value::*, end_if_stuck, listen, role};

const MS: u64 = 1_000_000;

/// Starts the processes of a test on one device; each plays the part that is named.
struct Device {
    _folder: tempfile::TempDir,
    path: String,
}

impl Device {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device").to_str().unwrap().to_owned();
        Self {
            _folder: folder,
            path,
        }
    }

    fn start(&self, role: &str) -> Peer {
        let mut peer = Peer::start(role, &[("STANDIN_SHM", &self.path)]);
        peer.expect("ready");
        peer
    }
}

/// In a client: plays its part and returns true. In the test: returns false.
fn played() -> bool {
    let Some(role) = role() else {
        return false;
    };
    end_if_stuck();
    let cuda = Cuda::load();
    cuda.start();
    match role.as_str() {
        "busy" => busy(&cuda, None),
        "busy with a slice of 1 us" => busy(&cuda, Some(1)),
        "timed" => timed(&cuda),
        "endless" => endless(&cuda),
        other => panic!("no part {other}"),
    }
    true
}

/// Queues 0.9 s of kernels, then says what it got whenever it is asked.
fn busy(cuda: &Cuda, slice: Option<u64>) {
    let stream = cuda.stream(1);
    let spin = cuda.function("spin_us");
    for _ in 0..900 {
        assert_eq!(cuda.launch(stream, spin, &[Word(1_000)]), SUCCESS);
    }
    if let Some(slice) = slice {
        let group = channel::compute();
        let set = channel::control(
            group.descriptor,
            group.client,
            group.object,
            SET_TIMESLICE,
            slice,
            false,
        );
        assert_eq!(set.unwrap(), (0, slice));
    }
    while cuda.account().1 == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    println!("ready");
    while listen() == "account" {
        println!("served {}", cuda.account().0);
    }
}

/// When told to, runs 100 kernels of 1 ms and says how long that took, what it got, and in how many
/// turns.
fn timed(cuda: &Cuda) {
    let (stream, gate) = (cuda.stream(1), cuda.word());
    let spin = cuda.function("spin_us");
    let (start, end) = (cuda.event(), cuda.event());
    println!("ready");
    listen();
    cuda.hold(stream, gate, 1);
    assert_eq!(cuda.record(start, stream), SUCCESS);
    for _ in 0..100 {
        assert_eq!(cuda.launch(stream, spin, &[Word(1_000)]), SUCCESS);
    }
    assert_eq!(cuda.record(end, stream), SUCCESS);
    cuda.open(gate);
    cuda.synchronize(stream);
    let elapsed = cuda.elapsed(start, end);
    // The last stretch is booked when the device is passed on, right behind the last completion.
    while cuda.account().0 < 100 * MS {
        thread::sleep(Duration::from_millis(1));
    }
    let (served, turns, _) = cuda.account();
    println!("elapsed {elapsed} {served} {turns}");
    listen();
}

/// Runs a kernel that ends when it is told to.
fn endless(cuda: &Cuda) {
    let (stream, word) = (cuda.stream(1), cuda.word());
    let until = cuda.function("until_u32");
    let values = [Address(word.as_ptr().addr()), Word(1)];
    assert_eq!(cuda.launch(stream, until, &values), SUCCESS);
    while cuda.account().1 == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    println!("ready");
    listen();
    assert_eq!(cuda.query(stream), NOT_READY);
    word.store(1, SeqCst);
    cuda.synchronize(stream);
    println!("ended");
    listen();
}

/// Elapsed ms, kernel time in ns, turns.
fn measure(peer: &mut Peer) -> (f64, u64, u64) {
    peer.say("go");
    let line = peer.expect("elapsed");
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap();
    let elapsed = next().parse().unwrap();
    (elapsed, next().parse().unwrap(), next().parse().unwrap())
}

#[test]
fn alone_a_process_has_the_whole_device() {
    if played() {
        return;
    }
    let device = Device::new();
    let (elapsed, served, _) = measure(&mut device.start("timed"));
    assert!((elapsed - 100.0).abs() < 0.1, "elapsed {elapsed}");
    assert_eq!(served, 100 * MS);
}

#[test]
fn two_busy_processes_take_turns_of_2_ms() {
    if played() {
        return;
    }
    let device = Device::new();
    let mut timed = device.start("timed");
    let mut busy = device.start("busy");
    let (elapsed, served, turns) = measure(&mut timed);
    busy.say("account");
    let other: u64 = busy.expect("served").parse().unwrap();
    // 50 turns of its own, 49 or 50 of the other's between, 0.2 ms a change.
    assert!((215.0..245.0).contains(&elapsed), "elapsed {elapsed}");
    assert_eq!(served, 100 * MS, "work is conserved");
    assert!((50..=52).contains(&turns), "turns {turns}");
    assert!(other >= 98 * MS, "the other got {other}");
}

#[test]
fn a_short_slice_beside_a_long_one_yields_nothing() {
    if played() {
        return;
    }
    let device = Device::new();
    let mut timed = device.start("timed");
    let _busy = device.start("busy with a slice of 1 us");
    let (elapsed, served, _) = measure(&mut timed);
    // 100 ms of its own, and 0.4 ms of changes for each 2 ms.
    assert!((115.0..140.0).contains(&elapsed), "elapsed {elapsed}");
    assert_eq!(served, 100 * MS);
}

/// What the device does for others when the process that has it dies or stops.
fn lost_peer(lose: fn(&mut Peer)) -> (Peer, Peer) {
    let device = Device::new();
    let mut timed = device.start("timed");
    let mut endless = device.start("endless");
    lose(&mut endless);
    let (_, served, _) = measure(&mut timed);
    assert_eq!(served, 100 * MS);
    (timed, endless)
}

#[test]
fn a_killed_process_loses_the_device() {
    if played() {
        return;
    }
    lost_peer(Peer::kill);
}

#[test]
fn a_stopped_process_holds_the_device_for_a_while_only_and_goes_on_later() {
    if played() {
        return;
    }
    fn signal(peer: &Peer, signal: i32) {
        let id = i32::try_from(peer.id()).unwrap();
        // SAFETY: no pointers; the process is a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }
    let (_timed, mut endless) = lost_peer(|peer| signal(peer, libc::SIGSTOP));
    signal(&endless, libc::SIGCONT);
    endless.say("end");
    endless.expect("ended");
}
