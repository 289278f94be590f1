//! The checker: a search for an order in which the recorded operations, one after the other, are right.
//!
//! The search is that of Wing and Gong (1993) with the memory of Lowe (2017): what is reached is a set of
//! operations and the state that they left, and none is gone on from twice. Two things make it fast, and
//! neither can make it wrong:
//!
//! - An operation that changes nothing is taken as soon as its answer is right, without an alternative: an
//!   order in which it comes later is one in which it may as well come now.
//! - Of several that change something, the one with the smallest hint is tried first. A hint is the number
//!   of a commit, as the store told it. It is not believed: if that order leads nowhere, all others are tried.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Debug, Display, Formatter};
use std::hash::Hash;
use std::rc::Rc;

/// What a history must be explained by: a state, and what each call does to it and is answered.
pub(crate) trait Specification: Clone + Eq + Hash + Debug {
    type Call: Clone + Debug;
    type Answer: Clone + PartialEq + Debug;
    /// What calls are about.
    type Object: Clone + Ord;

    /// Runs a call, alone.
    fn run(&mut self, call: &Self::Call) -> Self::Answer;

    /// Whether a call that got this answer may have changed anything.
    fn changes(call: &Self::Call, answer: &Self::Answer) -> bool;

    /// The objects that a call names. What else it reads or writes it must reach from them, by a bond of the
    /// state; and a bond is only ever made by a call that names both.
    fn objects(call: &Self::Call) -> Vec<Self::Object>;

    /// The pairs of objects that are bound to each other.
    fn bonds(&self) -> Vec<[Self::Object; 2]>;

    /// Every state in which these calls could leave this one, and maybe others; `None` if they are too many.
    fn reachable<'a>(&self, calls: impl Iterator<Item = &'a Self::Call>) -> Option<Vec<Self>>
    where
        Self::Call: 'a;
}

/// A call and its answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operation<C, A> {
    pub(crate) thread: usize,
    pub(crate) call: C,
    /// Its place among all beginnings and returns.
    pub(crate) began: u64,
    /// `None` if the outcome is unknown: it may take effect at any time after it began, or never.
    pub(crate) returned: Option<Returned<A>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Returned<A> {
    /// Its place among all beginnings and returns.
    pub(crate) at: u64,
    pub(crate) answer: A,
    /// Operations that change something are tried in the order of their hints first.
    pub(crate) hint: u64,
}

pub(crate) type OperationOf<S> = Operation<<S as Specification>::Call, <S as Specification>::Answer>;

/// Why a history could not be explained.
#[derive(Clone)]
pub(crate) enum Violation<S: Specification> {
    /// There is no order; shown by a part of the history, as small as it could be made.
    NotLinearizable(Box<Window<S>>),
    /// None was found in so many steps. That proves nothing, but a test must not pass by it.
    TooManySteps(u64),
}

/// Operations that no order explains, whichever of the states they began in.
#[derive(Clone)]
pub(crate) struct Window<S: Specification> {
    pub(crate) states: Rc<[S]>,
    /// In the order in which they began.
    pub(crate) steps: Vec<Step<S>>,
}

/// An operation of a window.
#[derive(Clone)]
pub(crate) struct Step<S: Specification> {
    pub(crate) operation: OperationOf<S>,
    /// Whether it may be left out: its outcome is unknown, or it began before the window or returned after
    /// it, so that it may have taken effect outside.
    pub(crate) optional: bool,
}

/// How many sets of operations are reached at most by one search.
pub(crate) const STEPS_MAX: u64 = 1_000_000;
/// The same for each of the many searches for a smaller window.
const STEPS_OF_WINDOW: u64 = 100_000;

/// Checks a history that began in this state.
///
/// It is divided first. Two operations belong to one part if a chain of objects connects them, by operations
/// that name both or by bonds of the initial state. To divide by single names would be wrong: a rename is
/// about a key and two names, of which it names one, and a transaction about whatever its operations are.
/// But the old name was bound to the key by an operation that named both, or from the beginning, and so are an
/// alias and the key that it is on. So an operation can neither read nor change what belongs to another part;
/// each part is an object of its own, and a history of several objects is linearizable if and only if that
/// of each is (Herlihy and Wing, 1990).
pub(crate) fn check<S: Specification>(initial: &S, history: &[OperationOf<S>]) -> Result<(), Violation<S>> {
    parts(initial, history).iter().try_for_each(|part| check_whole(initial, part, STEPS_MAX))
}

/// Whether it can be explained; that is [`check`] without looking for a smaller history that can't be.
pub(crate) fn is_linearizable<S: Specification>(initial: &S, history: &[OperationOf<S>]) -> bool {
    let parts = parts(initial, history);
    parts.iter().all(|part| Window::of(initial, part).is_explained(STEPS_MAX) == Some(true))
}

