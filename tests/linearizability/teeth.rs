//! What the checker finds out: histories made by hand, recorded ones in which one answer was changed, and
//! random ones beside a checker that tries every order.

use keystead::Store;

use super::linearizability::checker::{
    Operation, Returned, STEPS_MAX, Specification, Violation, Window, check, check_whole, is_linearizable,
    parts,
};
use super::linearizability::recorder::History;
use super::linearizability::specification::{Alias, Answer, Call, Key, Name, Names, Refusal};
use super::linearizability::workload::{Random, Workload};
use super::record;

const A: Alias = Alias(0);

/// Three keys named 0 to 2, the alias on the first.
fn initial() -> Names {
    Names { keys: (0..3).map(|key| (Key(key), Name(key))).collect(), aliases: [(A, Key(0))].into() }
}

/// A call of a thread of its own that was answered.
fn answered(began: u64, at: u64, call: Call, answer: Answer) -> Operation<Call, Answer> {
    let thread = usize::try_from(began).unwrap();
    Operation { thread, call, began, returned: Some(Returned { at, answer, hint: 0 }) }
}

fn unknown(began: u64, call: Call) -> Operation<Call, Answer> {
    Operation { thread: usize::try_from(began).unwrap(), call, began, returned: None }
}

fn moved(from: u8) -> Answer {
    Answer::MovedFrom(vec![Key(from)])
}

fn renamed(from: u8) -> Answer {
    Answer::RenamedFrom(vec![Name(from)])
}

fn found(key: u8, name: u8) -> Answer {
    Answer::Found(Key(key), Name(name))
}

fn explained(history: &[Operation<Call, Answer>]) {
    check(&initial(), history).unwrap();
}

