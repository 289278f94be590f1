//! The workload: random calls about few names, so that they often meet.

use keystead::Store;

use super::checker::Specification;
use super::recorder::Recorder;
use super::specification::{Alias, Call, Key, Name, Names};

/// Of each family. There are more names than keys, so that one is free.
const KEYS: u8 = 3;
const ALIASES: u8 = 3;
const NAMES: u8 = 4;

/// So many families of keys, aliases and names; no call is about two of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) families: u8,
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Another, for another thread.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        u8::try_from(self.next() % u64::from(bound)).unwrap()
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % length as u64).unwrap()
    }
}

impl Workload {
    /// What is there before the threads begin: of each family two keys, the first with two aliases.
    pub(crate) fn fill(self, store: &Store) -> Names {
        let (recorder, mut initial) = (Recorder::default(), Names::default());
        for first in (0..self.families).map(|family| family * NAMES) {
            let calls = [
                Call::CreateKey(Key(first), Name(first), Some(Alias(first))),
                Call::CreateKey(Key(first + 1), Name(first + 1), None),
                Call::CreateAlias(Alias(first + 1), Key(first)),
            ];
            for call in &calls {
                assert_eq!(recorder.call(store, 0, call).unwrap(), initial.run(call), "{call:?}");
            }
        }
        initial
    }

    /// Looks at everything.
    pub(crate) fn look(self) -> Call {
        let all = |count| {
            let firsts = (0..self.families).map(|family| family * NAMES);
            firsts.flat_map(move |first| first..first + count)
        };
        Call::Look(all(ALIASES).map(Alias).collect(), all(NAMES).map(Name).collect())
    }

    /// Reads as often as writes.
    pub(crate) fn call(self, random: &mut Random) -> Call {
        let first = random.below(self.families) * NAMES;
        let mut any = |count| first + random.below(count);
        let keys = [Key(any(KEYS)), Key(any(KEYS))];
        let aliases = [Alias(any(ALIASES)), Alias(any(ALIASES))];
        let names = [Name(any(NAMES)), Name(any(NAMES))];
        match random.below(20) {
            0..4 => Call::Resolve(aliases[0]),
            4..7 => Call::Find(names[0]),
            7..10 => Call::Look(aliases.to_vec(), names.to_vec()),
            10..13 => Call::Associate(aliases[0], keys[0]),
            13..15 => Call::Rename(keys[0], names[0]),
            15 => Call::CreateKey(keys[0], names[0], (random.below(2) == 0).then_some(aliases[0])),
            16 => Call::CreateAlias(aliases[0], keys[0]),
            17 => Call::DeleteAliases(keys[0], vec![aliases[0]]),
            18 => match random.below(2) {
                0 => Call::SwapAliases(aliases[0], aliases[1]),
                _ => Call::SwapNames(keys[0], keys[1]),
            },
            _ => Call::Together(vec![
                Call::Associate(aliases[0], keys[0]),
                Call::Rename(keys[1], names[0]),
                Call::Associate(aliases[1], keys[1]),
            ]),
        }
    }
}
