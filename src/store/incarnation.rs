//! How a store becomes another incarnation: after a restore, a repair, or where it was put in place of another.

use std::path::Path;

use crate::engine::{Draft, LoadedRow};
use crate::error::{Error, Result};
use crate::format::{Fixed, Row, Space, decode_fixed, encode_fixed, encode_restored, first_after_restore};
use crate::id::{Commit, random_bytes};
use crate::time::Timestamp;

/// The first commit of another incarnation that begins at this time; `seen` is the newest commit that is known.
pub(super) fn first_of_another_incarnation(seen: Commit, at: Timestamp) -> Result<Commit> {
    let [lot, ..]: [u8; 16] = random_bytes();
    first_after_restore(seen, at, lot)
}

/// What that commit makes fixed, and the rows that it writes; `last` is the newest commit that is there.
pub(super) fn another_incarnation(fixed: Fixed, last: Commit, first: Commit) -> (Fixed, [(Row, Vec<u8>); 2]) {
    let space = Space::of_store();
    let fixed = Fixed { incarnation: random_bytes(), ..fixed };
    let rows = [(space.fixed(), encode_fixed(&fixed)), (space.restored(first), encode_restored(last))];
    (fixed, rows)
}

/// Makes a store that is closed another incarnation, where it is.
pub(super) fn begin_anew_in_place(path: &Path, at: Timestamp) -> Result<()> {
    let draft = Draft::open(path)?;
    let (rows, row) = (draft.read()?, Space::of_store().fixed());
    let stored = rows.get(&[&row])?.pop().flatten();
    let stored = stored.ok_or_else(|| Error::NotAStore("it was never begun".into()))?;
    let (last, fixed) = (rows.commit(), decode_fixed(&row, &stored.bytes)?);
    let commit = first_of_another_incarnation(last, at)?;
    let (_, rows) = another_incarnation(fixed, last, commit);
    draft.write(commit, rows.iter().map(|(row, value)| LoadedRow { row, value: Some(value), commit }))
}
