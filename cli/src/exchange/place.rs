//! How a line becomes a key: which operations bring it about, and whether what is there is what it says.

use keystead::{
    AliasRecord, Error, KeyRecord, KeyState, Material, NewKey, Origin, PendingDays, Rotation, Snapshot,
    Timestamp, Transaction,
};

use super::line::KeyLine;
use crate::look::all_aliases;
use crate::values::show_time;

const MILLISECONDS_A_DAY: u64 = 24 * 60 * 60 * 1000;

/// A line, and the key that it asks for.
pub(super) struct Wanted {
    pub(super) line: KeyLine,
    pub(super) new: NewKey,
}

impl Wanted {
    /// # Errors
    ///
    /// `InvalidAlias` for a name that no key may have.
    pub(super) fn of(line: KeyLine) -> Result<Self, Error> {
        let mut new = NewKey::new(line.key_alias.as_str())?;
        if let Some(spec) = line.spec {
            new = new.spec(spec);
        }
        new.key_id = line.key_id.unwrap_or(new.key_id);
        new.usage = line.usage.unwrap_or(new.usage);
        new.origin = line.origin.unwrap_or(new.origin);
        new.description = line.description.clone();
        new.tags = line.tags.clone();
        new.aliases.clone_from(&line.aliases);
        new.enterprise_project_id = line.enterprise_project_id.clone().unwrap_or(new.enterprise_project_id);
        new.keystore_id = line.keystore_id.clone().unwrap_or(new.keystore_id);
        Ok(Self { line, new })
    }

    /// Whether creating it is all, so that many can be created at once.
    pub(super) fn is_plain(&self) -> bool {
        let fresh = match self.new.origin {
            Origin::Kms => KeyState::Enabled,
            Origin::External => KeyState::PendingImport,
        };
        let material = Material { present: self.new.origin == Origin::Kms, expires_at: None };
        !self.line.default
            && self.state() == fresh
            && self.material() == material
            && self.line.frozen_from.is_none()
            && self.line.scheduled_deletion_at.is_none()
            && self.line.rotation == Rotation::default()
    }

    /// Creates the key and brings it into its state, by the operations of the API. Material that has expired by
    /// now is not there any more.
    ///
    /// # Errors
    ///
    /// Those of the operations; `Aborted` if they don't come to what the line says.
    pub(super) fn create(&self, txn: &mut Transaction<'_>) -> Result<(), Error> {
        match self.has_expired(txn.time()) {
            true => self.without_material().bring_about(txn),
            false => self.bring_about(txn),
        }
    }

    fn bring_about(&self, txn: &mut Transaction<'_>) -> Result<(), Error> {
        let mut key = match self.line.default {
            true => txn.ensure_default_key(&self.new)?,
            false => txn.create_key(&self.new)?,
        };
        if self.line.key_id.is_some_and(|key_id| key_id != key.key_id) {
            return Err(Error::abort(format!(
                "a default key of this name is there, with the id {}",
                key.key_id
            )));
        }
        let key_id = key.key_id;
        if self.new.origin == Origin::External && self.material().present {
            key = txn.material_imported(key_id, self.material().expires_at)?;
        }
        let Rotation { enabled, interval_days, .. } = self.line.rotation;
        if enabled || interval_days != key.rotation.interval_days {
            key = txn.enable_rotation(key_id, interval_days)?;
        }
        if key.rotation.enabled && !enabled {
            key = txn.disable_rotation(key_id)?;
        }
        if self.line.frozen_from.unwrap_or(self.state()) == KeyState::Disabled {
            key = txn.disable(key_id)?;
        }
        key = match self.state() {
            KeyState::Frozen => txn.freeze(key_id)?,
            KeyState::PendingDeletion => txn.schedule_deletion(key_id, self.days(txn.time()))?,
            _ => key,
        };
        match self.differences(&key)[..] {
            [] => Ok(()),
            ref fields => Err(Error::abort(format!("no operation brings this about: {}", fields.join(", ")))),
        }
    }

