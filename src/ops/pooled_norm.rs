//! Batch norm with average pooling behind it: on a GPU mostly in one pass, so that the normalised maps are never written.

use super::batch_norm::{BatchNorm, BatchNormGradients, BatchStatistics};
use super::pooling::{pool, pool_gradient};
use candle_core::{Result, Tensor, Var, bail};

/// Batch norm with its activation, and the side of the grid of cells to which the result is averaged.
pub struct PooledNorm<'a> {
    /// What comes first.
    pub norm: BatchNorm<'a>,
    /// Cells along an axis.
    pub side: usize,
}

impl PooledNorm<'_> {
    /// [`BatchNorm::train`] and then [`pool`].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn train(&self, x: &Tensor, running: [&Var; 2], share: f64) -> Result<(Tensor, BatchStatistics)> {
        #[cfg(feature = "cuda")]
        if self.in_one_pass(x)? {
            return self.norm.train_on_gpu(x, (running, share), Some(self.side));
        }
        let (y, statistics) = self.norm.train(x, running, share)?;
        Ok((pool(&y, self.side)?, statistics))
    }

    /// The gradients, from what [`train`](Self::train) was given and gave, and the gradient of its result.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gradients(&self, x: &Tensor, statistics: &BatchStatistics, grad: &Tensor) -> Result<BatchNormGradients> {
        let (batch, height, width, channels) = x.dims4()?;
        if grad.dims() != [batch, self.side, self.side, channels] {
            bail!("a gradient of {:?} for {} x {} cells of {:?}", grad.shape(), self.side, self.side, x.shape())
        }
        #[cfg(feature = "cuda")]
        if self.in_one_pass(x)? {
            return self.norm.gradients_on_gpu(x, statistics, grad, Some(self.side));
        }
        self.norm.gradients(x, statistics, &pool_gradient(grad, (height, width), x.dtype())?)
    }

    #[cfg(feature = "cuda")]
    fn in_one_pass(&self, x: &Tensor) -> Result<bool> {
        if self.side == 0 {
            bail!("{:?} cannot be pooled to 0 x 0", x.shape())
        }
        Ok(x.device().is_cuda() && crate::cuda::pools(x, self.side)?)
    }
}
