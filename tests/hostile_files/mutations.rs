//! The kinds of damage, each made from a seed and a number: the same ones, the same damage to the same files.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pages::{Holder, PAGE, Pages, first_key};
use crate::random::Random;
use crate::stores::{Base, CHANGES, LOG, MOMENTS, TABLE};

/// Where the frames of a log begin, behind its header and its mark, and what they begin at multiples of.
const FRAMES: usize = 8192;
const SECTOR: usize = 512;

/// What is done to the files of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Some bits of bytes that are in use are flipped.
    Flips,
    /// Sectors, pages or more are zeros.
    Zeros,
    /// The file is shorter or longer.
    Lengths,
    /// Two pages changed their places.
    Exchanged,
    /// A page was written where another lies.
    Misdirected,
    /// Pages behind the header are those of an earlier moment.
    Stale,
    /// The header is that of an earlier moment, or is damaged.
    Headers,
    /// The log is gone.
    LogMissing,
    /// The log is that of an earlier moment, or of another store.
    LogEarlier,
    /// Some bits of the log are flipped, or parts of it are zeros.
    LogDamaged,
    /// The log is shorter or longer.
    LogLengths,
    /// A page number has an order of 16 to 20, and no checksum fits.
    Orders,
    /// The same, and all checksums fit.
    OrdersThatFit,
    /// Some bits in pages are flipped, and all checksums fit.
    FlipsThatFit,
    /// A full backup is damaged.
    Backups,
    /// A backup of changes is damaged.
    ChangeFiles,
}

impl Kind {
    pub(crate) fn bases(self) -> &'static [Base] {
        match self {
            Self::Flips | Self::Zeros | Self::Lengths | Self::Exchanged | Self::Misdirected | Self::Stale => {
                &[Base::Closed, Base::Killed, Base::Logged]
            }
            Self::Headers => &[Base::Closed, Base::Killed, Base::Logged, Base::Small],
            Self::LogMissing | Self::LogEarlier | Self::LogDamaged | Self::LogLengths => &[Base::Logged],
            Self::Orders | Self::OrdersThatFit => &[Base::Small, Base::Closed, Base::Logged],
            Self::FlipsThatFit => &[Base::Small, Base::Closed, Base::Logged],
            Self::Backups | Self::ChangeFiles => &[Base::Backup],
        }
    }

    /// Of so many calls at least one meets the damage; much of a file is of no use to any of them.
    pub(crate) fn detected_one_in(self) -> usize {
        match self {
            Self::Lengths | Self::LogLengths | Self::ChangeFiles | Self::LogMissing => 2,
            // Who only reads a store does not meet what is damaged among redb's lists of free pages.
            Self::Exchanged | Self::Misdirected | Self::Stale => 3,
            Self::Flips | Self::Headers | Self::LogEarlier | Self::LogDamaged | Self::FlipsThatFit => 4,
            Self::Backups | Self::Orders | Self::OrdersThatFit => 4,
            Self::Zeros => 6,
        }
    }

    /// Whoever makes all checksums fit can also hide what there is.
    pub(crate) fn is_hostile(self) -> bool {
        matches!(self, Self::OrdersThatFit | Self::FlipsThatFit)
    }

    pub(crate) fn is_of_log(self) -> bool {
        matches!(self, Self::LogMissing | Self::LogEarlier | Self::LogDamaged | Self::LogLengths)
    }
}

/// One damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

/// What was done to which store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Damage {
    pub(crate) base: Base,
    pub(crate) what: String,
    /// Whether the first page, which says which commit is the newest, is another now.
    pub(crate) header: bool,
    /// The length of all files together.
    pub(crate) bytes: u64,
}

/// The bytes of the files of a store.
struct Bytes {
    table: Vec<u8>,
    log: Option<Vec<u8>>,
    changes: Option<Vec<u8>>,
}

impl Case {
    pub(crate) fn random(self, seed: u64) -> Random {
        Random::new(Random::new(seed ^ (self.kind as u64) << 48 ^ self.number << 8).next())
    }

