//! [`PageFile`]: redb's file, with each page compared with its checksum when it is read.
//!
//! redb keeps trees of pages. Each page that names another holds its checksum, up to the two commit slots in the
//! first page, so a page is what it should be if and only if it fits what the page above says of it: a flipped
//! byte, a page of an earlier moment (a write that was lost) and a page in the wrong place do not. redb itself
//! compares checksums only when it recovers a file or is asked to check the whole of it, which it refuses while
//! anybody reads. What it believes otherwise may be a former state, end in a panic, or in one within a panic,
//! which ends the process. So this lies between redb and the file:
//!
//! - Each page that is read says which checksums those beneath it have; each that is written by this process
//!   is known by a hash. A page that does not fit is noted, and redb gets one in its place that it refuses with
//!   an error (`write_impossible`).
//! - No number of a page reaches redb that lies outside of the file: redb asks for the memory of a page before it
//!   reads it, up to 4 GiB.
//!
//! redb's lock calls go through here too; `locks` waits for those that others hold.
//!
//! `walk` reads all pages that one commit names, past redb and its cache.

mod checked;
#[cfg(test)]
mod first_page_tests;
pub(super) mod header;
pub(super) mod locks;
pub(super) mod node;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use foldhash::fast::RandomState;
use twox_hash::XxHash3_64;

use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::lock_wait::{self, Wanted};
use crate::engine::{PageRound, PageState, PageStats};
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::telemetry;

pub(super) use checked::Checked;
use header::{Header, Layout};
use locks::Locks;
use node::{Node, write_impossible};

pub(super) const PAGE: u64 = 4096;

/// What redb uses of the first page, as it is in the file.
pub(crate) type FirstPage = [u8; header::HEADER_BYTES];

/// The bytes that redb locks, far behind all that is written: by the one process that writes, and by the same when it has
/// recovered the file.
pub(crate) const WRITER_BYTE: u64 = (1 << 62) + 1;
const CONSISTENT_BYTE: u64 = (1 << 62) + 4;

/// How many locks what is known of pages is spread over.
const SHARDS: usize = 16;
/// How many damaged pages are reported by an event each; all are counted.
const REPORTED_MAX: usize = 1000;

/// What kind of tree a page belongs to: how its entries lie in it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    /// Names of tables, and their roots.
    Definitions,
    /// The rows of a table, whose keys and values may have a fixed width.
    Table { key: Option<u32>, value: Option<u32>, freed: bool },
}

/// What a page says of one beneath it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    offset: u64,
    order: u8,
    checksum: u128,
    tree: Tree,
    /// How many entries its tree has, if it is the root of a table.
    rows: Option<u64>,
}

/// What is known of a page before it is read: 64 bits of its checksum, or a hash of what was written.
#[derive(Debug, Clone, Copy)]
struct Expected {
    checksum: [u32; 2],
    order: u8,
    /// Which of the trees that were met, or that this process wrote it.
    tree: u8,
    /// Whether it was read and found right once: then it is known what it names.
    seen: bool,
}

/// In the place of a tree.
const WRITTEN: u8 = u8::MAX;

/// redb's file, through which redb reads and writes.
pub(super) struct PageFile {
    file: Box<dyn StorageBackend>,
    pub(super) locks: Locks,
    length: AtomicU64,
    /// What the first page said when it was read first: whether the file was not closed, and whether a crash may
    /// have cut its newest commit off.
    found: OnceLock<(bool, bool)>,
    layout: OnceLock<Layout>,
    own: Mutex<OwnHeaders>,
    /// The newest commit that was announced and that the first page names by now.
    shown: AtomicU64,
    trees: RwLock<Vec<Tree>>,
    expected: [RwLock<HashMap<u32, Expected, RandomState>>; SHARDS],
    damage: Damage,
    is_open: AtomicBool,
    /// The first read that failed, unless the file was too short for it.
    failure: OnceLock<Box<str>>,
    /// Whether any read failed, for whatever reason: after it redb reads no more.
    is_stopped: AtomicBool,
    /// Whether this process only reads, and reads also what nobody closed.
    is_followed: bool,
    /// Checks of all pages that came to their end, and the bytes of all that were made.
    checks: AtomicU64,
    checked_bytes: AtomicU64,
}

