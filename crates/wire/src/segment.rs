//! The segment: all control blocks of one process, in one sealed memfd.
//!
//! The application creates it and passes it to its scheduler; it outlives every scheduler, and
//! its mapping in the application lasts as long as the process, since addresses in hw queues and
//! graphs must stay valid; a forked child gets private memory in its place
//! ([`OwnSegment::replace_in_child`]). The scheduler maps what it was given only after checking seals and
//! size: a file that could be truncated would kill its reader.
//!
//! | word of the header | writer | reader |
//! |---|---|---|
//! | `magic`, `version`, `slots` | application, before anything is shared | scheduler |
//! | `heartbeat` | scheduler | agent |
//! | `quiet` | scheduler | application |
//! | `dirty` (a bit a slot) | application sets, scheduler clears | scheduler |
//!
//! *Dirty*: the application changes `state`, sets the bit (`SeqCst`), rings. The scheduler takes
//! the ring, clears the bits (`SeqCst`), reads `state`. So a change is seen, or rings again.
//!
//! *Quiet*: while changes decide nothing, the scheduler spares the application the rings: it sets the
//! word, and takes the bits now and then. When they matter again, above all before it closes a gate,
//! it clears the word (`SeqCst`) and then takes the bits: a change is seen, or found the word cleared
//! and rings. The loom model `a_launch_that_did_not_ring_is_heard_before_a_gate_closes` covers it.

use std::{
    ffi::c_void,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
    mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap, munmap},
};

