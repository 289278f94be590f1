//! What a search for a complete state costs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const FILE_BYTES: u64 = PAGE + (1 << 20);

/// A file with one page that is not zeros, and how many bytes were read of it.
#[derive(Debug)]
struct Sparse {
    page: Vec<u8>,
    read: AtomicU64,
}

impl StorageBackend for Sparse {
    fn len(&self) -> io::Result<u64> {
        Ok(FILE_BYTES)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(out.len() as u64, Ordering::AcqRel);
        out.fill(0);
        if offset == PAGE {
            out[..self.page.len()].copy_from_slice(&self.page);
        }
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("nothing is written")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("nothing is written")
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("nothing is written")
    }
}

/// A page of so many tables of the store's name. The root of each is one page, as long as the file, with another checksum.
fn tables(count: u8) -> Vec<u8> {
    let mut definition = vec![0; 64];
    // A table that has a root, whose order is in the highest five bits of its number.
    (definition[0], definition[9], definition[17]) = (3, 1, 8 << 3);
    let start = 4 + 8 * usize::from(count);
    let keys = start + ROWS.len() * usize::from(count);
    let mut page = vec![1, 0, count, 0];
    let end = |from: usize, width: usize, n: u8| u32::try_from(from + width * (usize::from(n) + 1)).unwrap();
    (0..count).for_each(|n| page.extend(end(start, ROWS.len(), n).to_le_bytes()));
    (0..count).for_each(|n| page.extend(end(keys, definition.len(), n).to_le_bytes()));
    (0..count).for_each(|_| page.extend(ROWS));
    for n in 0..count {
        definition[18] = n;
        page.extend(&definition);
    }
    page.resize(4096, 0);
    page
}

/// A small file may say that it is long, and name its whole length again and again.
#[test]
fn a_search_reads_the_file_so_often_and_no_more() {
    let file = Sparse { page: tables(50), read: AtomicU64::new(0) };
    let salvage = Salvage::new(&file, Layout::usual(FILE_BYTES), RowsAt::Tables(None));
    let (found, _) = salvage.search().unwrap();
    assert!(found.is_none());
    let read = file.read.load(Ordering::Acquire) / FILE_BYTES;
    // Once to look for roots, and what these lead to.
    assert!((10..=1 + SEARCHED_PER_PAGE).contains(&read), "{read} times");
}