/// Checks a history without dividing it.
pub(crate) fn check_whole<S: Specification>(
    initial: &S,
    history: &[OperationOf<S>],
    steps_max: u64,
) -> Result<(), Violation<S>> {
    let whole = Window::of(initial, history);
    match whole.is_explained(steps_max) {
        Some(true) => Ok(()),
        Some(false) => Err(Violation::NotLinearizable(Box::new(whole.smallest()))),
        None => Err(Violation::TooManySteps(steps_max)),
    }
}

/// The parts of a history that have nothing to do with each other.
pub(crate) fn parts<S: Specification>(initial: &S, history: &[OperationOf<S>]) -> Vec<Vec<OperationOf<S>>> {
    let mut groups = Groups(BTreeMap::new());
    initial.bonds().iter().for_each(|[one, other]| groups.join(one, other));
    for operation in history {
        let objects = S::objects(&operation.call);
        objects.iter().for_each(|object| groups.join(&objects[0], object));
    }
    let mut parts = BTreeMap::<_, Vec<_>>::new();
    for operation in history {
        let group = S::objects(&operation.call).first().map(|object| groups.first_of(object));
        parts.entry(group).or_default().push(operation.clone());
    }
    parts.into_values().collect()
}

/// Which objects are connected: each leads to another of its group, and at last to the first.
struct Groups<O>(BTreeMap<O, O>);

impl<O: Clone + Ord> Groups<O> {
    fn first_of(&self, object: &O) -> O {
        match self.0.get(object) {
            Some(next) => self.first_of(next),
            None => object.clone(),
        }
    }

    fn join(&mut self, one: &O, other: &O) {
        let (one, other) = (self.first_of(one), self.first_of(other));
        if one != other {
            self.0.insert(other, one);
        }
    }
}

impl<C, A> Operation<C, A> {
    fn returned_at(&self) -> Option<u64> {
        self.returned.as_ref().map(|returned| returned.at)
    }
}

impl<S: Specification> Step<S> {
    /// Whether it may have changed anything.
    fn changes(&self) -> bool {
        let Operation { call, returned, .. } = &self.operation;
        returned.as_ref().is_none_or(|returned| S::changes(call, &returned.answer))
    }

    /// The state that it leaves, if its answer is right in this one.
    fn after(&self, state: &S) -> Option<S> {
        let mut after = state.clone();
        let answer = after.run(&self.operation.call);
        let right = self.operation.returned.as_ref().is_none_or(|returned| returned.answer == answer);
        right.then_some(after)
    }
}

impl<S: Specification> Window<S> {
    fn of(initial: &S, history: &[OperationOf<S>]) -> Self {
        let step = |operation: &OperationOf<S>| Step {
            operation: operation.clone(),
            optional: operation.returned.is_none(),
        };
        let mut steps: Vec<_> = history.iter().map(step).collect();
        steps.sort_by_key(|step| step.operation.began);
        Self { states: [initial.clone()].into(), steps }
    }

    /// Whether there is an order from any of the states; `None` if so many steps did not tell.
    pub(crate) fn is_explained(&self, steps_max: u64) -> Option<bool> {
        let mut search = Search { window: self, reached: HashSet::new(), steps_left: steps_max };
        for state in &*self.states {
            if search.finds_order(state)? {
                return Some(true);
            }
        }
        Some(false)
    }

    fn fails(&self) -> bool {
        self.is_explained(STEPS_OF_WINDOW) == Some(false)
    }

    /// Of a window that fails the smallest part that does. It ends with the first answer that can't be; it
    /// begins as late as it can, if from there no state at all explains it; and what changes nothing is in it
    /// only if it is needed.
    fn smallest(&self) -> Self {
        let mut times: Vec<u64> = self.steps.iter().filter_map(|step| step.operation.returned_at()).collect();
        times.sort_unstable();
        // If one of these fails, so do all that are longer.
        let end = times.partition_point(|end| !self.until(*end).fails());
        let mut smallest = times.get(end).map_or_else(|| self.clone(), |end| self.until(*end));
        let calls = self.steps.iter().map(|step| &step.operation.call);
        if let Some(states) = self.states[0].reachable(calls) {
            let states = states.into();
            let starts = times.partition_point(|start| smallest.from(*start, &states).fails());
            if let Some(last) = starts.checked_sub(1) {
                smallest = smallest.from(times[last], &states);
            }
        }
        for place in (0..smallest.steps.len()).rev() {
            let mut without = smallest.clone();
            let step = without.steps.remove(place);
            // If there is an order with a step that changes nothing, there is one without it.
            if !step.changes() && without.fails() {
                smallest = without;
            }
        }
        smallest
    }

    /// What began up to this time; what returned later may be left out.
    fn until(&self, end: u64) -> Self {
        let mut steps = self.steps.clone();
        steps.retain(|step| step.operation.began <= end);
        for step in &mut steps {
            step.optional |= step.operation.returned_at().is_none_or(|at| at > end);
        }
        Self { states: self.states.clone(), steps }
    }

