//! The shim libraries that are installed, and `LD_PRELOAD` with them in front.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The dynamic loader's list of libraries to load first.
pub(crate) const LD_PRELOAD: &str = "LD_PRELOAD";

/// One library a platform, in the order in which they are preloaded.
const LIBRARIES: [&str; 3] = ["libshimcuda.so", "libshimhip.so", "libshimopencl.so"];

/// What parts the entries of `LD_PRELOAD`; a path that holds one of them cannot be preloaded.
const SEPARATORS: [u8; 2] = *b": ";

/// Those that exist: in `../lib` as seen from the executable, else beside it.
pub(crate) fn installed(executable: &Path) -> Vec<PathBuf> {
    let Some(beside) = executable.parent() else {
        return Vec::new();
    };
    let lib = beside.parent().map(|prefix| prefix.join("lib"));
    let places: Vec<_> = lib.iter().map(PathBuf::as_path).chain([beside]).collect();
    in_first_of(&places)
}

/// Those in one folder.
pub(crate) fn beside(folder: &Path) -> Vec<PathBuf> {
    in_first_of(&[folder])
}

fn in_first_of(places: &[&Path]) -> Vec<PathBuf> {
    let found = LIBRARIES.iter().filter_map(|library| {
        let mut paths = places.iter().map(|place| place.join(library));
        paths.find(|path| path.is_file())
    });
    found.collect()
}

/// `LD_PRELOAD` with `ours` in front of what it holds already, each library once. Second: those
/// that cannot be written there.
pub(crate) fn preload(
    ours: &[PathBuf],
    existing: Option<&OsStr>,
) -> (Option<OsString>, Vec<PathBuf>) {
    let is_separator = |byte: &u8| SEPARATORS.contains(byte);
    let (refused, ours): (Vec<&PathBuf>, Vec<&PathBuf>) = ours
        .iter()
        .partition(|path| path.as_os_str().as_bytes().iter().any(is_separator));
    let kept = existing
        .map_or(&[][..], OsStr::as_bytes)
        .split(is_separator)
        .filter(|entry| !entry.is_empty())
        .filter(|entry| {
            ours.iter()
                .all(|path| path.as_os_str().as_bytes() != *entry)
        });
    let entries: Vec<&[u8]> = ours
        .iter()
        .map(|path| path.as_os_str().as_bytes())
        .chain(kept)
        .collect();
    let value = OsStr::from_bytes(&entries.join(&b':')).to_owned();
    (
        (!value.is_empty()).then_some(value),
        refused.into_iter().cloned().collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: &[&str], existing: Option<&str>, expect: Option<&str>) {
        let ours: Vec<PathBuf> = ours.iter().map(PathBuf::from).collect();
        let (value, refused) = preload(&ours, existing.map(OsStr::new));
        assert_eq!(value.as_deref(), expect.map(OsStr::new));
        assert!(refused.is_empty());
    }

    #[test]
    fn ours_come_first_and_the_others_keep_their_order() {
        check(&[], None, None);
        check(&[], Some("b.so a.so"), Some("b.so:a.so"));
        check(&["/l/x.so"], None, Some("/l/x.so"));
        check(
            &["/l/x.so", "/l/y.so"],
            Some("b.so:a.so"),
            Some("/l/x.so:/l/y.so:b.so:a.so"),
        );
        check(&["/l/x.so"], Some("b.so:/l/x.so"), Some("/l/x.so:b.so"));
    }

    #[test]
    fn a_path_that_would_fall_apart_is_left_out() {
        let ours = [PathBuf::from("/my lib/x.so"), PathBuf::from("/l/y.so")];
        let (value, refused) = preload(&ours, None);
        assert_eq!(value.as_deref(), Some(OsStr::new("/l/y.so")));
        assert_eq!(refused, [PathBuf::from("/my lib/x.so")]);
    }

    #[test]
    fn lib_wins_over_beside() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["bin", "lib"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let touch = |path: &str| std::fs::write(dir.path().join(path), "").unwrap();
        let executable = dir.path().join("bin/xsched");
        assert!(installed(&executable).is_empty());
        touch("bin/libshimhip.so");
        touch("bin/libshimcuda.so");
        touch("lib/libshimcuda.so");
        let expect = ["lib/libshimcuda.so", "bin/libshimhip.so"].map(|path| dir.path().join(path));
        assert_eq!(installed(&executable), expect);
    }
}
