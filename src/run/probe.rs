//! Nodes that measure something of the features of a stage.

use super::ancestry::Inputs;
use super::execute::Work;
use super::record::State;
use crate::error::{Error, Result};
use crate::features::{Loader, View};
use crate::pipeline::{Feedback, Group, Init, Precision, Probe, ProbeKind, Shape, Training, Verdict};
use crate::probes::{Fit, Linear, Scaling, Table, contraction, neighbours};
use crate::random::{Purpose, Stream};
use crate::training::{self, Job, score};
use std::collections::BTreeMap;
use std::time::Instant;

/// What was found, by name.
type Measures = BTreeMap<String, f64>;

impl Work<'_> {
    /// Measures what the settings of the node say. The features are read where they are cached, and computed where not.
    pub(super) fn probe(&self, verdict: &Verdict) -> Result<()> {
        let probe = self.probe.ok_or_else(|| Error::failed(format!("the pipeline has no probe {}", self.node.id)))?;
        let _reading = self.ancestry.share()?;
        let precision = probe.kind.training().map_or(Precision::F32, |training| training.precision);
        let inputs = self.ancestry.features(self.pipeline, self.node.stage, precision, self.device)?;
        let mut record = self.prepare(verdict)?;
        if record.state == State::Trained && !record.measures.is_empty() {
            // Only small files got lost.
            return self.finish(&mut record);
        }
        record.classes = inputs.classes.clone();
        let started = Instant::now();
        record.measures = match &probe.kind {
            ProbeKind::Linear { penalty, iterations, tolerance } => {
                let fit = Fit { penalty: *penalty, iterations: *iterations, tolerance: *tolerance };
                self.linear(probe, &inputs, fit)?
            }
            ProbeKind::Cnn { training, .. } => self.cnn(probe, inputs, training)?,
            ProbeKind::Neighbours { k } => self.neighbours(probe, &inputs, *k)?,
            ProbeKind::Contraction => self.contraction(probe, &inputs)?,
            ProbeKind::Classifier { .. } => {
                return Err(Error::failed("a classifier that is kept is a node of its own"));
            }
        };
        if let Some((name, _)) = record.measures.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::failed(format!("`{name}` is no number"))
                .hint("it takes two classes, one of them with two samples, and features that are finite"));
        }
        record.spend("probe", started.elapsed());
        record.state = State::Trained;
        self.finish(&mut record)
    }

    fn linear(&self, probe: &Probe, inputs: &Inputs, fit: Fit) -> Result<Measures> {
        let (train, val) = self.tables(probe, inputs)?;
        let (linear, iterations) = Linear::fit(&train, inputs.classes.len(), fit, self.device, self.progress)?;
        let (seen, found) = (score(&linear.logits(&train)?, &train.labels), score(&linear.logits(&val)?, &val.labels));
        Ok(named([
            ("accuracy", found.top1),
            ("top5", found.top5),
            ("loss", found.loss),
            ("train_accuracy", seen.top1),
            ("train_loss", seen.loss),
            ("iterations", iterations as f64),
        ]))
    }

    /// It is trained as a stage is, and goes on after its last checkpoint.
    fn cnn(&self, probe: &Probe, inputs: Inputs, training: &Training) -> Result<Measures> {
        let shape: Shape = inputs.val.shape(View::Centre);
        let layers = probe.layers(shape).ok_or_else(|| Error::failed("the probe has no layers for these features"))?;
        let (title, batch) = (self.node.title(), (self.node.stage, training.batch));
        let inputs = inputs.prepare(None, self.pipeline, (&title, batch, self.folder), self.progress)?;
        let outcome = training::train(
            &Job {
                title: &title,
                groups: vec![Group { number: self.node.stage, blocks: vec![&layers.0], head: &layers.1 }],
                init: Init::Uniform,
                start: None,
                feedback: Feedback::Exact,
                replay: 0,
                training,
                stage: self.node.stage,
                seed: self.pipeline.seed,
                manifest: &self.node.manifest,
                train: &inputs.train,
                val: &inputs.val,
                classes: inputs.classes.len(),
                checkpoints: &self.folder.checkpoints(),
                device: self.device,
            },
            self.progress,
        )?;
        let learned = outcome.learned.last().ok_or_else(|| Error::failed("no network came out"))?;
        let last = learned.history.last();
        Ok(named([
            ("accuracy", learned.score.top1),
            ("top5", learned.score.top5),
            ("loss", learned.score.loss),
            ("train_accuracy", last.map_or(0.0, |epoch| epoch.train_accuracy)),
            ("train_loss", last.map_or(0.0, |epoch| epoch.loss)),
        ]))
    }

    fn neighbours(&self, probe: &Probe, inputs: &Inputs, k: usize) -> Result<Measures> {
        let (train, val) = self.tables(probe, inputs)?;
        let size = (k, inputs.classes.len());
        let found = neighbours(&train, &val, size, self.device, self.progress)?;
        let right = found.iter().zip(&val.labels).filter(|(found, label)| found == label).count();
        Ok(named([("accuracy", 100.0 * right as f64 / val.len().max(1) as f64)]))
    }

    fn contraction(&self, probe: &Probe, inputs: &Inputs) -> Result<Measures> {
        let mut val = self.table(probe, &inputs.val, None, View::CentreCanvas)?;
        if probe.standardise {
            val.standardise(&Scaling::of(&val));
        }
        let found = contraction(&val, self.device, self.progress)?;
        let ratio = found.within / found.between;
        Ok(named([("within", found.within), ("between", found.between), ("ratio", ratio)]))
    }

    /// What is learned from, and what it is tried on, standardised alike.
    fn tables(&self, probe: &Probe, inputs: &Inputs) -> Result<(Table, Table)> {
        // What the features are written of: so it makes no difference whether they are cached.
        let mut train = self.table(probe, &inputs.train, probe.train_images, View::Cached(0))?;
        let mut val = self.table(probe, &inputs.val, None, View::CentreCanvas)?;
        if probe.standardise {
            let scaling = Scaling::of(&train);
            train.standardise(&scaling);
            val.standardise(&scaling);
        }
        Ok((train, val))
    }

    fn table(&self, probe: &Probe, samples: &Loader, most: Option<usize>, view: View) -> Result<Table> {
        let count = samples.len();
        let chosen: Vec<u32> = match most.filter(|&most| most < count) {
            None => (0..count as u32).collect(),
            Some(most) => {
                let mut stream = Stream::new(Purpose::Probe, self.pipeline.seed, (0, 0));
                let mut chosen = stream.permutation(count);
                chosen.truncate(most);
                chosen.sort_unstable();
                chosen
            }
        };
        Table::gather(samples, &chosen, (view, probe.pool.unwrap_or(1)), self.progress)
    }
}

fn named<const N: usize>(measures: [(&str, f64); N]) -> Measures {
    measures.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}