/// It is found out, and shown by a window of so many operations.
fn violated(history: &[Operation<Call, Answer>], operations: usize) -> Window<Names> {
    match check(&initial(), history) {
        Err(Violation::NotLinearizable(window)) => {
            println!("{window}");
            assert_eq!(window.steps.len(), operations, "{window}");
            assert_eq!(window.is_explained(STEPS_MAX), Some(false), "{window}");
            *window
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_read_after_a_write_that_returned() {
    let write = answered(1, 2, Call::Associate(A, Key(1)), moved(0));
    let read = |began, at, key| answered(began, at, Call::Resolve(A), found(key, key));
    violated(&[write.clone(), read(3, 4, 0)], 2);
    explained(&[write.clone(), read(3, 4, 1)]);
    // While the write runs, either; but not the old after the new.
    let write = answered(1, 8, Call::Associate(A, Key(1)), moved(0));
    explained(&[write.clone(), read(2, 3, 0), read(4, 5, 1)]);
    violated(&[write.clone(), read(2, 3, 1), read(4, 5, 0)], 3);
}

#[test]
fn a_lost_update() {
    let one = answered(1, 4, Call::Associate(A, Key(1)), moved(0));
    let other = |from| answered(2, 3, Call::Associate(A, Key(2)), moved(from));
    violated(&[one.clone(), other(0)], 2);
    explained(&[one, other(1)]);
}

#[test]
fn a_name_on_two_keys() {
    // Both got the free name.
    let rename = |began, at, key| answered(began, at, Call::Rename(Key(key), Name(9)), renamed(key));
    violated(&[rename(1, 4, 0), rename(2, 3, 1)], 2);
    let create = |began, at, key| answered(began, at, Call::CreateKey(Key(key), Name(9), None), Answer::Done);
    violated(&[create(1, 4, 7), create(2, 3, 8)], 2);
    // Two looks, in each of which the alias is on one key, but on another each time; nobody moved it.
    let look = |began, key| {
        answered(
            began,
            began + 1,
            Call::Look(vec![A], vec![Name(key)]),
            Answer::Seen(vec![Some(Key(key))], vec![Some(Key(key))]),
        )
    };
    violated(&[look(1, 0), look(3, 1)], 1);
}

#[test]
fn an_old_name_that_is_seen_after_its_rename_returned() {
    let rename = answered(1, 2, Call::Rename(Key(0), Name(9)), renamed(0));
    let find = |began, answer| answered(began, began + 1, Call::Find(Name(0)), answer);
    violated(&[rename.clone(), find(3, found(0, 0))], 2);
    explained(&[rename.clone(), find(3, Answer::Refused(Refusal::KeyNotFound))]);
    // By the alias the old name may not be seen either.
    violated(&[rename.clone(), answered(3, 4, Call::Resolve(A), found(0, 0))], 2);
    explained(&[rename, answered(3, 4, Call::Resolve(A), found(0, 9))]);
}

#[test]
fn a_moment_in_between() {
    // On neither key while it moves.
    let write = answered(1, 6, Call::Associate(A, Key(1)), moved(0));
    let missing = answered(2, 3, Call::Resolve(A), Answer::Refused(Refusal::AliasNotFound));
    violated(&[write, missing], 2);
    // Half of a transaction.
    let both = Call::Together(vec![Call::Associate(A, Key(1)), Call::Rename(Key(1), Name(9))]);
    let both = answered(1, 6, both, Answer::All(vec![moved(0), renamed(1)]));
    violated(&[both.clone(), answered(2, 3, Call::Resolve(A), found(1, 1))], 2);
    explained(&[both, answered(2, 3, Call::Resolve(A), found(1, 9))]);
    // Names exchanged: at no moment have both keys one name.
    let swap = answered(1, 6, Call::SwapNames(Key(0), Key(1)), Answer::RenamedFrom(vec![Name(0), Name(1)]));
    let names = |keys: [Option<Key>; 2]| {
        answered(2, 3, Call::Look(vec![], vec![Name(0), Name(1)]), Answer::Seen(vec![], keys.to_vec()))
    };
    violated(&[swap.clone(), names([Some(Key(0)), Some(Key(0))])], 2);
    violated(&[swap.clone(), names([Some(Key(0)), None])], 2);
    explained(&[swap, names([Some(Key(1)), Some(Key(0))])]);
}

#[test]
fn a_refusal_that_nothing_explains() {
    let refused = |call, refusal| answered(1, 2, call, Answer::Refused(refusal));
    violated(&[refused(Call::Rename(Key(0), Name(9)), Refusal::KeyAliasExists)], 1);
    violated(&[refused(Call::CreateAlias(Alias(5), Key(0)), Refusal::AliasExists)], 1);
    violated(&[refused(Call::Associate(A, Key(1)), Refusal::AliasNotFound)], 1);
    explained(&[refused(Call::Rename(Key(0), Name(1)), Refusal::KeyAliasExists)]);
    // What another thread does at that time explains it.
    let taken = answered(0, 3, Call::CreateAlias(Alias(5), Key(1)), Answer::Done);
    explained(&[taken, refused(Call::CreateAlias(Alias(5), Key(0)), Refusal::AliasExists)]);
    // What was refused did nothing.
    let refused = refused(Call::Rename(Key(0), Name(1)), Refusal::KeyAliasExists);
    violated(&[refused, answered(3, 4, Call::Find(Name(1)), found(0, 1))], 1);
}

#[test]
fn an_unknown_outcome_took_effect_late_or_never_but_not_twice() {
    let read = |began, key| answered(began, began + 1, Call::Resolve(A), found(key, key));
    let write = unknown(2, Call::Associate(A, Key(1)));
    explained(&[write.clone(), read(3, 0), read(5, 0)]);
    explained(&[write.clone(), read(3, 0), read(5, 1)]);
    violated(&[write.clone(), read(3, 0), read(5, 1), read(7, 0)], 3);
    violated(&[write.clone(), read(0, 1)], 1);
    let back = answered(5, 6, Call::Associate(A, Key(0)), moved(1));
    explained(&[write.clone(), read(3, 1), back.clone(), read(7, 0)]);
    violated(&[write, read(3, 1), back, read(7, 0), read(9, 1)], 3);
}

#[test]
fn a_window_is_as_small_as_it_can_be() {
    let mut history = Vec::new();
    for round in 0..50 {
        let (from, to) = (round % 3, (round + 1) % 3);
        let at = u64::from(round) * 10;
        history.push(answered(at, at + 1, Call::Associate(A, Key(to)), moved(from)));
        history.push(answered(at + 2, at + 3, Call::Resolve(A), found(to, to)));
    }
    explained(&history);
    let last = answered(245, 246, Call::Resolve(A), found(2, 2));
    history.push(last.clone());
    let window = violated(&history, 2);
    assert_eq!(window.steps[0].operation.began, 242);
    assert_eq!(window.steps[1].operation, last);
    assert!(window.states.len() > 1, "the window needs no state of before");
}

#[test]
fn too_many_steps_are_no_proof() {
    let write = |began, key| answered(began, 100, Call::Associate(A, Key(key)), moved((key + 2) % 3));
    let history: History = (0..12).map(|began| write(began, u8::try_from(began % 3).unwrap())).collect();
    assert!(matches!(check_whole(&initial(), &history, 3), Err(Violation::TooManySteps(3))));
}

#[test]
fn a_history_is_divided_where_nothing_connects_it() {
    let history = [
        answered(1, 2, Call::Resolve(A), found(0, 0)),
        answered(3, 4, Call::Rename(Key(0), Name(1)), Answer::Refused(Refusal::KeyAliasExists)),
        answered(5, 6, Call::Find(Name(2)), found(2, 2)),
        answered(7, 8, Call::Find(Name(1)), found(1, 1)),
        answered(9, 10, Call::Resolve(Alias(3)), Answer::Refused(Refusal::AliasNotFound)),
    ];
    let mut parts: Vec<Vec<u64>> = parts(&initial(), &history)
        .iter()
        .map(|part| part.iter().map(|operation| operation.began).collect())
        .collect();
    parts.sort_unstable();
    assert_eq!(parts, [vec![1, 3, 7], vec![5], vec![9]]);
}

/// An answer of the same kind that is another.
fn another(answer: &Answer) -> Answer {
    let next = |key: &Key| Key((key.0 + 1) % 3);
    match answer {
        Answer::Done => Answer::Refused(Refusal::AliasExists),
        Answer::MovedFrom(from) => Answer::MovedFrom(from.iter().map(next).collect()),
        Answer::RenamedFrom(from) => Answer::RenamedFrom(from.iter().map(|name| Name(name.0 + 1)).collect()),
        Answer::Found(key, name) => Answer::Found(next(key), *name),
        Answer::Seen(aliases, names) => {
            let other = |seen: &Option<Key>| if seen.is_some() { None } else { Some(Key(0)) };
            Answer::Seen(aliases.iter().map(other).collect(), names.clone())
        }
        Answer::All(answers) => Answer::All(answers.iter().map(another).collect()),
        Answer::Refused(Refusal::AliasNotFound) => Answer::Refused(Refusal::AliasExists),
        Answer::Refused(_) => Answer::Refused(Refusal::AliasNotFound),
    }
}

/// In a history that a store made, one answer is changed. If nothing was changed by others while the
/// operation ran, it is known in which state it did, so there is one right answer, and any other must be found
/// out: the answers tell what each was before, so all orders of the same operations leave the same state.
#[test]
fn one_changed_answer_is_found_out() {
    let (mut alone, mut others, mut found_out) = (0, 0, 0);
    for seed in 0..8 {
        let store = Store::in_memory().unwrap();
        let threads = [1, 2, 4, 8][usize::try_from(seed % 4).unwrap()];
        let (initial, history) =
            record((&store, None), Workload { families: 1 }, threads, 96 / threads, seed);
        check(&initial, &history).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let mut random = Random::new(seed);
        for _ in 0..20 {
            let place = random.index(history.len());
            let mut changed = history.clone();
            let returned = changed[place].returned.as_mut().unwrap();
            returned.answer = another(&returned.answer);
            let found = !is_linearizable(&initial, &changed);
            if is_alone(&history, place) {
                alone += 1;
                assert!(found, "seed {seed}: {:?} was believed", changed[place]);
            } else {
                others += 1;
                found_out += usize::from(found);
            }
        }
    }
    println!("{alone} changed answers alone, {found_out} of {others} others were found out");
    assert!(alone >= 40, "one thread is always alone");
}

fn is_alone(history: &History, place: usize) -> bool {
    let end = |it: &Operation<Call, Answer>| it.returned.as_ref().unwrap().at;
    let own = &history[place];
    history.iter().enumerate().all(|(other, it)| {
        let changes = Names::changes(&it.call, &it.returned.as_ref().unwrap().answer);
        other == place || !changes || it.began > end(own) || end(it) < own.began
    })
}

/// Tries every order.
fn every_order(state: &Names, left: &[&Operation<Call, Answer>]) -> bool {
    if left.iter().all(|it| it.returned.is_none()) {
        return true;
    }
    let end = |it: &Operation<Call, Answer>| it.returned.as_ref().map_or(u64::MAX, |it| it.at);
    let first_return = left.iter().map(|it| end(it)).min().unwrap();
    (0..left.len()).filter(|place| left[*place].began < first_return).any(|place| {
        let mut after = state.clone();
        let answer = after.run(&left[place].call);
        let right = left[place].returned.as_ref().is_none_or(|it| it.answer == answer);
        let rest: Vec<_> =
            left.iter().copied().enumerate().filter(|it| it.0 != place).map(|it| it.1).collect();
        right && every_order(&after, &rest)
    })
}

/// Short random histories, right and wrong ones: whether they are divided or not, and whatever the hints
/// are, the checker says what trying every order says.
#[test]
fn the_checker_agrees_with_every_order() {
    let workload = Workload { families: 2 };
    let initial = workload.fill(&Store::in_memory().unwrap());
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..3000 {
        let history = random_history(&initial, workload, seed);
        let expected = every_order(&initial, &history.iter().collect::<Vec<_>>());
        *(if expected { &mut right } else { &mut wrong }) += 1;
        assert_eq!(is_linearizable(&initial, &history), expected, "seed {seed}: {history:#?}");
        // Of some, undivided and with a smaller window.
        if seed % 100 < 2 {
            let whole = check_whole(&initial, &history, STEPS_MAX);
            assert_eq!(whole.is_ok(), expected, "seed {seed}: {history:#?}");
        }
    }
    println!("{right} right, {wrong} wrong");
    assert!(right > 500 && wrong > 500);
}

/// Calls run one after the other, which are then made to overlap at random; of half of the histories one
/// answer is changed, and some outcomes are unknown.
fn random_history(initial: &Names, workload: Workload, seed: u64) -> History {
    let (mut random, mut state) = (Random::new(seed), initial.clone());
    let mut history = History::new();
    for number in 0..7 {
        let call = workload.call(&mut random);
        let mut answer = state.run(&call);
        if number == 3 && seed.is_multiple_of(2) {
            answer = another(&answer);
        }
        // Places around the moment at which it ran.
        let moment = 100 + number * 10;
        let began = 20 * (moment - u64::from(random.below(25))) + 2 * number;
        let at = 20 * (moment + u64::from(random.below(25))) + 2 * number + 1;
        let hint = u64::from(random.below(9));
        let returned = (random.below(8) > 0).then_some(Returned { at, answer, hint });
        history.push(Operation { thread: history.len(), call, began, returned });
    }
    history
}
