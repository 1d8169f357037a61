//! Whether the bench's device computes what one thread of the CPU computes in f32.

use super::Bench;
use crate::error::{Error, Result};
use crate::ops;
use crate::random::{Purpose, Stream};
use candle_core::{DType, Device, Tensor};

/// What results of these types may differ by, relative to the largest value. Those in f32 are sums in another order; bf16
/// has 8 bits, and what is multiplied is rounded as well as what comes out. Bytes are the same.
const BOUNDS: [(DType, f64); 3] = [(DType::F32, 1e-4), (DType::BF16, 1e-2), (DType::U8, 0.0)];
/// Bytes that are spoilt before an operation on a GPU: more than any of them reserves here.
const SPOILT: usize = 256 << 20;

/// How well one result agrees.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The operation, and which of its results.
    pub name: &'static str,
    /// On what: sizes.
    pub case: String,
    /// How feature maps were stored.
    pub precision: DType,
    /// The largest difference, relative to the largest value of the CPU; infinite where a value is no number.
    pub error: f64,
    /// What `error` must not exceed.
    pub bound: f64,
    /// Whether a second run gave the same bits.
    pub repeats: bool,
    /// Why there is no result at all.
    pub fault: Option<String>,
}

impl Agreement {
    /// Whether all is as it must be.
    pub fn holds(&self) -> bool {
        self.fault.is_none() && self.repeats && self.error <= self.bound
    }
}

/// Runs operations on random inputs here and there, and reports how their results agree.
pub(super) struct Comparison<'a, 'b> {
    pub bench: &'a Bench<'b>,
    /// How feature maps are stored on the device.
    pub precision: DType,
    /// The CPU's one thread.
    pub thread: rayon::ThreadPool,
    pub seed: u64,
    /// Inputs that were drawn.
    pub drawn: u64,
    /// Receives each result; its error ends the whole.
    pub report: &'a mut dyn FnMut(Agreement) -> Result<()>,
}

impl Comparison<'_, '_> {
    /// The next stream of random numbers.
    pub fn draw(&mut self) -> Stream {
        self.drawn += 1;
        Stream::new(Purpose::Bench, self.seed, (self.drawn, 0))
    }

    /// Random f32 values in \[-1, 1) on the CPU.
    pub fn noise(&mut self, shape: &[usize]) -> Result<Tensor> {
        let mut draw = self.draw();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw.uniform(-1.0, 1.0) as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// The same, of feature maps: f32 values that the device can store exactly.
    pub fn maps(&mut self, shape: &[usize]) -> Result<Tensor> {
        let noise = self.noise(shape)?;
        self.rounded(&noise)
    }

    /// Values as the device stores those of feature maps.
    pub fn rounded(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.to_dtype(self.precision)?.to_dtype(DType::F32)?)
    }

