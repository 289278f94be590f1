//! The disk itself: what no engine that syncs each commit can be faster than.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::peer::Answer;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

/// A file that is there, and one that grows.
pub struct Disk {
    there: File,
    grows: File,
    next: u64,
    end: u64,
}

impl Disk {
    /// Two files in this folder; the first is written once, so that overwriting it needs no new blocks.
    pub fn new(folder: &Path) -> Answer<Self> {
        let (there, grows) = (tempfile::tempfile_in(folder)?, tempfile::tempfile_in(folder)?);
        let block = [1; BLOCK];
        (0..BLOCKS).try_for_each(|at| there.write_all_at(&block, at * BLOCK as u64))?;
        there.sync_all()?;
        Ok(Self { there, grows, next: 0, end: 0 })
    }

    /// Overwrites blocks, one after the other, each synced.
    pub fn overwrite(&mut self, slice: Duration) -> Answer<Vec<f64>> {
        sample(slice, || {
            self.next = (self.next + 1) % BLOCKS;
            let block = [u8::try_from(self.next % 251)?; BLOCK];
            self.there.write_all_at(&block, self.next * BLOCK as u64)?;
            Ok(self.there.sync_data()?)
        })
    }

    /// Reads 8 bytes that are in the page cache.
    pub fn read_cached(&self, slice: Duration) -> Answer<Vec<f64>> {
        const TOGETHER: u32 = 64;
        let mut bytes = [0; 8];
        let samples = sample(slice, || {
            (0..TOGETHER).try_for_each(|_| self.there.read_exact_at(&mut bytes, BLOCK as u64))?;
            Ok(())
        });
        Ok(samples?.into_iter().map(|took| took / f64::from(TOGETHER)).collect())
    }

    /// Appends blocks, each synced.
    pub fn append(&mut self, slice: Duration) -> Answer<Vec<f64>> {
        sample(slice, || {
            self.grows.write_all_at(&[1; BLOCK], self.end * BLOCK as u64)?;
            self.end += 1;
            Ok(self.grows.sync_data()?)
        })
    }
}

fn sample(slice: Duration, mut work: impl FnMut() -> Answer<()>) -> Answer<Vec<f64>> {
    let mut samples = Vec::new();
    let end = Instant::now() + slice;
    while Instant::now() < end {
        let start = Instant::now();
        work()?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}
