//! Batches of stored samples as candle's tensors.

use super::engine::{Engine, engine};
use super::gpu::Pointer;
use super::pointers::{element, element_of, in_place, make, require, with_pointers};
use super::samples::{self, Form, Samples, Shown};
use candle_core::{DType, Result, Tensor, bail};

/// Calls a function with where stored samples, which it may change, and the numbers of their slots lie.
fn with_samples(engine: &Engine, (stored, slots): (&Tensor, &Tensor), f: impl Fn(Samples) -> Result<()>) -> Result<()> {
    require([stored], DType::U8)?;
    require([slots], DType::U32)?;
    let (all, batch) = (stored.dim(0)?, slots.dim(0)?);
    if all == 0 || batch == 0 {
        bail!("{batch} samples of {all} slots")
    }
    with_pointers(engine, [slots], |[chosen]| {
        in_place(stored, "stored samples", |stored| f(Samples { stored, slots: all, chosen, batch }))
    })
}

/// As [`ops::Form::decode`].
pub(crate) fn decode(form: &Form, stored: &Tensor, slots: &Tensor, size: usize, dtype: DType) -> Result<Tensor> {
    let (engine, element) = (engine(stored.device())?, element_of(dtype)?);
    make(&engine, (slots.dim(0)?, size, size, form.channels), element, |to| {
        with_samples(&engine, (stored, slots), |samples| {
            // SAFETY: as many values as the form says.
            unsafe { form.decode(&*engine, samples, (to, element)) }
        })
    })
}

/// As [`ops::Form::encode`].
pub(crate) fn encode(form: &Form, x: &Tensor, (stored, slots): (&Tensor, &Tensor), fault: &Tensor) -> Result<()> {
    let (engine, element) = (engine(stored.device())?, element(x)?);
    require([fault], DType::U8)?;
    with_samples(&engine, (stored, slots), |samples| {
        in_place(fault, "fault", |fault| {
            // SAFETY: as many values as the form says.
            with_pointers(&engine, [x], |[x]| unsafe { form.encode(&*engine, (x, element), samples, fault) })
        })
    })
}

/// As [`ops::put`].
pub(crate) fn put(rows: &Tensor, (stored, slots): (&Tensor, &Tensor)) -> Result<()> {
    let engine = engine(stored.device())?;
    require([rows], DType::U8)?;
    let bytes = rows.dim(1)?;
    with_samples(&engine, (stored, slots), |samples| {
        // SAFETY: rows and slots have as many bytes.
        with_pointers(&engine, [rows], |[rows]| unsafe { samples.put(&*engine, rows, bytes) })
    })
}

/// As [`ops::Crops::show`], for images of so many rows and columns.
pub(crate) fn show(
    (images, slots): (&Tensor, &Tensor),
    (offsets, table): (&Tensor, &Tensor),
    (size, side): (usize, usize),
    dtype: DType,
) -> Result<Tensor> {
    let (engine, element) = (engine(images.device())?, element_of(dtype)?);
    require([offsets], DType::I32)?;
    require([table], DType::F32)?;
    let channels = table.dim(0)?;
    make(&engine, (slots.dim(0)?, size, size, channels), element, |to| {
        with_samples(&engine, (images, slots), |samples| {
            with_pointers(&engine, [offsets, table], |[offsets, table]| {
                let shown = Shown { offsets, table, size, side, channels };
                // SAFETY: as many offsets as samples, 256 values a channel, and images of `side`.
                unsafe { samples.show(&*engine, shown, (to, element)) }
            })
        })
    })
}

/// As [`ops::cut`].
pub(crate) fn cut(x: &Tensor, offsets: &Tensor, size: usize) -> Result<Tensor> {
    let (engine, element) = (engine(x.device())?, element(x)?);
    require([offsets], DType::U32)?;
    let (batch, height, width, channels) = x.dims4()?;
    make(&engine, (batch, size, size, channels), element, |to: Pointer| {
        with_pointers(&engine, [x, offsets], |[x, offsets]| {
            let sizes = [batch, height, width, channels];
            // SAFETY: as many values as the maps have, and two offsets a map.
            unsafe { samples::cut(&*engine, ([x, offsets, to], element), sizes, size) }
        })
    })
}
