//! MEASURE: how fast this machine runs what training and extraction are made of.

mod cache;
mod decoding;
mod operations;
mod rates;
mod steps;

pub use cache::cache;
pub use decoding::decoding;
pub use operations::operations;
pub use rates::{budget, rates, worth_keeping};
pub use steps::steps;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use candle_core::{Device, Tensor};
use std::time::{Duration, Instant};

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was run.
    pub name: String,
    /// On what: sizes, batch.
    pub case: String,
    /// The median of several runs, in `unit`.
    pub value: f64,
    /// What is counted: GFLOP/s, GB/s, images/s or MB/s.
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

    /// The median seconds of several runs of `f`, after one that is not counted.
    fn seconds(&self, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
        let mut timed = || {
            self.progress.check()?;
            let started = Instant::now();
            f()?;
            // Waits for what runs on a GPU.
            self.device.synchronize()?;
            Ok::<_, Error>(started.elapsed().as_secs_f64())
        };
        timed()?;
        let mut all = Vec::new();
        let started = Instant::now();
        while all.len() < 3 || started.elapsed() < self.least {
            all.push(timed()?);
        }
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
    }

    /// Random values on the device.
    fn noise(&self, shape: &[usize], seed: u64) -> Result<Tensor> {
        let mut draw = Stream::new(Purpose::Bench, seed, (0, 0));
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw.uniform(-1.0, 1.0) as f32).collect();
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }
}
