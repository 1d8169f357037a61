//! Average pooling to a fixed size, and 2x2 space-to-depth.

use super::cpu::{build, is_ours, values, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::ops::Range;

/// Averages `x` \[batch, channels, height, width\] to \[batch, channels, side, side\].
///
/// Cell i of n covers positions floor(i * size / n) to ceil((i + 1) * size / n), so cells overlap or repeat where the
/// size is no multiple (PyTorch's `adaptive_avg_pool2d`).
///
/// # Errors
/// When `x` has not four dimensions.
pub fn pool(x: &Tensor, side: usize) -> Result<Tensor> {
    if is_ours(x) { x.contiguous()?.apply_op1(Pool { side }) } else { by_candle(x, side) }
}

fn by_candle(x: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let cell = |row: usize, column: usize| {
        let (rows, columns) = (cell(row, height, side), cell(column, width, side));
        let part = x.narrow(2, rows.start, rows.len())?.narrow(3, columns.start, columns.len())?;
        part.mean_keepdim((2, 3))
    };
    let row = |row: usize| Tensor::cat(&(0..side).map(|column| cell(row, column)).collect::<Result<Vec<_>>>()?, 3);
    Tensor::cat(&(0..side).map(row).collect::<Result<Vec<_>>>()?, 2)
}

/// The positions that a cell covers along one axis.
fn cell(at: usize, size: usize, cells: usize) -> Range<usize> {
    at * size / cells..((at + 1) * size).div_ceil(cells)
}

struct Pool {
    side: usize,
}

impl Pool {
    /// Rows and columns of every cell, with the cell's index.
    fn cells(&self, height: usize, width: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
        let side = self.side;
        (0..side * side).map(move |at| (at, cell(at / side, height, side), cell(at % side, width, side)))
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "average pooling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (x, plane, cells) = (values(x, layout)?, height * width, self.side * self.side);
        let out = build(batch * channels * cells, cells, |index, out| {
            let plane = &x[index * plane..][..plane];
            for (at, rows, columns) in self.cells(height, width) {
                let count = (rows.len() * columns.len()) as f32;
                let rows = rows.map(|row| &plane[row * width..][columns.clone()]);
                out[at] = rows.map(|row| row.iter().sum::<f32>()).sum::<f32>() / count;
            }
        });
        Ok((CpuStorage::F32(out), (batch, channels, self.side, self.side).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        let cells = self.side * self.side;
        let out = with_values([grad], |[grad]| {
            build(x.elem_count(), height * width, |index, out| {
                let grad = &grad[index * cells..][..cells];
                for (at, rows, columns) in self.cells(height, width) {
                    let value = grad[at] / (rows.len() * columns.len()) as f32;
                    rows.for_each(|row| out[row * width..][columns.clone()].iter_mut().for_each(|out| *out += value));
                }
            })
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

/// Moves each 2x2 square of `x` \[batch, channels, height, width\] into channels: \[batch, 4 channels, height / 2,
/// width / 2\], in the order of PyTorch's `pixel_unshuffle`.
///
/// # Errors
/// When height or width is odd.
pub fn space_to_depth(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    x.reshape((batch, channels, height / 2, 2, width / 2, 2))?.permute((0, 1, 3, 5, 2, 4))?.reshape((
        batch,
        channels * 4,
        height / 2,
        width / 2,
    ))
}
