//! What a device can be told to do, and how one knows that it is done.

use std::{
    ffi::c_void,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::memory::{Address, Block};

/// Completion of one command: the device time of its end, once it has ended.
#[derive(Debug, Default)]
pub(crate) struct Token(AtomicU64);

impl Token {
    pub(crate) fn pending() -> Arc<Self> {
        Arc::default()
    }

    /// Device time (ns) of completion, `None` while pending.
    pub(crate) fn time(&self) -> Option<u64> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            time => Some(time),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.time().is_some()
    }

    pub(crate) fn complete(&self, time: u64) {
        self.0.store(time.max(1), Ordering::Release);
    }
}

/// A command for a lane. Everything but kernels, host functions and waits takes no device time.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A mark in the order: an event, a fork, a join.
    Nothing,
    Kernel(Kernel),
    Copy(Box<Copy>),
    Fill(Fill),
    Host(Callback),
    Write(Word),
    Wait(Wait),
    /// Keeps a block until here and drops it.
    Release(#[allow(dead_code, reason = "held, not read")] Arc<Block>),
}

impl Work {
    /// Does what takes no time. Kernels, host functions and waits are the engine's business.
    pub(crate) fn perform(&self) {
        match self {
            Self::Copy(copy) => copy.perform(),
            Self::Fill(fill) => fill.perform(),
            Self::Write(word) => word.store(),
            Self::Nothing | Self::Release(_) => {}
            Self::Kernel(_) | Self::Host(_) | Self::Wait(_) => {
                unreachable!("the engine executes this itself")
            }
        }
    }
}

/// A kernel: it fills the device for a while and then has an effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) duration: Duration,
    pub(crate) effect: Effect,
}

/// How long a kernel occupies the device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Duration {
    Nanoseconds(u64),
    /// Until the word has that value.
    Until(Address, u32),
}

/// What a kernel does to memory at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    None,
    Write(Address, u32),
    Add(Address, u32),
    /// The first word counts the words that follow; one is added.
    Append(Address, u32),
    /// Product of two square matrices of words, row by row: product, factors, rows.
    Multiply([Address; 3], u32),
    /// Each of a block's words of data becomes itself × factor + summand; then done becomes sequence.
    Work {
        data: Address,
        factor: u32,
        summand: u32,
        done: Address,
        sequence: u32,
    },
}

/// Words of [`Effect::Work`]: the threads of a block.
const BLOCK: usize = 256;

impl Effect {
    pub(crate) fn perform(self) {
        match self {
            Self::None => {}
            Self::Write(address, value) => address.store_u32(value),
            Self::Add(address, value) => address.add_u32(value),
            Self::Multiply([product, left, right], rows) => {
                let rows = rows as usize;
                let word = |matrix: Address, row, column| matrix.offset(4 * (row * rows + column));
                for (row, column) in (0..rows).flat_map(|row| (0..rows).map(move |c| (row, c))) {
                    let terms = (0..rows).map(|k| {
                        let factor = word(left, row, k).load_u32();
                        factor.wrapping_mul(word(right, k, column).load_u32())
                    });
                    word(product, row, column).store_u32(terms.fold(0, u32::wrapping_add));
                }
            }
            Self::Append(address, value) => {
                let count = address.load_u32();
                address.offset(4 * (count as usize + 1)).store_u32(value);
                address.store_u32(count + 1);
            }
            Self::Work {
                data,
                factor,
                summand,
                done,
                sequence,
            } => {
                for thread in 0..BLOCK {
                    let word = data.offset(4 * thread);
                    word.store_u32(word.load_u32().wrapping_mul(factor).wrapping_add(summand));
                }
                done.store_u32(sequence);
            }
        }
    }
}

/// One side of a copy: a box of rows and layers in memory.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) start: Start,
    /// Bytes from a row to the next.
    pub(crate) pitch: usize,
    /// Bytes from a layer to the next.
    pub(crate) layer: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Start {
    Memory(Address),
    /// Bytes that were taken from pageable host memory when the copy was submitted.
    Staged(Arc<Vec<u8>>),
}

/// A copy of `depth` layers of `height` rows of `width` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) to: Address,
    pub(crate) to_pitch: usize,
    pub(crate) to_layer: usize,
    pub(crate) from: Place,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Copy {
    pub(crate) fn line(to: Address, from: Start, length: usize) -> Self {
        Self {
            to,
            to_pitch: length,
            to_layer: length,
            from: Place {
                start: from,
                pitch: length,
                layer: length,
            },
            width: length,
            height: 1,
            depth: 1,
        }
    }

    fn perform(&self) {
        for z in 0..self.depth {
            for y in 0..self.height {
                let to = self.to.offset(z * self.to_layer + y * self.to_pitch);
                let at = z * self.from.layer + y * self.from.pitch;
                match &self.from.start {
                    Start::Memory(start) => to.copy_from(start.offset(at), self.width),
                    Start::Staged(bytes) => to.write(&bytes[at..at + self.width]),
                }
            }
        }
    }
}

/// Sets `height` rows of `width` elements to a pattern.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) to: Address,
    pub(crate) pitch: usize,
    pub(crate) pattern: u32,
    /// Bytes of the pattern that count: 1, 2 or 4.
    pub(crate) element: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Fill {
    fn perform(&self) {
        let row = self.pattern.to_ne_bytes()[..self.element].repeat(self.width);
        for y in 0..self.height {
            self.to.offset(y * self.pitch).write(&row);
        }
    }
}

/// A word of 4 or 8 bytes, and a value for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) address: Address,
    pub(crate) value: u64,
    pub(crate) wide: bool,
}

impl Word {
    pub(crate) fn bytes(self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    fn store(self) {
        if self.wide {
            self.address.store_u64(self.value);
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
            self.address.store_u32(self.value as u32);
        }
    }
}

/// Holds its lane until a word in memory satisfies a condition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) word: Word,
    pub(crate) condition: Condition,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// The cyclic difference is not negative.
    GreaterOrEqual,
    Equal,
    /// A bit of the value is set in the word.
    And,
    /// A bit is set in neither.
    Nor,
}

impl Wait {
    pub(crate) fn is_satisfied(&self) -> bool {
        let value = self.word.value;
        if self.word.wide {
            let found = self.word.address.load_u64();
            match self.condition {
                Condition::GreaterOrEqual => found.wrapping_sub(value).cast_signed() >= 0,
                Condition::Equal => found == value,
                Condition::And => found & value != 0,
                Condition::Nor => !(found | value) != 0,
            }
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
            let value = value as u32;
            let found = self.word.address.load_u32();
            match self.condition {
                Condition::GreaterOrEqual => found.wrapping_sub(value).cast_signed() >= 0,
                Condition::Equal => found == value,
                Condition::And => found & value != 0,
                Condition::Nor => !(found | value) != 0,
            }
        }
    }
}

/// A function of the client's that a lane waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callback {
    Plain(extern "C" fn(*mut c_void), usize),
    /// (handle of the stream, status, data)
    WithStatus(extern "C" fn(usize, i32, *mut c_void), usize, usize),
}

impl Callback {
    pub(crate) fn call(self) {
        match self {
            Self::Plain(function, data) => function(ptr::with_exposed_provenance_mut(data)),
            Self::WithStatus(function, stream, data) => {
                function(stream, 0, ptr::with_exposed_provenance_mut(data));
            }
        }
    }
}
