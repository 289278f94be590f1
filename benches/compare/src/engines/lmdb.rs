//! LMDB through heed: a database for each table, a read transaction for each read, loads appended in order.

use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvOpenOptions, PutFlags, RoTxn, WithTls};

use crate::ordered::{Address, Changes, Ordered, OrderedPeer, Rows, Stretch, Table};
use crate::peer::{Answer, Peer, Settings};

/// A database that was committed, so every transaction may use it.
type Database = heed::Database<'static, Bytes, Bytes>;

/// The address space that the map takes; the file is only as large as its pages.
const MAP_BYTES: usize = 16 * 1024 * 1024 * 1024;

struct Lmdb {
    env: Env,
    tables: Vec<Database>,
}

struct Snapshot<'a> {
    transaction: RoTxn<'a, WithTls>,
    tables: &'a [Database],
}

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    let mut options = EnvOpenOptions::new();
    let tables = u32::try_from(Table::ALL.len())?;
    options.map_size(MAP_BYTES).max_readers(512).max_dbs(tables);
    // SAFETY: the folder belongs to this process, which has it open once.
    let env = unsafe { options.open(folder)? };
    let created = env.create_databases_and_commit(env.write_txn()?, |opener, transaction| {
        let tables = Table::ALL.map(|table| opener.create_database(transaction, Some(table.name())));
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(tables))
    })?;
    let tables = created.unwrap_commit().into_iter().collect::<heed::Result<Vec<_>>>()?;
    Ok(Box::new(OrderedPeer::new(Lmdb { env, tables }, settings)?))
}

impl Ordered for Lmdb {
    type Rows<'a> = Snapshot<'a>;

    fn rows(&self) -> Answer<Snapshot<'_>> {
        Ok(Snapshot { transaction: self.env.read_txn()?, tables: &self.tables })
    }

    fn commit(&self, changes: &Changes) -> Answer<()> {
        let mut transaction = self.env.write_txn()?;
        for (address, value) in changes {
            let table = &self.tables[Table::of(address) as usize];
            match value {
                Some(value) => table.put(&mut transaction, &address[1..], value)?,
                None => drop(table.delete(&mut transaction, &address[1..])?),
            }
        }
        Ok(transaction.commit()?)
    }

    fn load(&self, stretches: &[Stretch<'_>]) -> Answer<()> {
        let mut transaction = self.env.write_txn()?;
        for stretch in stretches {
            let table = &self.tables[stretch.first.table() as usize];
            let in_order = stretch.first.table() != Table::Newest;
            let flags = if in_order { PutFlags::APPEND } else { PutFlags::empty() };
            (stretch.fill)(&mut |address, value| {
                Ok(table.put_with_flags(&mut transaction, flags, address.bare(), value)?)
            })?;
        }
        Ok(transaction.commit()?)
    }
}

impl Rows for Snapshot<'_> {
    fn with<T>(&self, address: &Address, read: impl FnOnce(&[u8]) -> T) -> Answer<Option<T>> {
        let table = &self.tables[address.table() as usize];
        Ok(table.get(&self.transaction, address.bare())?.map(read))
    }

    fn behind(&self, address: &Address, mut each: impl FnMut(&[u8], &[u8]) -> Answer<bool>) -> Answer<()> {
        let table = &self.tables[address.table() as usize];
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Excluded(address.bare()), Bound::Unbounded);
        for row in table.range(&self.transaction, &range)? {
            let (address, value) = row?;
            if !each(address, value)? {
                break;
            }
        }
        Ok(())
    }

    fn newest(&self) -> Answer<Option<u64>> {
        let last = self.tables[Table::History as usize].last(&self.transaction)?;
        Ok(last.map(|(address, _)| address.try_into().map(u64::from_be_bytes)).transpose()?)
    }
}
