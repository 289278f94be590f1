//! fjall: a keyspace for each table, a batch synced for each commit, loads by its ingestion of sorted rows.

use std::ops::Bound;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::ordered::{Address, Changes, Ordered, OrderedPeer, Rows, Stretch, Table};
use crate::peer::{Answer, Peer, Settings};

struct Fjall {
    database: Database,
    tables: Vec<Keyspace>,
}

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    let database = Database::builder(folder).cache_size(settings.cache_bytes as u64).open()?;
    let tables =
        Table::ALL.iter().map(|table| database.keyspace(table.name(), KeyspaceCreateOptions::default));
    let tables = tables.collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(OrderedPeer::new(Fjall { database, tables }, settings)?))
}

impl Ordered for Fjall {
    type Rows<'a> = &'a [Keyspace];

    /// Not a snapshot: of the two rows that are read, the second is never older than the first, and that is
    /// enough here.
    fn rows(&self) -> Answer<&[Keyspace]> {
        Ok(&self.tables)
    }

    fn commit(&self, changes: &Changes) -> Answer<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (address, value) in changes {
            let table = &self.tables[Table::of(address) as usize];
            match value {
                Some(value) => batch.insert(table, &address[1..], value.as_slice()),
                None => batch.remove(table, &address[1..]),
            }
        }
        Ok(batch.commit()?)
    }

    fn load(&self, stretches: &[Stretch<'_>]) -> Answer<()> {
        for stretch in stretches {
            let mut ingestion = self.tables[stretch.first.table() as usize].start_ingestion()?;
            (stretch.fill)(&mut |address, value| Ok(ingestion.write(address.bare(), value)?))?;
            ingestion.finish()?;
        }
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

impl Rows for &[Keyspace] {
    fn with<T>(&self, address: &Address, read: impl FnOnce(&[u8]) -> T) -> Answer<Option<T>> {
        let value = self[address.table() as usize].get(address.bare())?;
        Ok(value.map(|value| read(&value)))
    }

    fn behind(&self, address: &Address, mut each: impl FnMut(&[u8], &[u8]) -> Answer<bool>) -> Answer<()> {
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Excluded(address.bare()), Bound::Unbounded);
        for row in self[address.table() as usize].range::<&[u8], _>(range) {
            let (address, value) = row.into_inner()?;
            if !each(&address, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn newest(&self) -> Answer<Option<u64>> {
        let last = self[Table::History as usize].last_key_value().map(fjall::Guard::key).transpose()?;
        Ok(last.map(|address| (*address).try_into().map(u64::from_be_bytes)).transpose()?)
    }
}
