//! The active window on a real X server without a screen (Xvfb), with this test as window manager.

use std::{
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use x11rb::{
    connection::Connection,
    protocol::xproto::{AtomEnum, ConnectionExt, CreateWindowAux, PropMode, WindowClass},
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};
use xsched_x11::Display;

/// An X server of its own, ended with this guard.
struct Server {
    child: Child,
    name: String,
}

impl Server {
    fn start() -> Server {
        // It chooses a free number and says it on its stdout.
        let mut child = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "320x240x24",
                "-nolisten",
                "tcp",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is installed: cargo xtask setup");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        Server {
            child,
            name: format!(":{}", line.trim()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_active_windows_process_is_reported() {
    let server = Server::start();
    let (manager, screen) = RustConnection::connect(Some(&server.name)).unwrap();
    let root = manager.setup().roots[screen].root;
    let atom = |name: &str| {
        manager
            .intern_atom(false, name.as_bytes())
            .unwrap()
            .reply()
            .unwrap()
            .atom
    };
    let (active, pid) = (atom("_NET_ACTIVE_WINDOW"), atom("_NET_WM_PID"));
    let window = |process: Option<u32>| {
        let window = manager.generate_id().unwrap();
        let (class, aux) = (WindowClass::INPUT_OUTPUT, CreateWindowAux::new());
        manager
            .create_window(0, window, root, 0, 0, 9, 9, 0, class, 0, &aux)
            .unwrap();
        if let Some(process) = process {
            let data = [process];
            manager
                .change_property32(PropMode::REPLACE, window, pid, AtomEnum::CARDINAL, &data)
                .unwrap();
        }
        window
    };
    let activate = |window: u32| {
        let data = [window];
        manager
            .change_property32(PropMode::REPLACE, root, active, AtomEnum::WINDOW, &data)
            .unwrap();
        manager.sync().unwrap();
    };

    let display = Display::open(Some(&server.name)).unwrap();
    assert_eq!(display.active_process().unwrap(), None);
    let (say, said) = mpsc::channel();
    let watcher = std::thread::spawn(move || {
        while display.wait().is_ok() {
            let Ok(process) = display.active_process() else {
                break;
            };
            if say.send(process).is_err() {
                break;
            }
        }
    });
    let check = |window: u32, expect: Option<u32>| {
        activate(window);
        assert_eq!(said.recv_timeout(Duration::from_secs(20)).unwrap(), expect);
    };
    let (mine, other, silent, closed) = (
        window(Some(4711)),
        window(Some(42)),
        window(None),
        window(Some(7)),
    );
    check(mine, Some(4711));
    check(other, Some(42));
    check(silent, None);
    manager.destroy_window(closed).unwrap();
    check(closed, None);
    check(0, None);
    // A server that ends ends the watch.
    drop(server);
    watcher.join().unwrap();
}

#[test]
fn no_display_is_said_in_one_line() {
    let error = Display::open(Some(":4711"))
        .err()
        .expect("there is none")
        .to_string();
    assert!(
        error.contains(":4711") && error.contains("DISPLAY") && !error.contains('\n'),
        "{error}"
    );
}
