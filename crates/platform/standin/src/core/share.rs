//! Where the table of [`super::slices`] lives: in a file that all processes on the device share,
//! or in this process alone.
//!
//! A record lock, which the kernel drops when its holder dies, guards the file; it is read and
//! written as a whole under that lock, so a killed process leaves no half-made change to repair.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::slices::{SLOTS, Slot, Table};

/// First word of a device's part of the file.
const MAGIC: u64 = 0x0001_4e49_444e_4154;
const HEADER: usize = 6;
const FIELDS: usize = 6;
const WORDS: usize = HEADER + FIELDS * SLOTS;

/// This process's place on one device.
#[derive(Debug)]
pub(crate) struct Share {
    me: usize,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Alone(Box<Table>),
    File { file: Arc<File>, offset: u64 },
}

/// Opens the file that processes share, making it if need be.
pub(crate) fn open(path: &Path) -> io::Result<Arc<File>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).map(Arc::new)
}

impl Share {
    /// Takes a place on device `index`, in `file` or in this process alone.
    pub(crate) fn attach(file: Option<&Arc<File>>, index: usize) -> io::Result<Self> {
        let backing = match file {
            None => Backing::Alone(Box::default()),
            Some(file) => Backing::File {
                file: Arc::clone(file),
                offset: (index * WORDS * 8) as u64,
            },
        };
        let mut share = Self { me: 0, backing };
        let pid = u64::from(std::process::id());
        let birth = birth(pid).unwrap_or(0);
        let slot = share.edit(|table, _| table.attach(pid, birth, &mut is_alive))?;
        share.me = slot.ok_or_else(|| io::Error::other("every slot of the device is taken"))?;
        Ok(share)
    }

    /// Whether other processes can be on the device at all.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.backing, Backing::File { .. })
    }

    /// Changes the table, alone among all processes. The second argument is this process's slot.
    pub(crate) fn with<R>(&mut self, change: impl FnOnce(&mut Table, usize) -> R) -> R {
        // The file worked before, so a failure now is a broken test environment.
        self.edit(change)
            .expect("the file of STANDIN_SHM is usable")
    }

    fn edit<R>(&mut self, change: impl FnOnce(&mut Table, usize) -> R) -> io::Result<R> {
        let (file, offset) = match &mut self.backing {
            Backing::Alone(table) => return Ok(change(table, self.me)),
            Backing::File { file, offset } => (file, *offset),
        };
        fcntl_lock(&*file, FlockOperation::LockExclusive)?;
        let result = (|| {
            let mut before = vec![0; WORDS * 8];
            // Shorter than a part = new.
            let _new = file.read_exact_at(&mut before, offset);
            let mut table = decode(&before);
            let result = change(&mut table, self.me);
            let after = encode(&table);
            if after != before {
                file.write_all_at(&after, offset)?;
            }
            Ok(result)
        })();
        fcntl_lock(&*file, FlockOperation::Unlock)?;
        result
    }
}

/// Whether the process of a slot still lives: not gone, no zombie, not another with its id.
pub(crate) fn is_alive(slot: &Slot) -> bool {
    slot.pid != 0 && birth(slot.pid) == Some(slot.birth)
}

/// Start time of a living process, in the kernel's ticks.
fn birth(pid: u64) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; field 3 follows it.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Free slots are all zeroes, and those behind the last taken one are most, so both directions
/// handle them as a whole.
fn decode(bytes: &[u8]) -> Table {
    let mut words = bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word));
    let mut next = || words.next().unwrap_or(0);
    if next() != MAGIC {
        return Table::default();
    }
    let taken = usize::try_from(next()).unwrap_or(0).min(SLOTS);
    let owner = usize::try_from(next()).unwrap_or(0);
    let mut table = Table {
        owner: owner.checked_sub(1).filter(|&owner| owner < SLOTS),
        from: next(),
        free: next(),
        heard: next(),
        ..Table::default()
    };
    for slot in &mut table.slots[..taken] {
        *slot = Slot {
            pid: next(),
            birth: next(),
            since: next(),
            slice: next(),
            served: next(),
            turns: next(),
        };
    }
    table
}

fn encode(table: &Table) -> Vec<u8> {
    let taken = table.slots.iter().rposition(|slot| slot.pid != 0);
    let taken = taken.map_or(0, |last| last + 1);
    let owner = table.owner.map_or(0, |owner| owner as u64 + 1);
    let header = [
        MAGIC,
        taken as u64,
        owner,
        table.from,
        table.free,
        table.heard,
    ];
    let slots = table.slots[..taken].iter().flat_map(|slot| {
        [
            slot.pid,
            slot.birth,
            slot.since,
            slot.slice,
            slot.served,
            slot.turns,
        ]
    });
    let mut bytes = vec![0; WORDS * 8];
    for (place, word) in bytes
        .as_chunks_mut()
        .0
        .iter_mut()
        .zip(header.into_iter().chain(slots))
    {
        *place = word.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&folder.path().join("shm")).unwrap();
        let mut first = Share::attach(Some(&file), 1).unwrap();
        let mut second = Share::attach(Some(&file), 1).unwrap();
        let mut elsewhere = Share::attach(Some(&file), 0).unwrap();
        first.with(|table, me| table.want(me, 7, 8));
        let seen = second.with(|table, me| (table.owner, table.from, me));
        assert_eq!(seen, (Some(0), 7, 1));
        assert_eq!(elsewhere.with(|table, _| table.owner), None);
    }

    #[test]
    fn this_process_lives_and_no_other_passes_for_it() {
        let pid = u64::from(std::process::id());
        let mut slot = Slot {
            pid,
            birth: birth(pid).unwrap(),
            ..Slot::default()
        };
        assert!(is_alive(&slot));
        slot.birth += 1;
        assert!(!is_alive(&slot));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = u64::from(child.id());
        while birth(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
