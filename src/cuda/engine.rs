//! A GPU that computes: its kernels, its memory, and cuDNN.

use super::convolution::Convolutions;
use super::gpu::{Argument, Gpu, KERNELS, Launch, Pointer};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig, PushKernelArg, result, sys};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{Device, Error, Result, bail};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The name under which candle keeps our kernels.
const MODULE: &str = "greedy";

/// What the operations need of a GPU besides candle's device.
pub(super) struct Engine {
    pub device: CudaDevice,
    /// Our kernels, compiled for this GPU.
    kernels: String,
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
    let engine = Engine { kernels: compile(&own)?, device: own.clone(), convolutions };
    lock(engines()).insert(own.id(), Arc::new(engine));
    Ok(device)
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

/// What is behind these locks is whole between any two calls, also where a thread ended in the middle of one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    Ok(free as u64 + kept.saturating_sub(used))
}

/// Compiles our kernels for a GPU.
fn compile(device: &CudaDevice) -> Result<String> {
    let (major, minor) = device.cuda_stream().context().compute_capability().w()?;
    let options = vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()];
    let compiled = compile_ptx_with_opts(KERNELS, CompileOptions { options, ..Default::default() });
    Ok(compiled.map_err(|e| Error::msg(format!("the kernels cannot be compiled for this GPU: {e:?}")))?.to_src())
}

impl Engine {
    /// cuDNN, for one thread at a time.
    pub fn convolutions(&self) -> MutexGuard<'_, Convolutions> {
        lock(&self.convolutions)
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
        let function = self.device.get_or_load_custom_func(launch.kernel, MODULE, &self.kernels)?;
        let mut builder = function.builder();
        for argument in launch.arguments {
            match argument {
                Argument::Pointer(Pointer(address)) => builder.arg(address),
                Argument::Count(count) => builder.arg(count),
                Argument::Value(value) => builder.arg(value),
            };
        }
        let [x, y, z] = launch.blocks;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller's promise.
        unsafe { builder.launch(config) }.w().map(drop)
    }
}
