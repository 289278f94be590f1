//! Makes up calls and queries: from few names, so that threads want the same ones.

use keystead::{Alias, KeyAlias, KeyId, NewKey, RequestId, TagKey, TagValue, Tags, Timestamp};

use crate::call::{Call, Ends, Op, Query, SCOPES, What};
use crate::random::Random;

const VALID: &str = "the name is made of letters and digits";
const KEYS: u64 = 48;
const NAMES: u64 = 64;
const ALIASES: u64 = 40;
const REQUESTS: u64 = 12;
/// More of them do not fit into a transaction.
const TOO_MANY: u64 = 90;
const DAY: u64 = 24 * 60 * 60 * 1000;
const BEGIN: u64 = 1_700_000_000_000;

/// A number for each call that was ever made of a store, by which times and actors differ.
pub(crate) fn call(random: &mut Random, number: u64, heavy: bool) -> Call {
    let scope = random.index(SCOPES);
    let what = match random.below(100) {
        0..=3 => What::Import((0..random.below(70) + 1).map(|_| new_key(random)).collect()),
        4..=15 => once(random, number),
        _ if heavy && random.one_in(6) => What::Write(heavy_op(random)),
        _ => What::Write(op_or_several(random)),
    };
    // Some come from a time at which what was to be deleted is due.
    let late = random.below(4) * 30 * DAY;
    let time = Timestamp::from_millis(BEGIN + number + late);
    Call { actor: format!("call-{number}"), scope, time, what }
}

/// A request that others make too, or made before. Its id says all of what it is, except that now and then
/// it comes with another body.
fn once(random: &mut Random, number: u64) -> What {
    let which = number / 150 * REQUESTS + random.below(REQUESTS);
    let id = RequestId::new(&format!("{which:036}")).expect("36 digits are an id");
    let body = if random.one_in(8) { "another body" } else { "the body" };
    let mut own = Random::new(which);
    // As any generator: the first number of near seeds is far apart only behind some.
    own.next();
    What::Once(id, body.into(), op(&mut own))
}

fn op_or_several(random: &mut Random) -> Op {
    match random.below(40) {
        0..=3 => {
            let ops = (0..=random.below(4)).map(|_| op(random)).collect();
            Op::Several(ops, *random.pick(&[Ends::Aborts, Ends::Commits, Ends::Commits, Ends::GoesOn]))
        }
        4 => {
            let many = if random.one_in(6) { 30 } else { TOO_MANY };
            let first = KEYS + random.below(NAMES);
            let key = |number: u64| {
                let name = format!("many-{number}");
                Op::Create(Box::new(NewKey::new(&name).expect(VALID).id(id_of(number))))
            };
            Op::Several((first..first + many).map(key).collect(), Ends::Commits)
        }
        5 => Op::Several((0..25).map(|_| Op::Tag(key_id(random), tags(random))).collect(), Ends::GoesOn),
        _ => op(random),
    }
}

/// Nearly as large as a commit may be: a few of them fill the log.
fn heavy_op(random: &mut Random) -> Op {
    let tag = |number: u64| {
        let value = TagValue::new(&"w".repeat(255)).expect(VALID);
        (TagKey::new(&format!("heavy-{number}")).expect(VALID), value)
    };
    let first = random.below(10);
    let tags = move |key: u64| (first..first + 15 + key % 5).map(tag).collect();
    Op::Several((0..KEYS).map(|key| Op::Tag(id_of(key), tags(key))).collect(), Ends::GoesOn)
}

fn op(random: &mut Random) -> Op {
    match random.below(26) {
        0..=5 => Op::Create(Box::new(new_key(random))),
        6..=7 => Op::CreateAlias(alias(random), key_id(random)),
        8..=10 => Op::Associate(alias(random), key_id(random)),
        11 => Op::SwapAliases(alias(random), alias(random)),
        12 => Op::DeleteAlias(alias(random)),
        13..=14 => Op::Rename(key_id(random), name(random)),
        15 => Op::SwapNames(key_id(random), key_id(random)),
        16 => Op::Disable(key_id(random)),
        17 => Op::Enable(key_id(random)),
        18..=19 => Op::Schedule(key_id(random)),
        20 => Op::Cancel(key_id(random)),
        21..=24 => Op::Purge(key_id(random)),
        _ => Op::Tag(key_id(random), tags(random)),
    }
}

pub(crate) fn query(random: &mut Random) -> Query {
    match random.below(12) {
        0..=5 => Query::Resolve(alias(random)),
        6 => Query::ResolveMany((0..5).map(|_| alias(random)).collect()),
        7..=8 => Query::Key(key_id(random)),
        9..=10 => Query::Named(name(random)),
        _ => Query::Everything,
    }
}

/// Of a follower: also the history.
pub(crate) fn query_of_follower(random: &mut Random) -> Query {
    if random.one_in(6) { Query::History(key_id(random)) } else { query(random) }
}

fn new_key(random: &mut Random) -> NewKey {
    let mut new = NewKey::new(name(random).as_str()).expect(VALID).id(key_id(random));
    for _ in 0..random.below(3) {
        new = new.alias(alias(random));
    }
    new
}

fn key_id(random: &mut Random) -> KeyId {
    // Few of them are wanted often.
    let keys = *random.pick(&[KEYS / 8, KEYS / 8, KEYS, KEYS, KEYS + NAMES]);
    id_of(random.below(keys))
}

fn id_of(number: u64) -> KeyId {
    KeyId::from_bytes([u8::try_from(number).expect("there are few keys"); 16])
}

fn name(random: &mut Random) -> KeyAlias {
    KeyAlias::new(&format!("name-{}", random.below(NAMES))).expect(VALID)
}

fn alias(random: &mut Random) -> Alias {
    let aliases = *random.pick(&[ALIASES / 8, ALIASES]);
    let number = random.below(aliases);
    // The same name in a URN, spelled in the other way.
    let prefix = if number % 8 == 7 && random.one_in(2) { "alias/" } else { "" };
    Alias::new(&format!("{prefix}alias-{number}")).expect(VALID)
}

fn tags(random: &mut Random) -> Tags {
    let value = |random: &mut Random| "v".repeat(random.index(200));
    let tag = |number: u64, random: &mut Random| {
        let (key, value) = (format!("tag-{number}"), value(random));
        (TagKey::new(&key).expect(VALID), TagValue::new(&value).expect(VALID))
    };
    (0..random.below(20)).map(|number| tag(number, random)).collect()
}
