//! Samples as they are stored, where the network computes: their bytes become feature maps there, and maps bytes.
//!
//! They lie in the slots of a tensor \[slot, byte\] (u8), and a batch is gathered from the slots of its samples \[sample\]
//! (u32), each less than their number.

use super::cpu::{build, with_values};
use super::element::Element;
use super::elementwise::{cast, convert};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::sync::atomic::{AtomicBool, Ordering};

/// The type of stored values, little-endian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Whole numbers from 0 to 255, of which each stands for so much.
    U8 {
        /// What a stored 1 stands for.
        scale: f32,
    },
    /// 16 bits, 11 of them precise.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision.
    F32,
}

/// How a sample of feature maps is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// The type of its values.
    pub values: Values,
    /// Whether they are \[channel, y, x\]; else they are \[y, x, channel\].
    pub planes: bool,
    /// Rows, and columns.
    pub size: usize,
    /// Channels.
    pub channels: usize,
}

impl Values {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 { .. } => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Self::U8 { scale } => f32::from(bytes[0]) * scale,
            Self::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }

    /// Says whether the value fits the type.
    fn write(self, value: f32, out: &mut [u8]) -> bool {
        match self {
            Self::U8 { scale } => {
                out[0] = (value / scale).round_ties_even() as u8;
                value.is_finite() && value >= 0.0
            }
            Self::F16 => {
                out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
                f16::from_f32(value).is_finite()
            }
            Self::Bf16 => {
                out.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
                bf16::from_f32(value).is_finite()
            }
            Self::F32 => {
                out.copy_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
        }
    }
}

impl Form {
    /// Values of a sample.
    pub fn len(&self) -> usize {
        self.size * self.size * self.channels
    }

    /// Whether a sample has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a sample.
    pub fn bytes(&self) -> usize {
        self.len() * self.values.bytes()
    }

    /// Where the bytes of a value begin that is so many-th in \[y, x, channel\].
    fn place(&self, at: usize) -> usize {
        let (pixel, channel) = (at / self.channels, at % self.channels);
        let at = if self.planes { channel * self.size * self.size + pixel } else { at };
        at * self.values.bytes()
    }

    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn for_gpu(&self) -> crate::cuda::Form {
        use crate::cuda::Type;
        let (values, scale) = match self.values {
            Values::U8 { scale } => (Type::U8, scale),
            Values::F16 => (Type::F16, 1.0),
            Values::Bf16 => (Type::Bf16, 1.0),
            Values::F32 => (Type::F32, 1.0),
        };
        let Self { planes, size, channels, .. } = *self;
        crate::cuda::Form { values, scale, planes, pixels: size * size, channels }
    }

    /// The feature maps \[sample, y, x, channel\] of the samples in some slots.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn decode(&self, stored: &Tensor, slots: &Tensor, dtype: DType) -> Result<Tensor> {
        require(stored, self.bytes(), slots)?;
        on_gpu!(stored, crate::cuda::decode(&self.for_gpu(), stored, slots, self.size, dtype));
        refuse_elsewhere(stored, dtype)?;
        let slots = below(slots, stored.dim(0)?)?;
        match dtype {
            DType::BF16 => self.own_decode::<bf16>(stored, &slots),
            _ => self.own_decode::<f32>(stored, &slots),
        }
    }

    fn own_decode<E: Element>(&self, stored: &Tensor, slots: &[usize]) -> Result<Tensor> {
        let values = with_bytes(stored, |stored| {
            build(slots.len() * self.len(), self.len(), |sample, out: &mut [E]| {
                let bytes = &stored[slots[sample] * self.bytes()..][..self.bytes()];
                let values = (0..).map(|at| self.values.read(&bytes[self.place(at)..]));
                out.iter_mut().zip(values).for_each(|(out, value)| *out = E::narrow(value));
            })
        })?;
        Tensor::from_vec(values, (slots.len(), self.size, self.size, self.channels), stored.device())
    }

    /// Writes feature maps \[sample, y, x, channel\] into slots, each into another. Where a value does not fit the type,
    /// `fault` (one u8) becomes 1: the processor does not wait to be told.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn encode(&self, x: &Tensor, (stored, slots): (&Tensor, &Tensor), fault: &Tensor) -> Result<()> {
        let count = require(stored, self.bytes(), slots)?;
        if x.dims() != [count, self.size, self.size, self.channels] || fault.elem_count() != 1 {
            bail!("feature maps of {:?} for {count} samples of {} values", x.shape(), self.len())
        }
        on_gpu!(stored, crate::cuda::encode(&self.for_gpu(), x, (stored, slots), fault));
        refuse_elsewhere(stored, x.dtype())?;
        let slots = below(slots, stored.dim(0)?)?;
        let fits = match x.dtype() {
            DType::BF16 => self.own_encode::<bf16>(x, stored, &slots)?,
            _ => self.own_encode::<f32>(x, stored, &slots)?,
        };
        if fits { Ok(()) } else { change(fault, |fault| fault.fill(1)) }
    }

    /// Says whether all values fit the type.
    fn own_encode<E: Element>(&self, x: &Tensor, stored: &Tensor, slots: &[usize]) -> Result<bool> {
        let fits = AtomicBool::new(true);
        with_values([x], |[x]: [&[E]; 1]| {
            change(stored, |stored| {
                for (slot, x) in slots.iter().zip(x.chunks_exact(self.len().max(1))) {
                    let bytes = &mut stored[slot * self.bytes()..][..self.bytes()];
                    for (at, value) in x.iter().enumerate() {
                        let out = &mut bytes[self.place(at)..][..self.values.bytes()];
                        fits.fetch_and(self.values.write(value.widen(), out), Ordering::Relaxed);
                    }
                }
            })
        })??;
        Ok(fits.into_inner())
    }
}

