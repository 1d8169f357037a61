//! The epochs of what is trained at once, from top to bottom: batches, steps, evaluation, checkpoints.

use super::checkpoint::{Checkpoints, Epoch, Position};
use super::classify::classify_all;
use super::metrics::{Score, score};
use super::module::{Module, Start, Step, lock};
use super::queue::Waiting;
use super::relay::{Line, relay};
use super::sums::Sums;
use crate::error::{Error, Kind, Result};
use crate::features::{Loader, View};
use crate::network::Network;
use crate::pipeline::{Feedback, Group, Init, Manifest, Training};
use crate::progress::{Progress, Standing, Task};
use crate::random::{Purpose, Stream};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is trained, on what, and where.
pub struct Job<'a> {
    /// What people call it.
    pub title: &'a str,
    /// The networks that are trained at once: each but the first on the features of the one before, as these are at that
    /// step. A single one but where training is decoupled.
    pub groups: Vec<Group<'a>>,
    /// How weights begin.
    pub init: Init,
    /// What they begin as instead, by name, where they were trained before.
    pub start: Option<&'a HashMap<String, Tensor>>,
    /// What carries gradients back.
    pub feedback: Feedback,
    /// Batches that wait between networks; 0 where each is used once, in order.
    pub replay: usize,
    /// How they are trained.
    pub training: &'a Training,
    /// The number of the stage, which order and views of the samples are drawn by; 0 for a network as a whole.
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
    /// Of each network, first to last.
    pub learned: Vec<Learned>,
    /// Seconds of training, without validation.
    pub seconds: f64,
    /// Seconds of validation.
    pub validating: f64,
}

/// A network that was trained.
pub struct Learned {
    /// Blocks and classifier after the last epoch.
    pub network: Network,
    /// What each epoch came to.
    pub history: Vec<Epoch>,
    /// How well the classifier does on the validation samples.
    pub score: Score,
    /// Its logits on them: \[sample, class\].
    pub logits: Vec<f32>,
}

/// The logits of each network for all validation samples: \[sample, class\].
type Logits = Vec<Vec<f32>>;

/// How often loss and accuracy are read back from the device while an epoch runs.
const READ_BACK: Duration = Duration::from_millis(500);

/// What training changes.
struct Learner<'a> {
    modules: Vec<Mutex<Module>>,
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
        let (results, found) = done?;
        if let Some(last) = results.last() {
            task.stand(&standing(last, training.epochs));
        }
        learner.end_epoch(results, job.device)?;
        logits = found.or(logits);
    }
    drop(task);
    let logits = match logits {
        Some(logits) => logits,
        None => learner.classify(job, progress)?,
    };
    let Learner { modules, position, .. } = learner;
    let seconds = position.history.iter().map(|epoch| epoch.seconds).sum();
    let Position { history, below, validating, .. } = position;
    let networks =
        modules.into_iter().map(|module| module.into_inner().unwrap_or_else(PoisonError::into_inner).network);
    let learned = networks.zip(below.into_iter().chain([history])).zip(logits).map(|((network, history), logits)| {
        Learned { network, history, score: score(&logits, job.val.labels()), logits }
    });
    Ok(Outcome { learned: learned.collect(), seconds, validating })
}

impl<'a> Learner<'a> {
    /// In the state of the last checkpoint, or at the beginning.
    fn new(job: &Job<'a>, progress: &dyn Progress) -> Result<Self> {
        let &Job { init, start, feedback, training, seed, classes, device, .. } = job;
        let among_others = job.groups.len() > 1;
        let module = |(at, group)| {
            let queue = if at == 0 { 0 } else { job.replay };
            Module::new(
                group,
                &Start { init, weights: start, feedback, training, seed, classes, device, queue, among_others },
            )
        };
        let modules = job.groups.iter().enumerate().map(module).collect::<Result<Vec<_>>>()?;
        let position = Position { below: vec![Vec::new(); modules.len().saturating_sub(1)], ..Position::default() };
        let checkpoints = Checkpoints::new(job.checkpoints, job.manifest);
        let modules = modules.into_iter().map(Mutex::new).collect();
        let mut learner = Self { modules, position, checkpoints, saved: Instant::now() };
        if let Some((position, tensors)) = learner.checkpoints.newest(job.device, progress)? {
            let origin = job.checkpoints.display().to_string();
            learner.position = position;
            let met = learner.samples_met(job);
            for (at, module) in learner.modules.iter().enumerate() {
                let all_met = Waiting { met, ..Waiting::default() };
                let waiting = learner.position.waiting.get(at).unwrap_or(&all_met);
                lock(module).restore(&tensors, waiting, (job.train.labels(), training, &origin))?;
            }
            progress.say(&format!("{}: {}", job.title, goes_on(&learner.position)));
        }
        Ok(learner)
    }

    /// Samples of the epoch at hand that are behind.
    fn samples_met(&self, job: &Job<'_>) -> usize {
        (self.position.step * job.training.batch).min(job.train.len())
    }

    /// What is left of the epoch at hand, and the logits of the validation samples where it ends with a look at them; both
    /// of each network.
    fn epoch(
        &mut self,
        job: &Job<'_>,
        task: &dyn Task,
        progress: &dyn Progress,
    ) -> Result<(Vec<Epoch>, Option<Logits>)> {
        let mut results = self.train_epoch(job, task, progress)?;
        if !job.training.evaluates_at(self.position.epoch()) {
            return Ok((results, None));
        }
        let logits = self.classify(job, progress)?;
        for ((result, logits), module) in results.iter_mut().zip(&logits).zip(&self.modules) {
            let score = score(logits, job.val.labels());
            refuse_divergence(score.loss, result.epoch, lock(module).name())?;
            result.accuracy = Some(score.top1);
        }
        Ok((results, Some(logits)))
    }

