//! Memory as the device sees it: addresses that a client named, read and written for real.
//!
//! The contract is the one between a program and a driver. An [`Address`] comes from a client
//! through the C interface, or from a [`Block`]; who names it in a command promises that the
//! command's range around it stays mapped until the command has completed.

use std::{
    alloc::Layout,
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// An address in the one address space that host and stand-in device share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct Address(usize);

impl Address {
    pub(crate) fn value(self) -> usize {
        self.0
    }

    pub(crate) fn is_null(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_aligned(self, bytes: usize) -> bool {
        self.0.is_multiple_of(bytes)
    }

    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    pub(crate) fn load_u32(self) -> u32 {
        self.atomic_u32().load(Ordering::SeqCst)
    }

    pub(crate) fn load_u64(self) -> u64 {
        self.atomic_u64().load(Ordering::SeqCst)
    }

    pub(crate) fn store_u32(self, value: u32) {
        self.atomic_u32().store(value, Ordering::SeqCst);
    }

    pub(crate) fn store_u64(self, value: u64) {
        self.atomic_u64().store(value, Ordering::SeqCst);
    }

    pub(crate) fn add_u32(self, value: u32) {
        self.atomic_u32().fetch_add(value, Ordering::SeqCst);
    }

    /// Copies `length` bytes from `source`; the ranges may overlap.
    pub(crate) fn copy_from(self, source: Self, length: usize) {
        // SAFETY: the client promised both ranges for the command that is being executed.
        unsafe {
            ptr::copy(
                ptr::with_exposed_provenance::<u8>(source.0),
                ptr::with_exposed_provenance_mut::<u8>(self.0),
                length,
            );
        }
    }

    /// Copies `bytes` to this address.
    pub(crate) fn write(self, bytes: &[u8]) {
        // SAFETY: the client promised the range for the command that is being executed.
        unsafe {
            ptr::copy(
                bytes.as_ptr(),
                ptr::with_exposed_provenance_mut::<u8>(self.0),
                bytes.len(),
            );
        }
    }

    /// The bytes at this address, now.
    pub(crate) fn read(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        // SAFETY: the client promised the range for the call that is being made.
        unsafe {
            ptr::copy(
                ptr::with_exposed_provenance::<u8>(self.0),
                bytes.as_mut_ptr(),
                length,
            );
        }
        bytes
    }

    fn atomic_u32<'a>(self) -> &'a AtomicU32 {
        // SAFETY: the client promised a mapped word; alignment is checked where commands are made.
        unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(self.0)) }
    }

    fn atomic_u64<'a>(self) -> &'a AtomicU64 {
        // SAFETY: the client promised a mapped word; alignment is checked where commands are made.
        unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(self.0)) }
    }
}

/// Zeroed memory that the driver allocated: "device" memory, or pinned host memory.
#[derive(Debug)]
pub(crate) struct Block {
    start: Address,
    layout: Layout,
}

impl Block {
    /// Alignment of every block, as generous as a driver's.
    const ALIGNMENT: usize = 512;

    /// `None` when `length` is zero or there is no such amount of memory.
    pub(crate) fn new(length: usize) -> Option<Self> {
        let layout = Layout::from_size_align(length, Self::ALIGNMENT).ok()?;
        if length == 0 {
            return None;
        }
        // SAFETY: the size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = Address(start.expose_provenance());
        (!start.is_null()).then_some(Self { start, layout })
    }

    pub(crate) fn start(&self) -> Address {
        self.start
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout; commands that use it hold it or were waited for.
        unsafe {
            std::alloc::dealloc(ptr::with_exposed_provenance_mut(self.start.0), self.layout);
        }
    }
}
