//! Which stages' features are worth their bytes: those that make the whole pipeline fastest on the disk there is.

use super::Estimate;

/// What is known of a pipeline with so many stages. `from` is the nearest stage before whose features are written, 0 for
/// the images: nothing else that was chosen matters to the time of a stage, which is why the search below is exact.
struct Problem<'a> {
    stages: usize,
    /// Bytes that may be written in all.
    disk: u64,
    /// Bytes of the features of a stage.
    bytes: &'a dyn Fn(usize) -> u64,
    /// Seconds to train a stage: (stage, from).
    train: &'a dyn Fn(usize, usize) -> f64,
    /// Seconds to write its features: (stage, from).
    write: &'a dyn Fn(usize, usize) -> f64,
}

/// A choice among the first stages, the last chosen of which is known from where it is cached.
#[derive(Clone, Debug)]
struct Partial {
    bytes: u64,
    seconds: f64,
    cached: Vec<usize>,
}

/// The stages whose features are to be written so that the total time is least, in order. With `disk`, they take no more
/// bytes than that together; the images of stage 0 are not counted.
///
/// Exact: for each stage that may be the last one written, the choices before it that are not beaten in both bytes and
/// seconds are cached (dynamic programming over the nearest written ancestor). Of choices that are equally fast, the smaller.
pub fn choose(estimate: &Estimate<'_>, disk: Option<u64>) -> Vec<usize> {
    Problem {
        stages: estimate.pipeline.stages.len(),
        disk: disk.unwrap_or(u64::MAX),
        bytes: &|stage| estimate.bytes(stage),
        train: &|stage, from| estimate.training(stage, from) + estimate.probes_of(stage, from),
        // Probes of features that are written read these.
        write: &|stage, from| {
            let probes = estimate.probes_of(stage, stage) - estimate.probes_of(stage, from);
            estimate.extraction(stage, from).seconds + probes
        },
    }
    .solve()
}

impl Problem<'_> {
    fn solve(&self) -> Vec<usize> {
        // fronts[last]: the choices that end with the features of `last`, with all stages up to it trained.
        let mut fronts = vec![vec![Partial { bytes: 0, seconds: 0.0, cached: Vec::new() }]];
        for last in 1..=self.stages {
            let longer = fronts.iter().enumerate().flat_map(|(from, front)| {
                let seconds = self.trained(from, last) + (self.write)(last, from);
                front.iter().filter_map(move |before| self.keep(before, last, seconds))
            });
            let front = unbeaten(longer.collect());
            fronts.push(front);
        }
        let whole = fronts.into_iter().enumerate().flat_map(|(from, front)| {
            let rest = self.trained(from, self.stages);
            front.into_iter().map(move |partial| Partial { seconds: partial.seconds + rest, ..partial })
        });
        unbeaten(whole.collect()).pop().map_or_else(Vec::new, |best| best.cached)
    }

    /// Seconds to train the stages after `from` as far as `last`.
    fn trained(&self, from: usize, last: usize) -> f64 {
        (from + 1..=last).map(|stage| (self.train)(stage, from)).sum()
    }

    /// The choice with one stage more, where there is room for it.
    fn keep(&self, before: &Partial, stage: usize, seconds: f64) -> Option<Partial> {
        let bytes = before.bytes.checked_add((self.bytes)(stage)).filter(|bytes| *bytes <= self.disk)?;
        let cached = before.cached.iter().copied().chain([stage]).collect();
        Some(Partial { bytes, seconds: before.seconds + seconds, cached })
    }
}

