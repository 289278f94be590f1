//! Healing single flipped bits: a checksum tells when the right bit was flipped back.

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::pages::header::{HEADER_BYTES, heal_slot};
use super::super::pages::node::Node;
use super::super::pages::{PAGE, Tree};

/// How many smallest pages are tried, each with 32,768 bits. A larger page has more bits and takes longer for each, so
/// it counts as the square of its size. This bounds the time that a hostile file costs.
const TRIED_MAX: u64 = 64;

/// A page that was tried: what it was, and which of its bits was flipped; `None` if no single bit makes it fit.
type Tried = Option<(Vec<u8>, u64)>;

/// The pages that were tried, by their offset and the checksum that they should have.
pub(super) struct Healing {
    tried: RefCell<HashMap<(u64, u128), Tried>>,
    left: std::cell::Cell<u64>,
}

impl Healing {
    pub(super) fn new() -> Self {
        Self { tried: RefCell::default(), left: TRIED_MAX.into() }
    }

    /// The page with this checksum, and which bit of the file was flipped, if one bit makes the difference.
    ///
    /// No other page has the checksum, so what is found is what was written. Pages are tried until there are too many.
    pub(super) fn heal(&self, offset: u64, page: &[u8], tree: Tree, checksum: u128) -> Tried {
        if let Some(tried) = self.tried.borrow().get(&(offset, checksum)) {
            return tried.clone();
        }
        let size = page.len() as u64 / PAGE;
        self.left.set(self.left.get().checked_sub(size * size)?);
        let mut healed = page.to_vec();
        let bit = heal_page(&mut healed, tree, checksum);
        let tried = bit.map(|bit| (healed, 8 * offset + bit as u64));
        self.tried.borrow_mut().insert((offset, checksum), tried.clone());
        tried
    }
}

/// Flips the bit with which a page fits its checksum, and returns its number; `None` if there is no such bit.
fn heal_page(page: &mut [u8], tree: Tree, checksum: u128) -> Option<usize> {
    // What is behind the content is not covered. A page that is not well-formed is so by a bit of its lists.
    let covered = Node::read(page, tree).map_or(page.len(), |node| node.length());
    (0..8 * covered).find(|bit| {
        page[bit / 8] ^= 1 << (bit % 8);
        let fits = Node::read(page, tree).is_ok_and(|node| node.checksum() == checksum);
        if !fits {
            page[bit / 8] ^= 1 << (bit % 8);
        }
        fits
    })
}

/// Flips back a flipped bit of each commit slot in the first page, and returns which bits of the file these are.
pub(super) fn heal_slots(first_page: &mut [u8; HEADER_BYTES]) -> Vec<u64> {
    [0, 1].into_iter().filter_map(|slot| heal_slot(first_page, slot)).map(|bit| bit as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf with one pair, and its checksum.
    fn leaf() -> (Vec<u8>, u128) {
        let mut page = vec![0; 4096];
        page[..12].copy_from_slice(&[1, 0, 1, 0, 15, 0, 0, 0, 20, 0, 0, 0]);
        page[12..20].copy_from_slice(b"keyvalue");
        let checksum = Node::read(&page, Tree::ROWS).unwrap().checksum();
        (page, checksum)
    }

    #[test]
    fn each_bit_is_found_and_two_are_not() {
        let (page, checksum) = leaf();
        for bit in 0..8 * 20 {
            let healing = Healing::new();
            let mut flipped = page.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The second byte says nothing, but the checksum covers it.
            let healed = healing.heal(8192, &flipped, Tree::ROWS, checksum);
            assert_eq!(healed, Some((page.clone(), 8 * 8192 + bit as u64)), "bit {bit}");
            flipped[13] ^= 0x80;
            if bit != 8 * 13 + 7 {
                assert_eq!(healing.heal(4096, &flipped, Tree::ROWS, checksum), None, "bit {bit}");
            }
        }
    }

    /// A hostile file costs no more time than so many pages do.
    #[test]
    fn pages_are_tried_until_there_were_too_many() {
        let (page, checksum) = leaf();
        let mut flipped = page.clone();
        flipped[14] ^= 1;
        let healing = Healing::new();
        for other in 1..TRIED_MAX {
            assert_eq!(healing.heal(PAGE * other, &[9; 4096], Tree::ROWS, checksum), None);
        }
        assert!(healing.heal(0, &flipped, Tree::ROWS, checksum).is_some());
        assert_eq!(healing.heal(PAGE * TRIED_MAX, &flipped, Tree::ROWS, checksum), None);
        assert!(healing.heal(0, &flipped, Tree::ROWS, checksum).is_some(), "what was found is known");
        // A large page takes longer for each of its bits, and has more of them.
        let healing = Healing::new();
        assert_eq!(healing.heal(PAGE, &[9; 7 * 4096], Tree::ROWS, checksum), None);
        assert!(healing.heal(0, &flipped, Tree::ROWS, checksum).is_some());
        assert_eq!(healing.heal(PAGE, &[9; 4 * 4096], Tree::ROWS, checksum + 1), None);
        assert_eq!(healing.left.get(), 64 - 49 - 1);
    }
}