/// The first page as this process wrote it. A commit of one phase writes it and its pages in any order, so that
/// before it is synced it names pages that are not in the file yet.
#[derive(Default)]
struct OwnHeaders {
    written: Option<Header>,
    synced: Option<Header>,
    /// What the file has to have there.
    bytes: Vec<u8>,
    /// A commit that comes next, and which slot was the newest before it.
    announced: Option<(Commit, usize)>,
}

/// The pages that were found not to be what they should be.
#[derive(Default)]
struct Damage {
    pages: Mutex<BTreeMap<u64, &'static str>>,
    /// How many pages there are in it.
    count: AtomicU64,
}

impl Tree {
    /// The table of the store: keys and values of any length.
    pub(super) const ROWS: Self = Self::Table { key: None, value: None, freed: false };
}

impl Reference {
    fn bytes(&self) -> u64 {
        PAGE << self.order
    }
}

impl PageFile {
    pub(super) fn new(file: impl StorageBackend) -> io::Result<Arc<Self>> {
        Self::with_locks(file, Locks::default())
    }

    pub(super) fn with_locks(file: impl StorageBackend, locks: Locks) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self::of(file, locks)?))
    }

    /// A file that this process only reads.
    pub(super) fn to_be_followed(file: impl StorageBackend, locks: Locks) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { is_followed: true, ..Self::of(file, locks)? }))
    }

    fn of(file: impl StorageBackend, locks: Locks) -> io::Result<Self> {
        let length = AtomicU64::new(file.len()?);
        Ok(Self {
            file: Box::new(file),
            locks,
            length,
            found: OnceLock::new(),
            layout: OnceLock::new(),
            own: Mutex::default(),
            shown: AtomicU64::default(),
            trees: RwLock::default(),
            expected: Default::default(),
            damage: Damage::default(),
            is_open: AtomicBool::new(false),
            failure: OnceLock::new(),
            is_stopped: AtomicBool::new(false),
            is_followed: false,
            checks: AtomicU64::new(0),
            checked_bytes: AtomicU64::new(0),
        })
    }

    /// Why redb can't read the file any more, unless that is because of what the file has.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(AsRef::as_ref)
    }

    /// Whether a read failed, so that redb reads no more.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn note_failure(&self, error: &io::Error) {
        self.is_stopped.store(true, Ordering::Release);
        if error.kind() != io::ErrorKind::UnexpectedEof {
            self.failure.get_or_init(|| error.to_string().into());
        }
    }

    fn read_checked(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        if offset < PAGE {
            if offset == 0 {
                self.show_flushed(out)?;
            }
            self.see_header(out)?;
        } else if let Err((what, tree)) = self.compare(offset, out) {
            self.note_damage(offset, what);
            write_impossible(out, tree);
        }
        Ok(())
    }

    pub(super) fn first_page(&self) -> io::Result<FirstPage> {
        let mut bytes = [0; header::HEADER_BYTES];
        self.file.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether a process has the file open to write.
    pub(super) fn has_writer(&self) -> io::Result<bool> {
        let byte = Bound::Included(WRITER_BYTE);
        match self.file.query_lock_range(byte, byte) {
            Ok(locked) => {
                if locked {
                    lock_wait::note_refused(Wanted::new((byte, byte), true));
                }
                Ok(locked)
            }
            Err(BackendError::Io(error)) => Err(error),
            Err(other) => Err(io::Error::other(other.to_string())),
        }
    }

    /// What redb is to be shown of the first page. While the newest commit is not said to be on the disk, redb shows the one
    /// before it to those who read. That is right beside a writer, who has not told anybody of it. But a writer says so
    /// in the file without a sync, so after a power cut it may be a commit that was acknowledged; then it is synced here,
    /// and shown. Its pages and its slot were on the disk before it was named the newest.
    fn show_flushed(&self, bytes: &mut [u8]) -> io::Result<()> {
        if !self.is_followed || !header::is_unflushed(bytes) || self.has_writer()? {
            return Ok(());
        }
        self.file.sync_data()?;
        let mut again = vec![0; bytes.len()];
        self.file.read(0, &mut again)?;
        // Unless a writer came meanwhile.
        if again == bytes && !self.has_writer()? {
            header::set_flushed(bytes);
        }
        Ok(())
    }

    pub(super) fn state(&self) -> PageState {
        let unclean = self.found.get().is_some_and(|(unclean, _)| *unclean);
        let count = |count: &AtomicU64| count.load(Ordering::Acquire);
        let stats = PageStats {
            damaged: count(&self.damage.count),
            checks: count(&self.checks),
            checked_bytes: count(&self.checked_bytes),
        };
        PageState { stats, locks: self.locks.stats(), unclean, bytes: count(&self.length) }
    }

    /// When redb has opened the file to write: if it went back from a commit that a crash cut off, that is no damage. Of
    /// what it opened it has compared everything then.
    pub(super) fn recovered(&self) {
        if self.found.get().is_some_and(|(_, cut_off)| *cut_off) {
            self.damage.pages().clear();
            self.damage.count.store(0, Ordering::Release);
        }
    }

    /// When the file is open: from now on what is damaged is reported when it is found, and not by the opening.
    pub(super) fn opened(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// # Errors
    ///
    /// `Corrupted` if a page was found damaged.
    pub(super) fn must_be_sound(&self) -> Result<()> {
        let count = self.state().stats.damaged;
        let pages = self.damage.pages();
        match pages.first_key_value() {
            Some((offset, what)) if count > 0 => Err(Error::Corrupted(
                format!(
                    "{count} pages of the table are damaged; the one at byte {offset} of the file: {what}"
                )
                .into(),
            )),
            _ => Ok(()),
        }
    }

    /// Compares pages of the newest commit with their checksums, past redb and its cache; see [`walk::walk`].
    pub(super) fn check(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<PageRound> {
        let round = walk::walk(self, after, bytes)?;
        self.checked_bytes.fetch_add(round.bytes, Ordering::AcqRel);
        self.checks.fetch_add(u64::from(round.next.is_none()), Ordering::AcqRel);
        Ok(round)
    }

    /// Compares all pages of a file that nobody has open to write.
    pub(super) fn check_closed(&self) -> Result<PageRound> {
        Ok(walk::walk_closed(self)?)
    }

    /// Notes that a page is damaged.
    fn note_damage(&self, offset: u64, what: &'static str) {
        let mut pages = self.damage.pages();
        if pages.contains_key(&offset) {
            return;
        }
        self.damage.count.fetch_add(1, Ordering::AcqRel);
        pages.insert(offset, what);
        let is_reported = pages.len() <= REPORTED_MAX;
        drop(pages);
        if is_reported && self.is_open.load(Ordering::Acquire) {
            telemetry::page_damaged(offset);
        }
    }

    /// How the pages lie in the file, which another process may have made longer.
    fn layout_now(&self, layout: Layout) -> Layout {
        // If its length can't be told, its pages can't be read either.
        let length = self.file.len().unwrap_or(layout.length);
        self.length.store(length, Ordering::Release);
        Layout { length, ..layout }
    }

    /// What the first page says; redb reads it, and asks for the pages that it names.
    fn see_header(&self, bytes: &mut [u8]) -> io::Result<()> {
        let length = self.file.len()?;
        let Some(header) = Header::read(bytes, length) else { return Ok(()) };
        self.length.store(length, Ordering::Release);
        self.found.get_or_init(|| (header.was_not_closed(), !header.two_phases));
        self.layout.get_or_init(|| header.layout);
        header.hide_impossible(bytes);
        // The newer last, in case that both name a page.
        for slot in header.newest_first().into_iter().rev().flatten() {
            slot.roots.into_iter().flatten().for_each(|root| self.expect(root));
        }
        Ok(())
    }

    /// Has [`shown`](Self::shown) tell when others can see this commit, the next one.
    pub(super) fn announce(&self, commit: Commit) -> io::Result<()> {
        let slot = header::newest_slot(&self.first_page()?);
        self.own().announced = slot.map(|slot| (commit, slot));
        Ok(())
    }

    pub(super) fn shown(&self) -> Commit {
        Commit::new(self.shown.load(Ordering::SeqCst))
    }

    fn own(&self) -> MutexGuard<'_, OwnHeaders> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first page as this process has written and synced it, if it has.
    fn own_header(&self) -> Option<Header> {
        self.own().synced
    }

    /// Whether the file has the first page that this process wrote last, if it has written one.
    fn has_own_header(&self) -> io::Result<bool> {
        // Held, so that none is written meanwhile.
        let own = self.own();
        let mut bytes = vec![0; own.bytes.len()];
        if !bytes.is_empty() {
            self.file.read(0, &mut bytes)?;
        }
        Ok(bytes == own.bytes)
    }

    fn write_header(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut own = self.own();
        if let Some((commit, before)) = own.announced
            && header::newest_slot(data).is_some_and(|slot| slot != before)
        {
            self.shown.store(commit.number(), Ordering::SeqCst);
            own.announced = None;
        }
        // If it can't be written, nobody knows what is there.
        own.bytes.clear();
        self.file.write(offset, data)?;
        if let Some(header) = Header::read(data, self.length.load(Ordering::Acquire)) {
            // That of a file which is made.
            self.layout.get_or_init(|| header.layout);
            own.written = Some(header);
            own.bytes.extend_from_slice(data);
        }
        Ok(())
    }

    fn shard(&self, offset: u64) -> (&RwLock<HashMap<u32, Expected, RandomState>>, u32) {
        // 20 bits of region and 20 of index come to no more than 16 TiB, which no store has.
        let number = u32::try_from(offset / PAGE).unwrap_or(u32::MAX);
        (&self.expected[number as usize % SHARDS], number)
    }

    fn expect(&self, page: Reference) {
        let Some(tree) = self.tree_number(page.tree) else { return };
        let (shard, number) = self.shard(page.offset);
        let expected = Expected { checksum: half(page.checksum), order: page.order, tree, seen: false };
        shard.write().unwrap_or_else(PoisonError::into_inner).insert(number, expected);
    }

    /// A store has a handful of trees: of more, which only a hostile file has, no page is believed.
    fn tree_number(&self, tree: Tree) -> Option<u8> {
        let find = |trees: &[Tree]| trees.iter().position(|known| *known == tree);
        let known = find(&self.trees.read().unwrap_or_else(PoisonError::into_inner));
        let number = known.or_else(|| {
            let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
            find(&trees).or_else(|| {
                let next = trees.len();
                (next < usize::from(WRITTEN)).then(|| {
                    trees.push(tree);
                    next
                })
            })
        });
        number.and_then(|number| u8::try_from(number).ok())
    }

    /// Compares a page that was read with what is known of it.
    fn compare(&self, offset: u64, page: &[u8]) -> Result<(), (&'static str, Tree)> {
        let (shard, number) = self.shard(offset);
        let expected = shard.read().unwrap_or_else(PoisonError::into_inner).get(&number).copied();
        let unknown = Tree::Definitions;
        let expected = expected.ok_or(("no page names it", unknown))?;
        if expected.tree == WRITTEN {
            let fits = (page.len() as u64 == PAGE << expected.order) && expected.checksum == hash(page);
            return if fits { Ok(()) } else { Err(("it is not what was written", unknown)) };
        }
        let tree = self.trees.read().unwrap_or_else(PoisonError::into_inner)[usize::from(expected.tree)];
        let (Some(layout), true) = (self.layout.get(), page.len() as u64 == PAGE << expected.order) else {
            return Err(("it is named with another length", tree));
        };
        if expected.seen {
            let fits = Node::checksum_again(page, tree).map(half) == Some(expected.checksum);
            return if fits { Ok(()) } else { Err(("it does not fit its checksum", tree)) };
        }
        let node = Node::read(page, tree).map_err(|what| (what, tree))?;
        if half(node.checksum()) != expected.checksum {
            return Err(("it does not fit its checksum", tree));
        }
        let mut layout = Layout { length: self.length.load(Ordering::Acquire), ..*layout };
        if !node.names_only_pages(layout) {
            layout = self.layout_now(layout);
            if !node.names_only_pages(layout) {
                return Err(("it names a page or a table that can't be", tree));
            }
        }
        node.children(layout).for_each(|child| self.expect(child));
        if let Some(known) = shard.write().unwrap_or_else(PoisonError::into_inner).get_mut(&number) {
            // Unless it was written meanwhile.
            known.seen |= known.tree == expected.tree && known.checksum == expected.checksum;
        }
        Ok(())
    }
}

/// The half of a checksum that is kept.
#[expect(clippy::cast_possible_truncation, reason = "64 bits are enough for what was not made to collide")]
fn half(checksum: u128) -> [u32; 2] {
    [checksum as u32, (checksum >> 32) as u32]
}

fn hash(page: &[u8]) -> [u32; 2] {
    half(XxHash3_64::oneshot(page).into())
}

impl Damage {
    fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, &'static str>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageFile").field("file", &self.file).finish_non_exhaustive()
    }
}
