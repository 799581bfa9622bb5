//! Whose window is active, on X11: for the policy `awf`.
//!
//! Window managers that follow EWMH name the active window in `_NET_ACTIVE_WINDOW` of the root window, and programs their
//! process in `_NET_WM_PID` of their windows. Both are only read here.
#![forbid(unsafe_code)]

use x11rb::{
    connection::Connection,
    errors::{ConnectError, ConnectionError, ReplyError},
    protocol::{
        ErrorKind, Event,
        xproto::{Atom, AtomEnum, ChangeWindowAttributesAux, ConnectionExt, EventMask, Window},
    },
    rust_connection::RustConnection,
};

/// Why the display cannot be watched (any more).
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There is no such display, or it refuses.
    #[error("cannot connect to the X display {display}: {source}: check DISPLAY and XAUTHORITY")]
    Connect {
        /// Its name.
        display: String,
        /// The reason.
        source: ConnectError,
    },
    /// The display is gone.
    #[error("the X display is gone: {0}")]
    Connection(#[from] ConnectionError),
    /// The display refused a request.
    #[error("the X display refused a request: {0}")]
    Reply(#[from] ReplyError),
}

/// A connection to a display.
pub struct Display {
    connection: RustConnection,
    root: Window,
    active_window: Atom,
    pid: Atom,
}

impl Display {
    /// Connects to a display, `DISPLAY` if none is named.
    pub fn open(name: Option<&str>) -> Result<Display, WatchError> {
        let (connection, screen) =
            RustConnection::connect(name).map_err(|source| WatchError::Connect {
                display: name
                    .map_or_else(|| std::env::var("DISPLAY").unwrap_or_default(), Into::into),
                source,
            })?;
        let root = connection.setup().roots[screen].root;
        let atom = |name: &str| {
            let cookie = connection.intern_atom(false, name.as_bytes())?;
            Ok::<_, WatchError>(cookie.reply()?.atom)
        };
        let (active_window, pid) = (atom("_NET_ACTIVE_WINDOW")?, atom("_NET_WM_PID")?);
        let aux = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        connection.change_window_attributes(root, &aux)?.check()?;
        Ok(Display {
            connection,
            root,
            active_window,
            pid,
        })
    }

    /// The process whose window is active, if a window is and says so.
    pub fn active_process(&self) -> Result<Option<u32>, WatchError> {
        let Some(window) = self.read(self.root, self.active_window, AtomEnum::WINDOW)? else {
            return Ok(None);
        };
        self.read(window, self.pid, AtomEnum::CARDINAL)
    }

    /// Sleeps until the active window may be another one.
    pub fn wait(&self) -> Result<(), WatchError> {
        loop {
            if let Event::PropertyNotify(event) = self.connection.wait_for_event()?
                && event.atom == self.active_window
            {
                return Ok(());
            }
        }
    }

    /// A property of one word; none if it, or the window, does not exist. 0 stands for none.
    fn read(
        &self,
        window: Window,
        property: Atom,
        kind: AtomEnum,
    ) -> Result<Option<u32>, WatchError> {
        if window == x11rb::NONE {
            return Ok(None);
        }
        let cookie = self
            .connection
            .get_property(false, window, property, kind, 0, 1)?;
        match cookie.reply() {
            Ok(reply) => {
                let word = reply.value32().and_then(|mut words| words.next());
                Ok(word.filter(|word| *word != 0))
            }
            // It was closed meanwhile.
            Err(ReplyError::X11Error(error)) if error.error_kind == ErrorKind::Window => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
