//! Where a store lies in etcd: the keys of its rows, of its log, and of what the engine keeps for itself.
//!
//! ```text
//! prefix 00 01                      the format: "keystead etcd" and its version (1 byte)
//! prefix 00 02 address              a row, sealed
//! prefix 00 03 chapter id           an entry of the log, sealed: that of the commit with its mod_revision
//! prefix 00 04 chapter              where a chapter of the log begins: at its create_revision
//! prefix 00 05                      up to which commit the log was trimmed, sealed (8 bytes, highest first)
//! prefix 00 06 engine slot          the newest attempt of a slot, as long as its process lives
//! prefix 00 07 engine               the newest heartbeat of a process, as long as it lives
//! ```
//!
//! A chapter is 8 bytes, the highest first, an id and an engine 16, a slot 4. The number of a commit is
//! the revision that it made.

use crate::format::Row;

/// What the key of the format holds: a text, and the version of what is described above.
pub(super) const MAGIC: &[u8] = b"keystead etcd";
pub(super) const VERSION: u8 = 1;

const FORMAT: u8 = 1;
const ROW: u8 = 2;
const ENTRY: u8 = 3;
const CHAPTER: u8 = 4;
const TRIMMED: u8 = 5;
const SLOT: u8 = 6;
const HEARTBEAT: u8 = 7;

/// A key in etcd.
pub(super) type Key = Vec<u8>;

/// The keys of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// With the zero byte behind it.
    prefix: Vec<u8>,
}

/// What a key is of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Of<'a> {
    Row(&'a [u8]),
    Entry,
    Chapter(u64),
    Trimmed,
    /// The engine's own, which is no commit.
    Own,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: [prefix.as_bytes(), &[0]].concat() }
    }

    fn key(&self, kind: u8, rest: &[&[u8]]) -> Key {
        let mut key =
            Key::with_capacity(self.prefix.len() + 1 + rest.iter().map(|part| part.len()).sum::<usize>());
        key.extend(&self.prefix);
        key.push(kind);
        rest.iter().for_each(|part| key.extend(*part));
        key
    }

    /// All keys of the store: from the first to the second, without that.
    pub(super) fn all(&self) -> (Key, Key) {
        let mut end = self.prefix.clone();
        end.pop();
        end.push(1);
        (self.prefix.clone(), end)
    }

    pub(super) fn format(&self) -> Key {
        self.key(FORMAT, &[])
    }

    pub(super) fn row(&self, address: &[u8]) -> Key {
        self.key(ROW, &[address])
    }

    /// The first key behind those of all rows.
    pub(super) fn after_rows(&self) -> Key {
        self.key(ROW + 1, &[])
    }

    /// The address of the row with this key.
    pub(super) fn address(&self, key: &[u8]) -> Row {
        key.get(self.prefix.len() + 1..).unwrap_or_default().to_vec()
    }

    pub(super) fn entry(&self, chapter: u64, id: &[u8; 16]) -> Key {
        self.key(ENTRY, &[&chapter.to_be_bytes(), id])
    }

    /// The first key that an entry of this chapter may have.
    pub(super) fn entries_of(&self, chapter: u64) -> Key {
        self.key(ENTRY, &[&chapter.to_be_bytes()])
    }

    /// The first key behind those of all entries.
    pub(super) fn after_entries(&self) -> Key {
        self.key(ENTRY + 1, &[])
    }

    pub(super) fn chapter(&self, number: u64) -> Key {
        self.key(CHAPTER, &[&number.to_be_bytes()])
    }

    /// The first key behind those of all chapters.
    pub(super) fn after_chapters(&self) -> Key {
        self.key(CHAPTER + 1, &[])
    }

    pub(super) fn trimmed(&self) -> Key {
        self.key(TRIMMED, &[])
    }

    pub(super) fn slot(&self, engine: &[u8; 16], slot: u32) -> Key {
        self.key(SLOT, &[engine, &slot.to_be_bytes()])
    }

    pub(super) fn heartbeat(&self, engine: &[u8; 16]) -> Key {
        self.key(HEARTBEAT, &[engine])
    }

    pub(super) fn read<'a>(&self, key: &'a [u8]) -> Of<'a> {
        match key.get(self.prefix.len()..).and_then(<[u8]>::split_first) {
            Some((&ROW, address)) => Of::Row(address),
            Some((&ENTRY, _)) => Of::Entry,
            Some((&TRIMMED, _)) => Of::Trimmed,
            Some((&CHAPTER, number)) => {
                number.try_into().map_or(Of::Own, |number| Of::Chapter(u64::from_be_bytes(number)))
            }
            _ => Of::Own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_places() {
        let layout = Layout::new("kms");
        let key = |rest: &[u8]| [b"kms\0", rest].concat();
        assert_eq!(layout.format(), key(&[1]));
        assert_eq!(layout.row(b"\x01row"), key(b"\x02\x01row"));
        assert_eq!(layout.entry(258, &[9; 16]), key(&[&[3, 0, 0, 0, 0, 0, 0, 1, 2][..], &[9; 16]].concat()));
        assert_eq!(layout.chapter(258), key(&[4, 0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(layout.trimmed(), key(&[5]));
        assert_eq!(layout.slot(&[8; 16], 3), key(&[&[6][..], &[8; 16], &[0, 0, 0, 3]].concat()));
        assert_eq!(layout.heartbeat(&[8; 16]), key(&[&[7][..], &[8; 16]].concat()));
        assert_eq!(layout.all(), (b"kms\0".to_vec(), b"kms\x01".to_vec()));
    }

    #[test]
    fn keys_are_read_as_they_were_made() {
        let layout = Layout::new("kms");
        assert_eq!(layout.read(&layout.row(b"\x01row")), Of::Row(b"\x01row"));
        assert_eq!(layout.address(&layout.row(b"\x01row")), b"\x01row");
        assert_eq!(layout.read(&layout.entry(7, &[1; 16])), Of::Entry);
        assert_eq!(layout.read(&layout.chapter(7)), Of::Chapter(7));
        assert_eq!(layout.read(&layout.trimmed()), Of::Trimmed);
        for own in [
            layout.format(),
            layout.slot(&[1; 16], 0),
            layout.heartbeat(&[1; 16]),
            layout.prefix.clone(),
            Key::new(),
        ] {
            assert_eq!(layout.read(&own), Of::Own);
        }
    }

    #[test]
    fn stores_with_prefixes_that_begin_alike_are_apart() {
        let (short, long) = (Layout::new("kms"), Layout::new("kms/prod"));
        let (from, to) = short.all();
        assert!(!(from..to).contains(&long.row(b"x")));
    }
}
