//! Requests that may be repeated: what came of one is a row of the commit that it made.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Rows, Transaction};
use crate::error::{Error, Result};
use crate::format::{OUTCOME_MAX, Outcome, decode_outcome, encode_nothing, encode_outcome, is_stand_in};
use crate::id::{Commit, RequestId};
use crate::time::Timestamp;

/// What came of a request before.
pub(crate) struct Replay<T> {
    pub(crate) value: T,
    pub(crate) commit: Commit,
    pub(crate) changed: bool,
}

impl Transaction<'_> {
    /// What came of this request, if it was made before; `RequestIdReused` if another one was.
    pub(crate) fn replay<T: DeserializeOwned>(
        &self,
        request_id: &RequestId,
        digest: &[u8; 32],
    ) -> Result<Option<Replay<T>>> {
        let row = self.place.space.outcome(request_id);
        let found = self.read(&row, |stored| Ok((decode_outcome(&row, stored.bytes)?, stored.commit)))?;
        let Some((outcome, commit)) = found else { return Ok(None) };
        if outcome.digest != *digest {
            return Err(Error::RequestIdReused(request_id.clone()));
        }
        let value = read(&outcome.value_at(commit))?;
        Ok(Some(Replay { value, commit, changed: outcome.changed }))
    }

    /// Keeps what came of this request, to be committed with it. Returns the value as a repeat will find
    /// it, and whether the request changed anything.
    pub(crate) fn keep_outcome<T: Serialize + DeserializeOwned>(
        &mut self,
        request_id: &RequestId,
        digest: [u8; 32],
        value: &T,
    ) -> Result<(T, bool)> {
        let value =
            serde_json::to_vec(value).map_err(|error| invalid::<T>("can't be written as JSON", &error))?;
        if value.len() > OUTCOME_MAX {
            let what = "bytes in the value of a repeatable request";
            return Err(Error::TransactionTooLarge { what, max: OUTCOME_MAX });
        }
        let as_kept = read(&value)?;
        let changed = !self.staging.is_empty();
        let next = Some(self.staging.next_commit()).filter(|next| is_stand_in(*next));
        let stand_in = next.map(Commit::number);
        let outcome = Outcome { digest, value, changed, time: self.now.as_millis(), stand_in };
        self.put(self.place.space.outcome(request_id), encode_outcome(&outcome))?;
        self.put(self.place.space.outcome_time(self.now, request_id), encode_nothing())?;
        Ok((as_kept, changed))
    }

    /// Forgets what came of a request at this time. If the id was used anew since, that stays.
    pub(crate) fn forget_outcome(&mut self, request_id: &RequestId, time: Timestamp) -> Result<bool> {
        let row = self.place.space.outcome(request_id);
        let found = self.read(&row, |stored| decode_outcome(&row, stored.bytes))?;
        // The id may have been used anew since.
        if found.is_none_or(|outcome| outcome.time != time.as_millis()) {
            return Ok(false);
        }
        self.delete(self.place.space.outcome_time(time, request_id))?;
        self.delete(row)?;
        Ok(true)
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| invalid::<T>("can't be read from its JSON", &error))
}

/// Says of which type and where, and never quotes the value, which may be a secret: the messages of data errors
/// may, those of all others are fixed.
fn invalid<T>(what: &str, error: &serde_json::Error) -> Error {
    let why = match (error.is_data(), error.column()) {
        (false, _) => error.to_string(),
        (true, 0) => "its type refuses that".to_owned(),
        (true, column) => format!("it is of another type, at line {} column {column}", error.line()),
    };
    Error::InvalidOutcome(format!("{} {what}: {why}", std::any::type_name::<T>()).into())
}
