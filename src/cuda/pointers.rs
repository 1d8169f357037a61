//! Where the values of candle's tensors lie on a GPU: those that are read, those that are changed, and new ones.

use super::engine::Engine;
use super::gpu::{Element, Pointer};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Shape as Dimensions, Storage, Tensor, bail,
};
use half::bf16;

/// Bytes that vectors of values begin at a multiple of.
const ALIGNED: usize = 32;

/// The type of a tensor's values.
pub(super) fn element(tensor: &Tensor) -> Result<Element> {
    element_of(tensor.dtype())
}

/// The type of feature maps that a tensor type stands for.
pub(super) fn element_of(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::BF16 => Ok(Element::Bf16),
        other => bail!("a GPU computes with f32 and bf16, not {}", other.as_str()),
    }
}

/// Sees to it that tensors have values of a type.
pub(super) fn require<const N: usize>(tensors: [&Tensor; N], dtype: DType) -> Result<()> {
    match tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        Some(other) => bail!("expected values in {}, found {}", dtype.as_str(), other.dtype().as_str()),
        None => Ok(()),
    }
}

/// Calls a function with where the values of tensors lie on a GPU; those that do not lie in order are copied first.
pub(super) fn with_pointers<const N: usize, T>(
    engine: &Engine,
    tensors: [&Tensor; N],
    f: impl FnOnce([Pointer; N]) -> Result<T>,
) -> Result<T> {
    let tensors: Vec<Tensor> = tensors.into_iter().map(in_order).collect::<Result<_>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut pointers = [Pointer(0); N];
    for (pointer, (storage, layout)) in pointers.iter_mut().zip(&guards) {
        let Storage::Cuda(storage) = &**storage else { bail!("expected a tensor on a GPU") };
        if storage.device.id() != engine.device.id() {
            bail!("tensors on two GPUs cannot be computed with");
        }
        *pointer = pointer_of(storage, layout)?;
    }
    f(pointers)
}

/// The same tensor with its values side by side, beginning where vectors may. Numbers of slots and offsets are never read as
/// vectors.
pub(super) fn in_order(tensor: &Tensor) -> Result<Tensor> {
    let first = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    match matches!(tensor.dtype(), DType::U32 | DType::I32) || first.is_multiple_of(ALIGNED) {
        true => tensor.contiguous(),
        false => tensor.force_contiguous(),
    }
}

fn pointer_of(storage: &CudaStorage, layout: &Layout) -> Result<Pointer> {
    // There is one stream, so that nothing has to be waited for once the pointer is used.
    let stream = storage.device.cuda_stream();
    let first = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        _ => bail!("a GPU computes with f32, bf16, u32, i32 and u8"),
    };
    let size = match storage.slice {
        CudaStorageSlice::F32(_) | CudaStorageSlice::U32(_) | CudaStorageSlice::I32(_) => 4,
        CudaStorageSlice::BF16(_) => 2,
        _ => 1,
    };
    Ok(Pointer(first + (layout.start_offset() * size) as u64))
}

/// A tensor whose values are yet to be written.
pub(super) struct Unset {
    storage: CudaStorage,
    shape: Dimensions,
    /// Where they lie.
    pub pointer: Pointer,
}

impl Unset {
    /// Reserves memory for values of a type.
    pub fn new(device: &CudaDevice, shape: impl Into<Dimensions>, element: Element) -> Result<Self> {
        let (shape, stream) = (shape.into(), device.cuda_stream());
        let values = shape.elem_count();
        // SAFETY: the kernels write every value before anybody reads one.
        let (storage, pointer) = unsafe {
            match element {
                Element::F32 => {
                    let mut slice = device.alloc::<f32>(values)?;
                    let pointer = slice.device_ptr_mut(&stream).0;
                    (CudaStorage::wrap_cuda_slice(slice, device.clone()), pointer)
                }
                Element::Bf16 => {
                    let mut slice = device.alloc::<bf16>(values)?;
                    let pointer = slice.device_ptr_mut(&stream).0;
                    (CudaStorage::wrap_cuda_slice(slice, device.clone()), pointer)
                }
            }
        };
        Ok(Self { storage, shape, pointer: Pointer(pointer) })
    }

    /// The tensor, once what writes it was asked for.
    pub fn written(self) -> Tensor {
        Tensor::from((Storage::Cuda(self.storage), self.shape))
    }
}

/// Makes a tensor on the device of `engine`.
pub(super) fn make(
    engine: &Engine,
    shape: impl Into<Dimensions>,
    element: Element,
    f: impl FnOnce(Pointer) -> Result<()>,
) -> Result<Tensor> {
    let out = Unset::new(&engine.device, shape, element)?;
    f(out.pointer)?;
    Ok(out.written())
}

/// Calls a function with where the values of a tensor lie, which it may change.
pub(super) fn in_place(tensor: &Tensor, name: &'static str, f: impl Fn(Pointer) -> Result<()>) -> Result<()> {
    struct Change<F>(&'static str, F);

    impl<F: Fn(Pointer) -> Result<()>> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            self.0
        }

        fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
            bail!("`{}` was asked of a GPU for values on the CPU", self.0)
        }

        fn cuda_fwd(&self, values: &mut CudaStorage, layout: &Layout) -> Result<()> {
            if !layout.is_contiguous() {
                bail!("expected contiguous values");
            }
            self.1(pointer_of(values, layout)?)
        }
    }

    tensor.inplace_op1(&Change(name, f))
}
