//! What a project has from its first use on: its default keys, and the keys of the configuration.

use std::collections::HashMap;

use keystead::{
    Alias, AliasScope, Error, KeyAlias, KeyFilter, KeyId, NewKey, ProjectId, Request, Scope, Store,
    Transaction,
};

use crate::config::{Account, Config, FirstKey};
use crate::error::{Refusal, refused};

/// Finds the keys of a configuration that could never be made beside each other.
///
/// # Errors
///
/// The first of them, with the account, the project and the name.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    for account in &config.accounts {
        let mut keys = HashMap::new();
        let mut key_aliases = HashMap::new();
        let mut aliases = HashMap::new();
        for key in &account.key {
            let at = || format!("[[account.key]] of account {}, project {}", account.domain_id, key.project);
            let project = &key.project;
            if let Some(other) = key_aliases.insert((project, &key.key_alias), key) {
                return Err(format!(
                    "{}: the key_alias {} is there twice, of the keys {} and {}",
                    at(),
                    key.key_alias,
                    other.key_id,
                    key.key_id
                ));
            }
            let count = keys.entry(project).or_insert(0_u64);
            *count += 1;
            if *count > config.quotas.keys_per_project {
                let most = config.quotas.keys_per_project;
                return Err(format!("{}: more keys than quotas.keys_per_project = {most}", at()));
            }
            if key.aliases.len() > config.quotas.aliases_per_key {
                let most = config.quotas.aliases_per_key;
                return Err(format!(
                    "{}: the key {} has more aliases than quotas.aliases_per_key = {most}",
                    at(),
                    key.key_id
                ));
            }
            for alias in &key.aliases {
                // `a` and `alias/a` are one name. Where the account has each once, its projects share them.
                let scope = (config.alias_scope == AliasScope::Project).then_some(project);
                if let Some(other) = aliases.insert((scope, alias.urn_name()), key) {
                    return Err(format!("{}: {}", at(), twice(alias.as_str(), key, other)));
                }
            }
        }
    }
    Ok(())
}

/// Where an alias is there for a second time.
fn twice(alias: &str, key: &FirstKey, other: &FirstKey) -> String {
    if key.key_id == other.key_id {
        format!(
            "the alias {alias} is there twice, both times of the key {}, with or without alias/",
            key.key_id
        )
    } else if key.project == other.project {
        format!("the alias {alias} is there twice, of the keys {} and {}", other.key_id, key.key_id)
    } else {
        format!(
            "the alias {alias} of the key {} is one of the key {} in project {} too, and alias_scope = \"domain\" \
             has each alias once in an account",
            key.key_id, other.key_id, other.project
        )
    }
}

/// The keys that one project has from its first use on.
pub(crate) struct FirstKeys {
    configured: Vec<NewKey>,
    defaults: Vec<NewKey>,
}

impl FirstKeys {
    pub(crate) fn of(account: &Account, scope: &Scope, services: &[String]) -> Result<Self, Refusal> {
        let of_project = account.key.iter().filter(|first| first.project == *scope.project());
        let configured = of_project.map(|first| {
            let new = NewKey::new(first.key_alias.as_str()).map_err(refused)?.id(first.key_id);
            Ok(first.aliases.iter().fold(new, |new, alias| new.alias(alias.clone())))
        });
        let defaults = services.iter().map(|service| NewKey::default_of(service));
        Ok(Self {
            configured: configured.collect::<Result<_, Refusal>>()?,
            defaults: defaults.collect::<Result<_, _>>().map_err(refused)?,
        })
    }

    /// Makes them, the keys of the configuration in a project without any key. Answers how many of those could
    /// not be made: each is logged, and is all that the project has to do without.
    pub(crate) fn make(&self, store: &Store, request: &Request) -> Result<u64, Refusal> {
        match self.make_all(store, request) {
            // It is not the caller's fault.
            Err(error) if !error.is_retryable() => {
                Err(Refusal::internal(&format_args!("the first keys of a project: {error}")))
            }
            made => Ok(made?),
        }
    }