    /// The logits of the validation samples, of each network.
    fn classify(&mut self, job: &Job<'_>, progress: &dyn Progress) -> Result<Logits> {
        let started = Instant::now();
        let modules: Vec<_> = self.modules.iter().map(lock).collect();
        let networks: Vec<&Network> = modules.iter().map(|module| &module.network).collect();
        let logits = classify_all(&networks, job.val, job.training.batch, progress)?;
        self.position.validating += started.elapsed().as_secs_f64();
        Ok(logits)
    }

    /// The training that is left of the epoch at hand.
    fn train_epoch(&mut self, job: &Job<'_>, task: &dyn Task, progress: &dyn Progress) -> Result<Vec<Epoch>> {
        let training = job.training;
        let (stage, epoch) = (job.stage, self.position.epoch());
        let rate = training.learning_rate_at(epoch);
        if self.position.step == 0 && training.restarts_at(epoch) {
            self.modules.iter().try_for_each(|module| lock(module).restart())?;
        }
        let order = job.train.order(&mut Stream::new(Purpose::Order, job.seed, (stage as u64, epoch as u64)));
        let left = &order[self.samples_met(job)..];
        let spent = self.position.seconds;
        let (started, mut told) = (Instant::now(), Instant::now());
        // The threads of a GPU's modules would but take turns at it.
        let threads = self.modules.len() > 1 && job.device.is_cpu() && rayon::current_num_threads() > 1;
        let Self { modules, position, checkpoints, saved } = self;
        relay(modules, threads, |line: &mut Line<'_>| {
            job.train.for_each_batch(left, training.batch, View::Epoch { stage, epoch }, |batch| {
                progress.check()?;
                let count = batch.len();
                line.push(batch, step_of(job, modules.len(), (epoch, position.step), rate))?;
                position.step += 1;
                position.seconds = spent + started.elapsed().as_secs_f64();
                task.advance(count as u64);
                if let Some(last) = modules.last().filter(|_| told.elapsed() > READ_BACK) {
                    let (loss, train_accuracy) = lock(last).sums.read()?;
                    let accuracy = position.history.iter().rev().find_map(|epoch| epoch.accuracy);
                    task.stand(&Standing { epoch: epoch + 1, epochs: training.epochs, loss, train_accuracy, accuracy });
                    told = Instant::now();
                }
                if saved.elapsed() >= training.checkpoint_every {
                    line.settle()?;
                    save(modules, position, checkpoints)?;
                    *saved = Instant::now();
                }
                Ok(())
            })
        })?;
        let seconds = position.seconds;
        let result = |module: &Mutex<Module>| {
            let module = lock(module);
            let (loss, train_accuracy) = module.sums.read()?;
            refuse_divergence(loss, epoch + 1, module.name())?;
            Ok(Epoch { epoch: epoch + 1, learning_rate: rate, loss, train_accuracy, accuracy: None, seconds })
        };
        modules.iter().map(result).collect()
    }

    fn end_epoch(&mut self, results: Vec<Epoch>, device: &Device) -> Result<()> {
        let Position { history, below, .. } = &mut self.position;
        below.iter_mut().chain([history]).zip(results).for_each(|(history, result)| history.push(result));
        (self.position.step, self.position.seconds) = (0, 0.0);
        for module in &self.modules {
            lock(module).sums = Sums::new(device)?;
        }
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        save(&self.modules, &mut self.position, &self.checkpoints)?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// Writes a checkpoint of modules that have done all steps behind a position.
fn save(modules: &[Mutex<Module>], position: &mut Position, checkpoints: &Checkpoints<'_>) -> Result<()> {
    let mut tensors = Vec::new();
    position.waiting.clear();
    for module in modules {
        let module = lock(module);
        tensors.extend(module.state()?);
        if modules.len() > 1 {
            position.waiting.push(module.waiting());
        }
    }
    checkpoints.save(position, &tensors)
}

/// A step in which all modules take their turns: in the order of the network, or, where batches wait between them, in one
/// that is drawn.
fn step_of(job: &Job<'_>, modules: usize, (epoch, step): (usize, usize), rate: f64) -> Step {
    let places = if job.replay == 0 {
        (0..modules as u32).collect()
    } else {
        Stream::new(Purpose::Turns, job.seed, (epoch as u64, step as u64)).permutation(modules)
    };
    Step { seed: job.seed, epoch, rate, places }
}

/// Where training goes on, in words.
fn goes_on(position: &Position) -> String {
    let steps = if position.step > 0 { format!(" and {} steps", position.step) } else { String::new() };
    let best = position.best().map_or(String::new(), |(epoch, best)| format!(" (best {best:.1} % in epoch {epoch})"));
    format!("goes on after epoch {}{steps}{best}", position.epoch())
}

/// Fails where a loss is no number any more, with the name of its network where there are several.
fn refuse_divergence(loss: f64, epoch: usize, name: Option<String>) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let whose = name.map_or(String::new(), |name| format!(" of {name}"));
    Err(Error::failed(format!("the loss{whose} is no longer finite in epoch {epoch}"))
        .hint("lower `training.learning_rate`"))
}

/// Where training stands at the end of an epoch, of so many.
fn standing(result: &Epoch, epochs: usize) -> Standing {
    let Epoch { epoch, loss, train_accuracy, accuracy, .. } = *result;
    Standing { epoch, epochs, loss, train_accuracy, accuracy }
}
