//! All engines answer alike: what keystead answers is what is right.

use std::collections::BTreeMap;

use keystead::{Alias, KeyId};

use crate::data::{Keys, Random};
use crate::engines;
use crate::peer::{Answer, Move, Outcome, Place, Refusal, Session, Settings};
use crate::record::{ENABLED, PENDING_DELETION};

const KEYS: usize = 300;
const MOVES: usize = 2000;

/// What one engine answered to everything.
#[derive(Default, PartialEq, Debug)]
struct Answers {
    outcomes: Vec<Outcome>,
    resolved: Vec<Option<(KeyId, u8, String)>>,
    listed: Vec<Vec<(String, KeyId)>>,
}

fn everything(session: &mut dyn Session, keys: &Keys, answers: &mut Answers) -> Answer<()> {
    let unknown = Alias::new("unknown")?;
    for place in Place::ALL {
        for alias in keys.aliases.iter().chain([&unknown]) {
            let key = session.resolve(place, alias)?;
            answers.resolved.push(key.map(|key| (key.key_id(), key.state(), key.key_alias().to_owned())));
        }
        let (mut after, mut all) = (Alias::new("alias-")?, Vec::new());
        loop {
            let mut page = Vec::new();
            session.list(place, &after, 70, &mut |name, key_id| page.push((name.to_owned(), key_id)))?;
            let Some((last, _)) = page.last() else { break };
            after = Alias::new(last)?;
            all.extend(page);
        }
        answers.listed.push(all);
    }
    Ok(())
}

/// Moves that are fine, and moves that are refused for each reason.
fn moves(keys: &Keys) -> Vec<Move> {
    let mut random = Random::new(7);
    let moves = (0..MOVES).map(|_| {
        let place = Place::ALL[random.below(2)];
        // Often the same target, so that it gets all that it may have.
        let few = if random.below(4) == 0 { 1 } else { KEYS };
        let target = match random.below(20) {
            0 => KeyId::from_bytes([7; 16]),
            _ => keys.ids[random.below(few)],
        };
        let alias = match random.below(20) {
            0 => "not-there".parse().unwrap(),
            _ => keys.aliases[random.below(KEYS)].clone(),
        };
        let expected = (random.below(3) == 0).then(|| keys.ids[random.below(KEYS)]);
        Move { place, alias, target, expected }
    });
    moves.collect()
}

fn answers_of(engine: engines::Engine, history: bool) -> Answer<Answers> {
    let folder = tempfile::tempdir()?;
    let keys = Keys::new(KEYS)?;
    let settings = Settings::of(KEYS, history);
    let mut answers = Answers::default();
    let peer = (engine.open)(folder.path(), settings)?;
    for place in Place::ALL {
        peer.import(place, &keys.new_keys()?)?;
    }
    peer.session(&mut |session| {
        everything(session, &keys, &mut answers)?;
        for place in Place::ALL {
            keys.ids.iter().skip(10).step_by(9).try_for_each(|id| session.schedule_deletion(place, *id))?;
        }
        let moves = moves(&keys);
        let (alone, together) = moves.split_at(MOVES / 2);
        for wanted in alone {
            answers.outcomes.push(session.associate(wanted)?);
        }
        // A commit is of one scope.
        for place in Place::ALL {
            let of_place: Vec<_> = together.iter().filter(|wanted| wanted.place == place).cloned().collect();
            for some in of_place.chunks(20) {
                answers.outcomes.extend(session.associate_group(some)?);
            }
        }
        everything(session, &keys, &mut answers)
    })?;
    drop(peer);
    let peer = (engine.open)(folder.path(), settings)?;
    peer.session(&mut |session| everything(session, &keys, &mut answers))?;
    peer.session(&mut |session| {
        let wanted =
            Move { place: Place::Small, alias: keys.aliases[0].clone(), target: keys.ids[5], expected: None };
        answers.outcomes.push(session.associate(&wanted)?);
        everything(session, &keys, &mut answers)
    })?;
    Ok(answers)
}

#[test]
fn all_engines_answer_alike() {
    for history in [true, false] {
        let mut engines = engines::all().into_iter();
        let keystead = answers_of(engines.next().unwrap(), history).unwrap();
        let mut kinds = BTreeMap::<String, usize>::new();
        for outcome in &keystead.outcomes {
            *kinds.entry(format!("{:?}", outcome.as_ref().map(|moved| moved.changed))).or_default() += 1;
        }
        // Every kind of answer was among them: moved, not moved, and the five refusals.
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        let states: Vec<_> = keystead.resolved.iter().flatten().map(|(_, state, _)| *state).collect();
        assert!(states.contains(&ENABLED) && states.contains(&PENDING_DELETION));
        assert!(keystead.outcomes.contains(&Err(Refusal::PendingDeletion)));
        for engine in engines {
            let peer = answers_of(engine, history).unwrap();
            assert_eq!(peer.outcomes, keystead.outcomes, "{}, history {history}", engine.name);
            assert_eq!(peer.resolved, keystead.resolved, "{}, history {history}", engine.name);
            assert_eq!(peer.listed, keystead.listed, "{}, history {history}", engine.name);
        }
    }
}

#[test]
fn no_engine_loads_a_name_twice() {
    for engine in engines::all() {
        let folder = tempfile::tempdir().unwrap();
        let peer = (engine.open)(folder.path(), Settings::of(KEYS, true)).unwrap();
        let keys = Keys::new(KEYS).unwrap();
        let mut new = keys.new_keys().unwrap();
        new[17].aliases[0] = keys.aliases[200].clone();
        assert!(peer.import(Place::Large, &new).is_err(), "{}", engine.name);
    }
}

#[test]
fn groups_answer_every_caller() {
    let engine = engines::named("redb").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::new(1000).unwrap();
    let new = keys.new_keys().unwrap();
    let contents = crate::subject::Contents { large: &new, small: &[] };
    let (mut subject, _) = crate::subject::Subject::load(engine, folder.path(), contents, true).unwrap();
    let slice = std::time::Duration::from_millis(100);
    let (samples, rate) = crate::works::associate_64(&mut subject, &keys, slice, true).unwrap();
    assert!(samples.len() > crate::works::CALLERS && rate > 0.0);
    crate::works::move_many(&mut subject, &keys, 500).unwrap();
    crate::works::list(&subject, Place::Large, &keys, 1, slice).unwrap();
}
