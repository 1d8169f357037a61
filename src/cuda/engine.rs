//! A GPU that computes: its kernels, its memory, and cuDNN.

use super::compiler;
use super::convolution::Convolutions;
use super::gpu::{Argument, Gpu, Launch, Pointer};
use super::memory::{self, lock};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaSlice, DevicePtr, result, sys};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{Device, Error, Result, bail};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// What the operations need of a GPU besides candle's device.
pub(super) struct Engine {
    pub device: CudaDevice,
    /// Our kernels, compiled for this GPU, and those of them that were launched before.
    kernels: Arc<CudaModule>,
    launched: Mutex<HashMap<String, CudaFunction>>,
    convolutions: Mutex<Convolutions>,
}

/// The GPUs that were opened.
static ENGINES: OnceLock<Mutex<HashMap<DeviceId, Arc<Engine>>>> = OnceLock::new();

/// Opens a GPU: one stream for all threads, so that everything happens in the order in which it is asked for. With
/// `fast` gradients may be computed in ways that do not give the same bits at every run.
///
/// # Errors
/// When there is no such GPU, no driver, no cuDNN, or the kernels cannot be compiled for it.
pub(crate) fn open(number: usize, fast: bool) -> Result<Device> {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    super::libraries::open()?;
    let device = Device::new_cuda_with_stream(number)?;
    let own = device.as_cuda_device()?.clone();
    // SAFETY: there is one stream, on which memory is reserved, used and given back in order.
    unsafe { own.disable_event_tracking() };
    keep_memory(&own)?;
    let convolutions = Mutex::new(Convolutions::new(own.cuda_stream(), fast)?);
    let kernels = compiler::kernels(own.cuda_stream().context())?;
    let engine = Engine { kernels, launched: Mutex::default(), device: own.clone(), convolutions };
    lock(engines()).insert(own.id(), Arc::new(engine));
    Ok(device)
}

/// Whether there is a GPU and its driver, so that what is missing besides is worth a word.
pub(crate) fn is_there() -> bool {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    if !super::libraries::has_driver() {
        return false;
    }
    result::init().and_then(|()| result::device::get(0)).is_ok()
}

/// Whether a device is a GPU that was [opened](open) as fast.
pub(crate) fn is_fast(device: &Device) -> bool {
    engine(device).is_ok_and(|engine| engine.convolutions().is_fast())
}

/// The engine of a device.
///
/// # Errors
/// When it was not opened by [`open`].
pub(super) fn engine(device: &Device) -> Result<Arc<Engine>> {
    match lock(engines()).get(&device.as_cuda_device()?.id()) {
        Some(engine) => Ok(engine.clone()),
        None => bail!("this GPU was opened without its kernels"),
    }
}

fn engines() -> &'static Mutex<HashMap<DeviceId, Arc<Engine>>> {
    ENGINES.get_or_init(Mutex::default)
}

/// Lets the driver keep memory that was given back: by default it returns all of it whenever the host waits.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let pool = pool(device)?;
    let mut most = u64::MAX;
    let release = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number.
    unsafe { sys::cuMemPoolSetAttribute(pool, release, (&raw mut most).cast()).result().w() }
}

/// What memory is reserved from.
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().w()?;
    let number = i32::try_from(context.ordinal()).map_err(Error::wrap)?;
    let own = result::device::get(number).w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device is one of the driver's.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, own).result().w()? };
    Ok(pool)
}

/// Bytes of a GPU's memory that nobody uses: what is free, and what the driver keeps for us of what was given back.
///
/// # Errors
/// When the driver does not say.
pub(crate) fn free_memory(device: &Device) -> Result<u64> {
    let device = device.as_cuda_device()?;
    let stream = device.cuda_stream();
    // What is still to be given back counts once the GPU got there.
    stream.synchronize().w()?;
    let pool = pool(device)?;
    let bytes = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: these attributes are 64-bit numbers.
        unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result().w()? };
        Ok::<_, Error>(bytes)
    };
    let kept = bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let (free, _) = stream.context().mem_get_info().w()?;
    Ok(free as u64 + kept.saturating_sub(used) + memory::idle() as u64)
}

impl Engine {
    /// cuDNN, for one thread at a time.
    pub fn convolutions(&self) -> MutexGuard<'_, Convolutions> {
        lock(&self.convolutions)
    }

    /// A kernel, looked up once.
    fn function(&self, kernel: &str) -> Result<CudaFunction> {
        let mut launched = lock(&self.launched);
        if let Some(function) = launched.get(kernel) {
            return Ok(function.clone());
        }
        let function = self.kernels.load_function(kernel).w()?;
        launched.insert(kernel.to_string(), function.clone());
        Ok(function)
    }
}

impl Gpu for Engine {
    type Memory = CudaSlice<u8>;

    fn reserve(&self, bytes: usize) -> Result<Self::Memory> {
        // SAFETY: kernels write what is reserved before they read it.
        unsafe { self.device.alloc::<u8>(bytes.max(1)) }
    }

    fn pointer(&self, memory: &Self::Memory) -> Pointer {
        Pointer(memory.device_ptr(memory.stream()).0)
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let function = self.function(launch.kernel)?;
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let address = |argument: &Argument| match argument {
            Argument::Pointer(Pointer(address)) => std::ptr::from_ref(address).cast::<c_void>().cast_mut(),
            Argument::Count(count) => std::ptr::from_ref(count).cast::<c_void>().cast_mut(),
            Argument::Value(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
        };
        let mut arguments: Vec<*mut c_void> = launch.arguments.iter().map(address).collect();
        let ([x, y, z], threads) = (launch.blocks, (launch.threads, 1, 1));
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(function.cu_function(), (x, y, z), threads, 0, stream.cu_stream(), &mut arguments)
        }
        .w()
    }
}
