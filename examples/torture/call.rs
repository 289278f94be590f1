//! What the threads ask of a store: calls that change it and queries, as values that can be made again of
//! another store, with answers that can be compared.

use keystead::{
    After, Alias, DomainId, Error, HistoryOf, KeyAlias, KeyFilter, KeyId, Limit, NewKey, Options, Order,
    PendingDays, ProjectId, Quotas, Request, RequestId, Result, Scope, Snapshot, Store, Tags, Timestamp,
    Transaction,
};

/// How many scopes there are.
pub(crate) const SCOPES: usize = 2;

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(Box<NewKey>),
    CreateAlias(Alias, KeyId),
    Associate(Alias, KeyId),
    SwapAliases(Alias, Alias),
    /// From whatever key it is on.
    DeleteAlias(Alias),
    Rename(KeyId, KeyAlias),
    SwapNames(KeyId, KeyId),
    Disable(KeyId),
    Enable(KeyId),
    Schedule(KeyId),
    Cancel(KeyId),
    Purge(KeyId),
    Tag(KeyId, Tags),
    Several(Vec<Op>, Ends),
}

/// How a transaction of several operations ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The first that is refused drops all.
    Commits,
    /// All are done, and then dropped.
    Aborts,
    /// What is refused is left out.
    GoesOn,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Write(Op),
    /// What may come again: its id, its body, and what it is.
    Once(RequestId, Vec<u8>, Op),
    Import(Vec<NewKey>),
}

/// A call that changes something. Its actor is its own: so a commit says whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) actor: String,
    pub(crate) scope: usize,
    pub(crate) time: Timestamp,
    pub(crate) what: What,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Every record that came back, as text.
    pub(crate) answer: String,
    /// The commit that it made; or, if it made none, at which it is true.
    pub(crate) commit: u64,
    pub(crate) made_commit: bool,
    pub(crate) replayed: bool,
}

/// What is asked in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    Resolve(Alias),
    ResolveMany(Vec<Alias>),
    Key(KeyId),
    Named(KeyAlias),
    /// All that is kept of what a key was.
    History(KeyId),
    Everything,
}

/// The options of every store here.
pub(crate) fn options() -> Options {
    Options::new().quotas(Quotas { keys_per_project: 130, ..Quotas::default() })
}

pub(crate) fn scope(number: usize) -> Scope {
    let project = if number == 0 { "first" } else { "second" };
    let valid = "letters make a valid id";
    Scope::from_ids(DomainId::new("domain").expect(valid), ProjectId::new(project).expect(valid))
}

impl Call {
    pub(crate) fn request(&self) -> Request {
        Request::new(&scope(self.scope)).at(self.time).actor(&self.actor)
    }

    /// Makes the call.
    pub(crate) fn make(&self, store: &Store) -> Result<Done> {
        let request = self.request();
        match &self.what {
            What::Write(op) => {
                let committed = store.write(&request, |txn| op.run(txn))?;
                Ok(Done {
                    answer: committed.value,
                    commit: committed.commit.number(),
                    made_commit: committed.changed,
                    replayed: false,
                })
            }
            What::Once(id, body, op) => {
                let committed = store.write_once(&request, id, body, |txn| op.run(txn))?;
                Ok(Done {
                    answer: committed.value,
                    commit: committed.commit.number(),
                    made_commit: !committed.replayed,
                    replayed: committed.replayed,
                })
            }
            What::Import(keys) => {
                let mut done = Done { answer: String::new(), commit: 0, made_commit: false, replayed: false };
                // All of them are one batch.
                for batch in store.import(&request, keys.iter().cloned()) {
                    let batch = batch?;
                    let refused: Vec<_> =
                        batch.refused.iter().map(|(position, error)| (position, kind(error))).collect();
                    done.answer = format!("{} created, {refused:?}", batch.created);
                    done.commit = batch.commit.number();
                    done.made_commit = batch.created > 0;
                }
                Ok(done)
            }
        }
    }