    /// What returned after this time, in any of these states; what began before may be left out.
    fn from(&self, start: u64, states: &Rc<[S]>) -> Self {
        let mut steps = self.steps.clone();
        steps.retain(|step| step.operation.returned_at().is_none_or(|at| at > start));
        for step in &mut steps {
            step.optional |= step.operation.began <= start;
        }
        Self { states: states.clone(), steps }
    }
}

/// Which steps were taken.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken {
    bits: Vec<u64>,
    /// Where the last of them is. What returned before that one began can't be taken any more.
    last: Option<usize>,
}

impl Taken {
    fn has(&self, place: usize) -> bool {
        self.bits[place / 64] & (1 << (place % 64)) != 0
    }

    fn take(&mut self, place: usize) {
        self.bits[place / 64] |= 1 << (place % 64);
        self.last = self.last.max(Some(place));
    }
}

struct Search<'a, S: Specification> {
    window: &'a Window<S>,
    reached: HashSet<(Taken, S)>,
    steps_left: u64,
}

/// What was reached, and where it may go on, the best last.
struct Branch<S> {
    taken: Taken,
    next: Vec<(usize, S)>,
}

impl<S: Specification> Search<'_, S> {
    /// Depth first.
    fn finds_order(&mut self, initial: &S) -> Option<bool> {
        let none = Taken { bits: vec![0; self.window.steps.len().div_ceil(64)], last: None };
        let Some(first) = self.reach(none, initial.clone())? else { return Some(true) };
        let mut branches = vec![first];
        while let Some(branch) = branches.last_mut() {
            let Some((place, state)) = branch.next.pop() else {
                branches.pop();
                continue;
            };
            let mut taken = branch.taken.clone();
            taken.take(place);
            match self.reach(taken, state)? {
                Some(branch) => branches.push(branch),
                None => return Some(true),
            }
        }
        Some(false)
    }

    /// Goes on from there by all that changes nothing. `None` inside if nothing is left to be explained.
    fn reach(&mut self, mut taken: Taken, state: S) -> Option<Option<Branch<S>>> {
        self.steps_left = self.steps_left.checked_sub(1)?;
        let steps = &self.window.steps;
        let mut candidates = self.candidates(&taken);
        while let Some(place) = candidates.iter().copied().find(|place| {
            let step = &steps[*place];
            !step.optional && !step.changes() && step.after(&state).is_some()
        }) {
            taken.take(place);
            candidates = self.candidates(&taken);
        }
        if (0..steps.len()).all(|place| steps[place].optional || taken.has(place)) {
            return Some(None);
        }
        let mut next = Vec::new();
        if self.reached.insert((taken.clone(), state.clone())) {
            let changes = candidates.into_iter().filter(|place| steps[*place].changes());
            next.extend(changes.filter_map(|place| Some((place, steps[place].after(&state)?))));
            // A step whose outcome is unknown and that changes nothing here is as good as left out.
            next.retain(|(place, after)| !steps[*place].optional || *after != state);
            next.sort_by_key(|(place, _)| {
                let hint =
                    steps[*place].operation.returned.as_ref().map_or(u64::MAX, |returned| returned.hint);
                Reverse((hint, *place))
            });
        }
        Some(Some(Branch { taken, next }))
    }

    /// The steps that may come next: they began before any that is missing returned, and returned after all
    /// that were taken began.
    fn candidates(&self, taken: &Taken) -> Vec<usize> {
        let steps = &self.window.steps;
        let newest = taken.last.map_or(0, |last| steps[last].operation.began);
        let mut first_return = u64::MAX;
        let mut candidates = Vec::new();
        for (place, step) in steps.iter().enumerate().filter(|(place, _)| !taken.has(*place)) {
            if step.operation.began > first_return {
                break;
            }
            let returned = step.operation.returned_at().unwrap_or(u64::MAX);
            if !step.optional {
                first_return = first_return.min(returned);
            }
            if returned > newest {
                candidates.push(place);
            }
        }
        candidates
    }
}

impl<S: Specification> Debug for Violation<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl<S: Specification> Display for Violation<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManySteps(steps) => write!(f, "no order was found in {steps} steps"),
            Self::NotLinearizable(window) => Display::fmt(window, f),
        }
    }
}

impl<S: Specification> Display for Window<S> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &*self.states {
            [state] => writeln!(f, "no order explains these operations, beginning with {state:?}:")?,
            states => writeln!(
                f,
                "no order explains these operations, whichever of {} states they begin with:",
                states.len()
            )?,
        }
        for Step { operation, optional } in &self.steps {
            let Operation { thread, call, began, returned } = operation;
            let maybe = if *optional { " (or left out)" } else { "" };
            match returned {
                Some(Returned { at, answer, .. }) => {
                    writeln!(f, "{began:>6} to {at:<6} thread {thread}: {call:?} -> {answer:?}{maybe}")?;
                }
                None => writeln!(f, "{began:>6} to ever   thread {thread}: {call:?}{maybe}")?,
            }
        }
        Ok(())
    }
}
