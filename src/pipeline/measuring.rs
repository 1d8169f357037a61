//! What probes and the ensemble of all stages take: operations, values in memory, seconds on a machine.

use super::estimate::Load;
use super::footprint::{BATCHES, Memory, Processor, VALUE, chain_batch};
use super::{Cost, Estimate, ProbeKind, Probed, Recipe};

/// Iterations that a logistic regression needs, as they were counted on features of CIFAR-10 (130 to 301 of them); they are
/// not known before.
const ITERATIONS: usize = 200;
/// Values of the loss with their gradients that an iteration takes: now and then a step is tried again.
const EVALUATIONS: f64 = 1.1;
/// Samples whose features are gathered at once, and pairs whose distances are.
const GATHERED: usize = 256;
const PAIRS: usize = 512 * 4096;
/// Vectors of the size of the weights that L-BFGS works with, in double precision.
const VECTORS: usize = 28;
/// Bytes of the checksum that each file of them ends with.
const CHECKSUM: usize = 4;
/// Seconds of a logit that is read and averaged.
const LOGIT: f64 = 2e-8;

impl Probed<'_> {
    /// What a CNN costs.
    pub fn cost(&self, classes: usize) -> Option<Cost> {
        let (hidden, head) = self.probe.layers(self.features)?;
        Some(Cost::of_network(&[&hidden], Some(&head), classes))
    }

    /// Operations of what is done once for each training sample (of an iteration or an epoch), and for each validation sample
    /// or, of what compares, for each pair of samples.
    pub fn operations(&self, classes: usize) -> [f64; 2] {
        let product = 2.0 * self.width() as f64;
        match self.cost(classes) {
            Some(cost) => [cost.training, cost.classify],
            None if matches!(self.probe.kind, ProbeKind::Linear { .. }) => {
                [2.0 * product * classes as f64, product * classes as f64]
            }
            None => [0.0, product],
        }
    }
}

impl Estimate<'_> {
    /// The features that a probe of a stage is fed from where those of these stages are cached, which are in order.
    pub fn fed_from(stage: usize, cached: &[usize]) -> usize {
        cached.iter().copied().take_while(|&cached| cached <= stage).last().unwrap_or(0)
    }

    /// Seconds of a probe, by its place among all, that is fed from the features of a stage. `iterations` is how many a
    /// logistic regression took, where that is known.
    pub fn probe(&self, at: usize, from: usize, iterations: Option<f64>) -> f64 {
        let Some(probed) = self.pipeline.probed().nth(at) else { return 0.0 };
        let parts = self.machine.probes.get(at).copied().unwrap_or_default();
        let (train, val) = (probed.learns_from(self.images[0]) as f64, self.images[1] as f64);
        let gather = self.loading(from) + self.frozen(from + 1..probed.stage + 1);
        let compute = |seconds: f64| Load { compute: seconds, ..Load::default() };
        let gathered = self.time(gather * (train + val)).seconds;
        match &probed.probe.kind {
            ProbeKind::Linear { iterations: most, .. } => {
                let rounds = iterations.unwrap_or((*most).min(ITERATIONS) as f64) * EVALUATIONS;
                gathered + train * parts.train * rounds
            }
            ProbeKind::Cnn { training, .. } | ProbeKind::Classifier { training, .. } => {
                let evaluations = (0..training.epochs).filter(|&epoch| training.evaluates_at(epoch)).count() as f64;
                // A probe looks at what is cached alone.
                let keeps = matches!(probed.probe.kind, ProbeKind::Classifier { .. });
                let refresh =
                    if keeps { self.refreshing(from) * self.pipeline.features.refresh } else { Load::default() };
                let epoch = self.time((gather + refresh + compute(parts.train)) * train).seconds;
                let evaluation = self.time((gather + compute(parts.classify)) * val).seconds;
                training.epochs as f64 * epoch + evaluations * evaluation
            }
            ProbeKind::Neighbours { .. } => gathered + train * val * parts.classify,
            ProbeKind::Contraction => self.time(gather * val).seconds + val * val * parts.classify,
        }
    }

    /// Seconds of all probes of a stage that are fed from the features of another.
    pub fn probes_of(&self, stage: usize, from: usize) -> f64 {
        let own = self.pipeline.probed().enumerate().filter(|(_, probed)| probed.stage == stage);
        own.map(|(at, _)| self.probe(at, from, None)).sum()
    }

    /// Seconds of the ensemble of all stages that classify so many classes; 0 where there is none.
    pub fn ensemble(&self, classes: usize) -> f64 {
        let stages = self.pipeline.stages.iter().filter(|stage| stage.head.is_some()).count();
        let logits = (stages * self.images[1] * classes) as f64;
        if self.pipeline.ensemble.is_some() { logits * LOGIT } else { 0.0 }
    }

    /// Bytes of the logits and labels that it leaves.
    pub fn ensemble_bytes(&self, classes: usize) -> u64 {
        if self.pipeline.ensemble.is_some() {
            (self.images[1] * (classes + 1) * VALUE + 2 * CHECKSUM) as u64
        } else {
            0
        }
    }
}