    /// What the call would come to, without any effect; a refusal by its kind.
    pub(crate) fn judge(&self, store: &Store) -> Result<std::result::Result<Done, String>> {
        let request = self.request();
        let dry = |op: &Op| match store.dry_run(&request, |txn| op.run(txn)) {
            Ok(ran) => {
                let made_commit = !ran.changes.is_empty();
                Ok(Ok(Done { answer: ran.value, commit: 0, made_commit, replayed: false }))
            }
            Err(error) if is_refusal(&error) => Ok(Err(kind(&error))),
            Err(error) => Err(error),
        };
        match &self.what {
            What::Write(op) => dry(op),
            What::Once(_, _, op) => match self.outcome(store) {
                Ok(Some((answer, commit))) => {
                    Ok(Ok(Done { answer, commit, made_commit: false, replayed: true }))
                }
                Ok(None) => dry(op),
                Err(error) => Ok(Err(kind(&error))),
            },
            What::Import(keys) => {
                // None of them was created, so each is as if it were alone.
                let mut refused = Vec::new();
                for (position, new) in keys.iter().enumerate() {
                    match store.dry_run(&request, |txn| txn.create_key(new)) {
                        Err(error) if is_refusal(&error) => refused.push((position, kind(&error))),
                        Err(error) => return Err(error),
                        Ok(_) => {}
                    }
                }
                let answer = format!("{} created, {refused:?}", keys.len() - refused.len());
                Ok(Ok(Done { answer, commit: 0, made_commit: false, replayed: false }))
            }
        }
    }

    /// The answer that is stored for a call that may come again, and its commit.
    pub(crate) fn outcome(&self, store: &Store) -> Result<Option<(String, u64)>> {
        let What::Once(id, body, _) = &self.what else { return Ok(None) };
        let asked = store.write_once(&self.request(), id, body, |_| -> Result<String> {
            Err(Error::abort("nothing is stored"))
        });
        match asked {
            Ok(stored) => Ok(Some((stored.value, stored.commit.number()))),
            Err(Error::Aborted(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl What {
    /// What a call that made a commit is counted as.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write(op) => op.name(),
            Self::Once(..) => "once",
            Self::Import(_) => "imports",
        }
    }
}

impl Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Create(_) | Self::CreateAlias(..) => "creations",
            Self::Associate(..) => "moves",
            Self::SwapAliases(..) | Self::SwapNames(..) => "swaps",
            Self::DeleteAlias(_) => "deletions",
            Self::Rename(..) => "renames",
            Self::Purge(_) => "purges",
            Self::Several(..) => "several",
            Self::Disable(_) | Self::Enable(_) | Self::Schedule(_) | Self::Cancel(_) | Self::Tag(..) => {
                "other changes of keys"
            }
        }
    }

    fn run(&self, txn: &mut Transaction<'_>) -> Result<String> {
        Ok(match self {
            Self::Create(new) => format!("{:?}", txn.create_key(new)?),
            Self::CreateAlias(alias, key) => format!("{:?}", txn.create_alias(alias, *key)?),
            Self::Associate(alias, key) => format!("{:?}", txn.associate_alias(alias, *key)?),
            Self::SwapAliases(one, other) => format!("{:?}", txn.swap_aliases(one, other)?),
            Self::DeleteAlias(alias) => {
                let record = txn.alias(alias)?;
                txn.delete_aliases(record.key_id, std::slice::from_ref(alias))?;
                format!("{record:?}")
            }
            Self::Rename(key, name) => format!("{:?}", txn.rename_key_alias(*key, name)?),
            Self::SwapNames(one, other) => format!("{:?}", txn.swap_key_aliases(*one, *other)?),
            Self::Disable(key) => format!("{:?}", txn.disable(*key)?),
            Self::Enable(key) => format!("{:?}", txn.enable(*key)?),
            Self::Schedule(key) => format!("{:?}", txn.schedule_deletion(*key, PendingDays::new(7)?)?),
            Self::Cancel(key) => format!("{:?}", txn.cancel_deletion(*key)?),
            Self::Purge(key) => format!("{:?}", txn.purge(*key)?),
            Self::Tag(key, tags) => format!("{:?}", txn.set_tags(*key, tags)?.version),
            Self::Several(ops, ends) => {
                let mut answers = String::new();
                for op in ops {
                    match op.run(txn) {
                        Err(refused) if *ends == Ends::GoesOn => answers += &kind(&refused),
                        answer => answers += &answer?,
                    }
                }
                if *ends == Ends::Aborts {
                    return Err(Error::abort("as it was to end"));
                }
                // Long answers are those of many, and are in the feed anyway.
                answers.chars().take(4000).collect()
            }
        })
    }
}

