//! The bytes of a simulated file, in blocks that copies share until one of them is written.

use std::io;
use std::sync::Arc;

use crate::random::Random;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// A block that was never written, or only with zeros, is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    length: usize,
    blocks: Vec<Option<Arc<[u8; BLOCK]>>>,
}

/// One thing that was done to a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Length(usize),
    Write(usize, Arc<[u8]>),
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
        if offset + data.len() > self.length {
            self.set_length(offset + data.len());
        }
        let mut done = 0;
        while done < data.len() {
            let (number, at) = ((offset + done) / BLOCK, (offset + done) % BLOCK);
            let bytes = (BLOCK - at).min(data.len() - done);
            let from = &data[done..done + bytes];
            let block = &mut self.blocks[number];
            if block.is_some() || from.iter().any(|byte| *byte != 0) {
                let block = block.get_or_insert_with(|| Arc::new([0; BLOCK]));
                Arc::make_mut(block)[at..at + bytes].copy_from_slice(from);
            }
            done += bytes;
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
    pub(crate) fn apply(&self, to: &mut Content) {
        match self {
            Self::Length(length) => to.set_length(*length),
            Self::Write(offset, data) => to.write(*offset, data),
        }
    }

    /// As it is if it stops at any byte.
    pub(crate) fn cut(&self, random: &mut Random) -> Self {
        match self {
            Self::Length(_) => self.clone(),
            Self::Write(offset, data) => {
                let bytes = random.index(data.len() + 1);
                Self::Write(*offset, data[..bytes].into())
            }
        }
    }

    /// Applies a part of it: it stops at any byte, or any of its sectors are there and the others not.
    pub(crate) fn tear(&self, random: &mut Random, to: &mut Content) {
        match self {
            Self::Write(offset, data) if random.one_in(2) => {
                // Sectors of the disk, wherever the write begins.
                let mut start = 0;
                while start < data.len() {
                    let end = (start + SECTOR - (offset + start) % SECTOR).min(data.len());
                    if random.one_in(2) {
                        to.write(offset + start, &data[start..end]);
                    }
                    start = end;
                }
            }
            _ => self.cut(random).apply(to),
        }
    }
}
