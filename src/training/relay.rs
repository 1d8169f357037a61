//! Modules in a line: each takes its turns on what the one before it has left.
//!
//! On a CPU with several threads each module has a thread of its own, so that one works on a batch while the one before it
//! works on the next. What comes out does not depend on that: each takes its turns in order, and which batch it takes follows
//! from the order alone.

use super::module::{Module, Step, lock};
use crate::error::{Error, Result};
use crate::features::Batch;
use crate::pipeline::footprint::AHEAD;
use std::mem::replace;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// A step on its way through the modules, with what the last one has left.
type Message = (Option<Arc<Batch>>, Arc<Step>);

/// Where steps are given to the first module.
pub(super) enum Line<'a> {
    /// All modules take their turns on the thread at hand.
    Here(&'a [Mutex<Module>]),
    /// Each has a thread.
    Threads {
        /// To the first.
        first: SyncSender<Message>,
        /// From the last, one for each step.
        done: Receiver<()>,
        /// Steps that are not through.
        under_way: usize,
    },
}

/// Lets `feed` give steps to modules, and returns once all of these are through.
///
/// # Errors
/// With the first error of a module, or else that of `feed`.
pub(super) fn relay<T>(
    modules: &[Mutex<Module>],
    threads: bool,
    feed: impl FnOnce(&mut Line<'_>) -> Result<T>,
) -> Result<T> {
    if !threads {
        return feed(&mut Line::Here(modules));
    }
    thread::scope(|scope| {
        let (first, mut next) = sync_channel(AHEAD);
        let (finished, done) = channel();
        let mut workers = Vec::with_capacity(modules.len());
        for (at, module) in modules.iter().enumerate() {
            let (give, take_next) = sync_channel(AHEAD);
            let take = replace(&mut next, take_next);
            let to = if at + 1 < modules.len() { To::Next(give) } else { To::End(finished.clone()) };
            workers.push(scope.spawn(move || work((at, module), take, &to)));
        }
        drop(finished);
        let fed = feed(&mut Line::Threads { first, done, under_way: 0 });
        // The line is gone: each thread ends once it has done what it was given.
        for worker in workers {
            worker.join().map_err(|_| stopped())??;
        }
        fed
    })
}

/// Where a thread leaves what it has done.
enum To {
    Next(SyncSender<Message>),
    End(Sender<()>),
}

fn work((at, module): (usize, &Mutex<Module>), take: Receiver<Message>, to: &To) -> Result<()> {
    for (batch, step) in take {
        let left = lock(module).turn(at, batch, &step)?;
        match to {
            // What comes behind may have failed, and says so itself.
            To::Next(next) if next.send((left, step)).is_err() => break,
            // Nobody waits for it once all steps are given.
            To::End(done) => drop(done.send(())),
            To::Next(_) => {}
        }
    }
    Ok(())
}

/// What is said where a thread has ended before its time; its own error goes first.
fn stopped() -> Error {
    Error::failed("a part of the network could not be trained further")
}

impl Line<'_> {
    /// Lets all modules take their turns in a step, whose images these are, and may return before they have.
    pub fn push(&mut self, batch: Batch, step: Step) -> Result<()> {
        let mut batch = Some(Arc::new(batch));
        match self {
            Self::Here(modules) => {
                for (at, module) in modules.iter().enumerate() {
                    batch = lock(module).turn(at, batch, &step)?;
                }
            }
            Self::Threads { first, done, under_way } => {
                first.send((batch, Arc::new(step))).map_err(|_| stopped())?;
                *under_way += 1;
                *under_way -= done.try_iter().count();
            }
        }
        Ok(())
    }

    /// Waits until all steps are through.
    pub fn settle(&mut self) -> Result<()> {
        if let Self::Threads { done, under_way, .. } = self {
            while *under_way > 0 {
                done.recv().map_err(|_| stopped())?;
                *under_way -= 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::module::Start;
    use super::*;
    use crate::ops::to_nhwc;
    use crate::pipeline::Recipe;
    use crate::random::{Purpose, Stream};
    use candle_core::{DType, Device, Tensor};
    use std::collections::HashMap;
    use std::time::Duration;

    /// The two stages of the fixture `decoupled`.
    const TWO: &str = "blocks = 2\nwidth = 4\nspace_to_depth = [1, 2]\n[auxiliary]\nwidth = 6\n";

    fn recipe(network: &str) -> Recipe {
        let method = "[training]\nmethod = \"decoupled\"\nmomentum = 0.9\nweight_decay = 5e-4\n";
        let text = format!("[data]\nsource = \"builtin\"\nsize = 8\n[network]\n{network}{method}");
        Recipe::parse("test", "test", &text, &[]).unwrap()
    }

    fn modules(recipe: &Recipe, queue: usize) -> Vec<Mutex<Module>> {
        let whole = recipe.whole().unwrap();
        let groups = whole.groups();
        let module = |(at, group)| {
            let start = Start {
                init: recipe.init,
                weights: None,
                feedback: recipe.feedback,
                training: &recipe.training,
                seed: 3,
                classes: 5,
                device: &Device::Cpu,
                queue: if at == 0 { 0 } else { queue },
                among_others: true,
            };
            Mutex::new(Module::new(group, &start).unwrap())
        };
        groups.iter().enumerate().map(module).collect()
    }

    fn fixture() -> HashMap<String, Tensor> {
        let path = format!("{}/tests/fixtures/decoupled.safetensors", env!("CARGO_MANIFEST_DIR"));
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()
    }

    fn batch(x: &Tensor, labels: &Tensor, first: u32) -> Batch {
        let samples = (first..first + x.dim(0).unwrap() as u32).collect();
        Batch { x: to_nhwc(x).unwrap(), labels: labels.to_dtype(DType::U32).unwrap(), samples }
    }

    fn state(modules: &[Mutex<Module>]) -> Vec<(String, Vec<u32>)> {
        let all = modules.iter().flat_map(|module| lock(module).state().unwrap());
        let bits = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        all.map(|(name, tensor)| (name, bits(tensor).into_iter().map(f32::to_bits).collect())).collect()
    }

    #[track_caller]
    fn close(found: &Tensor, expected: &Tensor, name: &str) {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (found, expected) = (values(found), values(expected));
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 2e-5 * largest, "{name}: off by {error} of {largest}");
    }

    #[test]
    fn steps_of_two_stages_at_once_agree_with_pytorch() {
        let (all, recipe) = (fixture(), recipe(TWO));
        for threads in [false, true] {
            let modules = modules(&recipe, 0);
            let names = |moment: &str| all.keys().filter(|name| name.starts_with(moment)).count();
            let mut learned = 0;
            for module in &modules {
                let module = lock(module);
                let before = module.variables.tensors();
                learned += before.len();
                let own = |name: &String| all[&format!("before.{name}")].clone();
                let before = before.iter().map(|(name, _)| (name.clone(), own(name))).collect();
                module.variables.set(&before, "fixture").unwrap();
            }
            assert_eq!(learned, names("before."), "a variable has no counterpart");
            relay(&modules, threads, |line| {
                for step in 0..3u32 {
                    let batch = batch(&all[&format!("x.{step}")], &all[&format!("labels.{step}")], 0);
                    line.push(batch, Step { seed: 3, epoch: 0, rate: 0.1, places: vec![0, 1] })?;
                    if step == 0 {
                        line.settle()?;
                        for (number, module) in (1..).zip(&modules) {
                            let (loss, _) = lock(module).sums.read()?;
                            let loss = Tensor::new(&[loss as f32], &Device::Cpu)?;
                            close(&loss, &all[&format!("loss.stage{number}")], "loss");
                        }
                    }
                }
                Ok(())
            })
            .unwrap();
            let mut x = to_nhwc(&all["x.0"]).unwrap();
            for (number, module) in (1..).zip(&modules) {
                let module = lock(module);
                for (name, tensor) in module.variables.tensors() {
                    close(&tensor, &all[&format!("after.{name}")], &name);
                }
                x = module.network.blocks[0].frozen().unwrap().forward(&x).unwrap();
                let logits = module.network.head.frozen().unwrap().logits(&x).unwrap();
                close(&logits, &all[&format!("eval.stage{number}")], "logits after");
            }
        }
    }

    fn label(sample: u32) -> u32 {
        sample * 7 % 5
    }

    /// Steps of three stages, in an order of turns that is drawn; some come before anything has come to them.
    fn replayed(threads: bool, steps: std::ops::Range<u32>, modules: &[Mutex<Module>]) {
        relay(modules, threads, |line| {
            for step in steps {
                let mut rng = Stream::new(Purpose::Picture, u64::from(step), (0, 0));
                let values: Vec<f32> = (0..4 * 3 * 64).map(|_| rng.normal() as f32).collect();
                let x = Tensor::from_vec(values, (4, 3, 8, 8), &Device::Cpu)?;
                let labels = Tensor::from_vec((4 * step..4 * step + 4).map(label).collect(), 4, &Device::Cpu)?;
                let places = Stream::new(Purpose::Turns, 3, (0, u64::from(step))).permutation(3);
                line.push(batch(&x, &labels, 4 * step), Step { seed: 3, epoch: 0, rate: 0.02, places })?;
            }
            line.settle()
        })
        .unwrap();
    }

    const THREE: &str = "blocks = 3\nwidth = 4\nspace_to_depth = [2]\n[auxiliary]\nwidth = 4\n";

    #[test]
    fn threads_change_no_bit_with_batches_that_wait_or_without() {
        let recipe = recipe(THREE);
        for queue in [0, 3] {
            let [here, threads] = [false, true].map(|threads| {
                let modules = modules(&recipe, queue);
                replayed(threads, 0..12, &modules);
                state(&modules)
            });
            assert!(here == threads, "with {queue} batches that wait");
            assert_eq!(here.iter().filter(|(name, _)| name.contains(".queue.")).count(), 2 * queue);
        }
    }

    #[test]
    fn modules_that_are_held_up_at_random_change_no_bit() {
        let recipe = recipe(THREE);
        for queue in [0, 2] {
            let here = modules(&recipe, queue);
            replayed(false, 0..10, &here);
            for seed in 0..4 {
                let modules = modules(&recipe, queue);
                let mut rng = Stream::new(Purpose::Picture, seed, (1, 0));
                thread::scope(|scope| {
                    let worker = scope.spawn(|| replayed(true, 0..10, &modules));
                    while !worker.is_finished() {
                        // Longer than a step takes, so that the others get ahead or behind.
                        let held = lock(&modules[(rng.bits() % 3) as usize]);
                        thread::sleep(Duration::from_millis(rng.bits() % 12));
                        drop(held);
                        thread::sleep(Duration::from_millis(rng.bits() % 4));
                    }
                });
                assert!(state(&modules) == state(&here), "with {queue} batches that wait, delays {seed}");
            }
        }
    }

    #[test]
    fn modules_go_on_from_a_checkpoint_with_what_waited_for_them() {
        let recipe = recipe(THREE);
        let [whole, cut, again] = [(); 3].map(|()| modules(&recipe, 3));
        replayed(false, 0..12, &whole);
        replayed(false, 0..7, &cut);
        let labels: Vec<u32> = (0..48).map(label).collect();
        let saved = cut.iter().flat_map(|module| lock(module).state().unwrap());
        let saved: HashMap<String, Tensor> = saved.map(|(name, tensor)| (name, tensor.copy().unwrap())).collect();
        for (module, cut) in again.iter().zip(&cut) {
            let waiting = lock(cut).waiting();
            assert_eq!(waiting.met, if lock(cut).name().as_deref() == Some("stage 1") { 28 } else { waiting.met });
            lock(module).restore(&saved, &waiting, (&labels, &recipe.training, "test")).unwrap();
            let misfit = lock(module).restore(&saved, &waiting, (&labels[..4], &recipe.training, "test"));
            assert!(waiting.batches.is_empty() || misfit.is_err());
            lock(module).restore(&saved, &waiting, (&labels, &recipe.training, "test")).unwrap();
        }
        replayed(true, 7..12, &again);
        assert!(state(&again) == state(&whole));
    }

    #[test]
    fn an_error_of_one_module_ends_the_others_and_is_what_is_said() {
        let recipe = recipe(THREE);
        let modules = modules(&recipe, 0);
        let wrong = |line: &mut Line<'_>| {
            let x = Tensor::zeros((4, 3, 8, 8), DType::F32, &Device::Cpu)?;
            // Labels of other samples than these: the first module cannot compute a loss.
            let labels = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
            for _ in 0..100 {
                line.push(batch(&x, &labels, 0), Step { seed: 3, epoch: 0, rate: 0.1, places: vec![0, 1, 2] })?;
            }
            line.settle()
        };
        for threads in [false, true] {
            let error = relay(&modules, threads, wrong).unwrap_err().to_string();
            assert!(!error.contains("could not be trained further"), "{error}");
        }
        // One further down, which reads other features than the one before it gives.
        for at in 1..3 {
            let mut modules = self::modules(&recipe, 0);
            modules[at] = self::modules(&self::recipe(&THREE.replace("width = 4", "width = 6")), 0).swap_remove(at);
            for threads in [false, true] {
                let error = relay(&modules, threads, endless).unwrap_err().to_string();
                assert!(!error.contains("could not be trained further"), "{error}");
            }
        }
    }

    /// More steps than fit between the modules.
    fn endless(line: &mut Line<'_>) -> Result<()> {
        for _ in 0..100 {
            let x = Tensor::zeros((4, 3, 8, 8), DType::F32, &Device::Cpu)?;
            let labels = Tensor::zeros(4, DType::U32, &Device::Cpu)?;
            line.push(batch(&x, &labels, 0), Step { seed: 3, epoch: 0, rate: 0.1, places: vec![0, 1, 2] })?;
        }
        line.settle()
    }
}