impl Query {
    /// The answer of one snapshot, as text; a refusal by its kind.
    pub(crate) fn ask(&self, snap: &Snapshot<'_>) -> Result<String> {
        let answer = match self {
            Self::Resolve(alias) => snap.resolve(alias).map(|key| format!("{key:?}")),
            Self::ResolveMany(aliases) => snap.resolve_many(aliases).map(|keys| format!("{keys:?}")),
            Self::Key(key) => snap.key(*key).map(|key| format!("{key:?}")),
            Self::Named(name) => snap.find_by_key_alias(name).map(|key| format!("{key:?}")),
            Self::History(key) => {
                let (order, start) = (Order::NewestFirst, After::Start);
                let page = snap.history(HistoryOf::Key(*key), order, start, Limit::MAX);
                page.map(|changes| format!("{:?}", changes.items))
            }
            Self::Everything => everything(snap),
        };
        match answer {
            Err(error) if is_refusal(&error) => Ok(kind(&error)),
            answer => answer,
        }
    }
}

/// A scope as all its lists and look-ups show it.
fn everything(snap: &Snapshot<'_>) -> Result<String> {
    let (all, start) = (KeyFilter::all(), Limit::MAX);
    let keys = snap.keys_by_id(&all, After::Start, start)?;
    let names = snap.keys_by_key_alias(&all, After::Start, start)?;
    let aliases = snap.aliases(After::Start, start)?;
    let mut text = format!("{:?} {:?}", keys.items, aliases.items);
    // By name they are the same records in another order.
    let mut by_id = names.items.clone();
    by_id.sort_by_key(|key| key.key_id);
    if by_id == keys.items {
        text += &format!("{:?}", names.items.iter().map(|key| key.key_id).collect::<Vec<_>>());
    } else {
        text += &format!("other records by name: {:?}", names.items);
    }
    for key in &keys.items {
        let own = snap.aliases_of_key(key.key_id, After::Start, start)?;
        let named = snap.find_by_key_alias(&key.key_alias)?;
        text += &format!("{:?} {:?} {:?}", own.items, named.key_id, snap.key(key.key_id)?.version);
    }
    for alias in &aliases.items {
        text += &format!("{:?}", snap.resolve(&alias.alias)?.key_id);
    }
    text += &format!("{} {}", snap.count_keys(&all)?, snap.count_keys_in_quota()?);
    Ok(text)
}

/// Whether the store said no, and not the disk.
pub(crate) fn is_refusal(error: &Error) -> bool {
    !matches!(
        error,
        Error::Io(_)
            | Error::Corrupted(_)
            | Error::Poisoned
            | Error::CommitUnknown(_)
            | Error::Unavailable(_)
            | Error::AccessDenied(_)
            | Error::Conflict
            | Error::LogMismatch(_)
            | Error::NotAStore(_)
            | Error::ReadOnly
            | Error::AlreadyOpen(_)
            | Error::Unsupported { .. }
    )
}

/// The name of an error, with what is in it.
pub(crate) fn kind(error: &Error) -> String {
    format!("{error:?}")
}
