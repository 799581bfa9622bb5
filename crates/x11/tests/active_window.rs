//! The active window on a real X server without a screen (Xvfb), with this test as window manager.

mod support;

use std::{sync::mpsc, time::Duration};

use support::{Manager, Server};
use xsched_x11::Display;

#[test]
fn the_active_windows_process_is_reported() {
    let server = Server::start();
    let manager = Manager::of(&server);
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
        manager.activate(window);
        assert_eq!(said.recv_timeout(Duration::from_secs(20)).unwrap(), expect);
    };
    let (mine, other, silent, closed) = (
        manager.window(Some(4711)),
        manager.window(Some(42)),
        manager.window(None),
        manager.window(Some(7)),
    );
    check(mine, Some(4711));
    check(other, Some(42));
    check(silent, None);
    manager.close(closed);
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