impl Memory {
    /// What a probe takes that is fed from the features of the stage `from`: tables of all samples, and a copy of them where
    /// they are worked with; a CNN what a stage takes. `images` are those of training and validation.
    pub fn of_probe(
        recipe: &Recipe,
        probed: &Probed<'_>,
        from: usize,
        ([train, val], classes, processor): ([usize; 2], usize, Processor),
    ) -> Self {
        let first = recipe.stages.get(from).map_or(probed.features, |stage| stage.block.input);
        let between = recipe.stages[from..probed.stage].iter().map(|stage| &stage.block);
        let widest = between.map(|block| block.input.values() + block.output.values()).max().unwrap_or(0);
        // Frozen blocks between take fewer samples at once than are gathered.
        let frozen = chain_batch(widest, processor.is_cpu()).min(GATHERED) * widest;
        let gathering = frozen + GATHERED * probed.features.values();
        let (train, width) = (probed.learns_from(train), probed.width());
        match (&probed.probe.kind, probed.cost(classes)) {
            (ProbeKind::Cnn { training, .. } | ProbeKind::Classifier { training, .. }, Some(cost)) => {
                let step = training.batch * cost.step_values + frozen + 3 * cost.parameters();
                Self::of(processor, BATCHES * first.values() * training.batch, step)
            }
            (ProbeKind::Linear { .. }, _) => {
                let vectors = 2 * VECTORS * (width + 1) * classes;
                Self::of(processor, (train + val) * width + vectors, (train * width).max(gathering))
            }
            _ => {
                let tables = (train + val) * width;
                Self::of(processor, tables + BATCHES * GATHERED * first.values(), (tables + PAIRS).max(gathering))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Machine, Parts};

    const TEXT: &str = "[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 8\n[features]\nrefresh = 0.0\n\
        [ensemble]\n[[probes]]\nkind = \"linear\"\nstages = [0, 2]\niterations = 50\n[[probes]]\nkind = \"neighbours\"\n\
        stages = [2]\ntrain_images = 100\n[[probes]]\nkind = \"contraction\"\nstages = [1]\n[[probes]]\nkind = \"cnn\"\n\
        width = 4\ndepth = 1\nepochs = 3\nevaluate_every = 0\nstages = [2]\n";

    fn recipe() -> Recipe {
        Recipe::parse("p", "p", TEXT, &[]).unwrap()
    }

    #[test]
    fn the_parts_of_a_probe_add_up() {
        let pipeline = recipe();
        let parts = Parts { load: 2e-3, frozen: 4e-3, train: 8e-3, classify: 16e-3, store: 0.0 };
        let images = Parts { load: 1e-3, ..Parts::default() };
        let probe = Parts { train: 1e-4, classify: 1e-6, ..Parts::default() };
        let machine = Machine {
            name: "m".into(),
            processor: Processor::Cpu { threads: 1 },
            stages: vec![images, parts, parts],
            network: Parts::default(),
            probes: vec![probe; 5],
            read: 1e9,
            write: 1e9,
            memory: 1e12,
        };
        let estimate = Estimate { pipeline: &pipeline, machine: &machine, images: [1000, 100], compression: None };
        let found: Vec<f64> =
            (0..5).map(|at| estimate.probe(at, pipeline.probed().nth(at).unwrap().stage, None)).collect();
        let expected = [
            1100.0 * 1e-3 + 1000.0 * 1e-4 * 55.0,
            1100.0 * 2e-3 + 1000.0 * 1e-4 * 55.0,
            200.0 * 2e-3 + 100.0 * 100.0 * 1e-6,
            100.0 * 2e-3 + 100.0 * 100.0 * 1e-6,
            3.0 * 1000.0 * (2e-3 + 1e-4) + 100.0 * (2e-3 + 1e-6),
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        // From the images both blocks are run first.
        let longer = estimate.probe(1, 0, None) - found[1];
        assert!((longer - 1100.0 * (1e-3 + 8e-3 - 2e-3)).abs() < 1e-9, "{longer}");
        assert!((estimate.probe(1, 2, Some(10.0)) - (2.2 + 0.1 * 11.0)).abs() < 1e-9);
        // What is not cached makes its probes slower, and the total knows.
        assert!(estimate.total(&[1]) > estimate.total(&[1, 2]) - estimate.extraction(2, 1).seconds);
        assert_eq!(estimate.ensemble_bytes(10), 100 * 11 * 4 + 8);
    }

    #[test]
    fn operations_and_memory_are_counted_as_on_paper() {
        let pipeline = recipe();
        let probed: Vec<Probed<'_>> = pipeline.probed().collect();
        let ids: Vec<usize> = probed.iter().map(Probed::width).collect();
        assert_eq!(ids, [3 * 4, 8 * 4, 8, 8, 8 * 32 * 32]);
        assert_eq!(probed[1].operations(10), [4.0 * 32.0 * 10.0, 2.0 * 32.0 * 10.0]);
        assert_eq!((probed[2].operations(10), probed[2].learns_from(1000)), ([0.0, 16.0], 100));
        let memory = |at: usize| {
            Memory::of_probe(&pipeline, &probed[at], probed[at].stage, ([100_000, 1000], 10, Processor::Gpu))
        };
        let program = memory(3).host - f64::from(4 * (1000 * 8 + 4 * 256 * 8 * 1024));
        assert_eq!(memory(1).host - program, f64::from(4 * (101_000 * 32 + 2 * 28 * 33 * 10)));
        assert_eq!(memory(1).device, f64::from(4 * 100_000 * 32));
    }
}
