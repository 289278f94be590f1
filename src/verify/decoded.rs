//! [`Decoded`]: what a walk has read and decoded, and may be asked for again.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

/// Values are kept until they have this many bytes on the disk; in memory they take some times as much.
const BYTES_MAX: usize = 1 << 20;

/// Values of one snapshot by what they are looked up by.
pub(super) struct Decoded<K, V> {
    values: HashMap<K, Rc<V>, foldhash::quality::RandomState>,
    bytes: usize,
}

impl<K, V> Default for Decoded<K, V> {
    fn default() -> Self {
        Self { values: HashMap::default(), bytes: 0 }
    }
}

impl<K: Eq + Hash, V> Decoded<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<Rc<V>> {
        self.values.get(key).cloned()
    }

    /// Keeps a value, and drops all others if they are too many bytes with it.
    pub(super) fn keep(&mut self, key: K, value: V, bytes: usize) -> Rc<V> {
        if self.bytes + bytes > BYTES_MAX {
            self.clear();
        }
        self.bytes += bytes;
        let value = Rc::new(value);
        self.values.insert(key, Rc::clone(&value));
        value
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_no_more_bytes_than_the_limit() {
        let mut decoded = Decoded::default();
        let third = BYTES_MAX / 3;
        for key in 0..3 {
            assert_eq!(*decoded.keep(key, key * 10, third), key * 10);
        }
        let kept = |decoded: &Decoded<i32, i32>| (0..5).filter_map(|key| decoded.get(&key)).count();
        assert_eq!((kept(&decoded), decoded.get(&1)), (3, Some(Rc::new(10))));
        decoded.keep(3, 30, third);
        assert_eq!((kept(&decoded), decoded.get(&3)), (1, Some(Rc::new(30))));
        // What is too large alone is kept alone.
        decoded.keep(4, 40, 2 * BYTES_MAX);
        assert_eq!((kept(&decoded), decoded.get(&4)), (1, Some(Rc::new(40))));
        decoded.clear();
        assert_eq!((kept(&decoded), decoded.bytes), (0, 0));
    }
}