    /// Makes the damaged files in an empty folder.
    pub(crate) fn make(self, seed: u64, stores: &Path, folder: &Path) -> Damage {
        let mut random = self.random(seed);
        // In turn, so that a few cases have all.
        let bases = self.kind.bases();
        let base = bases[usize::try_from(self.number).unwrap() % bases.len()];
        let from = base.folder(stores);
        let read = |name: &str| fs::read(from.join(name)).ok();
        let mut bytes = Bytes { table: read(TABLE).unwrap(), log: read(LOG), changes: read(CHANGES) };
        let header = bytes.table[..PAGE].to_vec();
        let what = bytes.damage(self, base, stores, &mut random);
        let header = bytes.table.get(..PAGE).is_none_or(|now| *now != header);
        let mut length = 0;
        for (name, bytes) in [(TABLE, Some(bytes.table)), (LOG, bytes.log), (CHANGES, bytes.changes)] {
            if let Some(bytes) = bytes {
                length += bytes.len() as u64;
                write_sparsely(&folder.join(name), &bytes);
            }
        }
        Damage { base, what, header, bytes: length }
    }
}

/// A log is zeros for the most part: these are not written.
fn write_sparsely(path: &Path, bytes: &[u8]) {
    let mut file = fs::File::create(path).unwrap();
    for (number, block) in
        bytes.chunks(1 << 16).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0))
    {
        file.seek(SeekFrom::Start((number as u64) << 16)).unwrap();
        file.write_all(block).unwrap();
    }
    file.set_len(bytes.len() as u64).unwrap();
}

impl Bytes {
    fn damage(&mut self, case: Case, base: Base, stores: &Path, random: &mut Random) -> String {
        let Case { kind, number } = case;
        match kind {
            Kind::Flips => flip_used(&mut self.table, random),
            Kind::Zeros => zero(&mut self.table, random),
            Kind::Lengths => resize(&mut self.table, random),
            Kind::Exchanged => exchange(&mut self.table, random),
            Kind::Misdirected => misdirect(&mut self.table, random),
            Kind::Stale => put_back(&mut self.table, base, stores, random),
            Kind::Headers => damage_header(&mut self.table, base, stores, random),
            Kind::Orders | Kind::OrdersThatFit => {
                // In turn, as the stores are.
                let holder = HOLDERS[usize::try_from(number).unwrap() % HOLDERS.len()];
                set_order(&mut self.table, holder, kind == Kind::OrdersThatFit, random)
            }
            Kind::FlipsThatFit => flip_and_mend(&mut self.table, random),
            Kind::Backups => match random.below(6) {
                0 => resize(&mut self.table, random),
                1 => zero(&mut self.table, random),
                2 => exchange(&mut self.table, random),
                3 => set_order(&mut self.table, *random.pick(&HOLDERS), true, random),
                _ => flip_used(&mut self.table, random),
            },
            Kind::ChangeFiles => {
                let changes = self.changes.as_mut().unwrap();
                match random.below(4) {
                    0 => resize(changes, random),
                    1 => zero(changes, random),
                    _ => flip(changes, 0, random),
                }
            }
            Kind::LogMissing => {
                // Beside the table as it was last, or at an earlier moment.
                self.log = None;
                if random.one_in(2) {
                    let moment = random.index(MOMENTS);
                    self.table = fs::read(base.moment(stores, moment).join(TABLE)).unwrap();
                    return format!("no log, the table of moment {moment}");
                }
                "no log".to_owned()
            }
            Kind::LogEarlier => {
                let moment = random.index(MOMENTS);
                self.log = Some(fs::read(base.moment(stores, moment).join(LOG)).unwrap());
                format!("the log of moment {moment}")
            }
            Kind::LogDamaged => damage_log(self.log.as_mut().unwrap(), random),
            Kind::LogLengths => resize(self.log.as_mut().unwrap(), random),
        }
    }
}

fn flip(bytes: &mut [u8], from: usize, random: &mut Random) -> String {
    let mut what = "flipped".to_owned();
    let count = 1 + if random.one_in(2) { 0 } else { random.below(7) };
    for _ in 0..count {
        let (place, bit) = (from + random.index(bytes.len() - from), random.below(8));
        bytes[place] ^= 1 << bit;
        what += &format!(" {place}.{bit}");
    }
    what
}

/// One to eight bits: half of the time anywhere, otherwise within one page that is in use.
fn flip_used(bytes: &mut [u8], random: &mut Random) -> String {
    if random.one_in(3) {
        return flip(bytes, 0, random);
    }
    let page = any_used(bytes, random);
    let mut what = "flipped".to_owned();
    for _ in 0..1 + random.below(4) {
        // Rather where the lists of a page are than in its values.
        let place = page.0 + if random.one_in(2) { random.index(128) } else { random.index(page.1) };
        let bit = random.below(8);
        bytes[place] ^= 1 << bit;
        what += &format!(" {place}.{bit}");
    }
    what
}

fn any_used(bytes: &[u8], random: &mut Random) -> (usize, usize) {
    *random.pick(&Pages::of(bytes).used())
}

