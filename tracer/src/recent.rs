//! A map of bounded size that forgets what has not come for longest, in bulk.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    mem,
};

/// What came last, `MAX` entries at most: two generations of half of that, of which the older one is dropped when the
/// newer one is full. So an entry is forgotten only after at least `MAX / 2` others have come.
#[derive(Debug)]
pub(crate) struct Recent<K, V, const MAX: usize> {
    now: HashMap<K, V>,
    before: HashMap<K, V>,
}

impl<K, V, const MAX: usize> Default for Recent<K, V, MAX> {
    fn default() -> Self {
        Self {
            now: HashMap::new(),
            before: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, V, const MAX: usize> Recent<K, V, MAX> {
    /// What is known of `key`. This does not make it recent.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.now.get(key).or_else(|| self.before.get(key))
    }

    /// Puts in, or replaces, what is known of `key`.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        self.before.remove(&key);
        self.now.insert(key, value);
    }

    /// What is known of `key`, or else of now on `new`.
    pub(crate) fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.make_room(&key);
        match self.now.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let value = self.before.remove(vacant.key()).unwrap_or_else(new);
                vacant.insert(value)
            }
        }
    }

    /// Forgets `key`.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let before = self.before.remove(key);
        self.now.remove(key).or(before)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.now.len() + self.before.len()
    }

    fn make_room(&mut self, key: &K) {
        if self.now.len() >= MAX / 2 && !self.now.contains_key(key) {
            // What comes again must not be lost with the generation that is dropped.
            let known = self.before.remove_entry(key);
            self.before = mem::take(&mut self.now);
            self.before.extend(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_what_comes_again_is_not() {
        let mut recent = Recent::<u32, u32, 8>::default();
        for key in 0..100 {
            recent.insert(key, key);
            assert_eq!(recent.get_or_insert_with(0, || 7), &0);
            assert!(recent.len() <= 8);
        }
        assert_eq!(recent.get(&99), Some(&99));
        assert_eq!(recent.get(&50), None);
        assert_eq!(recent.remove(&99), Some(99));
        assert_eq!(recent.get_or_insert_with(99, || 1), &1);
    }
}
