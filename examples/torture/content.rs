//! The bytes of a simulated file, in blocks that copies share until one of them is written.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::random::Random;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

type Block = [u8; BLOCK];

const ZEROS: Block = [0; BLOCK];

/// A block that was never written, or only with zeros, is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    length: usize,
    blocks: Vec<Option<Arc<Block>>>,
}

/// One thing that was done to a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Length(usize),
    Write(usize, Arc<[u8]>),
    /// So many zeros were written from an offset on: they take no memory.
    Zeros(usize, usize),
}

impl Content {
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let (block, at) = ((offset + done) / BLOCK, (offset + done) % BLOCK);
            let bytes = (BLOCK - at).min(out.len() - done);
            let to = &mut out[done..done + bytes];
            match &self.blocks[block] {
                Some(block) => to.copy_from_slice(&block[at..at + bytes]),
                None => to.fill(0),
            }
            done += bytes;
        }
        Ok(())
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        self.each_block(offset, data.len(), |block, at, from| {
            let from = &data[from];
            if block.is_some() || from != &ZEROS[..from.len()] {
                let block = block.get_or_insert_with(|| Arc::new(ZEROS));
                Arc::make_mut(block)[at..at + from.len()].copy_from_slice(from);
            }
        });
    }

    fn write_zeros(&mut self, offset: usize, bytes: usize) {
        self.each_block(offset, bytes, |block, at, from| {
            if from.len() == BLOCK {
                *block = None;
            } else if let Some(block) = block {
                Arc::make_mut(block)[at..at + from.len()].fill(0);
            }
        });
    }

    /// Calls for each block that a write of so many bytes touches: with the block, where in it the write begins, and
    /// which of its bytes go there. The file is as long afterwards as the write needs.
    fn each_block(
        &mut self,
        offset: usize,
        bytes: usize,
        mut write: impl FnMut(&mut Option<Arc<Block>>, usize, Range<usize>),
    ) {
        if offset + bytes > self.length {
            self.set_length(offset + bytes);
        }
        let mut done = 0;
        while done < bytes {
            let (number, at) = ((offset + done) / BLOCK, (offset + done) % BLOCK);
            let end = (done + BLOCK - at).min(bytes);
            write(&mut self.blocks[number], at, done..end);
            done = end;
        }
    }

    fn set_length(&mut self, length: usize) {
        self.length = length;
        self.blocks.resize(length.div_ceil(BLOCK), None);
        // What lies behind the end is zero when the file grows again.
        let last = length % BLOCK;
        if let Some(Some(block)) = self.blocks.last_mut().filter(|_| last > 0) {
            Arc::make_mut(block)[last..].fill(0);
        }
    }
}

impl Change {
    pub(crate) fn write(offset: usize, data: &[u8]) -> Self {
        match data.chunks(BLOCK).all(|chunk| chunk == &ZEROS[..chunk.len()]) {
            true => Self::Zeros(offset, data.len()),
            false => Self::Write(offset, data.into()),
        }
    }

    pub(crate) fn apply(&self, to: &mut Content) {
        match self {
            Self::Length(length) => to.set_length(*length),
            Self::Write(offset, data) => to.write(*offset, data),
            Self::Zeros(offset, bytes) => to.write_zeros(*offset, *bytes),
        }
    }

    /// Whether it writes nothing but some of these first bytes.
    pub(crate) fn is_before(&self, bytes: usize) -> bool {
        match self {
            Self::Length(_) => false,
            Self::Write(offset, data) => offset + data.len() <= bytes,
            Self::Zeros(offset, zeros) => offset + zeros <= bytes,
        }
    }

    /// What was done of it when it failed, or when there was a crash: nothing, all, or a part.
    pub(crate) fn at_a_crash(&self, random: &mut Random) -> Option<Self> {
        match random.below(3) {
            0 => None,
            1 => Some(self.clone()),
            _ => Some(self.cut(random)),
        }
    }

    /// As it is if it stops at any byte.
    fn cut(&self, random: &mut Random) -> Self {
        match self {
            Self::Length(_) => self.clone(),
            Self::Write(offset, data) => {
                let bytes = random.index(data.len() + 1);
                Self::Write(*offset, data[..bytes].into())
            }
            Self::Zeros(offset, bytes) => Self::Zeros(*offset, random.index(bytes + 1)),
        }
    }

    /// Applies a part of it: it stops at any byte, or any of its sectors are there and the others not.
    pub(crate) fn tear(&self, random: &mut Random, to: &mut Content) {
        let (offset, bytes) = match self {
            Self::Write(offset, data) => (*offset, data.len()),
            Self::Zeros(offset, bytes) => (*offset, *bytes),
            Self::Length(_) => (0, 0),
        };
        if bytes == 0 || random.one_in(2) {
            return self.cut(random).apply(to);
        }
        // Sectors of the disk, wherever the write begins.
        let mut start = 0;
        while start < bytes {
            let end = (start + SECTOR - (offset + start) % SECTOR).min(bytes);
            if random.one_in(2) {
                match self {
                    Self::Write(_, data) => to.write(offset + start, &data[start..end]),
                    _ => to.write_zeros(offset + start, end - start),
                }
            }
            start = end;
        }
    }
}
