//! The two sockets of a daemon and the lock file that decides who may have them.
//!
//! The lock (`SOCKET.lock`, flock) is held as long as the daemon lives, so a socket without a
//! held lock is stale and replaced. The lock file itself stays: removing it would let two daemons
//! hold two files of that name.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, fchmod, flock},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    },
};
use xsched_wire::endpoint::{SYSTEM_SOCKET, http_socket, private_dir, user_socket};

use crate::BadOption;

/// Bytes that a Unix socket's path may have, with room for its terminating zero.
const MAX_PATH: usize = 107;
/// Clients that may wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 1024;

/// Both sockets, listening, and the lock on their name. Dropping it removes the sockets.
pub(crate) struct Listeners {
    /// Where programs register: `SOCK_SEQPACKET`, non-blocking.
    pub(crate) agents: BoundSocket,
    /// The HTTP API: `SOCK_STREAM`, non-blocking.
    pub(crate) http: BoundSocket,
    /// Last, so that it is released after the sockets are gone.
    _lock: File,
}

impl Listeners {
    /// Takes the name `socket`, an absolute path.
    pub(crate) fn claim(socket: &Path) -> Result<Self> {
        let http = http_socket(socket);
        let suffix = http.as_os_str().len() - socket.as_os_str().len();
        if http.as_os_str().len() > MAX_PATH {
            bail!(BadOption(format!(
                "socket path {} has {} bytes: choose one of at most {}",
                socket.display(),
                socket.as_os_str().len(),
                MAX_PATH - suffix,
            )));
        }
        let dir = socket.parent().unwrap_or(Path::new("/"));
        if socket == user_socket() {
            private_dir(dir).with_context(|| format!("cannot use directory {}", dir.display()))?;
        } else if !dir.is_dir() {
            bail!(BadOption(format!(
                "directory {} for the socket does not exist: create it or choose another socket",
                dir.display()
            )));
        }
        let mode = if socket == Path::new(SYSTEM_SOCKET) {
            0o666
        } else {
            0o600
        };
        let lock = lock(socket)?;
        Ok(Listeners {
            agents: BoundSocket::new(socket, SocketType::SEQPACKET, mode)?,
            http: BoundSocket::new(&http, SocketType::STREAM, mode)?,
            _lock: lock,
        })
    }
}

/// A listening socket, whose file is removed on drop.
pub(crate) struct BoundSocket {
    fd: OwnedFd,
    path: PathBuf,
}

impl BoundSocket {
    fn new(path: &Path, kind: SocketType, mode: u32) -> Result<Self> {
        remove_stale(path, kind)?;
        let create = || -> Result<OwnedFd, Errno> {
            let fd = socket_with(
                AddressFamily::UNIX,
                kind,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?;
            // The mode of an unbound socket becomes that of its file: never open for too many.
            fchmod(&fd, Mode::from_raw_mode(0o600))?;
            bind(&fd, &SocketAddrUnix::new(path)?)?;
            Ok(fd)
        };
        let what = || format!("cannot create socket {}", path.display());
        let fd = create().with_context(what)?;
        let bound = BoundSocket {
            fd,
            path: path.into(),
        };
        if mode != 0o600 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                .with_context(what)?;
        }
        listen(&bound.fd, BACKLOG).with_context(what)?;
        Ok(bound)
    }

    /// Another descriptor of the same socket.
    pub(crate) fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Nobody else replaces it while the lock is held. Gone already: as wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes the lock file of `socket`, or says who has it.
fn lock(socket: &Path) -> Result<File> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path)
        .with_context(|| format!("cannot open lock file {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let _ = (&file).take(32).read_to_string(&mut owner);
            let socket = socket.display();
            match owner.trim().parse::<u32>() {
                Ok(pid) => bail!(
                    "another daemon (pid {pid}) serves {socket}: end it (`kill {pid}`), or choose another socket \
                     (--socket)"
                ),
                Err(_) => bail!(
                    "another daemon serves {socket}: end it, or choose another socket (--socket)"
                ),
            }
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    // For the message above only.
    let _ = file.set_len(0);
    let _ = write!(file, "{}", std::process::id());
    Ok(file)
}

/// Removes a socket that nobody listens at. The caller holds the lock.
fn remove_stale(path: &Path, kind: SocketType) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot use {}", path.display())),
        Ok(meta) if !meta.file_type().is_socket() => bail!(BadOption(format!(
            "{} exists and is not a socket: remove it or choose another socket",
            path.display()
        ))),
        Ok(_) => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove stale socket {}", path.display())),
        Err(Errno::NOENT) => Ok(()),
        // It answers, or is of another kind: a program that is no daemon of ours.
        _ => bail!(
            "another program listens at {}: stop it or choose another socket",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[track_caller]
    fn check_refused(socket: &Path, expect: &str) {
        let error = Listeners::claim(socket).err().expect("refused");
        let line = format!("{error:#}");
        assert!(line.contains(expect), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn one_owner_at_a_time_and_nothing_left() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        let http = http_socket(&socket);
        let first = Listeners::claim(&socket).unwrap();
        assert_eq!((mode(&socket), mode(&http)), (0o600, 0o600));
        check_refused(&socket, &format!("pid {}", std::process::id()));
        assert!(
            socket.exists() && http.exists(),
            "the owner's are untouched"
        );
        drop(first);
        assert!(!socket.exists() && !http.exists());
        Listeners::claim(&socket).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        for path in [&socket, &http_socket(&socket)] {
            // A std listener leaves its file behind, as a killed daemon does.
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            assert!(path.exists());
        }
        Listeners::claim(&socket).unwrap();
    }

    #[test]
    fn what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        check_refused(&file, "not a socket");
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");

        let live = dir.path().join("live");
        let _listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
        check_refused(&live, "another program");
        assert!(live.exists());

        let link = dir.path().join("link.sock");
        let victim = dir.path().join("victim");
        std::os::unix::fs::symlink(&victim, dir.path().join("link.sock.lock")).unwrap();
        check_refused(&link, "lock file");
        assert!(!victim.exists());
    }

    #[test]
    fn impossible_paths_are_named() {
        let dir = tempfile::tempdir().unwrap();
        check_refused(&dir.path().join("no/such/a.sock"), "does not exist");
        let long = dir.path().join("x".repeat(100));
        check_refused(&long, "at most 102");
    }
}
