//! RocksDB: a column family for each table, bloom filters, one block cache, a synced write for each commit.
//! It groups the commits of several threads by itself. Loads are sorted files that it takes in.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Direction,
    IngestExternalFileOptions, IteratorMode, Options, SstFileWriter, WriteBatch, WriteOptions,
};

use crate::ordered::{Address, Changes, Ordered, OrderedPeer, Rows, Stretch, Table};
use crate::peer::{Answer, Peer, Settings};

/// Bits of the bloom filter for a key.
const FILTER_BITS: f64 = 10.0;

struct Rocks {
    database: DB,
    folder: PathBuf,
    options: Options,
}

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(settings.cache_bytes));
    blocks.set_bloom_filter(FILTER_BITS, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    // A log that is written over needs no new size at each sync.
    options.set_recycle_log_file_num(2);
    let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options.clone()));
    let database = DB::open_cf_descriptors(&options, folder.join("rows"), families)?;
    let rocks = Rocks { database, folder: folder.to_path_buf(), options };
    Ok(Box::new(OrderedPeer::new(rocks, settings)?))
}

impl Rocks {
    fn family(&self, table: Table) -> Answer<&rocksdb::ColumnFamily> {
        Ok(self.database.cf_handle(table.name()).ok_or("the column family is missing")?)
    }
}

impl Ordered for Rocks {
    type Rows<'a> = &'a Rocks;

    const CONCURRENT: bool = true;

    /// Not a snapshot: of the two rows that are read, the second is never older than the first, and that is
    /// enough here.
    fn rows(&self) -> Answer<&Rocks> {
        Ok(self)
    }

    fn commit(&self, changes: &Changes) -> Answer<()> {
        let mut batch = WriteBatch::default();
        for (address, value) in changes {
            let family = self.family(Table::of(address))?;
            match value {
                Some(value) => batch.put_cf(family, &address[1..], value),
                None => batch.delete_cf(family, &address[1..]),
            }
        }
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(self.database.write_opt(batch, &synced)?)
    }

    fn load(&self, stretches: &[Stretch<'_>]) -> Answer<()> {
        for stretch in stretches {
            let table = stretch.first.table();
            let path = self.folder.join(format!("load-{}.sst", table.name()));
            let mut writer = SstFileWriter::create(&self.options);
            writer.open(&path)?;
            (stretch.fill)(&mut |address, value| Ok(writer.put(address.bare(), value)?))?;
            writer.finish()?;
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            self.database.ingest_external_file_cf_opts(self.family(table)?, &options, vec![&path])?;
        }
        Ok(())
    }
}

impl Rows for &Rocks {
    fn with<T>(&self, address: &Address, read: impl FnOnce(&[u8]) -> T) -> Answer<Option<T>> {
        let value = self.database.get_pinned_cf(self.family(address.table())?, address.bare())?;
        Ok(value.map(|value| read(&value)))
    }

    fn behind(&self, address: &Address, mut each: impl FnMut(&[u8], &[u8]) -> Answer<bool>) -> Answer<()> {
        let mode = IteratorMode::From(address.bare(), Direction::Forward);
        for row in self.database.iterator_cf(self.family(address.table())?, mode) {
            let (found, value) = row?;
            if *found != *address.bare() && !each(&found, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn newest(&self) -> Answer<Option<u64>> {
        let family = self.family(Table::History)?;
        let last = self.database.iterator_cf(family, IteratorMode::End).next().transpose()?;
        Ok(last.map(|(address, _)| (*address).try_into().map(u64::from_be_bytes)).transpose()?)
    }
}
