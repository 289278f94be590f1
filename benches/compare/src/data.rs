//! What is loaded, and what should be there: keys, names, and which key each alias names now.

use std::sync::atomic::{AtomicU32, Ordering};

use keystead::{Alias, EnterpriseProjectId, KeyId, KeystoreId, NewKey};

use crate::peer::{Answer, Move, Place};

/// A fixed sequence of numbers (xorshift).
pub struct Random(u64);

impl Random {
    /// Another sequence for each seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // The first few of near seeds are alike.
        (0..4).for_each(|_| {
            random.number();
        });
        random
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).unwrap_or(0)
    }
}

/// The keys of one scope, the same in every engine.
pub struct Keys {
    /// Their ids, in no order.
    pub ids: Vec<KeyId>,
    /// The alias that each had at first, in the order of their names.
    pub aliases: Vec<Alias>,
}

impl Keys {
    /// So many keys.
    pub fn new(count: usize) -> Answer<Self> {
        let mut random = Random::new(count as u64);
        let mut id = || {
            let (high, low) = (random.number().to_be_bytes(), random.number().to_be_bytes());
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&high);
            bytes[8..].copy_from_slice(&low);
            // As a random UUID is, version 4.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            KeyId::from_bytes(bytes)
        };
        let ids = (0..count).map(|_| id()).collect();
        let aliases = (0..count).map(|index| Alias::new(&format!("alias-{index:08}")));
        Ok(Self { ids, aliases: aliases.collect::<Result<_, _>>()? })
    }

    /// What is imported: records of about 170 bytes.
    pub fn new_keys(&self) -> Answer<Vec<NewKey>> {
        let enterprise_project = EnterpriseProjectId::new("c9d1f3f0-6a63-4d6b-8a3c-2f0a9b7d5e11")?;
        let keystore = KeystoreId::new("7a3e8c52-1f4d-4b8e-9c66-0d5b2e9f7a34")?;
        let new = self.ids.iter().zip(&self.aliases).enumerate().map(|(index, (key_id, alias))| {
            let new = NewKey::new(&format!("key-{index:08}"))?
                .id(*key_id)
                .description(format!("the key of service {index:08} of this customer").parse()?)
                .enterprise_project(enterprise_project.clone())
                .keystore(keystore.clone())
                .alias(alias.clone());
            Ok(new)
        });
        new.collect()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.ids.len()
    }
}

/// Which key each alias of the large scope names in one store.
pub struct Targets(Vec<AtomicU32>);

impl Targets {
    /// As they are after the import.
    pub fn new(count: usize) -> Self {
        Self((0..u32::try_from(count).unwrap_or(u32::MAX)).map(AtomicU32::new).collect())
    }

    /// The key that the alias names: its place in [`Keys::ids`].
    pub fn of(&self, alias: usize) -> usize {
        self.0[alias].load(Ordering::Acquire) as usize
    }

    /// Says that it was moved.
    pub fn moved(&self, alias: usize, key: usize) {
        self.0[alias].store(u32::try_from(key).unwrap_or(u32::MAX), Ordering::Release);
    }
}

/// A move and what it must answer.
pub struct Planned {
    pub alias: usize,
    pub key: usize,
    pub wanted: Move,
    pub former: KeyId,
}

impl Keys {
    /// Moves this alias to that key, or to the next if it is there already.
    pub fn plan(&self, targets: &Targets, alias: usize, key: usize, step: usize) -> Planned {
        let former = targets.of(alias);
        let key = if key == former { (key + step) % self.count() } else { key };
        let wanted = Move {
            place: Place::Large,
            alias: self.aliases[alias].clone(),
            target: self.ids[key],
            expected: None,
        };
        Planned { alias, key, wanted, former: self.ids[former] }
    }
}
