//! One of the networks that are trained at once: its weights and optimiser, the batches that wait for it, and its turns.

use super::queue::{Queue, Waiting};
use super::sgd::Sgd;
use super::step::step_for_next;
use super::sums::Sums;
use crate::error::{Error, Result};
use crate::features::Batch;
use crate::network::{Network, Noise, Variables, map_type};
use crate::ops::cast;
use crate::pipeline::{Feedback, Group, Init, Training};
use crate::random::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A network with all that its training changes.
pub(super) struct Module {
    /// The number that its weights and noise are drawn by.
    number: usize,
    pub network: Network,
    pub variables: Variables,
    pub sums: Sums,
    sgd: Sgd,
    queue: Queue,
    /// What stands before the names of its tensors where there are several modules.
    prefix: String,
}

/// What a module is made of, beside its layers.
pub(super) struct Start<'a> {
    pub init: Init,
    /// What weights begin as instead, by name.
    pub weights: Option<&'a HashMap<String, Tensor>>,
    pub feedback: Feedback,
    pub training: &'a Training,
    pub seed: u64,
    pub classes: usize,
    pub device: &'a Device,
    /// Batches that wait for it.
    pub queue: usize,
    /// Whether there are others.
    pub among_others: bool,
}

/// What all modules do in one step.
pub(super) struct Step {
    pub seed: u64,
    /// Counted from 0.
    pub epoch: usize,
    pub rate: f64,
    /// The place of each module in the order of their turns.
    pub places: Vec<u32>,
}

/// A module that is asked from several threads.
pub(super) fn lock(module: &Mutex<Module>) -> MutexGuard<'_, Module> {
    module.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Module {
    pub fn new(group: &Group<'_>, start: &Start<'_>) -> Result<Self> {
        let Start { init, feedback, training, seed, classes, device, .. } = *start;
        let stream = |purpose| Stream::new(purpose, seed, (group.number as u64, 0));
        let network = Network::new(&group.blocks, group.head, classes, (init, &mut stream(Purpose::Weights), device))?;
        let network = network.with_feedback(feedback, classes, (init, &mut stream(Purpose::Feedback), device))?;
        let prefix = if start.among_others { format!("stage{}", group.number) } else { String::new() };
        let variables = if start.among_others { network.variables().under(&prefix) } else { network.variables() };
        if let Some(weights) = start.weights {
            variables.set(weights, "what it begins with")?;
        }
        Ok(Self {
            number: group.number,
            sgd: Sgd::new(&variables, training.momentum, training.weight_decay)?,
            sums: Sums::new(device)?,
            queue: Queue::new(start.queue),
            network,
            variables,
            prefix,
        })
    }

    /// Takes its turn in a step, in which the module of the index `at` before it has just left a batch, or nothing. Trains
    /// on what waits and gives what the one behind it, if there is one, is trained on: the features of the same samples by
    /// the weights as they were before this step.
    pub fn turn(&mut self, at: usize, fresh: Option<Arc<Batch>>, step: &Step) -> Result<Option<Arc<Batch>>> {
        let before = at == 0 || step.places[at - 1] < step.places[at];
        let Some(batch) = self.queue.exchange(fresh, before) else { return Ok(None) };
        let noise = Noise::new(step.seed, (self.number, step.epoch), &batch.samples);
        let samples = (&batch.x, &batch.labels, &noise);
        let passes_on = at + 1 < step.places.len();
        let (outcome, features) = step_for_next(&self.network, &self.sgd, samples, (step.rate, passes_on))?;
        self.sums.add(&outcome.loss, &outcome.correct, batch.len())?;
        let next = |x| Arc::new(Batch { x, labels: batch.labels.clone(), samples: batch.samples.clone() });
        Ok(features.map(next))
    }

    /// Begins with the optimiser anew.
    pub fn restart(&mut self) -> Result<()> {
        Ok(self.sgd.restart()?)
    }

    /// What it is called in errors; nothing where it is the only one.
    pub fn name(&self) -> Option<String> {
        Some(format!("stage {}", self.number)).filter(|_| !self.prefix.is_empty())
    }

    fn name_of(&self, tensor: &str) -> String {
        if self.prefix.is_empty() { tensor.into() } else { format!("{}.{tensor}", self.prefix) }
    }

    /// All tensors that a checkpoint has of it.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = self.variables.tensors();
        all.extend(self.sgd.state());
        all.extend(self.sums.state().map(|(name, tensor)| (self.name_of(&name), tensor)));
        for (at, (batch, _)) in self.queue.iter().enumerate() {
            all.push((self.name_of(&format!("queue.{at}")), cast(&batch.x, DType::F32)?));
        }
        Ok(all)
    }

    /// The rest of what a checkpoint has of it.
    pub fn waiting(&self) -> Waiting {
        let batches = self.queue.iter().map(|(batch, uses)| (batch.samples.clone(), uses));
        Waiting { batches: batches.collect(), met: self.sums.met }
    }

    /// Takes the state that a checkpoint has of it; `labels` are those of all samples, and errors call it by its origin.
    pub fn restore(
        &mut self,
        tensors: &HashMap<String, Tensor>,
        waiting: &Waiting,
        (labels, training, origin): (&[u32], &Training, &str),
    ) -> Result<()> {
        self.variables.set(tensors, origin)?;
        let misfit = || {
            Error::failed(format!("the checkpoints in `{origin}` do not fit the stage"))
                .hint("remove that folder; the stage is then trained from its first epoch")
        };
        let find = |name: String| tensors.get(&name).cloned();
        if !(self.sgd.set_state(tensors) && self.sums.set_state(|name| find(self.name_of(name)))) {
            return Err(misfit());
        }
        self.sums.met = waiting.met;
        let mut batches = Vec::with_capacity(waiting.batches.len());
        for (at, (samples, uses)) in waiting.batches.iter().enumerate() {
            let x = find(self.name_of(&format!("queue.{at}"))).ok_or_else(misfit)?;
            let own: Option<Vec<u32>> = samples.iter().map(|&sample| labels.get(sample as usize).copied()).collect();
            let own = own.filter(|own| x.dims().first() == Some(&own.len())).ok_or_else(misfit)?;
            let labels = Tensor::from_vec(own, samples.len(), x.device())?;
            let x = cast(&x, map_type(training.precision))?;
            batches.push((Batch { x, labels, samples: samples.clone() }, *uses));
        }
        self.queue.restore(batches);
        Ok(())
    }
}
