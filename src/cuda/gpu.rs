//! What a GPU must be able to do for the launches of this folder: reserve memory and run a kernel.

use candle_core::Result;

/// The source of all kernels.
pub(crate) const KERNELS: &str = concat!(
    include_str!("values.cu"),
    include_str!("maps.cu"),
    include_str!("normalise.cu"),
    include_str!("pixels.cu"),
    include_str!("pooled.cu"),
    include_str!("elementwise.cu"),
    include_str!("learning.cu"),
    include_str!("samples.cu"),
    include_str!("dropout.cu"),
);

/// An address in the memory of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(pub u64);

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// Where values lie.
    Pointer(Pointer),
    /// A number of things: `unsigned` in the kernel.
    Count(u32),
    /// A value: `float` in the kernel.
    Value(f32),
}

/// One run of a kernel.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The name of the kernel in the source.
    pub kernel: &'a str,
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Argument],
}

/// How the values of feature maps are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    /// Single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
}

impl Element {
    /// What kernels of this type have in their names.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Values of this type in 16 bytes, the most that a thread reads at once.
    pub fn in_vector(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 8,
        }
    }
}

/// A GPU, or what stands in for one. Everything that is asked of it happens in the order of the asking.
pub(crate) trait Gpu {
    /// Memory that is given back when this is dropped, but not before the launches that were asked for are done.
    type Memory;

    /// Reserves memory of any content, aligned to 256 bytes.
    fn reserve(&self, bytes: usize) -> Result<Self::Memory>;

    /// Where reserved memory begins.
    fn pointer(&self, memory: &Self::Memory) -> Pointer;

    /// Runs a kernel.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and its pointers lead to as much memory as it reads and writes.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;
}
