//! Work over shards divided into parts, so that many machines can do it: which shards belong to a part, and what is known
//! and noted of each.

use super::array::Layout;
use super::shard::ShardSum;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// One of several parts of the same work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    number: usize,
    of: usize,
}

impl Portion {
    /// Part `number` of so many, from 1.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn new(number: usize, of: usize) -> Result<Self> {
        match number {
            1.. if number <= of => Ok(Self { number, of }),
            _ => Err(Error::usage(format!("there is no part {number} of {of}")).hint("parts are numbered from 1")),
        }
    }

    /// Its number, from 1.
    pub fn number(self) -> usize {
        self.number
    }

    /// How many parts there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// Whether the piece of work at a place belongs to it: pieces are dealt out in turn, so that parts differ by one at most.
    pub fn has(self, at: usize) -> bool {
        at % self.of == self.number - 1
    }

    /// View and position of its shards in the arrays of both splits, training samples first.
    pub fn shards(self, layouts: [&Layout; 2]) -> [Vec<(usize, usize)>; 2] {
        let mut at = 0..;
        layouts.map(|layout| layout.shards().filter(|_| at.next().is_some_and(|at| self.has(at))).collect())
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// Shards by their keys below the array's folder.
pub type Sums = BTreeMap<String, ShardSum>;

/// What is known of the shards of an array before they are written, and who is told of those that are.
pub trait Ledger: Sync {
    /// The sum of a shard that was written before, by its key.
    fn known(&self, _key: &str) -> Option<ShardSum> {
        None
    }

    /// Whether a shard is to be put in its place in an array's folder; not where its very bytes lie there already.
    ///
    /// # Errors
    /// With the reason why it may not be put there any more.
    fn admit(&self, _array: &Path, _shard: &ShardSum) -> Result<bool> {
        Ok(true)
    }

    /// A shard is in its place, now or since before.
    ///
    /// # Errors
    /// When that cannot be noted.
    fn note(&self, _shard: &ShardSum) -> Result<()> {
        Ok(())
    }
}

/// Nothing is known and nobody told.
impl Ledger for () {}

impl Ledger for Sums {
    fn known(&self, key: &str) -> Option<ShardSum> {
        self.get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Order;
    use crate::pipeline::{Codec, Dtype, Shape};

    #[test]
    fn every_shard_belongs_to_one_part_and_parts_differ_by_one_at_most() {
        let layout = |views, samples| Layout {
            views,
            samples,
            shape: Shape { channels: 1, size: 1 },
            dtype: Dtype::F32,
            order: Order::Pixels,
            codec: Codec::None,
            scale: None,
            samples_in_shard: 10,
        };
        let (train, val) = (layout(3, 95), layout(1, 21));
        for of in [1, 2, 7, 33, 40] {
            let parts = (1..=of).map(|number| Portion::new(number, of).unwrap().shards([&train, &val]));
            let parts: Vec<_> = parts.collect();
            let sizes: Vec<usize> = parts.iter().map(|[train, val]| train.len() + val.len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), 33);
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
            let mut all: Vec<_> = parts.iter().flat_map(|[train, _]| train.clone()).collect();
            all.sort_unstable();
            assert_eq!(all, train.shards().collect::<Vec<_>>());
        }
        assert!(Portion::new(0, 3).is_err() && Portion::new(4, 3).is_err() && Portion::new(1, 0).is_err());
    }
}
