//! An engine with a store of its own in a folder: loaded, closed, measured, opened again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keystead::{KeyId, NewKey};
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

use crate::data::{Random, Targets};
use crate::engines::Engine;
use crate::peer::{Answer, Move, Peer, Place, Refusal, Session, Settings};

/// What is loaded into the two scopes.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    pub large: &'a [NewKey],
    pub small: &'a [NewKey],
}

/// An engine and its store.
pub struct Subject {
    pub engine: Engine,
    pub settings: Settings,
    pub folder: TempDir,
    pub targets: Targets,
    pub random: Random,
    /// Whether each of its names was looked up once.
    pub used: bool,
    peer: Option<Box<dyn Peer>>,
}

impl Subject {
    /// Makes a store and loads it; and how long loading the large scope took.
    pub fn load(
        engine: Engine,
        parent: &Path,
        contents: Contents<'_>,
        history: bool,
    ) -> Answer<(Self, Duration)> {
        let count = contents.large.len();
        let folder = tempfile::Builder::new().prefix(engine.name).tempdir_in(parent)?;
        let settings = Settings::of(count, history);
        let peer = (engine.open)(folder.path(), settings)?;
        let start = Instant::now();
        peer.import(Place::Large, contents.large)?;
        let took = start.elapsed();
        if !contents.small.is_empty() {
            peer.import(Place::Small, contents.small)?;
            peer.session(&mut |session| must_refuse(session, contents.small))?;
        }
        let (targets, random) = (Targets::new(count), Random::new(count as u64));
        Ok((Self { engine, settings, folder, targets, random, used: false, peer: Some(peer) }, took))
    }

    /// The open store.
    pub fn peer(&self) -> Answer<&dyn Peer> {
        self.peer.as_deref().ok_or_else(|| "the store is closed".into())
    }

    /// Closes it.
    pub fn close(&mut self) {
        self.peer = None;
    }

    /// Opens it again.
    pub fn open(&mut self) -> Answer<()> {
        self.peer = Some((self.engine.open)(self.folder.path(), self.settings)?);
        Ok(())
    }

    /// What the files take on the disk, holes not counted. A write-ahead log of keystead is not: when the store is
    /// closed, the log may be deleted.
    pub fn bytes(&self) -> Answer<u64> {
        let mut bytes = 0;
        each_file(self.folder.path(), &mut |path| {
            if path.extension().is_none_or(|extension| extension != "redo") {
                bytes += fs::metadata(path)?.blocks() * 512;
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Makes the system forget the pages of the files that it holds in memory.
    pub fn forget_pages(&self) -> Answer<()> {
        Ok(each_file(self.folder.path(), &mut |path| {
            let file = File::open(path)?;
            file.sync_all()?;
            Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        })?)
    }
}

/// Before anything is measured: what must be refused is.
fn must_refuse(session: &mut dyn Session, keys: &[NewKey]) -> Answer<()> {
    let (last, alias) = (&keys[keys.len() - 1], &keys[0].aliases[0]);
    session.schedule_deletion(Place::Small, last.key_id)?;
    let refused = [
        (alias.clone(), last.key_id, None, Refusal::PendingDeletion),
        (alias.clone(), keys[1].key_id, Some(keys[2].key_id), Refusal::Unexpected),
        (alias.clone(), KeyId::from_bytes([7; 16]), None, Refusal::KeyNotFound),
        ("not-there".parse()?, keys[1].key_id, None, Refusal::AliasNotFound),
    ];
    for (alias, target, expected, refusal) in refused {
        let outcome = session.associate(&Move { place: Place::Small, alias, target, expected })?;
        if outcome != Err(refusal) {
            return Err(format!("{outcome:?} instead of {refusal:?}").into());
        }
    }
    Ok(())
}

fn each_file(folder: &Path, with: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_file(&entry.path(), with)?;
        } else {
            with(&entry.path())?;
        }
    }
    Ok(())
}
