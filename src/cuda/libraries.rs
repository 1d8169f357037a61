//! CUDA's libraries, opened when a GPU is first asked for: linked with them the program would not start where there is no
//! driver.
//!
//! The functions here have the names of those of the libraries, so that the linker asks for no library, and jump to where
//! these were found. They are hidden from the libraries themselves, which call each other. One that is missing here is
//! linked as usual.

use candle_core::{Error, Result};
use libloading::Library;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A library, and its functions that the program calls.
struct Wanted {
    /// Its names, the newest version first. Of one without a name no function is ever called: candle's kernels for
    /// quantised weights, which nothing here uses, register themselves as the program starts.
    files: &'static [&'static str],
    functions: &'static [Function],
}

/// The name of a function, and where it was found.
struct Function(&'static str, &'static AtomicPtr<()>);

/// What functions lead to before they are found: an error in the words of all these libraries.
extern "C" fn absent() -> i32 {
    1
}

macro_rules! libraries {
    ($($library:ident [$($file:literal)*] { $($function:ident)* })*) => {
        $($(
            #[allow(non_snake_case)]
            mod $function {
                use super::{AtomicPtr, absent};

                pub(super) static PLACE: AtomicPtr<()> = AtomicPtr::new(absent as *mut ());

                // SAFETY: a jump leaves arguments and stack to the function of the library, which has the signature that
                // callers declare.
                #[unsafe(naked)]
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $function() {
                    #[cfg(target_arch = "x86_64")]
                    core::arch::naked_asm!(
                        concat!(".hidden ", stringify!($function)),
                        "jmp qword ptr [rip + {place}]",
                        place = sym PLACE
                    );
                    #[cfg(target_arch = "aarch64")]
                    core::arch::naked_asm!(
                        concat!(".hidden ", stringify!($function)),
                        "adrp x16, {place}",
                        "ldr x16, [x16, :lo12:{place}]",
                        "br x16",
                        place = sym PLACE
                    );
                }
            }
        )*)*

        /// In the order in which they need each other.
        const LIBRARIES: &[Wanted] = &[$(Wanted {
            files: &[$($file),*],
            functions: &[$(Function(stringify!($function), &$function::PLACE)),*],
        }),*];
    };
}

libraries! {
    cuda ["libcuda.so.1"] {
        cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet cuDeviceGetAttribute
        cuDeviceGetDefaultMemPool cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuEventCreate
        cuEventDestroy_v2 cuEventRecord cuEventSynchronize cuGetErrorString cuInit cuLaunchKernel cuMemAllocAsync
        cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolGetAttribute
        cuMemPoolSetAttribute cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync
        cuMemsetD8Async cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamCreate
        cuStreamDestroy_v2 cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
    }
    cublas ["libcublas.so.13" "libcublas.so.12"] {
        cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasGemmStridedBatchedEx cublasSetStream_v2
    }
    nvrtc ["libnvrtc.so.13" "libnvrtc.so.12"] {
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize
    }
    curand ["libcurand.so.10"] {
        curandCreateGenerator curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream
    }
    cudnn ["libcudnn.so.9"] {
        cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter cudnnConvolutionForward cudnnCreate
        cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreateTensorDescriptor cudnnDestroy
        cudnnDestroyConvolutionDescriptor cudnnDestroyFilterDescriptor cudnnDestroyTensorDescriptor
        cudnnGetConvolutionBackwardDataAlgorithm_v7 cudnnGetConvolutionBackwardFilterAlgorithm_v7
        cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize
        cudnnSetConvolution2dDescriptor cudnnSetConvolutionMathType cudnnSetFilter4dDescriptor cudnnSetStream
        cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx
    }
    cudart [] {
        __cudaGetKernel __cudaInitModule __cudaLaunchKernel __cudaPopCallConfiguration __cudaPushCallConfiguration
        __cudaRegisterFatBinary __cudaRegisterFatBinaryEnd __cudaRegisterFunction __cudaRegisterVar
        __cudaUnregisterFatBinary cudaDeviceGetAttribute cudaFree cudaFreeAsync cudaFuncGetAttributes cudaGetDevice
        cudaGetDeviceCount cudaGetErrorName cudaGetErrorString cudaGetLastError cudaLaunchKernel cudaLaunchKernelExC
        cudaMalloc cudaMallocAsync cudaMemsetAsync cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
        cudaPeekAtLastError cudaSetDevice cudaStreamSynchronize
    }
}

/// Opens the libraries and looks up their functions, once.
///
/// # Errors
/// When one is missing, or is of another version.
pub(super) fn open() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| LIBRARIES.iter().try_for_each(Wanted::open)).clone().map_err(Error::msg)
}

impl Wanted {
    fn open(&self) -> std::result::Result<(), String> {
        if self.files.is_empty() {
            return Ok(());
        }
        let library = self.find()?;
        for &Function(name, place) in self.functions {
            // SAFETY: it is only ever called under its name and with its signature.
            let found = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
            let found = found.map_err(|_| format!("`{}` has no function `{name}`", self.files[0]))?;
            place.store(*found as *mut (), Ordering::Release);
        }
        // What was found stays for as long as the program runs.
        std::mem::forget(library);
        Ok(())
    }

    /// The first that can be opened: where the system looks, and where CUDA usually lies.
    fn find(&self) -> std::result::Result<Library, String> {
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let folders: Vec<PathBuf> =
            homes.chain([PathBuf::from("/usr/local/cuda")]).map(|home| home.join("lib64")).collect();
        let mut fault = String::new();
        for file in self.files {
            for path in [PathBuf::from(file)].into_iter().chain(folders.iter().map(|folder| folder.join(file))) {
                // SAFETY: these are NVIDIA's libraries, made to be opened so.
                match unsafe { Library::new(&path) } {
                    Ok(library) => return Ok(library),
                    Err(e) if fault.is_empty() => fault = e.to_string(),
                    Err(_) => {}
                }
            }
        }
        Err(fault)
    }
}
