//! What the pages of a table file hold, as rows with their addresses.

use std::collections::BTreeMap;

use super::super::log_state::LogState;
use super::super::spaces::{Beginning, LOG, NEWEST, NUMBERS, Start, read_count, read_number};
use super::{DamagedPage, Salvage, Salvaging};
use crate::engine::seal::unseal;
use crate::error::{Error, Result};
use crate::format::{COMMIT_MAX, Row, Stored, Value, corrupted};
use crate::id::Commit;

/// One thing that was found in a table file.
pub(crate) enum Salvaged {
    /// The newest commit of the file, and what it says of its write-ahead log.
    Newest(Result<(Commit, LogState)>),
    /// A row, in a page that fits its checksum.
    Row(Row, Result<Stored>),
    /// An entry of the changelog, likewise.
    Entry(Commit, Result<Vec<u8>>),
    /// A row of a scope whose name is lost, or at a place where none can be.
    Stray(Error),
    /// A page that does not fit its checksum, and between which addresses it lies.
    Damaged(DamagedPage, String),
    /// A row with a checksum of its own that fits, in such a page: what it was at some moment.
    Doubtful(Row, Stored),
}

/// Where rows lie, as far as that is known.
#[derive(Default)]
pub(crate) struct Places {
    spaces: BTreeMap<u64, Row>,
    /// How many spaces have a number.
    count: Option<u64>,
}

struct Reading<'a> {
    places: Places,
    found: &'a mut dyn FnMut(Salvaged) -> Result<()>,
}

impl Salvage<'_> {
    /// Tells of all that is in the pages, in the order in which it lies there: a space's number comes before its
    /// rows, and the changelog last.
    pub(crate) fn each(&self, found: &mut dyn FnMut(Salvaged) -> Result<()>) -> Result<Places> {
        let mut reading = Reading { places: Places::default(), found };
        self.read(&mut reading)?;
        Ok(reading.places)
    }

    /// Tells of the rows and entries of commits behind this one that are in any page of the file, though nothing that is
    /// read leads to it. Each fits a checksum of its own, so it was written so; whether it was committed nothing tells.
    pub(crate) fn each_later(
        &self,
        places: &Places,
        newest: Commit,
        found: &mut dyn FnMut(Row, Stored) -> Result<()>,
    ) -> Result<()> {
        self.each_page_of_rows(&mut |_, node| {
            for (place, value) in node.pairs().filter(|(place, _)| !matches!(place, [] | [NUMBERS, ..])) {
                let Ok(row) = places.row_at(place) else { continue };
                let Ok(value) = unseal(&row, value) else { continue };
                if value.commit > newest {
                    found(row, value.to_stored())?;
                }
            }
            Ok(())
        })
    }
}

impl Places {
    /// Where a row lies; `None` if the number of its space is not known.
    pub(crate) fn of(&self, row: &[u8]) -> Option<Row> {
        let (beginning, rest) = Beginning::split(row);
        let start = match beginning {
            Beginning::Engine => Start::ENGINE,
            Beginning::NoSpace => Start::NO_SPACE,
            Beginning::Space(space) => {
                let (number, _) = self.spaces.iter().find(|(_, known)| **known == *space)?;
                Start::of_number(*number)
            }
        };
        Some(start.with(rest, <[u8]>::to_vec))
    }

    /// Whether each number is that of one space.
    ///
    /// # Errors
    ///
    /// `Corrupted`: there may be rows whose addresses nothing tells.
    pub(crate) fn audit(&self) -> Result<()> {
        let place = [NUMBERS];
        let count =
            self.count.ok_or_else(|| corrupted(&place, "how many spaces have a number is missing"))?;
        match self.spaces.keys().copied().eq(0..count) {
            true => Ok(()),
            false => Err(corrupted(&place, "not each number is that of one space")),
        }
    }

    /// Keeps what a row says of numbers.
    fn note(&mut self, place: &[u8], value: &[u8]) -> Result<()> {
        let bytes = unseal(place, value)?.bytes;
        if place.len() == 1 {
            self.count = Some(read_count(bytes)?);
        } else {
            let (_, number) = read_number(place, bytes)?;
            self.spaces.insert(number, place[1..].to_vec());
        }
        Ok(())
    }