fn any_page(bytes: &[u8], random: &mut Random) -> usize {
    let page = if random.one_in(4) {
        random.index(bytes.len() / PAGE - 1) * PAGE + PAGE
    } else {
        any_used(bytes, random).0
    };
    page.min(bytes.len() - PAGE)
}

fn zero(bytes: &mut [u8], random: &mut Random) -> String {
    let unit = *random.pick(&[512, PAGE, 4 * PAGE]);
    let from = random.index(bytes.len()) / unit * unit;
    let to = (from + unit * (1 + random.index(3))).min(bytes.len());
    bytes[from..to].fill(0);
    format!("zeros from {from} to {to}")
}

fn resize(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let (length, pages) = (bytes.len(), bytes.len() / PAGE);
    let new = match random.below(6) {
        0 => random.index(length),
        1 => random.index(PAGE),
        2 => random.index(pages + 1) * PAGE,
        3 => length.saturating_sub(1 + random.index(PAGE)),
        4 => length + 1 + random.index(PAGE),
        _ => length + PAGE * (1 + random.index(64)),
    };
    let filled = random.one_in(2);
    bytes.resize(new, if filled { 0xff } else { 0 });
    format!("{new} bytes instead of {length}")
}

/// Two pages: any, or one that is in use and one that was the same part of the tree before, and is free now.
fn two_pages(bytes: &[u8], random: &mut Random) -> (usize, usize) {
    let any = (any_page(bytes, random), any_page(bytes, random));
    if random.one_in(2) {
        return any;
    }
    let used: Vec<_> = Pages::of(bytes).used().into_iter().map(|(start, _)| start).collect();
    let all = (PAGE..bytes.len()).step_by(PAGE).filter(|page| page + PAGE <= bytes.len());
    let keys: Vec<_> = all.filter_map(|page| Some((page, first_key(&bytes[page..page + PAGE])?))).collect();
    let mut twins = Vec::new();
    for (page, key) in keys.iter().filter(|(page, _)| used.contains(page)) {
        let before = keys.iter().filter(|(other, of)| of == key && !used.contains(other));
        twins.extend(before.map(|(other, _)| (*page, *other, key.is_empty())));
    }
    // The first page of rows says which commit is the newest, and whether there is a log.
    let first: Vec<_> = twins.iter().filter(|(.., is_first)| *is_first).collect();
    match (first.is_empty(), twins.is_empty()) {
        (_, true) => any,
        (false, _) if random.one_in(3) => (random.pick(&first).0, random.pick(&first).1),
        _ => {
            let (page, other, _) = random.pick(&twins);
            (*page, *other)
        }
    }
}

fn exchange(bytes: &mut [u8], random: &mut Random) -> String {
    let (one, mut other) = two_pages(bytes, random);
    while other == one {
        other = random.index(bytes.len() / PAGE - 1) * PAGE + PAGE;
    }
    let first = bytes[one..one + PAGE].to_vec();
    bytes.copy_within(other..other + PAGE, one);
    bytes[other..other + PAGE].copy_from_slice(&first);
    format!("the pages at {one} and {other} are exchanged")
}

fn misdirect(bytes: &mut [u8], random: &mut Random) -> String {
    let (to, from) = two_pages(bytes, random);
    bytes.copy_within(from..from + PAGE, to);
    format!("the page at {from} lies at {to} too")
}

/// Pages that were written since are as they were.
fn put_back(bytes: &mut [u8], base: Base, stores: &Path, random: &mut Random) -> String {
    let moment = random.index(MOMENTS);
    let earlier = fs::read(base.moment(stores, moment).join(TABLE)).unwrap();
    let used: Vec<_> = Pages::of(bytes).used().into_iter().map(|(start, _)| start).collect();
    let length = earlier.len().min(bytes.len());
    let differs =
        |page: &usize| *page + PAGE <= length && bytes[*page..page + PAGE] != earlier[*page..page + PAGE];
    let of_used: Vec<_> = used.into_iter().filter(differs).collect();
    let any: Vec<_> = (PAGE..length).step_by(PAGE).filter(differs).collect();
    // Most pages were something else before. Those that were the same part of the tree fit into it still.
    let is_same = |page: &&usize| {
        let [now, then] = [&bytes[**page..**page + PAGE], &earlier[**page..**page + PAGE]].map(first_key);
        now.is_some() && now == then
    };
    let same: Vec<_> = of_used.iter().filter(is_same).copied().collect();
    let from = match random.below(5) {
        0 => &any,
        1 | 2 if !same.is_empty() => &same,
        _ if of_used.is_empty() => &any,
        _ => &of_used,
    };
    let mut what = format!("of moment {moment} the pages at");
    let count = *random.pick(&[1, 1, 1, 2, 5]);
    for _ in 0..count {
        if from.is_empty() {
            break;
        }
        let page = *random.pick(from);
        bytes[page..page + PAGE].copy_from_slice(&earlier[page..page + PAGE]);
        what += &format!(" {page}");
    }
    what
}

