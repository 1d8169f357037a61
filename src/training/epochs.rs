//! The epochs of one stage, from top to bottom: batch, forward, loss, backward, step.

use super::checkpoint::{Checkpoints, Epoch, Position};
use super::metrics::{Score, score};
use super::sgd::Sgd;
use super::step;
use super::sums::Sums;
use crate::error::{Error, Kind, Result};
use crate::features::{Loader, View};
use crate::network::{Network, Noise, Sequence, Variables};
use crate::ops::{compute, concat};
use crate::pipeline::{Feedback, Init, Layers, Manifest, Training};
use crate::progress::{Progress, Standing, Task};
use crate::random::{Purpose, Stream};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is trained, on what, and where.
pub struct Job<'a> {
    /// The blocks that are trained together: one for a stage by itself.
    pub blocks: Vec<&'a Layers>,
    /// The classifier of the last of them.
    pub head: &'a Layers,
    /// How weights begin.
    pub init: Init,
    /// What they begin as instead, by name, where they were trained before.
    pub start: Option<&'a HashMap<String, Tensor>>,
    /// What carries gradients back.
    pub feedback: Feedback,
    /// How they are trained.
    pub training: &'a Training,
    /// The number of the stage, which all that is random is drawn by; 0 for a network that is trained as a whole.
    pub stage: usize,
    /// The seed of weights and order.
    pub seed: u64,
    /// All that the training depends on: a checkpoint is of no other.
    pub manifest: &'a Manifest,
    /// Training samples.
    pub train: &'a Loader,
    /// Validation samples.
    pub val: &'a Loader,
    /// The number of classes.
    pub classes: usize,
    /// The folder of checkpoints.
    pub checkpoints: &'a Path,
    /// Where it is computed.
    pub device: &'a Device,
}

/// What came out.
pub struct Outcome {
    /// Blocks and classifier after the last epoch.
    pub network: Network,
    /// What each epoch came to.
    pub history: Vec<Epoch>,
    /// How well the classifier does on the validation samples.
    pub score: Score,
    /// Its logits on them: \[sample, class\].
    pub logits: Vec<f32>,
    /// Seconds of training, without validation.
    pub seconds: f64,
}

/// How often loss and accuracy are read back from the device while an epoch runs.
const READ_BACK: Duration = Duration::from_millis(500);

/// What training changes.
struct Learner<'a> {
    network: Network,
    variables: Variables,
    sgd: Sgd,
    sums: Sums,
    position: Position,
    checkpoints: Checkpoints<'a>,
    saved: Instant,
}

/// Trains, from the last checkpoint where there is one.
///
/// # Errors
/// When samples are damaged, the loss is no longer finite, a checkpoint cannot be written or the user interrupts.
pub fn train(job: &Job<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let training = job.training;
    let mut learner = Learner::new(job, progress)?;
    let task = progress.start("train", (training.epochs * job.train.len()) as u64);
    let behind = learner.position.epoch() * job.train.len() + learner.samples_met(job);
    task.skip(behind as u64);
    let mut logits = None;
    while learner.position.epoch() < training.epochs {
        let done = learner.epoch(job, &*task, progress);
        if done.as_ref().is_err_and(|error| error.kind() == Kind::Interrupted) {
            learner.save()?;
        }
        let (result, found) = done?;
        task.stand(&standing(&result, training.epochs));
        learner.end_epoch(result, job.device)?;
        logits = found.or(logits);
    }
    drop(task);
    let Learner { network, position, .. } = learner;
    let logits = match logits {
        Some(logits) => logits,
        None => classify(&network, job.val, training.batch, progress)?,
    };
    let score = score(&logits, job.val.labels());
    let seconds = position.history.iter().map(|epoch| epoch.seconds).sum();
    Ok(Outcome { network, history: position.history, score, logits, seconds })
}

impl<'a> Learner<'a> {
    /// In the state of the last checkpoint, or at the beginning.
    fn new(job: &Job<'a>, progress: &dyn Progress) -> Result<Self> {
        let training = job.training;
        let mut rng = Stream::new(Purpose::Weights, job.seed, (job.stage as u64, 0));
        let network = Network::new(&job.blocks, job.head, job.classes, (job.init, &mut rng, job.device))?;
        let mut rng = Stream::new(Purpose::Feedback, job.seed, (job.stage as u64, 0));
        let network = network.with_feedback(job.feedback, job.classes, (job.init, &mut rng, job.device))?;
        let variables = network.variables();
        if let Some(start) = job.start {
            variables.set(start, "what it begins with")?;
        }
        let mut learner = Self {
            sgd: Sgd::new(&variables, training.momentum, training.weight_decay)?,
            sums: Sums::new(job.device)?,
            position: Position::default(),
            checkpoints: Checkpoints::new(job.checkpoints, job.manifest),
            saved: Instant::now(),
            network,
            variables,
        };
        if let Some((position, tensors)) = learner.checkpoints.newest(job.device, progress)? {
            let origin = job.checkpoints.display().to_string();
            learner.variables.set(&tensors, &origin)?;
            if !(learner.sgd.set_state(&tensors) && learner.sums.set_state(&tensors)) {
                return Err(Error::failed(format!("the checkpoints in `{origin}` do not fit the stage"))
                    .hint("remove that folder; the stage is then trained from its first epoch"));
            }
            let what = if job.stage == 0 { "network".into() } else { format!("stage {}", job.stage) };
            progress.say(&format!("{what}: {}", goes_on(&position)));
            learner.position = position;
        }
        Ok(learner)
    }

