//! Opens a store in a file, replays the two requests that the service's documentation shows, meets
//! the refusals, closes the store, opens it again, and finds everything there.
//!
//! `cargo run --example quickstart`

use keystead::{Alias, Error, KeyAlias, KeyId, NewKey, PendingDays, Request, Result, Scope, Store};

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kms.redb");
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
    let request = Request::new(&scope).actor("quickstart");

    // The names and the id of the two documented requests.
    let alias: Alias = "kms-1234".parse()?;
    let key_id: KeyId = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e".parse()?;
    let test: KeyAlias = "test".parse()?;

    let store = Store::open(&path)?;
    println!("opened a new store");

    // The alias exists, on another key; that is what there is to move.
    let old = NewKey::new("orders-2025")?.alias(alias.clone());
    let new = NewKey::new("orders")?.id(key_id);
    store.write(&request, |txn| {
        txn.create_key(&old)?;
        txn.create_key(&new)
    })?;

    // POST /v1.0/{project_id}/kms/alias/associate
    // { "target_key_id": "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e", "alias": "kms-1234" }
    let moved = store.write(&request, |txn| txn.associate_alias(&alias, key_id))?;
    assert_eq!(moved.value.former_key_id, old.key_id);
    println!("associated {alias} with {key_id} in commit {}; it was on {}", moved.commit, old.key_id);

    // POST /v1.0/{project_id}/kms/update-key-alias
    // { "key_id": "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e", "key_alias": "test" }
    let renamed = store.write(&request, |txn| txn.rename_key_alias(key_id, &test))?;
    assert_eq!(renamed.value.key.key_alias, test);
    println!(
        "renamed {key_id} from {} to {test} in commit {}",
        renamed.value.former_key_alias, renamed.commit
    );

    // What is refused changes nothing.
    let refuse = |what: &str, refusal: Result<()>, expected: fn(&Error) -> bool| match refusal {
        Err(error) if expected(&error) => {
            let code = error.api().map_or("-", |api| api.code);
            println!("refused, {what}: {code} {error}");
        }
        other => panic!("{what}: {other:?}"),
    };
    let reserved = KeyAlias::new("obs/default")?;
    let refusal = store.write(&request, |txn| txn.rename_key_alias(key_id, &reserved));
    refuse("a /default name", refusal.map(drop), |error| matches!(error, Error::InvalidAlias(_)));

    let days = PendingDays::new(7)?;
    store.write(&request, |txn| txn.schedule_deletion(old.key_id, days))?;
    let refusal = store.write(&request, |txn| txn.associate_alias(&alias, old.key_id));
    refuse("a key pending deletion", refusal.map(drop), |error| matches!(error, Error::PendingDeletion(_)));

    let refusal = store.write(&request, |txn| txn.rename_key_alias(key_id, &old.key_alias));
    refuse("a taken name", refusal.map(drop), |error| matches!(error, Error::KeyAliasExists(_)));

    drop(store);
    println!("closed the store");

    let store = Store::open(&path)?;
    let key = store.read(&scope, |snap| snap.resolve(&alias))?;
    assert_eq!((key.key_id, &key.key_alias), (key_id, &test));
    let by_name = store.read(&scope, |snap| snap.find_by_key_alias(&test))?;
    assert_eq!(by_name, key);
    let report = store.verify()?;
    assert!(report.is_clean(), "{report:?}");
    println!(
        "opened it again: {alias} names {} ({}); verified {} rows",
        key.key_id, key.key_alias, report.rows
    );
    Ok(())
}
