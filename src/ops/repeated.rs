//! Work that is done over and over on batches of the same shape.

use candle_core::{Result, Tensor};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

/// Work that is done over and over. On a GPU what it asks for is recorded, and from then on asked for at once.
pub struct Repeated<T> {
    #[cfg(feature = "cuda")]
    recordings: Mutex<crate::cuda::Recordings<T>>,
    #[cfg(not(feature = "cuda"))]
    results: std::marker::PhantomData<fn() -> T>,
}

impl<T> Default for Repeated<T> {
    /// Work that was not done yet.
    fn default() -> Self {
        Self {
            #[cfg(feature = "cuda")]
            recordings: Mutex::default(),
            #[cfg(not(feature = "cuda"))]
            results: std::marker::PhantomData,
        }
    }
}

impl<T: Clone> Repeated<T> {
    /// Does the work on `x` and its labels. It must ask the same of the device whatever their values are, unless `setting`
    /// is another one. The results are good until it is done again.
    ///
    /// # Errors
    /// With those of the work, or when the device fails.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn run(
        &self,
        (x, labels): (&Tensor, &Tensor),
        setting: u64,
        work: impl Fn(&Tensor, &Tensor) -> Result<T>,
    ) -> Result<T> {
        on_gpu!(x, {
            let mut recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
            recordings.run((x, labels), setting, work)
        });
        work(x, labels)
    }
}