/// Copies stored samples \[sample, byte\] into slots, each into another.
///
/// # Errors
/// When the shapes do not fit.
pub fn put(rows: &Tensor, (stored, slots): (&Tensor, &Tensor)) -> Result<()> {
    let (_, bytes) = rows.dims2()?;
    if require(stored, bytes, slots)? != rows.dim(0)? {
        bail!("{:?} stored samples for slots of {:?}", rows.shape(), slots.shape())
    }
    on_gpu!(stored, crate::cuda::put(rows, (stored, slots)));
    refuse_elsewhere(stored, DType::F32)?;
    let slots = below(slots, stored.dim(0)?)?;
    with_bytes(rows, |rows| {
        change(stored, |stored| {
            let pairs = slots.iter().zip(rows.chunks_exact(bytes.max(1)));
            pairs.for_each(|(slot, row)| stored[slot * bytes..][..bytes].copy_from_slice(row));
        })
    })?
}

/// Values of feature maps in the processor's memory, in their type.
#[derive(Clone, Copy, Debug)]
pub enum Maps<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Its upper half.
    Bf16(&'a [bf16]),
}

impl<'a> Maps<'a> {
    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Those of one sample, of so many values each.
    pub fn sample(self, at: usize, values_each: usize) -> Self {
        let places = at * values_each..(at + 1) * values_each;
        match self {
            Self::F32(values) => Self::F32(&values[places]),
            Self::Bf16(values) => Self::Bf16(&values[places]),
        }
    }

    /// In single precision: as they lie there, or in a buffer.
    pub fn widened(self, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(values) => values,
            Self::Bf16(values) => {
                buffer.resize(values.len(), 0.0);
                convert(values, buffer);
                buffer
            }
        }
    }
}

/// Calls a function with the values of feature maps, brought to the processor.
///
/// # Errors
/// When the device fails.
pub fn on_host<T>(x: &Tensor, f: impl FnOnce(Maps<'_>) -> T) -> Result<T> {
    let x = x.to_device(&Device::Cpu)?;
    match x.dtype() {
        DType::BF16 => with_values([&x], |[x]| f(Maps::Bf16(x))),
        _ => with_values([&cast(&x, DType::F32)?], |[x]| f(Maps::F32(x))),
    }
}

/// The samples of a batch, where slots and bytes are as they should be.
pub(super) fn require(stored: &Tensor, bytes: usize, slots: &Tensor) -> Result<usize> {
    let (count, found) = (slots.dims1()?, stored.dims2()?.1);
    if found != bytes || stored.dtype() != DType::U8 || slots.dtype() != DType::U32 {
        bail!("stored samples of {found} {:?}, where {bytes} bytes are wanted", stored.dtype())
    }
    Ok(count)
}

pub(super) fn refuse_elsewhere(tensor: &Tensor, dtype: DType) -> Result<()> {
    match tensor.device() {
        Device::Cpu if matches!(dtype, DType::F32 | DType::BF16) => Ok(()),
        _ => bail!("stored samples cannot become {dtype:?} on this device"),
    }
}

pub(super) fn below(slots: &Tensor, count: usize) -> Result<Vec<usize>> {
    let slots: Vec<usize> = slots.to_vec1::<u32>()?.into_iter().map(|slot| slot as usize).collect();
    match slots.iter().find(|&&slot| slot >= count) {
        Some(slot) => bail!("slot {slot} of {count}"),
        None => Ok(slots),
    }
}

/// Calls a function with the bytes of a tensor on the CPU.
pub(super) fn with_bytes<T>(bytes: &Tensor, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
    let bytes = bytes.contiguous()?;
    let (storage, layout) = bytes.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("expected a tensor on the CPU") };
    Ok(f(&storage.as_slice::<u8>()?[layout.start_offset()..][..layout.shape().elem_count()]))
}

/// Lets a function change contiguous bytes on the CPU.
fn change(bytes: &Tensor, f: impl Fn(&mut [u8])) -> Result<()> {
    bytes.inplace_op1(&Change(f))
}

struct Change<F>(F);

impl<F: Fn(&mut [u8])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::U8(all), Some((start, end))) => {
                self.0(&mut all[start..end]);
                Ok(())
            }
            _ => bail!("expected contiguous bytes"),
        }
    }
}