    /// The address of what lies at a place.
    fn row_at(&self, place: &[u8]) -> Result<Row> {
        if place.is_empty() || place[0] == LOG {
            return Ok(place.to_vec());
        }
        if let Some(rest) = place.strip_prefix(&Start::NO_SPACE[..]) {
            return match Beginning::split(rest).0 {
                Beginning::NoSpace => Ok(rest.to_vec()),
                _ => Err(corrupted(place, "a row that has a space lies among those that have none")),
            };
        }
        let (start, number) =
            Start::number_in(place).ok_or_else(|| corrupted(place, "it is no place of a row"))?;
        let rest =
            place.strip_prefix(&start[..]).ok_or_else(|| corrupted(place, "it is no place of a row"))?;
        let space = self.spaces.get(&number);
        let space = space.ok_or_else(|| {
            corrupted(&start, "rows are hidden: nothing tells of which scope or domain they are")
        })?;
        Ok([&space[..], rest].concat())
    }

    /// As much of an address as a place tells.
    fn show(&self, place: &[u8]) -> String {
        match self.row_at(place) {
            Ok(row) => crate::format::show(&row),
            Err(_) => format!("place {}", place.escape_ascii()),
        }
    }
}

/// The commit whose entry of the changelog has this address.
fn commit_at(row: &[u8]) -> Result<Commit> {
    let number = row.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
    number.map(Commit::new).ok_or_else(|| corrupted(row, "it is no place in the log"))
}

impl Salvaging for Reading<'_> {
    fn row(&mut self, place: &[u8], value: &[u8]) -> Result<()> {
        if place == NEWEST {
            let newest = unseal(NEWEST, value)
                .and_then(|Value { bytes, commit }| Ok((commit, LogState::decode(bytes)?)));
            return (self.found)(Salvaged::Newest(newest));
        }
        if place[0] == NUMBERS {
            return match self.places.note(place, value) {
                Err(error) => (self.found)(Salvaged::Stray(error)),
                Ok(()) => Ok(()),
            };
        }
        let row = match self.places.row_at(place) {
            Ok(row) => row,
            Err(error) => return (self.found)(Salvaged::Stray(error)),
        };
        let stored = unseal(&row, value).map(Value::to_stored);
        if row.first() != Some(&LOG) {
            return (self.found)(Salvaged::Row(row, stored));
        }
        match commit_at(&row) {
            Err(error) => (self.found)(Salvaged::Stray(error)),
            Ok(commit) if commit > COMMIT_MAX => {
                (self.found)(Salvaged::Entry(commit, Err(corrupted(&row, "no commit has such a number"))))
            }
            Ok(commit) => (self.found)(Salvaged::Entry(commit, stored.map(|stored| stored.bytes))),
        }
    }

    fn damaged(&mut self, page: DamagedPage) -> Result<()> {
        let between = page.places.as_ref().map(|(from, to)| match to {
            Some(to) => format!("behind {:?} up to {:?}", self.places.show(from), self.places.show(to)),
            None if from.is_empty() => "anywhere".to_owned(),
            None => format!("behind {:?}", self.places.show(from)),
        });
        (self.found)(Salvaged::Damaged(page, between.unwrap_or_default()))
    }

    fn doubtful(&mut self, place: &[u8], value: &[u8]) -> Result<()> {
        if place == NEWEST {
            return Ok(());
        }
        if place[0] == NUMBERS {
            // A number is never given again, so it holds whenever this was written. Their count is not believed.
            if place.len() > 1 {
                // What is damaged itself tells nothing.
                drop(self.places.note(place, value));
            }
            return Ok(());
        }
        let Ok(row) = self.places.row_at(place) else { return Ok(()) };
        match unseal(&row, value) {
            Ok(value) => (self.found)(Salvaged::Doubtful(row, value.to_stored())),
            Err(_) => Ok(()),
        }
    }
}