use crate::{
    VERSION,
    block::ControlBlock,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Control blocks in a segment.
pub const SLOTS: usize = 1024;
const MAGIC: u32 = u32::from_le_bytes(*b"XSCB");
const DIRTY_WORDS: usize = SLOTS / 64;
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// Start of the segment; the module's header says who writes what.
#[repr(C, align(256))]
struct Header {
    magic: AtomicU32,
    version: AtomicU32,
    slots: AtomicU32,
    scheduler: SchedulerLine,
    dirty: DirtyLines,
}

/// The scheduler's words.
#[repr(C, align(64))]
struct SchedulerLine {
    heartbeat: AtomicU64,
    quiet: AtomicU32,
}

#[repr(C, align(64))]
struct DirtyLines([AtomicU64; DIRTY_WORDS]);

/// The whole shared memory.
#[repr(C)]
pub struct Layout {
    header: Header,
    blocks: [ControlBlock; SLOTS],
}

/// Bytes in a segment.
pub const SEGMENT_BYTES: usize = size_of::<Layout>();

impl Layout {
    /// The block in `slot`, if there is such a slot.
    pub fn block(&self, slot: u16) -> Option<&ControlBlock> {
        self.blocks.get(usize::from(slot))
    }

    /// Application: the state of `slot` changed. True: ring the doorbell.
    #[must_use = "the scheduler waits for the doorbell"]
    pub fn set_dirty(&self, slot: u16) -> bool {
        let slot = usize::from(slot) % SLOTS;
        self.header.dirty.0[slot / 64].fetch_or(1 << (slot % 64), Ordering::SeqCst);
        self.header.scheduler.quiet.load(Ordering::SeqCst) == 0
    }

    /// Scheduler: whether changes need no ring. Take the dirty bits after clearing it.
    pub fn set_quiet(&self, quiet: bool) {
        let quiet = u32::from(quiet);
        self.header.scheduler.quiet.store(quiet, Ordering::SeqCst);
    }

    /// Scheduler: clears the dirty bits and hands each slot that had one to `visit`.
    pub fn take_dirty(&self, mut visit: impl FnMut(u16)) {
        for (index, word) in self.header.dirty.0.iter().enumerate() {
            if word.load(Ordering::SeqCst) == 0 {
                continue; // set after this load: its ring is still to come
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                visit((index * 64) as u16 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
            }
        }
    }

    /// Scheduler: shows that it is alive.
    pub fn beat(&self) {
        self.header
            .scheduler
            .heartbeat
            .fetch_add(1, Ordering::Release);
    }

    /// Agent: changes while the scheduler lives.
    pub fn heartbeat(&self) -> u64 {
        self.header.scheduler.heartbeat.load(Ordering::Acquire)
    }
}

/// Why a segment was refused.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The system refused to create or map it.
    #[error("cannot map shared memory: {0}")]
    System(#[from] Errno),
    /// It could be truncated under its reader.
    #[error("segment is not a sealed memfd (needs the seals shrink, grow, seal)")]
    Unsealed,
    /// Not the size of a segment.
    #[error("segment has {0} bytes, not {SEGMENT_BYTES}")]
    Size(i64),
    /// Not laid out as a segment of this version.
    #[error("segment header is not that of version {VERSION}")]
    Header,
}

/// A mapping of [`SEGMENT_BYTES`] bytes, unmapped on drop.
struct Mapping(NonNull<Layout>);

// SAFETY: the mapping holds atomics only, which any thread may use; it is owned by the value.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>) -> Result<Self, SegmentError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                SEGMENT_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        Ok(Mapping(NonNull::new(address.cast()).ok_or(Errno::NOMEM)?))
    }

    fn address(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped, page-aligned and SEGMENT_BYTES long for as long as `self` (the seals
        // keep the file from shrinking); every bit pattern is a valid value of its atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; references into it borrow `self`.
        let _ = unsafe { munmap(self.address(), SEGMENT_BYTES) };
    }
}

/// The application's own segment: created, sealed, mapped until the process ends.
pub struct OwnSegment {
    fd: OwnedFd,
    layout: &'static Layout,
}

impl OwnSegment {
    /// Creates an empty segment.
    pub fn create() -> Result<Self, SegmentError> {
        let fd = memfd_create("xsched", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, SEGMENT_BYTES as u64)?;
        fcntl_add_seals(&fd, SEALS)?;
        let mapping = Mapping::new(fd.as_fd())?;
        // SAFETY: as in `Mapping::layout`; forgetting the mapping makes it last for ever.
        let layout: &'static Layout = unsafe { mapping.0.as_ref() };
        std::mem::forget(mapping);
        let header = &layout.header;
        header.slots.store(SLOTS as u32, Ordering::Relaxed);
        header.version.store(VERSION.into(), Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(OwnSegment { fd, layout })
    }

    /// The shared memory.
    pub fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// The same memory at one more address, for good: host memory can be registered with a driver once an
    /// address.
    pub fn again(layout: &'static Layout) -> Result<&'static Layout, SegmentError> {
        let address = std::ptr::from_ref(layout).cast_mut().cast::<c_void>();
        // SAFETY: of a shared mapping and length 0 this leaves the old one as it is and maps its pages
        // once more, where the kernel likes (mremap(2)).
        let address = unsafe { mremap(address, 0, SEGMENT_BYTES, MremapFlags::MAYMOVE) }?;
        let address = NonNull::new(address.cast::<Layout>()).ok_or(Errno::NOMEM)?;
        // SAFETY: as in `Mapping::layout`; nobody unmaps it.
        Ok(unsafe { address.as_ref() })
    }

    /// Puts private memory, the gates of the first `used` slots bypassed, in place of the mapping
    /// that a forked child inherited: its addresses stay valid, hold nothing back, and are no
    /// longer the parent's words.
    ///
    /// # Safety
    /// Only in a forked child, before any other thread runs there.
    pub unsafe fn replace_in_child(layout: &'static Layout, used: u16) {
        let address = std::ptr::from_ref(layout).cast_mut().cast::<c_void>();
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: replaces exactly the segment's own mapping, in one step.
        let mapped = unsafe {
            mmap_anonymous(
                address,
                SEGMENT_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        // Without memory the child keeps the parent's words, which is no worse than before fork.
        if mapped.is_ok() {
            for block in layout.blocks.iter().take(used.into()) {
                let _ = block.set_bypass(true);
            }
        }
    }
}

impl AsFd for OwnSegment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A segment that a client passed to its scheduler.
pub struct PeerSegment {
    mapping: Mapping,
}

impl PeerSegment {
    /// Checks seals, size and header, then maps. The descriptor may be closed afterwards.
    pub fn open(fd: BorrowedFd<'_>) -> Result<Self, SegmentError> {
        let seals = fcntl_get_seals(fd).map_err(|_| SegmentError::Unsealed)?;
        if !seals.contains(SEALS) || seals.contains(SealFlags::WRITE) {
            return Err(SegmentError::Unsealed);
        }
        let size = fstat(fd)?.st_size;
        if size != SEGMENT_BYTES as i64 {
            return Err(SegmentError::Size(size));
        }
        let mapping = Mapping::new(fd)?;
        let header = &mapping.layout().header;
        let is_ours = header.magic.load(Ordering::Acquire) == MAGIC
            && header.version.load(Ordering::Relaxed) == u32::from(VERSION)
            && header.slots.load(Ordering::Relaxed) == SLOTS as u32;
        if !is_ours {
            return Err(SegmentError::Header);
        }
        Ok(PeerSegment { mapping })
    }

    /// The shared memory. What the client wrote there is a claim.
    pub fn layout(&self) -> &Layout {
        self.mapping.layout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_mapping_shows_the_same_words() {
        let own = OwnSegment::create().unwrap();
        let other = OwnSegment::again(own.layout()).unwrap();
        assert!(!std::ptr::eq(own.layout(), other));
        let _first = own.layout().blocks[3].publish();
        assert_eq!(other.blocks[3].state().submitted(), 1);
    }

    #[test]
    fn layout_is_pinned() {
        assert_eq!(std::mem::offset_of!(Header, scheduler), 64);
        assert_eq!(std::mem::offset_of!(Header, dirty), 128);
        assert_eq!(std::mem::offset_of!(Layout, blocks), 256);
        assert_eq!(SEGMENT_BYTES, 256 + SLOTS * 256);
        assert_eq!(VERSION, 3, "a change of layout needs another version");
    }

    #[test]
    fn both_sides_see_the_same_words() {
        let own = OwnSegment::create().unwrap();
        let peer = PeerSegment::open(own.as_fd()).unwrap();
        let (ours, theirs) = (own.layout(), peer.layout());
        let _ = ours.block(5).unwrap().publish();
        for slot in [5, 64, 1023] {
            assert!(ours.set_dirty(slot));
        }
        let mut seen = Vec::new();
        theirs.take_dirty(|slot| seen.push(slot));
        assert_eq!(seen, [5, 64, 1023]);
        theirs.take_dirty(|slot| panic!("{slot} twice"));
        assert!(theirs.block(5).unwrap().state().is_ready());
        assert!(theirs.block(SLOTS as u16).is_none());
        let before = ours.heartbeat();
        theirs.beat();
        assert_ne!(ours.heartbeat(), before);
    }

    /// A memfd of `size` bytes with `seals`, its header as `create` writes it if `valid`.
    fn memfd(size: usize, seals: SealFlags, valid: bool) -> OwnedFd {
        let fd = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        if valid {
            let mut header = Vec::from(MAGIC.to_le_bytes());
            header.extend(u32::from(VERSION).to_le_bytes());
            header.extend((SLOTS as u32).to_le_bytes());
            rustix::io::write(&fd, &header).unwrap();
        }
        ftruncate(&fd, size as u64).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn what_could_harm_the_reader_is_refused() {
        let good = memfd(SEGMENT_BYTES, SEALS, true);
        assert!(PeerSegment::open(good.as_fd()).is_ok());

        let check = |fd: OwnedFd, expect: &str| {
            let error = PeerSegment::open(fd.as_fd()).err().expect(expect);
            assert!(error.to_string().contains(expect), "{error}");
        };
        check(memfd(SEGMENT_BYTES, SealFlags::empty(), true), "sealed");
        check(
            memfd(SEGMENT_BYTES, SealFlags::SHRINK | SealFlags::SEAL, true),
            "sealed",
        );
        check(
            memfd(SEGMENT_BYTES, SEALS | SealFlags::WRITE, true),
            "sealed",
        );
        check(memfd(SEGMENT_BYTES - 1, SEALS, true), "bytes");
        check(memfd(SEGMENT_BYTES + 4096, SEALS, true), "bytes");
        check(memfd(SEGMENT_BYTES, SEALS, false), "header");
        check(tempfile::tempfile().unwrap().into(), "sealed");
    }
}