    /// How the key that is there differs from the line; empty if it is what the line says.
    pub(super) fn compare(&self, snap: &Snapshot<'_>, now: Timestamp) -> Result<Vec<&'static str>, Error> {
        let key = match self.line.key_id {
            Some(key_id) => snap.key(key_id)?,
            None => snap.find_by_key_alias(&self.line.key_alias)?,
        };
        let mut differences = self.differences(&key);
        // It may have been imported when its material had expired, or before.
        if self.has_expired(now) && self.without_material().differences(&key).is_empty() {
            differences.clear();
        }
        let aliases = all_aliases(snap, &key)?;
        let mut there: Vec<_> =
            aliases.iter().map(|record: &std::sync::Arc<AliasRecord>| &record.alias).collect();
        let mut wanted: Vec<_> = self.line.aliases.iter().collect();
        there.sort();
        wanted.sort();
        if there != wanted {
            differences.push("aliases");
        }
        Ok(differences)
    }

    fn differences(&self, key: &KeyRecord) -> Vec<&'static str> {
        let (new, line) = (&self.new, &self.line);
        let rotation = (key.rotation.enabled, key.rotation.interval_days);
        let fields = [
            ("key_alias", key.key_alias != new.key_alias),
            ("description", key.description != new.description),
            ("spec", key.spec != new.spec),
            ("usage", key.usage != new.usage),
            ("origin", key.origin != new.origin),
            ("enterprise_project_id", key.enterprise_project_id != new.enterprise_project_id),
            ("keystore_id", key.keystore_id != new.keystore_id),
            ("tags", key.tags != new.tags),
            ("default", key.default != line.default),
            ("state", key.state != self.state()),
            ("frozen_from", key.frozen_from != line.frozen_from),
            (
                "scheduled_deletion_at",
                key.scheduled_deletion_at.is_some() != line.scheduled_deletion_at.is_some(),
            ),
            ("material", key.material != self.material()),
            ("rotation", rotation != (line.rotation.enabled, line.rotation.interval_days)),
        ];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// What of the line a created key does not have.
    pub(super) fn not_carried_over(&self, now: Timestamp) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(due) = self.line.scheduled_deletion_at {
            let days = self.days(now);
            let later = show_time(now.plus_days(days.days()));
            notes.push(format!(
                "its deletion is due {later}, {} days from now, not {}",
                days.days(),
                show_time(due)
            ));
        }
        if self.has_expired(now) {
            let expiry = self.material().expires_at.unwrap_or_default();
            notes.push(format!("its material expired at {}, so it waits for an import", show_time(expiry)));
        }
        if self.line.rotation.count > 0 {
            notes.push(format!("that it was rotated {} times is not carried over", self.line.rotation.count));
        }
        notes
    }

    fn state(&self) -> KeyState {
        let external = self.new.origin == Origin::External;
        let waits = external && !self.line.material.is_some_and(|material| material.present);
        self.line.state.unwrap_or(if waits { KeyState::PendingImport } else { KeyState::Enabled })
    }

    /// If the line says nothing, an external key has its material unless it waits for it.
    fn material(&self) -> Material {
        let waits = self.line.frozen_from.unwrap_or(self.state()) == KeyState::PendingImport;
        self.line.material.unwrap_or(Material { present: !waits, expires_at: None })
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        let Material { present, expires_at } = self.material();
        self.new.origin == Origin::External && present && expires_at.is_some_and(|expiry| expiry <= now)
    }

    /// The same key after its material expired.
    fn without_material(&self) -> Self {
        let waiting = |state| match state {
            KeyState::Enabled | KeyState::Disabled => KeyState::PendingImport,
            other => other,
        };
        let line = KeyLine {
            material: Some(Material { present: false, expires_at: None }),
            state: Some(waiting(self.state())),
            frozen_from: self.line.frozen_from.map(waiting),
            ..self.line.clone()
        };
        Self { line, new: self.new.clone() }
    }

    /// The fewest whole days after which the deletion is not earlier than the line says.
    fn days(&self, now: Timestamp) -> PendingDays {
        let due = self.line.scheduled_deletion_at.unwrap_or_default();
        let days = due.as_millis().saturating_sub(now.as_millis()).div_ceil(MILLISECONDS_A_DAY);
        let range = PendingDays::RANGE;
        let days = u16::try_from(days).unwrap_or(u16::MAX).clamp(*range.start(), *range.end());
        PendingDays::new(days).expect("the days are in the range")
    }
}
