//! A sorted list as a map, for what has few entries: a B-tree makes room for eleven with the first, and a node has ten
//! thousands of Services with one.
//!
//! Invariant: keys are distinct and in order.

/// Few entries by key, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Sorted<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    /// Puts a value in, in place of one that is there.
    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => {
                self.0.splice(at..=at, [(key, value)]);
            }
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (key, value));
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

/// Puts a value into a sorted list of few, unless it is there.
pub fn insert<T: Ord>(list: &mut Vec<T>, value: T) {
    if let Err(at) = list.binary_search(&value) {
        list.reserve_exact(1);
        list.insert(at, value);
    }
}

/// Takes a value out of a sorted list.
pub fn remove<T: Ord>(list: &mut Vec<T>, value: &T) {
    if let Ok(at) = list.binary_search(value) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..8_u8, prop::option::of(any::<u8>())), 0..60)) {
            let (mut sorted, mut map, mut list) = (Sorted::default(), BTreeMap::new(), Vec::new());
            for (key, value) in steps {
                match value {
                    Some(value) => {
                        sorted.insert(key, value);
                        map.insert(key, value);
                        insert(&mut list, key);
                    }
                    None => {
                        prop_assert_eq!(sorted.remove(&key), map.remove(&key));
                        remove(&mut list, &key);
                    }
                }
                prop_assert!(sorted.keys().zip(sorted.values()).eq(map.iter()));
                prop_assert!(list.iter().eq(map.keys()));
                prop_assert_eq!(sorted.get(&key), map.get(&key));
            }
        }
    }
}
