//! MEASURE: how fast this machine runs what training and extraction are made of, and whether a GPU computes the same.

mod agreement;
mod cache;
mod comparisons;
mod decoding;
mod operations;
mod probes;
mod rates;
mod steps;

pub use agreement::Agreement;
pub use cache::cache;
pub use comparisons::agreement;
pub use decoding::decoding;
pub use operations::operations;
pub use rates::{budget, rates, worth_keeping};
pub use steps::steps;

use crate::error::{Error, Result};
use crate::ops::cast;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};
use std::time::{Duration, Instant};

/// Seconds of work that a GPU has before it.
const QUEUED: f64 = 0.03;
/// Values that are drawn for an input at most.
const DRAWN: usize = 1 << 22;

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was run.
    pub name: String,
    /// On what: sizes, batch.
    pub case: String,
    /// The median of several runs, in `unit`.
    pub value: f64,
    /// What is counted: GFLOP/s, TFLOP/s, GB/s, images/s or MB/s.
    pub unit: &'static str,
    /// The figure that it is compared with, and what that is.
    pub beside: Option<(f64, &'static str)>,
}

/// Makes measurements one after the other and reports each.
pub struct Bench<'a> {
    /// The least time that each measurement takes.
    pub least: Duration,
    /// Where operations run.
    pub device: Device,
    /// How feature maps are stored in operations, training steps and what the cache feeds: f32 or bf16.
    pub precision: DType,
    /// Only what has this text in its name or case is measured.
    pub only: Option<String>,
    /// Asked between runs whether the user wants it stopped.
    pub progress: &'a dyn Progress,
    /// Receives each measurement; its error ends the whole.
    pub report: &'a mut dyn FnMut(Measurement) -> Result<()>,
}

impl Bench<'_> {
    fn wants(&self, name: &str, case: &str) -> bool {
        self.only.as_ref().is_none_or(|text| format!("{name}, {case}").contains(text))
    }

    fn wants_any(&self, names: &[&str], case: &str) -> bool {
        names.iter().any(|name| self.wants(name, case))
    }

    /// Times `f` and reports how much of `amount` it does in a second.
    ///
    /// # Errors
    /// With the first error of `f` or of the report.
    fn measure(
        &mut self,
        (name, case): (&str, &str),
        (amount, unit): (f64, &'static str),
        beside: Option<(f64, &'static str)>,
        f: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if !self.wants(name, case) {
            return Ok(());
        }
        let value = amount / self.seconds(f)?;
        (self.report)(Measurement { name: name.into(), case: case.into(), value, unit, beside })
    }

    /// Times for how long the host is busy asking a GPU for `f`, which it does not wait for.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    fn measure_host(&mut self, (name, case): (&str, &str), mut f: impl FnMut() -> Result<()>) -> Result<()> {
        if !self.wants(name, case) {
            return Ok(());
        }
        let mut all = Vec::new();
        for _ in 0..20 {
            self.progress.check()?;
            self.device.synchronize()?;
            let started = Instant::now();
            f()?;
            all.push(started.elapsed().as_secs_f64());
        }
        all.sort_by(f64::total_cmp);
        let value = 1e6 * all[all.len() / 2];
        (self.report)(Measurement { name: name.into(), case: case.into(), value, unit: "µs", beside: None })
    }

    /// The median seconds of several runs of `f`, after some that are not counted.
    fn seconds(&self, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut timed = |runs: usize| {
            self.progress.check()?;
            let started = Instant::now();
            (0..runs).try_for_each(|_| f())?;
            // Waits for what runs on a GPU.
            self.device.synchronize()?;
            Ok::<_, Error>(started.elapsed().as_secs_f64() / runs as f64)
        };
        timed(1)?;
        // A GPU is asked for many runs before it is waited for: it must never wait for the next one.
        let runs = if self.device.is_cpu() { 1 } else { (QUEUED / timed(1)?).ceil().clamp(1.0, 1000.0) as usize };
        let mut all = Vec::new();
        let started = Instant::now();
        while all.len() < 3 || started.elapsed() < self.least {
            all.push(timed(runs)?);
        }
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
    }

    /// Random f32 values on the device, the same ones again where there are many.
    fn noise(&self, shape: &[usize], seed: u64) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let mut rng = Stream::new(Purpose::Bench, seed, (0, 0));
        let drawn: Vec<f32> = (0..count.min(DRAWN)).map(|_| rng.uniform(-1.0, 1.0) as f32).collect();
        let drawn = drawn.into_iter().cycle().take(count).collect();
        Ok(Tensor::from_vec::<_, f32>(drawn, shape, &self.device)?)
    }

    /// Random feature maps on the device.
    fn maps(&self, shape: &[usize], seed: u64) -> Result<Tensor> {
        Ok(cast(&self.noise(shape, seed)?, self.precision)?)
    }
}