    /// Compares results of an operation, given feature maps and other tensors: on the CPU, and twice on the device, in
    /// memory that held no numbers.
    ///
    /// # Errors
    /// When the CPU cannot do it, with the error of the report, or when the user interrupts.
    pub fn compare<const M: usize, const N: usize, const K: usize>(
        &mut self,
        names: [&'static str; K],
        case: &str,
        (maps, others): ([&Tensor; M], [&Tensor; N]),
        f: impl Fn([&Tensor; M], [&Tensor; N]) -> candle_core::Result<[Tensor; K]> + Sync,
    ) -> Result<()> {
        if !names.iter().any(|name| self.bench.wants(name, case)) {
            return Ok(());
        }
        self.bench.progress.check()?;
        let expected = self.thread.install(|| f(maps, others))?;
        let found = self.on_device(maps, others, &f);
        for (at, name) in names.into_iter().enumerate().filter(|(_, name)| self.bench.wants(name, case)) {
            let (case, precision) = (case.to_string(), self.precision);
            let result = found.as_ref().map_err(Clone::clone).and_then(|(first, again)| {
                let (first, again) = (&first[at], &again[at]);
                let bound = BOUNDS.iter().find(|(dtype, _)| *dtype == first.dtype());
                let &(_, bound) = bound.ok_or_else(|| Error::failed(format!("a result in {:?}", first.dtype())))?;
                Ok((error(first, &expected[at])?, bound, bits(first)? == bits(again)?))
            });
            let fault = result.as_ref().err().map(Error::to_string);
            let (error, bound, repeats) = result.unwrap_or((f64::INFINITY, 0.0, false));
            (self.report)(Agreement { name, case, precision, error, bound, repeats, fault })?;
        }
        Ok(())
    }

    /// The results of two runs on the device, brought to the CPU.
    fn on_device<const M: usize, const N: usize, const K: usize>(
        &self,
        maps: [&Tensor; M],
        others: [&Tensor; N],
        f: impl Fn([&Tensor; M], [&Tensor; N]) -> candle_core::Result<[Tensor; K]>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let device = &self.bench.device;
        let maps = all(maps.map(|map| map.to_dtype(self.precision)?.to_device(device)))?;
        let others = all(others.map(|other| other.to_device(device)))?;
        let run = || -> Result<Vec<Tensor>> {
            spoil(device)?;
            let found = f(std::array::from_fn(|at| &maps[at]), std::array::from_fn(|at| &others[at]))?;
            all(found.map(|tensor| tensor.to_device(&Device::Cpu)))
        };
        Ok((run()?, run()?))
    }
}

fn all<const N: usize>(tensors: [candle_core::Result<Tensor>; N]) -> Result<Vec<Tensor>> {
    Ok(tensors.into_iter().collect::<candle_core::Result<_>>()?)
}

/// Fills memory of a GPU with what is no number in any type, and gives it back: what is reserved next is a part of it.
fn spoil(device: &Device) -> Result<()> {
    if !device.is_cpu() {
        ops::spoil(device, SPOILT)?;
    }
    Ok(())
}

/// Whether memory that is reserved on a GPU and not set holds what [`spoil`] left.
pub(super) fn is_spoilt(device: &Device) -> Result<bool> {
    spoil(device)?;
    // SAFETY: on a GPU memory always holds some bits, and any are a number of this type.
    let unset = unsafe { Tensor::empty(1 << 20, DType::U32, device)? };
    Ok(unset.to_vec1::<u32>()?.iter().all(|&bits| bits == u32::MAX))
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    Ok(values(tensor)?.into_iter().map(f32::to_bits).collect())
}

/// The largest difference of two tensors, relative to the largest value that is expected.
fn error(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.dims() != expected.dims() {
        return Err(Error::failed(format!("a result of {:?} instead of {:?}", found.shape(), expected.shape())));
    }
    let (found, expected) = (values(found)?, values(expected)?);
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let differences = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs());
    // Unlike a maximum, this keeps what is not a number.
    let keeps = |farthest: f32, difference: f32| farthest.is_nan() || difference <= farthest;
    let farthest = differences.fold(0.0f32, |all, one| if keeps(all, one) { all } else { one });
    let error = f64::from(farthest) / f64::from(largest.max(f32::MIN_POSITIVE));
    Ok(if error.is_nan() { f64::INFINITY } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn errors_are_relative_to_the_largest_value_and_nothing_that_is_no_number_is_near() {
        let expected = tensor(&[0.0, -4.0, 1.0]);
        assert_eq!(error(&expected, &expected).unwrap(), 0.0);
        assert_eq!(error(&tensor(&[1.0, -4.0, 1.0]), &expected).unwrap(), 0.25);
        for place in 0..3 {
            let mut values = [0.0, -4.0, 1.0];
            values[place] = f32::NAN;
            assert_eq!(error(&tensor(&values), &expected).unwrap(), f64::INFINITY);
        }
        assert!(error(&tensor(&[0.0]), &expected).is_err());
    }

    #[test]
    fn a_result_that_is_off_or_changes_does_not_hold() {
        let fine = Agreement {
            name: "pooling",
            case: String::new(),
            precision: DType::F32,
            error: 1e-5,
            bound: 1e-4,
            repeats: true,
            fault: None,
        };
        assert!(fine.holds());
        assert!(!Agreement { error: 2e-4, ..fine.clone() }.holds());
        assert!(!Agreement { repeats: false, ..fine.clone() }.holds());
        assert!(!Agreement { fault: Some("no memory".into()), ..fine }.holds());
    }
}
