//! A real X server without a screen (Xvfb), with the test as its window manager.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use x11rb::{
    connection::Connection,
    protocol::xproto::{AtomEnum, ConnectionExt, CreateWindowAux, PropMode, WindowClass},
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};

/// An X server of its own, ended with this guard.
pub(crate) struct Server {
    child: Child,
    /// What `DISPLAY` would say.
    pub(crate) name: String,
}

impl Server {
    pub(crate) fn start() -> Server {
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
        BufReader::new(stdout).read_line(&mut line).unwrap();
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

/// A window manager, as far as the active window goes.
pub(crate) struct Manager {
    connection: RustConnection,
    root: u32,
    active: u32,
    pid: u32,
}

impl Manager {
    pub(crate) fn of(server: &Server) -> Manager {
        let (connection, screen) = RustConnection::connect(Some(&server.name)).unwrap();
        let atom = |name: &str| {
            let cookie = connection.intern_atom(false, name.as_bytes()).unwrap();
            cookie.reply().unwrap().atom
        };
        let (active, pid) = (atom("_NET_ACTIVE_WINDOW"), atom("_NET_WM_PID"));
        let root = connection.setup().roots[screen].root;
        Manager {
            connection,
            root,
            active,
            pid,
        }
    }

    /// A new window, which says whose it is or does not.
    pub(crate) fn window(&self, process: Option<u32>) -> u32 {
        let window = self.connection.generate_id().unwrap();
        let (class, aux) = (WindowClass::INPUT_OUTPUT, CreateWindowAux::new());
        self.connection
            .create_window(0, window, self.root, 0, 0, 9, 9, 0, class, 0, &aux)
            .unwrap();
        if let Some(process) = process {
            self.state(window, self.pid, AtomEnum::CARDINAL, process);
        }
        window
    }

    /// Makes a window the active one; 0 is none.
    pub(crate) fn activate(&self, window: u32) {
        self.state(self.root, self.active, AtomEnum::WINDOW, window);
        self.connection.sync().unwrap();
    }

    #[allow(dead_code)] // not every test closes windows
    pub(crate) fn close(&self, window: u32) {
        self.connection.destroy_window(window).unwrap();
    }

    fn state(&self, window: u32, property: u32, kind: AtomEnum, value: u32) {
        self.connection
            .change_property32(PropMode::REPLACE, window, property, kind, &[value])
            .unwrap();
    }
}