/// Those that no other beats: more bytes take fewer seconds. The fastest is the last.
fn unbeaten(mut all: Vec<Partial>) -> Vec<Partial> {
    let order = |partial: &Partial| (partial.bytes, partial.cached.len());
    all.sort_by(|a, b| order(a).cmp(&order(b)).then(a.seconds.total_cmp(&b.seconds)).then(a.cached.cmp(&b.cached)));
    let mut front: Vec<Partial> = Vec::new();
    for partial in all {
        if front.last().is_none_or(|fastest| partial.seconds < fastest.seconds) {
            front.push(partial);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Costs, Figures, Machine, Profile, Recipe};
    use proptest::prelude::*;

    /// Every subset of stages 1 to `count`, in order.
    fn subsets(count: usize) -> impl Iterator<Item = Vec<usize>> {
        (0..1u32 << count).map(move |bits| (1..=count).filter(|stage| bits >> (stage - 1) & 1 == 1).collect())
    }

    /// Seconds of a choice, stage by stage.
    fn seconds(problem: &Problem<'_>, cached: &[usize]) -> f64 {
        let mut from = 0;
        let stage = |stage: usize| {
            let mut seconds = (problem.train)(stage, from);
            if cached.contains(&stage) {
                seconds += (problem.write)(stage, from);
                from = stage;
            }
            seconds
        };
        (1..=problem.stages).map(stage).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Times are whole numbers, so that sums are exact in any order.
        #[test]
        fn no_subset_is_faster_than_the_one_chosen(
            train in proptest::collection::vec(0u32..50, 100),
            write in proptest::collection::vec(0u32..20, 100),
            bytes in proptest::collection::vec(0u64..12, 10),
            stages in 1usize..=10,
            disk in prop_oneof![0u64..60, Just(u64::MAX)],
        ) {
            let at = |stage: usize, from: usize| (stage - 1) * 10 + from;
            let problem = Problem {
                stages,
                disk,
                bytes: &|stage| bytes[stage - 1],
                train: &|stage, from| f64::from(train[at(stage, from)]),
                write: &|stage, from| f64::from(write[at(stage, from)]),
            };
            let size = |cached: &[usize]| cached.iter().map(|stage| bytes[stage - 1]).sum::<u64>();
            let fitting = subsets(stages).filter(|cached| size(cached) <= disk);
            let best = fitting.map(|cached| (seconds(&problem, &cached), size(&cached), cached.len()));
            let best = best.min_by(|a, b| a.partial_cmp(b).unwrap()).unwrap();
            let found = problem.solve();
            prop_assert!(found.is_sorted());
            prop_assert_eq!((seconds(&problem, &found), size(&found), found.len()), best);
        }

        /// The same on real pipelines and random machines, against the total that is printed.
        #[test]
        fn no_choice_for_a_pipeline_is_faster(
            rates in proptest::array::uniform5(8.0f64..14.0),
            memory in 6.0f64..11.0,
            disk in 5.0f64..10.0,
            space_to_depth in proptest::sample::subsequence(vec![1, 2, 3, 4, 5, 6, 7], 0..5),
            (views, refresh) in prop_oneof![Just((1, 0.0)), Just((3, 0.0)), Just((2, 0.25))],
            profile in 0usize..2,
        ) {
            let text = format!(
                "[data]\nsource = \"builtin\"\n[network]\nblocks = 7\nwidth = 16\nspace_to_depth = {space_to_depth:?}\n\
                 [features]\nviews = {views}\nrefresh = {refresh:?}\n[training]\nepochs = 5\nevaluate_every = 2\n"
            );
            let pipeline = Recipe::parse("p", "p", &text, &[]).unwrap();
            let machine = machine(&pipeline, profile, rates, memory);
            let estimate = Estimate { pipeline: &pipeline, machine: &machine, images: [50_000, 10_000], compression: None };
            let disk = 10f64.powf(disk) as u64;
            let fits = |cached: &[usize]| cached.iter().map(|&stage| estimate.bytes(stage)).sum::<u64>() <= disk;
            let best = subsets(7).filter(|cached| fits(cached)).map(|cached| estimate.total(&cached)).min_by(f64::total_cmp);
            let found = choose(&estimate, Some(disk));
            prop_assert!(fits(&found));
            prop_assert!(estimate.total(&found) <= best.unwrap() * (1.0 + 1e-9));
        }
    }

    /// A machine whose rates are powers of ten.
    fn machine(pipeline: &Recipe, profile: usize, rates: [f64; 5], memory: f64) -> Machine {
        let costs = Costs::of(pipeline, 10);
        let mut machine = Profile::ALL[profile].machine(pipeline, &costs);
        let [forward, training, read, write, decode] = rates.map(|exponent| Some(10f64.powf(exponent)));
        let decode = decode.map(|rate| rate / 1e6);
        let memory = Some(10f64.powf(memory));
        machine.set(
            &Figures { forward, training, read, write, decode, memory, ..Figures::default() },
            pipeline,
            &costs,
        );
        machine
    }

    #[test]
    fn features_are_cached_where_reading_is_cheap_and_recomputed_where_it_is_not() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nblocks = 4\nwidth = 64\n";
        let pipeline = Recipe::parse("p", "p", text, &[]).unwrap();
        let estimate = |machine| Estimate { pipeline: &pipeline, machine, images: [50_000, 10_000], compression: None };
        // A disk that is never the limit, then one that always is.
        let fast = machine(&pipeline, 0, [12.0, 12.0, 14.0, 14.0, 14.0], 0.0);
        assert_eq!(choose(&estimate(&fast), None), [1, 2, 3]);
        assert_eq!(choose(&estimate(&fast), Some(0)), [0; 0]);
        let slow = machine(&pipeline, 0, [13.0, 13.0, 6.0, 6.0, 14.0], 0.0);
        assert_eq!(choose(&estimate(&slow), None), [0; 0]);
        // With room for one of them it is one in the middle.
        let room = estimate(&fast).bytes(2);
        assert_eq!(choose(&estimate(&fast), Some(room)).len(), 1);
    }
}
