//! SQLite with a write-ahead log, each commit synced: prepared statements, ids as bytes, tables without row ids,
//! one connection that writes and one for each reader.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead::{Alias, KeyId, NewKey};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Statement, params};

use crate::peer::{
    ALIASES_PER_KEY, Answer, Move, Moved, Outcome, Peer, Place, Refusal, Resolved, Session, Settings,
};
use crate::record::{self, AliasValue, IMPORTED_AT_ONCE, Listed, PENDING_DELETION, Record};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS key (
        scope INTEGER NOT NULL, id BLOB NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (scope, id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS key_alias (
        scope INTEGER NOT NULL, name TEXT NOT NULL, key_id BLOB NOT NULL,
        PRIMARY KEY (scope, name)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS alias (
        scope INTEGER NOT NULL, name TEXT NOT NULL, key_id BLOB NOT NULL,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (scope, name)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS alias_of_key ON alias (key_id);
    CREATE TABLE IF NOT EXISTS history (number INTEGER PRIMARY KEY, entry BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS newest (id INTEGER PRIMARY KEY, number INTEGER NOT NULL);";

const RESOLVE: &str = "SELECT id, record FROM key WHERE scope = ?1
    AND id = (SELECT key_id FROM alias WHERE scope = ?1 AND name = ?2)";
const LIST: &str = "SELECT name, key_id, created_at, updated_at, version FROM alias
    WHERE scope = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
const ALIAS: &str =
    "SELECT key_id, created_at, updated_at, version FROM alias WHERE scope = ?1 AND name = ?2";
const KEY: &str = "SELECT record FROM key WHERE scope = ?1 AND id = ?2";
const COUNT: &str = "SELECT count(*) FROM alias WHERE key_id = ?1 AND scope = ?2";
const MOVE: &str =
    "UPDATE alias SET key_id = ?3, updated_at = ?4, version = ?5 WHERE scope = ?1 AND name = ?2";
const HISTORY: &str = "INSERT INTO history VALUES (?1, ?2)";
const NEWEST: &str = "INSERT OR REPLACE INTO newest VALUES (0, ?1)";

struct Sqlite {
    path: PathBuf,
    settings: Settings,
    writer: Mutex<Writer>,
}

struct Writer {
    connection: Connection,
    next_commit: i64,
    history: bool,
}

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    let path = folder.join("peer.sqlite");
    let connection = connect(&path, settings)?;
    connection.execute_batch(SCHEMA)?;
    let newest = if settings.history {
        "SELECT coalesce(max(number), 0) FROM history"
    } else {
        "SELECT coalesce(max(number), 0) FROM newest"
    };
    let newest: i64 = connection.query_row(newest, [], |row| row.get(0))?;
    let writer = Writer { connection, next_commit: newest + 1, history: settings.history };
    Ok(Box::new(Sqlite { path, settings, writer: Mutex::new(writer) }))
}

/// The file is mapped, because a connection's own cache is emptied when another commits.
fn connect(path: &Path, settings: Settings) -> Answer<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "mmap_size", i64::try_from(settings.cache_bytes)?)?;
    connection.pragma_update(None, "cache_size", -i64::try_from(settings.cache_bytes / 1024)?)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

impl Sqlite {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for Sqlite {
    fn import(&self, place: Place, keys: &[NewKey]) -> Answer<()> {
        self.writer().in_transaction(|writer| {
            writer.import(place, keys)?;
            writer.end_import(place, keys)
        })
    }

    fn session(&self, work: &mut dyn FnMut(&mut dyn Session) -> Answer<()>) -> Answer<()> {
        let connection = connect(&self.path, self.settings)?;
        let (resolve, list) = (connection.prepare(RESOLVE)?, connection.prepare(LIST)?);
        work(&mut SqliteSession { store: self, resolve, list })
    }
}

impl Writer {
    fn in_transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Answer<T>) -> Answer<T> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = work(self);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.connection.prepare_cached(end)?.execute([])?;
        done
    }

    fn prepared(&self, text: &str) -> Answer<CachedStatement<'_>> {
        Ok(self.connection.prepare_cached(text)?)
    }

    /// Leaves behind what a commit leaves.
    fn close(&mut self, entry: impl FnOnce() -> Answer<Vec<u8>>) -> Answer<()> {
        if self.history {
            self.prepared(HISTORY)?.execute(params![self.next_commit, entry()?])?;
        } else {
            self.prepared(NEWEST)?.execute([self.next_commit])?;
        }
        self.next_commit += 1;
        Ok(())
    }

    fn key(&self, place: Place, key_id: [u8; 16]) -> Answer<Option<Record>> {
        let mut statement = self.prepared(KEY)?;
        let mut rows = statement.query(params![place.number(), key_id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Record::decode(place, key_id, row.get_ref(0)?.as_blob()?).map(Some)
    }

    fn associate(&mut self, wanted: &Move) -> Answer<Outcome> {
        let place = wanted.place;
        let name = wanted.alias.as_str();
        let before = self.prepared(ALIAS)?.query_row(params![place.number(), name], |row| value(row, 0));
        let before = before.optional()?;
        let names_it = before.map(|before| KeyId::from_bytes(before.key_id));
        if wanted.expected.is_some_and(|expected| names_it != Some(expected)) {
            return Ok(Err(Refusal::Unexpected));
        }
        let (Some(before), Some(former)) = (before, names_it) else {
            return Ok(Err(Refusal::AliasNotFound));
        };
        let Some(target) = self.key(place, *wanted.target.as_bytes())? else {
            return Ok(Err(Refusal::KeyNotFound));
        };
        if target.state == PENDING_DELETION {
            return Ok(Err(Refusal::PendingDeletion));
        }
        self.key(place, before.key_id)?.ok_or("an alias names a key that is not there")?;
        if former == wanted.target {
            return Ok(Ok(Moved { former, changed: false }));
        }
        let held: i64 =
            self.prepared(COUNT)?.query_row(params![target.key_id, place.number()], |row| row.get(0))?;
        if held >= i64::try_from(ALIASES_PER_KEY)? {
            return Ok(Err(Refusal::Quota));
        }
        let version = u64::try_from(self.next_commit)?;
        let updated_at = record::now().max(before.updated_at);
        let after = AliasValue { key_id: target.key_id, updated_at, version, ..before };
        self.prepared(MOVE)?.execute(params![
            place.number(),
            name,
            after.key_id,
            i64::try_from(after.updated_at)?,
            self.next_commit
        ])?;
        self.close(|| record::entry_of_move(place, name, &before, &after))?;
        Ok(Ok(Moved { former, changed: true }))
    }

    /// Each table in its order; that nothing is there twice is what the primary keys see to.
    fn import(&self, place: Place, keys: &[NewKey]) -> Answer<()> {
        self.connection.execute_batch("DROP INDEX alias_of_key")?;
        let (scope, now, version) = (place.number(), record::now(), self.next_commit);
        let time = i64::try_from(now)?;
        let mut by_id: Vec<_> = keys.iter().collect();
        by_id.sort_unstable_by_key(|new| new.key_id);
        let mut insert = self.prepared("INSERT INTO key VALUES (?1, ?2, ?3)")?;
        for new in by_id {
            let record = Record::new(new, place, now, u64::try_from(version)?).encode()?;
            insert.execute(params![scope, new.key_id.as_bytes(), record])?;
        }
        let mut by_key_alias: Vec<_> = keys.iter().collect();
        by_key_alias.sort_by(|one, other| one.key_alias.as_str().cmp(other.key_alias.as_str()));
        let mut insert = self.prepared("INSERT INTO key_alias VALUES (?1, ?2, ?3)")?;
        for new in by_key_alias {
            insert.execute(params![scope, new.key_alias.as_str(), new.key_id.as_bytes()])?;
        }
        let mut by_alias: Vec<_> = keys
            .iter()
            .flat_map(|new| new.aliases.iter().map(|alias| (alias.as_str(), new.key_id)))
            .collect();
        by_alias.sort_by(|one, other| one.0.cmp(other.0));
        let mut insert = self.prepared("INSERT INTO alias VALUES (?1, ?2, ?3, ?4, ?4, ?5)")?;
        for (name, key_id) in by_alias {
            insert.execute(params![scope, name, key_id.as_bytes(), time, version])?;
        }
        Ok(())
    }

    /// The index over a whole load is made at its end, and the history follows.
    fn end_import(&mut self, place: Place, keys: &[NewKey]) -> Answer<()> {
        let (now, version) = (record::now(), self.next_commit);
        self.connection.execute_batch("CREATE INDEX alias_of_key ON alias (key_id)")?;
        if !self.history {
            return self.close(|| Ok(Vec::new()));
        }
        for some in keys.chunks(IMPORTED_AT_ONCE) {
            let version = u64::try_from(version)?;
            self.close(|| record::entry_of_import(place, some, now, version))?;
        }
        Ok(())
    }
}

/// The alias that the columns from `first` on say.
fn value(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<AliasValue> {
    Ok(AliasValue {
        key_id: row.get(first)?,
        created_at: row.get::<_, i64>(first + 1)?.unsigned_abs(),
        updated_at: row.get::<_, i64>(first + 2)?.unsigned_abs(),
        version: row.get::<_, i64>(first + 3)?.unsigned_abs(),
    })
}

struct SqliteSession<'a> {
    store: &'a Sqlite,
    resolve: Statement<'a>,
    list: Statement<'a>,
}

impl Session for SqliteSession<'_> {
    fn resolve(&mut self, place: Place, alias: &Alias) -> Answer<Option<Resolved>> {
        let mut rows = self.resolve.query(params![place.number(), alias.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let record = Record::decode(place, row.get(0)?, row.get_ref(1)?.as_blob()?)?;
        Ok(Some(Resolved::Decoded(record).used()))
    }

    fn list(
        &mut self,
        place: Place,
        after: &Alias,
        limit: usize,
        each: &mut dyn FnMut(&str, KeyId),
    ) -> Answer<()> {
        let mut page = Vec::with_capacity(limit);
        let mut rows = self.list.query(params![place.number(), after.as_str(), i64::try_from(limit)?])?;
        while let Some(row) = rows.next()? {
            page.push(Listed { name: row.get(0)?, value: value(row, 1)? });
        }
        page.iter().for_each(|listed| each(&listed.name, KeyId::from_bytes(listed.value.key_id)));
        Ok(())
    }

    fn associate(&mut self, wanted: &Move) -> Answer<Outcome> {
        self.store.writer().in_transaction(|writer| writer.associate(wanted))
    }

    fn associate_group(&mut self, wanted: &[Move]) -> Answer<Vec<Outcome>> {
        self.store
            .writer()
            .in_transaction(|writer| wanted.iter().map(|wanted| writer.associate(wanted)).collect())
    }

    fn schedule_deletion(&mut self, place: Place, key_id: KeyId) -> Answer<()> {
        self.store.writer().in_transaction(|writer| {
            let before = writer.key(place, *key_id.as_bytes())?.ok_or("there is no such key")?;
            let after = before.pending_deletion(record::now(), u64::try_from(writer.next_commit)?);
            let update = "UPDATE key SET record = ?3 WHERE scope = ?1 AND id = ?2";
            let update =
                writer.prepared(update)?.execute(params![place.number(), before.key_id, after.encode()?])?;
            debug_assert_eq!(update, 1, "the key was there");
            writer.close(|| record::entry_of_deletion(place, &before, &after))
        })
    }
}
