//! Versions of the symbols that a library exports, read from its file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, ensure};
use object::{
    LittleEndian,
    elf::{FileHeader64, SHT_DYNSYM},
    read::{
        SymbolIndex,
        elf::{FileHeader, Sym},
    },
};

/// Versions by name; a symbol may have several.
pub(crate) type Versions = BTreeMap<String, BTreeSet<String>>;

/// What a library exports under versions that begin with `prefix`.
pub(crate) fn exported(library: &Path, prefix: &str) -> anyhow::Result<Versions> {
    let data = std::fs::read(library)?;
    let data = &*data;
    let header = FileHeader64::<LittleEndian>::parse(data).context("no library")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let symbols = sections.symbols(endian, data, SHT_DYNSYM)?;
    ensure!(!symbols.is_empty(), "no symbols");
    let mut found = Versions::new();
    let Some(versions) = sections.versions(endian, data)? else {
        return Ok(found);
    };
    for (index, symbol) in symbols.iter().enumerate() {
        let index = versions.version_index(endian, SymbolIndex(index));
        let (false, Some(version)) = (
            symbol.st_shndx.get(endian) == object::elf::SHN_UNDEF,
            versions.version(index)?,
        ) else {
            continue;
        };
        let name = symbol.name(endian, symbols.strings())?;
        let (name, version) = (
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(version.name()),
        );
        // The versions themselves are symbols, too.
        if version.starts_with(prefix) && name != version {
            let known = found.entry(name.into_owned()).or_default();
            known.insert(version.into_owned());
        }
    }
    Ok(found)
}
