//! Where a scheduler is found: socket paths and who may own them.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::env;

/// The system's daemon.
pub const SYSTEM_SOCKET: &str = "/run/xsched/xsched.sock";

/// Sockets to try, best first: `XSCHED_SOCKET` alone when set, else the system's, then the
/// user's own.
pub fn candidates() -> Vec<PathBuf> {
    match env::SOCKET.get() {
        Some(path) => vec![path.into()],
        None => vec![SYSTEM_SOCKET.into(), user_socket()],
    }
}

/// The user's own daemon: under `XDG_RUNTIME_DIR`, else under `/tmp`.
pub fn user_socket() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("xsched"),
        _ => PathBuf::from(format!("/tmp/xsched-{uid}")),
    };
    dir.join("xsched.sock")
}

/// The HTTP API's socket beside an agents' socket.
pub fn http_socket(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".http");
    path.into()
}

/// Makes the user's own directory (0700) if needed, and checks that nobody else controls it.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_private(dir),
    }
}

/// A directory that only its owner, who is this user, can write to or look into.
pub fn check_private(dir: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(dir)?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !ours || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a directory of yours with mode 0700: remove it or set {}",
            dir.display(),
            env::SOCKET.name,
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_open_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("x");
        private_dir(&dir).unwrap();
        private_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&dir).unwrap_err().to_string().contains("0700"));
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(tmp.path(), &link).unwrap();
        assert!(check_private(&link).is_err());
    }

    #[test]
    fn the_http_socket_stands_beside() {
        assert_eq!(
            http_socket(Path::new("/a/b.sock")),
            Path::new("/a/b.sock.http")
        );
    }
}