    fn make_all(&self, store: &Store, request: &Request) -> keystead::Result<u64> {
        let is_empty = store.read(request.scope(), |snap| snap.count_keys(&KeyFilter::all()))? == 0;
        let mut absent = 0;
        if is_empty && !self.configured.is_empty() {
            let made = store.write(request, |txn| {
                let refusals = self.configured.iter().map(|new| Ok((new, refusal(txn.create_key(new))?)));
                refusals.collect::<keystead::Result<Vec<_>>>()
            })?;
            for (new, refusal) in made.value {
                match refusal {
                    // Another process on the same store came first.
                    None | Some(Error::KeyIdExists(_)) => {}
                    Some(why) => {
                        absent += 1;
                        log_absent(request.scope(), new.key_id, &new.key_alias, &new.aliases, &why);
                    }
                }
            }
        }
        let ensure = |new: &NewKey, txn: &mut Transaction<'_>| txn.ensure_default_key(new).map(drop);
        store.write(request, |txn| self.defaults.iter().try_for_each(|new| ensure(new, txn)))?;
        Ok(absent)
    }
}

/// What the store's rules have against an operation. Any other failure is one of the whole transaction.
fn refusal<T>(outcome: keystead::Result<T>) -> keystead::Result<Option<Error>> {
    match outcome {
        Ok(_) => Ok(None),
        Err(refusal) if refusal.api().is_some() => Ok(Some(refusal)),
        Err(refusal @ Error::TransactionTooLarge { .. }) => Ok(Some(refusal)),
        Err(failure) => Err(failure),
    }
}

/// Looks for the keys of the configuration in the projects that have keys, where those that are absent will not
/// be made any more. Answers how many are; each is logged. A project that can't be read is logged and does not
/// keep the others from being served.
pub(crate) fn look_for(store: &Store, accounts: &[Account]) -> u64 {
    let mut absent = 0;
    for account in accounts {
        let mut by_project: HashMap<&ProjectId, Vec<&FirstKey>> = HashMap::new();
        for key in &account.key {
            by_project.entry(&key.project).or_default().push(key);
        }
        for (project, keys) in by_project {
            let scope = Scope::from_ids(account.domain_id.clone(), project.clone());
            match absent_of(store, &scope, &keys) {
                Ok(found) => {
                    absent += found.len() as u64;
                    for (key, why) in found {
                        log_absent(&scope, key.key_id, &key.key_alias, &key.aliases, &why);
                    }
                }
                Err(why) => tracing::error!(
                    domain = %scope.domain(),
                    project = %scope.project(),
                    %why,
                    "whether the keys of the configuration are there could not be read"
                ),
            }
        }
    }
    absent
}

