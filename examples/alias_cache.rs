//! A second thread keeps an exact cache of every alias by the feed of changes, as an API node would;
//! in the end it is compared with the store.
//!
//! `cargo run --example alias_cache`

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use keystead::{After, Alias, Images, KeyId, Limit, NewKey, Position, Request, Result, Scope, Store, Waited};

/// What an API node keeps in memory: the key of each alias of each scope.
type Cache = BTreeMap<(Scope, Alias), KeyId>;

fn main() -> Result<()> {
    let store = Store::in_memory()?;
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
    let request = Request::new(&scope).actor("alias_cache");

    // Some aliases are there before the cache begins.
    let keys = [NewKey::new("blue")?, NewKey::new("green")?];
    let aliases: Vec<Alias> = (0..20).map(|n| Ok(format!("service-{n}").parse()?)).collect::<Result<_>>()?;
    store.write(&request, |txn| {
        for key in &keys {
            txn.create_key(key)?;
        }
        aliases[..10].iter().try_for_each(|alias| txn.create_alias(alias, keys[0].key_id).map(drop))
    })?;

    // The cache begins with one snapshot, and the position behind it.
    let (mut cache, mut position) = store.read(&scope, |snap| {
        let page = snap.aliases(After::Start, Limit::MAX)?;
        let entries = page.items.iter().map(|record| ((scope.clone(), record.alias.clone()), record.key_id));
        Ok((entries.collect::<Cache>(), store.position_after(snap.commit())))
    })?;
    println!("the cache begins with {} aliases", cache.len());

    let follower = store.clone();
    let node = thread::spawn(move || -> Result<(Cache, Position, usize)> {
        let mut followed = 0;
        loop {
            let waited = follower.wait(&position, Duration::from_secs(60))?;
            let changes = follower.changes(Some(&position), Limit::MAX)?;
            followed += changes.commits.iter().map(|commit| commit.changes.len()).sum::<usize>();
            for commit in changes.commits {
                for change in commit.changes {
                    if let Images::Alias { before, after } = change.images {
                        let scope = commit.info.scope.clone();
                        match (before, after) {
                            (_, Some(after)) => cache.insert((scope, after.alias.clone()), after.key_id),
                            (Some(before), None) => cache.remove(&(scope, before.alias.clone())),
                            (None, None) => None,
                        };
                    }
                }
            }
            position = changes.position;
            if waited == Waited::Closed {
                return Ok((cache, position, followed));
            }
        }
    });

    // Meanwhile names are created, moved and deleted.
    for (n, alias) in aliases.iter().enumerate() {
        let (one, other) = (keys[n % 2].key_id, keys[(n + 1) % 2].key_id);
        store.write(&request, |txn| {
            if txn.alias(alias).is_err() {
                txn.create_alias(alias, one)?;
            }
            txn.associate_alias(alias, other).map(drop)
        })?;
        if n % 5 == 0 {
            store.write(&request, |txn| txn.delete_aliases(other, std::slice::from_ref(alias)))?;
        }
    }

    let newest = store.position()?;
    store.clone().close();
    let (cache, position, followed) = node.join().expect("the cache's thread did not panic")?;
    assert_eq!(position, newest);
    let page = store.read(&scope, |snap| snap.aliases(After::Start, Limit::MAX))?;
    let present: Cache =
        page.items.iter().map(|record| ((scope.clone(), record.alias.clone()), record.key_id)).collect();
    assert_eq!(cache, present);
    println!(
        "it followed {followed} changes up to {position}, and equals the store: {} aliases",
        cache.len()
    );
    Ok(())
}