fn damage_header(bytes: &mut [u8], base: Base, stores: &Path, random: &mut Random) -> String {
    match random.below(4) {
        0 => {
            let bits: Vec<_> = (0..8).filter(|_| random.one_in(3)).collect();
            bits.iter().for_each(|bit| bytes[9] ^= 1 << bit);
            format!("the god byte's bits {bits:?} are flipped")
        }
        1 => {
            let mut what = "flipped in the header".to_owned();
            for _ in 0..1 + random.below(3) {
                let (place, bit) = (random.index(320), random.below(8));
                bytes[place] ^= 1 << bit;
                what += &format!(" {place}.{bit}");
            }
            what
        }
        _ => {
            let moment = random.index(MOMENTS);
            let earlier = fs::read(base.moment(stores, moment).join(TABLE)).unwrap();
            bytes[..PAGE].copy_from_slice(&earlier[..PAGE]);
            format!("the header is that of moment {moment}")
        }
    }
}

/// Writes a page number whose order is 16 to 20 where there is another one.
/// What refers to a page.
const HOLDERS: [Holder; 4] = [Holder::Slot, Holder::Definition, Holder::Branch, Holder::List];

fn set_order(bytes: &mut [u8], holder: Holder, mend: bool, random: &mut Random) -> String {
    let pages = Pages::of(bytes);
    let of_holder: Vec<_> = pages.references.iter().filter(|reference| reference.holder == holder).collect();
    let reference =
        if of_holder.is_empty() { random.pick(&pages.references) } else { *random.pick(&of_holder) };
    let (at, order) = (reference.at, 16 + random.below(5));
    let mut number = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    number = number & (u64::MAX >> 5) | order << 59;
    if random.one_in(3) {
        // Of a region that is not there, too.
        number |= random.below(1 << 20) << 20;
    }
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    if mend {
        pages.mend(bytes, at);
    }
    format!("the page number at {at}, of a {:?}, is {number:#x}", reference.holder)
}

fn flip_and_mend(bytes: &mut [u8], random: &mut Random) -> String {
    let pages = Pages::of(bytes);
    let (start, length) = *random.pick(&pages.used());
    let mut what = "flipped, and mended".to_owned();
    for _ in 0..1 + random.below(3) {
        let place = start + if random.one_in(2) { random.index(64) } else { random.index(length) };
        let bit = random.below(8);
        bytes[place] ^= 1 << bit;
        what += &format!(" {place}.{bit}");
    }
    pages.mend(bytes, start);
    what
}

/// Where the newest frames of a log begin: each begins with the same mark, on a sector of its own, and has the number of its
/// use of the segment.
fn newest_frames(bytes: &[u8]) -> Vec<usize> {
    let mark = &bytes[FRAMES..FRAMES + 4];
    let number = |frame: usize| u64::from_le_bytes(bytes[frame + 8..frame + 16].try_into().unwrap());
    let frames = (FRAMES..bytes.len()).step_by(SECTOR).filter(|sector| bytes[*sector..].starts_with(mark));
    let newest = frames.clone().map(number).max().unwrap();
    let frames: Vec<_> = frames.filter(|frame| number(*frame) == newest).collect();
    // Older ones are in the table too.
    frames[frames.len().saturating_sub(10)..].to_vec()
}

fn damage_log(bytes: &mut [u8], random: &mut Random) -> String {
    let frames = newest_frames(bytes);
    let sector = match random.below(8) {
        0 => 0,
        1 => random.index(bytes.len() / SECTOR) * SECTOR,
        _ => *random.pick(&frames),
    };
    if random.one_in(4) {
        let to = (sector + SECTOR * (1 + random.index(6))).min(bytes.len());
        bytes[sector..to].fill(0);
        return format!("zeros in the log from {sector} to {to}");
    }
    let mut what = "flipped in the log".to_owned();
    for _ in 0..1 + random.below(3) {
        let within = if random.one_in(2) { 48 } else { SECTOR };
        let (place, bit) = (sector + random.index(within), random.below(8));
        bytes[place] ^= 1 << bit;
        what += &format!(" {place}.{bit}");
    }
    what
}
