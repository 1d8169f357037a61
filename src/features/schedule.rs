//! Which view of which sample an epoch shows, and in which order.

use super::array::Layout;
use crate::pipeline::Shuffle;
use crate::random::Stream;

/// How a sample is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// For training: images in a random crop of this epoch, features in the cached view whose turn it is.
    Epoch {
        /// The stage that is trained.
        stage: usize,
        /// Its epoch, from 0.
        epoch: usize,
    },
    /// The cached view of a number, as it is written: with late crops, whole canvases. Numbers beyond those of the views
    /// that were written are those of refreshed views.
    Cached(usize),
    /// For validation: cropped at the centre.
    Centre,
    /// For validation, as it is written: with late crops, whole canvases.
    CentreCanvas,
}

/// A sample, and how it is shown.
pub(super) type SampleView = (usize, View);

/// The samples of an array over the epochs of a stage.
///
/// Each sample has as many slots as there are cached views, and an epoch shows one of them: all in turn, but other
/// samples at other times, so that an epoch, and each batch, holds all views alike. With refreshing, new views take the
/// slots of old ones: a share `refresh` of all samples gets one at each epoch, slot after slot. All this is a function
/// of sample and epoch, so a run that was cut off goes on with the same views.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    samples: usize,
    in_shard: usize,
    shuffle: Shuffle,
    pub views: usize,
    pub refresh: f64,
}

impl Schedule {
    pub fn new(layout: &Layout, shuffle: Shuffle) -> Self {
        let Layout { views, samples, samples_in_shard: in_shard, .. } = *layout;
        Self { samples, in_shard, shuffle, views, refresh: 0.0 }
    }

    /// The view of a sample that an epoch shows.
    pub fn view(&self, sample: usize, epoch: usize) -> usize {
        let slot = (epoch + sample / self.in_step()) % self.views;
        match self.refreshed(sample, epoch).checked_sub(slot + 1) {
            // The newest of the views that went into this slot; the first to go into it had number `views + slot`.
            Some(since) => self.views + slot + since / self.views * self.views,
            None => slot,
        }
    }

    /// Samples that are in step: the views of a whole shard are where shards are read one by one.
    fn in_step(&self) -> usize {
        if self.shuffle == Shuffle::Global { 1 } else { self.in_shard }
    }

    /// How many refreshed views a sample has got when an epoch begins. They are spread evenly over samples and epochs.
    fn refreshed(&self, sample: usize, epoch: usize) -> usize {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let phase = ((sample / self.in_step() + 1) as f64 * GOLDEN).fract();
        (epoch as f64 * self.refresh + phase) as usize
    }

    /// The order in which an epoch meets the samples.
    pub fn order(&self, rng: &mut Stream) -> Vec<u32> {
        let Self { samples, in_shard, shuffle, .. } = *self;
        let Shuffle::Shards(at_a_time) = shuffle else { return rng.permutation(samples) };
        let shards = rng.permutation(samples.div_ceil(in_shard));
        let mut all = Vec::with_capacity(samples);
        for group in shards.chunks(at_a_time) {
            let samples_of = |&shard: &u32| shard as usize * in_shard..((shard as usize + 1) * in_shard).min(samples);
            let together: Vec<u32> = group.iter().flat_map(samples_of).map(|sample| sample as u32).collect();
            all.extend(rng.permutation(together.len()).into_iter().map(|at| together[at as usize]));
        }
        all
    }
}

/// How well classes are mixed in the batches of an order: the mean entropy of a batch's labels, in nats.
pub(super) fn entropy(order: &[u32], labels: &[u32], batch: usize) -> f64 {
    let classes = labels.iter().max().map_or(0, |&most| most as usize + 1);
    let of_batch = |samples: &[u32]| {
        let mut counts = vec![0usize; classes];
        samples.iter().for_each(|&sample| counts[labels[sample as usize] as usize] += 1);
        let share = |&count: &usize| count as f64 / samples.len() as f64;
        -counts.iter().filter(|&&count| count > 0).map(share).map(|share| share * share.ln()).sum::<f64>()
    };
    order.chunks(batch).map(of_batch).sum::<f64>() / order.len().div_ceil(batch).max(1) as f64
}

#[cfg(test)]
impl Schedule {
    /// Of samples that are met in any order.
    pub(super) fn in_any_order(views: usize, refresh: f64) -> Self {
        Self { samples: 95, in_shard: 10, shuffle: Shuffle::Global, views, refresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use std::collections::BTreeMap;

    #[test]
    fn every_view_has_its_turn_and_every_epoch_holds_all() {
        let schedule = Schedule::in_any_order(4, 0.0);
        for sample in 0..100 {
            let mut shown: Vec<usize> = (8..12).map(|epoch| schedule.view(sample, epoch)).collect();
            shown.sort_unstable();
            assert_eq!(shown, [0, 1, 2, 3]);
        }
        let mut counts = [0; 4];
        (0..100).for_each(|sample| counts[schedule.view(sample, 5)] += 1);
        assert_eq!(counts, [25; 4]);
    }

    #[test]
    fn a_share_of_the_samples_is_refreshed_at_each_epoch() {
        for refresh in [0.125, 0.25, 0.5, 1.0] {
            let schedule = Schedule::in_any_order(1, refresh);
            for epoch in 1..40 {
                let changed = |&sample: &usize| schedule.view(sample, epoch) != schedule.view(sample, epoch - 1);
                let share = (0..10_000).filter(changed).count() as f64 / 10_000.0;
                assert!((share - refresh).abs() < 0.01, "{refresh} in epoch {epoch}: {share}");
            }
        }
    }

    #[test]
    fn refreshed_views_are_what_filling_slots_one_by_one_gives() {
        for (views, refresh) in [(1, 0.3), (2, 0.25), (3, 1.0), (4, 0.7)] {
            let schedule = Schedule::in_any_order(views, refresh);
            for sample in 0..50 {
                let mut slots: Vec<usize> = (0..views).collect();
                let mut made = schedule.refreshed(sample, 0);
                assert_eq!(made, 0);
                for epoch in 0..60 {
                    while made < schedule.refreshed(sample, epoch) {
                        slots[made % views] = views + made;
                        made += 1;
                    }
                    assert_eq!(schedule.view(sample, epoch), slots[(epoch + sample) % views]);
                }
            }
        }
    }

    #[test]
    fn shards_stay_together_and_every_sample_comes_once() {
        let global = Schedule::in_any_order(1, 0.0);
        let mut rng = Stream::new(Purpose::Order, 0, (1, 2));
        let found = Schedule { shuffle: Shuffle::Shards(2), ..global }.order(&mut rng);
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        found.iter().enumerate().for_each(|(at, &sample)| groups.entry(sample as usize / 10).or_default().push(at));
        for positions in groups.values() {
            assert!(positions.last().unwrap() - positions[0] < 20, "a shard is read over {positions:?}");
        }
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, &sample)| at == sample as usize) && sorted.len() == 95);
        let labels: Vec<u32> = (0..95).map(|sample| sample / 10).collect();
        let any = global.order(&mut rng);
        assert!(entropy(&found, &labels, 10) < 0.5 * entropy(&any, &labels, 10));
    }
}
