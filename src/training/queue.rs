//! The batches that wait for a network which is trained on what another one makes of them.

use crate::features::Batch;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

/// A ring of batches. The one that was used least is taken, the newest of several; a new one takes the place of the oldest.
pub(super) struct Queue {
    /// Batches at most; 0 where a batch is used once, when it comes.
    size: usize,
    /// Oldest first, with how often each was used.
    waiting: VecDeque<(Arc<Batch>, usize)>,
}

/// What a checkpoint says of a queue, beside the values of its batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// The samples of each batch and how often it was used, oldest first.
    pub batches: Vec<(Vec<u32>, usize)>,
    /// Samples that the network has met in the epoch at hand.
    pub met: usize,
}

impl Queue {
    /// An empty one.
    pub fn new(size: usize) -> Self {
        Self { size, waiting: VecDeque::new() }
    }

    /// The batch to train on, where one has come (`fresh`) before it is taken, or after.
    pub fn exchange(&mut self, fresh: Option<Arc<Batch>>, before: bool) -> Option<Arc<Batch>> {
        if self.size == 0 {
            return fresh;
        }
        if before {
            self.push(fresh);
            return self.take();
        }
        let taken = self.take();
        self.push(fresh);
        taken
    }

    fn push(&mut self, batch: Option<Arc<Batch>>) {
        let Some(batch) = batch else { return };
        if self.waiting.len() == self.size {
            self.waiting.pop_front();
        }
        self.waiting.push_back((batch, 0));
    }

    fn take(&mut self) -> Option<Arc<Batch>> {
        let least = self.waiting.iter_mut().enumerate().min_by_key(|(at, (_, uses))| (*uses, Reverse(*at)));
        least.map(|(_, (batch, uses))| {
            *uses += 1;
            Arc::clone(batch)
        })
    }

    /// All that waits, oldest first, with how often each was used.
    pub fn iter(&self) -> impl Iterator<Item = (&Batch, usize)> {
        self.waiting.iter().map(|(batch, uses)| (&**batch, *uses))
    }

    /// Puts back what waited when a checkpoint was written.
    pub fn restore(&mut self, batches: Vec<(Batch, usize)>) {
        self.waiting = batches.into_iter().map(|(batch, uses)| (Arc::new(batch), uses)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn batch(number: u32) -> Option<Arc<Batch>> {
        let one = Tensor::new(&[number], &Device::Cpu).unwrap();
        Some(Arc::new(Batch { x: one.clone(), labels: one, samples: vec![number] }))
    }

    fn taken(queue: &mut Queue, fresh: Option<Arc<Batch>>, before: bool) -> Option<u32> {
        queue.exchange(fresh, before).map(|batch| batch.samples[0])
    }

    #[test]
    fn the_least_used_batch_is_taken_and_of_several_the_newest() {
        let mut queue = Queue::new(3);
        assert_eq!(taken(&mut queue, batch(1), false), None, "there was none when it was taken");
        assert_eq!(taken(&mut queue, batch(2), true), Some(2));
        assert_eq!(taken(&mut queue, None, true), Some(1), "used less than the newest");
        assert_eq!(taken(&mut queue, None, true), Some(2), "the newest of those used once");
        assert_eq!(taken(&mut queue, batch(3), false), Some(1));
        // 1 goes, as the oldest, though 2 and it were used as often.
        assert_eq!(taken(&mut queue, batch(4), true), Some(4));
        assert_eq!(
            queue.iter().map(|(batch, uses)| (batch.samples[0], uses)).collect::<Vec<_>>(),
            [(2, 2), (3, 0), (4, 1)]
        );
        assert_eq!(taken(&mut queue, None, true), Some(3));
    }

    #[test]
    fn without_a_ring_batches_are_used_once_as_they_come() {
        let mut queue = Queue::new(0);
        assert_eq!(taken(&mut queue, batch(1), false), Some(1));
        assert_eq!(taken(&mut queue, None, true), None);
        assert_eq!(queue.iter().count(), 0);
    }
}
