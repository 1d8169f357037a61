//! The epochs of one stage, from top to bottom: batch, forward, loss, backward, step.

use super::checkpoint::{self, Epoch};
use super::metrics::{Score, score};
use super::sgd::Sgd;
use crate::error::{Error, Result};
use crate::features::{Batch, Draw, Loader};
use crate::network::StageNetwork;
use crate::ops::cross_entropy;
use crate::pipeline::Stage;
use crate::progress::{Progress, Task};
use crate::random::{Purpose, Stream};
use candle_core::{D, DType, Device, Tensor};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a stage is trained on, and where.
pub struct Job<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// The seed of weights and order.
    pub seed: u64,
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

/// A trained stage.
pub struct Outcome {
    /// Block and classifier after the last epoch.
    pub network: StageNetwork,
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

/// Trains a stage, from its last checkpoint where there is one.
///
/// # Errors
/// When samples are damaged, the loss is no longer finite, a checkpoint cannot be written or the user interrupts.
pub fn train(job: &Job<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let training = &job.stage.training;
    let mut draw = Stream::new(Purpose::Weights, job.seed, (job.stage.number as u64, 0));
    let network = StageNetwork::new(job.stage, job.classes, &mut draw, job.device)?;
    let variables = network.variables();
    let mut sgd = Sgd::new(&variables, training.momentum, training.weight_decay)?;
    let mut history = checkpoint::restore(job.checkpoints, &variables, &mut sgd, job.device, progress);
    if !history.is_empty() {
        progress.say(&format!("stage {}: goes on after epoch {}", job.stage.number, history.len()));
    }
    let task = progress.start("train", (training.epochs * job.train.len()) as u64);
    task.skip((history.len() * job.train.len()) as u64);
    let mut logits = None;
    for epoch in history.len()..training.epochs {
        if training.restarts_at(epoch) {
            sgd.restart()?;
        }
        let mut result = train_epoch(job, &network, &mut sgd, epoch, &*task, progress)?;
        if training.evaluates_at(epoch) {
            let found = classify(&network, job.val, training.batch, job.device, progress)?;
            let score = score(&found, job.val.labels());
            refuse_divergence(score.loss, epoch)?;
            result.accuracy = Some(score.top1);
            logits = Some(found);
        }
        task.tell(&describe(&result));
        history.push(result);
        checkpoint::save(job.checkpoints, &variables, &sgd, &history)?;
    }
    drop(task);
    let logits = match logits {
        Some(logits) => logits,
        None => classify(&network, job.val, training.batch, job.device, progress)?,
    };
    let score = score(&logits, job.val.labels());
    let seconds = history.iter().map(|epoch| epoch.seconds).sum();
    Ok(Outcome { network, history, score, logits, seconds })
}

fn train_epoch(
    job: &Job<'_>,
    network: &StageNetwork,
    sgd: &mut Sgd,
    epoch: usize,
    task: &dyn Task,
    progress: &dyn Progress,
) -> Result<Epoch> {
    let started = Instant::now();
    let training = &job.stage.training;
    let rate = training.learning_rate_at(epoch);
    let stage = job.stage.number;
    let order = Stream::new(Purpose::Order, job.seed, (stage as u64, epoch as u64)).permutation(job.train.len());
    let mut sums = Sums::new(job.device)?;
    let mut told = Instant::now();
    job.train.for_each_batch(&order, training.batch, Draw::Epoch { stage, epoch }, |batch| {
        progress.check()?;
        let count = batch.labels.len();
        let (x, labels) = tensors(batch, job.train, job.device)?;
        let (logits, pass) = network.train(&x)?;
        let loss = cross_entropy(&logits, &labels)?;
        sgd.step(&network.gradients(&pass, &loss.gradient)?, rate)?;
        sums.add(&logits, &labels, &loss.mean, count)?;
        task.advance(count as u64);
        if told.elapsed() > READ_BACK {
            let (loss, accuracy) = sums.read()?;
            task.tell(&format!("epoch {}/{}  loss {loss:.3}  train {accuracy:.1} %", epoch + 1, training.epochs));
            told = Instant::now();
        }
        Ok(())
    })?;
    let (loss, train_accuracy) = sums.read()?;
    refuse_divergence(loss, epoch)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Epoch { epoch: epoch + 1, learning_rate: rate, loss, train_accuracy, accuracy: None, seconds })
}

fn refuse_divergence(loss: f64, epoch: usize) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(Error::failed(format!("the loss is no longer finite in epoch {}", epoch + 1))
        .hint("lower `training.learning_rate`"))
}

fn describe(epoch: &Epoch) -> String {
    let accuracy = epoch.accuracy.map_or(String::new(), |accuracy| format!("  val {accuracy:.1} %"));
    format!("epoch {}  loss {:.3}  train {:.1} %{accuracy}", epoch.epoch, epoch.loss, epoch.train_accuracy)
}

/// Values \[sample, y, x, channel\] and labels of a batch on the device.
fn tensors(batch: Batch, loader: &Loader, device: &Device) -> Result<(Tensor, Tensor)> {
    let shape = loader.shape();
    let count = batch.labels.len();
    let x = Tensor::from_vec(batch.values, (count, shape.size, shape.size, shape.channels), device)?;
    Ok((x, Tensor::from_vec(batch.labels, count, device)?))
}

/// The logits of all samples of a loader, `at_once` at a time: \[sample, class\].
///
/// # Errors
/// When samples are damaged or the user interrupts.
pub fn classify(
    network: &StageNetwork,
    samples: &Loader,
    at_once: usize,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Vec<f32>> {
    let (block, auxiliary) = (network.block.frozen()?, network.auxiliary.frozen()?);
    let order: Vec<u32> = (0..samples.len() as u32).collect();
    let mut logits = Vec::new();
    samples.for_each_batch(&order, at_once, Draw::Plain, |batch| {
        progress.check()?;
        let (x, _) = tensors(batch, samples, device)?;
        logits.extend(auxiliary.forward(&block.forward(&x)?)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    })?;
    Ok(logits)
}

/// Sums over the batches of an epoch, kept on the device so that no step waits for them.
struct Sums {
    loss: Tensor,
    right: Tensor,
    count: usize,
}

impl Sums {
    fn new(device: &Device) -> Result<Self> {
        let zero = Tensor::zeros((), DType::F32, device)?;
        Ok(Self { loss: zero.clone(), right: zero, count: 0 })
    }

    fn add(&mut self, logits: &Tensor, labels: &Tensor, loss: &Tensor, count: usize) -> Result<()> {
        let right = logits.detach().argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::F32)?.sum_all()?;
        self.right = (&self.right + right)?;
        self.loss = (&self.loss + (loss.detach() * count as f64)?)?;
        self.count += count;
        Ok(())
    }

    /// Mean loss and percentage of right answers.
    fn read(&self) -> Result<(f64, f64)> {
        let count = self.count.max(1) as f64;
        let value = |sum: &Tensor| Ok::<_, candle_core::Error>(f64::from(sum.to_scalar::<f32>()?) / count);
        Ok((value(&self.loss)?, 100.0 * value(&self.right)?))
    }
}
