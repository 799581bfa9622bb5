//! Programs that never use the GPU notice nothing of the preloaded shim, and neither do those that
//! use it under several copies of the shim.

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use common::{
    Gated, LOCAL, NON_BLOCKING, View, level, observed, preloaded, said, shim, shimmed,
    support::{Cuda, Handle},
    text, value, write,
};

/// Prints what a process has that a guest could have left there: threads, and descriptors and
/// mappings of shared memory, events and sockets.
const SHELL: &str = r#"
echo "threads $(ls /proc/$$/task | wc -l)"
echo "descriptors $(ls -l /proc/$$/fd 2>/dev/null | grep -c 'memfd\|eventfd\|socket')"
echo "mappings $(grep -c memfd /proc/$$/maps)"
"#;

const PYTHON: &str = r#"
import os, subprocess, sys, threading
fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
print("threads", len(os.listdir("/proc/self/task")))
print("descriptors", sum("memfd" in fd or "eventfd" in fd or "socket" in fd for fd in fds))
print("mappings", sum("memfd" in line for line in open("/proc/self/maps")))
pid = os.fork()
if pid == 0:
    os._exit(0 if len(os.listdir("/proc/self/task")) == 1 else 1)
print("fork", os.waitpid(pid, 0)[1])
print("exec", subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout)
thread = threading.Thread(target=lambda: print("thread"))
thread.start()
thread.join()
sys.exit(3)
"#;

const NOTHING: &str = "threads 1\ndescriptors 0\nmappings 0\n";

/// A program's name, arguments, and what it prints.
type Bystander<'a> = (&'a str, &'a [&'a str], Option<String>);

fn run((program, arguments, _): &Bystander<'_>, environment: &[(&str, &str)]) -> Option<Output> {
    let output = Command::new(program)
        .args(*arguments)
        .envs(environment.iter().copied())
        .output();
    output.ok()
}

#[test]
fn a_program_without_a_gpu_is_as_without_the_shim() {
    // Fork and exec, a subshell, and exec in place.
    let nested = r#"sh -c "$0" && (true) && exec sh -c "$0""#;
    let twice = NOTHING.repeat(2);
    let python = format!("{NOTHING}fork 0\nexec b'42\\n'\nthread\n");
    let bystanders: [Bystander<'_>; 5] = [
        ("sh", &["-c", SHELL], Some(NOTHING.into())),
        ("sh", &["-c", nested, SHELL], Some(twice)),
        ("sh", &["-c", "exit 7"], Some(String::new())),
        ("git", &["--version"], None),
        ("python3", &["-c", PYTHON], Some(python)),
    ];
    let shim = shim();
    for bystander in &bystanders {
        // Not every machine has git and python3.
        let Some(plain) = run(bystander, &[]) else {
            continue;
        };
        for environment in [LOCAL, ("XSCHED_SOCKET", "/nowhere/xsched.sock")] {
            let output = run(bystander, &preloaded(&shim, &[environment])).unwrap();
            assert_eq!(output, plain, "{bystander:?}: {}", text(&output));
        }
        if let Some(expected) = &bystander.2 {
            assert_eq!(&String::from_utf8(plain.stdout).unwrap(), expected);
        }
    }
}

#[test]
fn a_program_that_only_looks_at_the_gpu_is_not_registered() {
    shimmed(&[LOCAL], |cuda| {
        cuda.start();
        let (mut count, mut free, mut total) = (0, 0, 0);
        ok!(cuda, cuDeviceGetCount(&mut count => &mut i32));
        ok!(cuda, cuMemGetInfo_v2(&mut free => &mut usize, &mut total => &mut usize));
        let stream = cuda.stream(NON_BLOCKING);
        cuda.synchronize(stream);
        ok!(cuda, cuStreamDestroy_v2(stream => Handle));
        assert!(View::own().is_none());
        let threads = fs::read_dir("/proc/self/task").unwrap();
        let names = threads.map(|thread| {
            let name = thread.unwrap().path().join("comm");
            fs::read_to_string(name).unwrap_or_default()
        });
        assert!(names.into_iter().all(|name| !name.starts_with("xsched")));
    });
}

/// A second copy of the shim, as another platform's or an older one would be.
fn copy() -> PathBuf {
    let path = shim().with_file_name(format!("libshimcopy-{}.so", std::process::id()));
    fs::copy(shim(), &path).unwrap();
    path
}

#[test]
fn several_shims_share_one_agent() {
    // Made by the test, found by its clients.
    let (copy, made) = match std::env::var_os("SECOND_SHIM") {
        Some(path) => (PathBuf::from(path), false),
        None => (copy(), true),
    };
    let (first, second) = (shim(), copy.clone());
    let (first, second) = (first.display(), second.display());
    for preload in [
        format!("{first}:{second}"),
        format!("{second}:{first}"),
        format!("{first}:{first}"),
    ] {
        let environment = [
            ("LD_PRELOAD", preload.as_str()),
            ("SECOND_SHIM", copy.to_str().unwrap()),
            LOCAL,
        ];
        let output = observed(&environment, || {
            if std::env::var("LD_PRELOAD").unwrap() == preload {
                works_under_one_agent(&Cuda::load());
            }
        });
        if let Some(output) = output {
            assert!(output.status.success(), "{preload}: {}", text(&output));
            said(&output, None);
        }
    }
    if made {
        fs::remove_file(copy).unwrap();
    }
}

fn works_under_one_agent(cuda: &Cuda) {
    cuda.start();
    let (gated, place) = (Gated::stream(cuda, cuda.stream(NON_BLOCKING)), cuda.word());
    assert_eq!(level(), 3);
    gated.close();
    write(cuda, gated.stream, place, 1);
    common::a_moment();
    assert_eq!(value(place), 0);
    gated.open();
    cuda.synchronize(gated.stream);
    assert_eq!(value(place), 1);
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let agents = threads.filter(|thread| {
        let name = fs::read_to_string(thread.path().join("comm"));
        name.unwrap_or_default().starts_with("xsched-agent")
    });
    assert_eq!(agents.count(), 1);
}