    /// Samples of the epoch at hand that are behind.
    fn samples_met(&self, job: &Job<'_>) -> usize {
        (self.position.step * job.training.batch).min(job.train.len())
    }

    /// What is left of the epoch at hand, and the logits of the validation samples where it ends with a look at them.
    fn epoch(&mut self, job: &Job<'_>, task: &dyn Task, progress: &dyn Progress) -> Result<(Epoch, Option<Vec<f32>>)> {
        let training = job.training;
        let mut result = self.train_epoch(job, task, progress)?;
        if !training.evaluates_at(self.position.epoch()) {
            return Ok((result, None));
        }
        let logits = classify(&self.network, job.val, training.batch, progress)?;
        let score = score(&logits, job.val.labels());
        refuse_divergence(score.loss, result.epoch)?;
        result.accuracy = Some(score.top1);
        Ok((result, Some(logits)))
    }

    /// The training that is left of the epoch at hand.
    fn train_epoch(&mut self, job: &Job<'_>, task: &dyn Task, progress: &dyn Progress) -> Result<Epoch> {
        let training = job.training;
        let (stage, epoch) = (job.stage, self.position.epoch());
        let rate = training.learning_rate_at(epoch);
        if self.position.step == 0 && training.restarts_at(epoch) {
            self.sgd.restart()?;
        }
        let order = job.train.order(&mut Stream::new(Purpose::Order, job.seed, (stage as u64, epoch as u64)));
        let view = View::Epoch { stage, epoch };
        let spent = self.position.seconds;
        let (started, mut told) = (Instant::now(), Instant::now());
        job.train.for_each_batch(&order[self.samples_met(job)..], training.batch, view, |batch| {
            progress.check()?;
            let count = batch.len();
            let noise = Noise::new(job.seed, (stage, epoch), &batch.samples);
            let samples = (&batch.x, &batch.labels, &noise);
            let step::Outcome { correct, loss } = step::step(&self.network, &mut self.sgd, samples, rate)?;
            self.sums.add(&loss, &correct, count)?;
            self.position.step += 1;
            self.position.seconds = spent + started.elapsed().as_secs_f64();
            task.advance(count as u64);
            if told.elapsed() > READ_BACK {
                let (loss, accuracy) = self.sums.read(self.samples_met(job))?;
                task.stand(&Standing {
                    epoch: epoch + 1,
                    epochs: training.epochs,
                    loss,
                    train_accuracy: accuracy,
                    accuracy: self.position.history.iter().rev().find_map(|epoch| epoch.accuracy),
                });
                told = Instant::now();
            }
            if self.saved.elapsed() >= training.checkpoint_every {
                self.save()?;
            }
            Ok(())
        })?;
        let (loss, train_accuracy) = self.sums.read(job.train.len())?;
        refuse_divergence(loss, epoch + 1)?;
        let seconds = self.position.seconds;
        Ok(Epoch { epoch: epoch + 1, learning_rate: rate, loss, train_accuracy, accuracy: None, seconds })
    }

    fn end_epoch(&mut self, result: Epoch, device: &Device) -> Result<()> {
        self.position.history.push(result);
        (self.position.step, self.position.seconds) = (0, 0.0);
        self.sums = Sums::new(device)?;
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        let mut tensors = self.variables.tensors();
        tensors.extend(self.sgd.state());
        tensors.extend(self.sums.state());
        self.checkpoints.save(&self.position, &tensors)?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// Where training goes on, in words.
fn goes_on(position: &Position) -> String {
    let steps = if position.step > 0 { format!(" and {} steps", position.step) } else { String::new() };
    let best = position.best().map_or(String::new(), |(epoch, best)| format!(" (best {best:.1} % in epoch {epoch})"));
    format!("goes on after epoch {}{steps}{best}", position.epoch())
}

fn refuse_divergence(loss: f64, epoch: usize) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(Error::failed(format!("the loss is no longer finite in epoch {epoch}")).hint("lower `training.learning_rate`"))
}

/// Where training stands at the end of an epoch, of so many.
fn standing(result: &Epoch, epochs: usize) -> Standing {
    let Epoch { epoch, loss, train_accuracy, accuracy, .. } = *result;
    Standing { epoch, epochs, loss, train_accuracy, accuracy }
}

/// The logits of all samples of a loader, `at_once` at a time: \[sample, class\].
///
/// # Errors
/// When samples are damaged or the user interrupts.
pub fn classify(network: &Network, samples: &Loader, at_once: usize, progress: &dyn Progress) -> Result<Vec<f32>> {
    let blocks = network.blocks.iter().map(Sequence::frozen).collect::<candle_core::Result<Vec<_>>>()?;
    let head = network.head.frozen()?;
    let order: Vec<u32> = (0..samples.len() as u32).collect();
    // They are brought to the host at the end: a GPU is not to stand still after each batch.
    let mut logits = Vec::new();
    samples.for_each_batch(&order, at_once, View::Centre, |batch| {
        progress.check()?;
        logits.push(compute(samples.device(), || {
            let features = blocks.iter().try_fold(batch.x, |x, block| block.forward(&x))?;
            head.logits(&features)
        })?);
        Ok(())
    })?;
    Ok(concat(&logits)?.flatten_all()?.to_vec1()?)
}
