//! An ordered map that is cheap to clone: two clones share what neither has changed since.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The most entries of a leaf. Larger ones make a clone cheaper, and the first change of a leaf after it dearer.
const MAX_LEAF: usize = 64;

/// Below, a leaf joins the one before it, where both fit into one.
const MIN_LEAF: usize = MAX_LEAF / 4;

/// Sorted leaves of some dozens of entries. Cloning copies the list of leaves, one for each few dozen entries; the first
/// change of a leaf that is shared copies that leaf. While nothing is shared everything is changed in place, at the cost of an
/// ordinary B-tree.
#[derive(Clone, Debug)]
pub(crate) struct LeafMap<V> {
    /// Each under a lower bound of its keys, above all keys of the leaf before; the first under the empty string.
    leaves: BTreeMap<String, Arc<Vec<(String, V)>>>,
    len: usize,
}

impl<V> Default for LeafMap<V> {
    fn default() -> Self {
        Self { leaves: BTreeMap::from([(String::new(), Arc::default())]), len: 0 }
    }
}

fn search<V>(leaf: &[(String, V)], key: &str) -> Result<usize, usize> {
    leaf.binary_search_by(|(other, _)| other.as_str().cmp(key))
}

fn up_to(key: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Unbounded, Bound::Included(key))
}

impl<V: Clone> LeafMap<V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        let (_, leaf) = self.leaves.range::<str, _>(up_to(key)).next_back()?;
        search(leaf, key).ok().map(|at| &leaf[at].1)
    }

    /// Returns what was there.
    pub(crate) fn insert(&mut self, key: String, value: V) -> Option<V> {
        let (_, leaf) = self.leaves.range_mut::<str, _>(up_to(&key)).next_back()?;
        let leaf = Arc::make_mut(leaf);
        let at = match search(leaf, &key) {
            Ok(at) => return Some(std::mem::replace(&mut leaf[at].1, value)),
            Err(at) => at,
        };
        leaf.insert(at, (key, value));
        self.len += 1;
        if leaf.len() > MAX_LEAF {
            // Keys that come in ascending order leave full leaves behind.
            let keep = if at + 1 == leaf.len() { MAX_LEAF } else { MAX_LEAF / 2 };
            let upper = leaf.split_off(keep);
            self.leaves.insert(upper[0].0.clone(), Arc::new(upper));
        }
        None
    }

    /// Returns what was there.
    pub(crate) fn remove(&mut self, key: &str) -> Option<V> {
        let (bound, leaf) = self.leaves.range_mut::<str, _>(up_to(key)).next_back()?;
        let at = search(leaf, key).ok()?;
        let leaf = Arc::make_mut(leaf);
        let (_, value) = leaf.remove(at);
        self.len -= 1;
        if leaf.len() < MIN_LEAF && !bound.is_empty() {
            let bound = bound.clone();
            self.join(&bound);
        }
        Some(value)
    }

    /// Joins the leaf under `bound` with the one before it, where both fit into one.
    fn join(&mut self, bound: &str) {
        let Some(leaf) = self.leaves.get(bound).map(Arc::clone) else { return };
        let before = (Bound::Unbounded, Bound::Excluded(bound));
        if let Some((_, before)) = self.leaves.range_mut::<str, _>(before).next_back()
            && before.len() + leaf.len() <= MAX_LEAF
        {
            Arc::make_mut(before).extend(leaf.iter().cloned());
            self.leaves.remove(bound);
        }
    }

    /// All entries from `from` on, in order.
    pub(crate) fn range(&self, from: &str) -> impl Iterator<Item = (&str, &V)> {
        let first = self.leaves.range::<str, _>(up_to(from)).next_back().map_or("", |(bound, _)| bound);
        let leaves = self.leaves.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        let entries = leaves.flat_map(|(_, leaf)| leaf.iter()).map(|(key, value)| (key.as_str(), value));
        let from = from.to_owned();
        entries.skip_while(move |(key, _)| *key < from.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(map: &LeafMap<u64>, plain: &BTreeMap<String, u64>, from: &str) {
        assert_eq!(map.len(), plain.len());
        assert!(
            map.range("").map(|(key, value)| (key, *value)).eq(plain.iter().map(|(k, v)| (k.as_str(), *v)))
        );
        let plain = plain.range::<str, _>((Bound::Included(from), Bound::Unbounded));
        assert!(map.range(from).map(|(key, _)| key).eq(plain.map(|(key, _)| key.as_str())), "{from}");
        let leaves: Vec<_> = map.leaves.iter().collect();
        assert!(leaves[0].0.is_empty());
        for pair in leaves.windows(2) {
            assert!(pair[0].1.last().is_none_or(|(key, _)| key < pair[1].0));
            assert!(pair[1].1.first().is_some_and(|(key, _)| key >= pair[1].0));
        }
        assert!(leaves.iter().all(|(_, leaf)| leaf.len() <= MAX_LEAF));
    }

    #[test]
    fn it_is_an_ordered_map_and_its_clones_stay_as_they_were() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut map, mut plain) = (LeafMap::default(), BTreeMap::new());
        let mut clones = Vec::new();
        for round in 0..20_000u64 {
            // Growing, shrinking, growing.
            let grows = (round / 5000) % 2 == 0;
            let key = format!("{}", random.u32(..3000));
            if random.u8(..10) < if grows { 8 } else { 1 } {
                assert_eq!(map.insert(key.clone(), round), plain.insert(key, round));
            } else {
                assert_eq!(map.get(&key), plain.get(&key));
                assert_eq!(map.remove(&key), plain.remove(&key));
            }
            if round % 1000 == 0 {
                clones.push((map.clone(), plain.clone()));
                check(&map, &plain, &format!("{}", random.u32(..3000)));
            }
        }
        for (map, plain) in &clones {
            check(map, plain, "");
        }
        for key in plain.keys() {
            assert!(map.remove(key).is_some());
        }
        assert_eq!((map.len(), map.leaves.len()), (0, 1), "nothing is left of what was removed");
    }

    #[test]
    fn ascending_keys_fill_their_leaves() {
        let mut map = LeafMap::default();
        for number in 0..10_000 {
            map.insert(format!("{number:06}"), ());
        }
        assert!(map.leaves.len() <= 10_000 / MAX_LEAF + 2, "{}", map.leaves.len());
    }
}
