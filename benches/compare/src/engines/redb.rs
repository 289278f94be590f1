//! redb by hand: one table, binary addresses, and the newest snapshot kept for readers and swapped at each
//! commit. Loads go through a cursor, which fills the leaves.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::ordered::{Address, Changes, Ordered, OrderedPeer, Rows, Stretch, Table};
use crate::peer::{Answer, Peer, Settings};

type Bytes = &'static [u8];

const ROWS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("rows");

struct Redb {
    database: Database,
    newest: ArcSwap<ReadOnlyTable<Bytes, Bytes>>,
}

struct Snapshot(Guard<Arc<ReadOnlyTable<Bytes, Bytes>>>);

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    let mut builder = Database::builder();
    builder.set_cache_size(settings.cache_bytes);
    let database = builder.create(folder.join("peer.redb"))?;
    let transaction = database.begin_write()?;
    transaction.open_table(ROWS)?;
    transaction.commit()?;
    let newest = ArcSwap::from_pointee(database.begin_read()?.open_table(ROWS)?);
    Ok(Box::new(OrderedPeer::new(Redb { database, newest }, settings)?))
}

impl Redb {
    fn publish(&self) -> Answer<()> {
        self.newest.store(Arc::new(self.database.begin_read()?.open_table(ROWS)?));
        Ok(())
    }
}

impl Ordered for Redb {
    type Rows<'a> = Snapshot;

    fn rows(&self) -> Answer<Snapshot> {
        Ok(Snapshot(self.newest.load()))
    }

    fn commit(&self, changes: &Changes) -> Answer<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for (address, value) in changes {
                match value {
                    Some(value) => drop(table.insert(address.as_slice(), value.as_slice())?),
                    None => drop(table.remove(address.as_slice())?),
                }
            }
        }
        transaction.commit()?;
        self.publish()
    }

    fn load(&self, stretches: &[Stretch<'_>]) -> Answer<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for stretch in stretches {
                if stretch.first.table() == Table::Newest {
                    (stretch.fill)(&mut |address, value| {
                        table.insert(address.tagged(), value)?;
                        Ok(())
                    })?;
                    continue;
                }
                let mut cursor = table.lower_bound_mut(Bound::Included(stretch.first.tagged()))?;
                (stretch.fill)(&mut |address, value| Ok(cursor.insert_before(address.tagged(), value)?))?;
                cursor.close()?;
            }
        }
        transaction.commit()?;
        self.publish()
    }
}

impl Rows for Snapshot {
    fn with<T>(&self, address: &Address, read: impl FnOnce(&[u8]) -> T) -> Answer<Option<T>> {
        let value = ReadableTable::get(&**self.0, address.tagged())?;
        Ok(value.map(|value| read(value.value())))
    }

    fn behind(&self, address: &Address, mut each: impl FnMut(&[u8], &[u8]) -> Answer<bool>) -> Answer<()> {
        let after = [address.table() as u8 + 1];
        let range = (Bound::Excluded(address.tagged()), Bound::Excluded(&after[..]));
        for row in ReadableTable::range::<&[u8]>(&**self.0, range)? {
            let (address, value) = row?;
            if !each(&address.value()[1..], value.value())? {
                break;
            }
        }
        Ok(())
    }

    fn newest(&self) -> Answer<Option<u64>> {
        let range = &[Table::History as u8][..]..&[Table::Newest as u8][..];
        let last = ReadableTable::range::<&[u8]>(&**self.0, range)?.next_back().transpose()?;
        let number = |address: &[u8]| address[1..].try_into().map(u64::from_be_bytes);
        Ok(last.map(|(address, _)| number(address.value())).transpose()?)
    }
}