fn absent_of<'a>(
    store: &Store,
    scope: &Scope,
    keys: &[&'a FirstKey],
) -> keystead::Result<Vec<(&'a FirstKey, Error)>> {
    store.read(scope, |snap| {
        let mut absent = Vec::new();
        if snap.count_keys(&KeyFilter::all())? > 0 {
            for key in keys {
                match snap.key(key.key_id) {
                    Ok(_) => {}
                    Err(why @ Error::KeyNotFound { .. }) => absent.push((*key, why)),
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(absent)
    })
}

fn log_absent(scope: &Scope, key_id: KeyId, key_alias: &KeyAlias, aliases: &[Alias], why: &Error) {
    let aliases: Vec<&str> = aliases.iter().map(Alias::as_str).collect();
    tracing::error!(
        domain = %scope.domain(),
        project = %scope.project(),
        %key_id,
        %key_alias,
        ?aliases,
        %why,
        "a key of the configuration is absent: the project is without it"
    );
}

#[cfg(test)]
mod tests {
    use keystead::DomainId;

    use super::*;
    use crate::state::store_options;

    const FIRST: &str = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";
    const SECOND: &str = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";

    fn config(head: &str, keys: &[(&str, &str, &str, &str)]) -> Result<Config, String> {
        let mut text = format!(
            "region = \"cn-north-7\"\ndefault_key_services = [\"obs\"]\n{head}\n[[account]]\ndomain_id = \"d1\"\n\
             projects = [\"p1\", \"p2\"]\n"
        );
        for (project, key_id, key_alias, aliases) in keys {
            text += &format!(
                "[[account.key]]\nproject = \"{project}\"\nkey_id = \"{key_id}\"\nkey_alias = \"{key_alias}\"\n\
                 aliases = [{aliases}]\n"
            );
        }
        Config::parse(&text)
    }

    #[test]
    fn keys_that_exclude_each_other_are_found_at_the_start() {
        let domain = "alias_scope = \"domain\"";
        let project = "alias_scope = \"project\"";
        let wrong = [
            (domain, [("p1", FIRST, "a", r#""x""#), ("p1", SECOND, "b", r#""y", "x""#)], "the alias x"),
            (
                domain,
                [("p1", FIRST, "a", r#""x""#), ("p1", SECOND, "b", r#""alias/x""#)],
                "the alias alias/x",
            ),
            (domain, [("p1", FIRST, "a", r#""x", "alias/x""#), ("p1", SECOND, "b", "")], "the alias alias/x"),
            (domain, [("p1", FIRST, "a", r#""x", "x""#), ("p1", SECOND, "b", "")], "the alias x"),
            (domain, [("p2", FIRST, "a", r#""x""#), ("p1", SECOND, "b", r#""x""#)], "the alias x"),
            (
                project,
                [("p1", FIRST, "a", r#""x""#), ("p1", SECOND, "b", r#""alias/x""#)],
                "the alias alias/x",
            ),
            (project, [("p1", FIRST, "a", ""), ("p1", SECOND, "a", "")], "the key_alias a"),
            (
                "quotas = { keys_per_project = 1 }",
                [("p1", FIRST, "a", ""), ("p1", SECOND, "b", "")],
                "more keys",
            ),
            (
                "quotas = { aliases_per_key = 1 }",
                [("p1", FIRST, "a", r#""x", "y""#), ("p2", SECOND, "b", "")],
                FIRST,
            ),
        ];
        for (head, keys, named) in wrong {
            let said = config(head, &keys).unwrap_err();
            for part in ["account d1", "project p1", named] {
                assert!(said.contains(part), "{said}");
            }
        }
        for (head, keys) in [
            (project, [("p1", FIRST, "a", r#""x""#), ("p2", SECOND, "a", r#""x""#)]),
            (domain, [("p1", FIRST, "a", r#""x""#), ("p2", SECOND, "a", r#""y""#)]),
            // A key's own name and aliases are two name spaces.
            (domain, [("p1", FIRST, "a", r#""b""#), ("p1", SECOND, "b", r#""a""#)]),
        ] {
            config(head, &keys).unwrap();
        }
    }

    #[test]
    fn a_name_that_is_taken_costs_the_one_key_and_nothing_else() {
        let keys = [("p1", FIRST, "a", r#""free", "taken""#), ("p1", SECOND, "b", r#""other""#)];
        let config = config("", &keys).unwrap();
        let store = store_options(&config).in_memory().unwrap();
        let scope = |project| Scope::from_ids(DomainId::new("d1").unwrap(), ProjectId::new(project).unwrap());
        // The customer was first, in another project of the account.
        let taken: Alias = "alias/taken".parse().unwrap();
        let new = NewKey::new("mine").unwrap().alias(taken);
        store.write(&Request::new(&scope("p2")), |txn| txn.create_key(&new)).unwrap();

        // Before its first use nothing is absent from the project: it will be made.
        assert_eq!(look_for(&store, &config.accounts), 0);
        let first = FirstKeys::of(&config.accounts[0], &scope("p1"), &config.default_key_services).unwrap();
        assert_eq!(first.make(&store, &Request::new(&scope("p1"))).unwrap(), 1);
        let names = || {
            let keys = store.read(&scope("p1"), |snap| {
                snap.keys_by_key_alias(&KeyFilter::all(), keystead::After::Start, keystead::Limit::MAX)
            });
            keys.unwrap().items.iter().map(|key| key.key_alias.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["b", "obs/default"]);
        // Another time there is nothing to do.
        assert_eq!(first.make(&store, &Request::new(&scope("p1"))).unwrap(), 0);
        assert_eq!(names(), ["b", "obs/default"]);
        // But after each start it is known.
        assert_eq!(look_for(&store, &config.accounts), 1);
        // A key of another project is none of this one.
        let new = NewKey::new("other").unwrap().id(FIRST.parse().unwrap());
        store.write(&Request::new(&scope("p2")), |txn| txn.create_key(&new)).unwrap();
        assert_eq!(look_for(&store, &config.accounts), 1);
        let new = NewKey::new("a").unwrap().id(FIRST.parse().unwrap());
        store.write(&Request::new(&scope("p1")), |txn| txn.create_key(&new)).unwrap();
        assert_eq!(look_for(&store, &config.accounts), 0);
    }
}
