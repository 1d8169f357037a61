//! CUDA's libraries, opened when a GPU is first asked for: linked with them the program would not start where there is no
//! driver.
//!
//! The functions here have the names of those of the libraries, so that the linker asks for no library, and jump to where
//! these were found. They are hidden from the libraries themselves, which call each other. One that is missing here is
//! linked as usual.

use super::memory;
use candle_core::{Error, Result};
use libloading::Library;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A library, and its functions that the program calls.
struct Wanted {
    /// Its names, the newest version first. Of one without a name no function is ever called: candle's kernels for
    /// quantised weights, which nothing here uses, register themselves as the program starts.
    files: &'static [&'static str],
    /// What the names of libraries begin with that it opens by their bare names when it needs them, and does not find
    /// where it lies itself.
    companions: &'static [&'static str],
    functions: &'static [Function],
}

/// The name of a function, and where it was found.
struct Function(&'static str, &'static AtomicPtr<()>);

/// What functions lead to before they are found: an error in the words of all these libraries.
extern "C" fn absent() -> i32 {
    1
}

macro_rules! libraries {
    ($($library:ident [$($file:literal)*] with [$($companion:literal)*] { $($function:ident)* })*) => {
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
            companions: &[$($companion),*],
            functions: &[$(Function(stringify!($function), &$function::PLACE)),*],
        }),*];
    };
}

libraries! {
    cuda ["libcuda.so.1"] with [] {
        cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize cuDeviceGet cuDeviceGetAttribute
        cuDeviceGetDefaultMemPool cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDriverGetVersion cuEventCreate
        cuEventDestroy_v2 cuEventRecord cuEventSynchronize cuGetErrorString cuGraphDestroy cuGraphExecDestroy
        cuGraphInstantiateWithFlags cuGraphLaunch cuInit cuLaunchKernel cuMemAlloc_v2 cuMemAllocAsync
        cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync cuMemFree_v2 cuMemFreeAsync
        cuMemFreeHost cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemsetD8Async
        cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamBeginCapture_v2 cuStreamCreate
        cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
    }
    cublas ["libcublas.so.13" "libcublas.so.12"] with ["libcublasLt.so."] {
        cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasGemmStridedBatchedEx cublasSetStream_v2
    }
    nvrtc ["libnvrtc.so.13" "libnvrtc.so.12"] with ["libnvrtc-builtins.so."] {
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetCUBIN nvrtcGetCUBINSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize nvrtcVersion
    }
    curand ["libcurand.so.10"] with [] {
        curandCreateGenerator curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream
    }
    cudnn ["libcudnn.so.9"] with ["libcudnn_"] {
        cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter cudnnConvolutionForward cudnnCreate
        cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreateTensorDescriptor cudnnDestroy
        cudnnDestroyConvolutionDescriptor cudnnDestroyFilterDescriptor cudnnDestroyTensorDescriptor
        cudnnGetConvolutionBackwardDataAlgorithm_v7 cudnnGetConvolutionBackwardDataWorkspaceSize
        cudnnGetConvolutionBackwardFilterAlgorithm_v7 cudnnGetConvolutionBackwardFilterWorkspaceSize
        cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize
        cudnnSetConvolution2dDescriptor cudnnSetConvolutionMathType cudnnSetFilter4dDescriptor cudnnSetStream
        cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx
    }
    cudart [] with [] {
        __cudaGetKernel __cudaInitModule __cudaLaunchKernel __cudaPopCallConfiguration __cudaPushCallConfiguration
        __cudaRegisterFatBinary __cudaRegisterFatBinaryEnd __cudaRegisterFunction __cudaRegisterVar
        __cudaUnregisterFatBinary cudaDeviceGetAttribute cudaFree cudaFreeAsync cudaFuncGetAttributes cudaGetDevice
        cudaGetDeviceCount cudaGetErrorName cudaGetErrorString cudaGetLastError cudaLaunchKernel cudaLaunchKernelExC
        cudaMalloc cudaMallocAsync cudaMemsetAsync cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
        cudaPeekAtLastError cudaSetDevice cudaStreamSynchronize
    }
}

/// Where CUDA usually lies, besides where the system looks.
const HOMES: [&str; 3] = ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"];

/// Opens the libraries and looks up their functions, once.
///
/// # Errors
/// When one is missing, or is of another version.
pub(super) fn open() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let opened = || LIBRARIES.iter().try_for_each(Wanted::open).map(|()| keep_memory());
    DONE.get_or_init(opened).clone().map_err(Error::msg)
}

/// Lets candle call our functions where it asks for memory and gives it back.
fn keep_memory() {
    let places = (&cuMemAllocAsync::PLACE, &cuMemFreeAsync::PLACE);
    let [reserve, release] = [places.0, places.1].map(|place| place.load(Ordering::Acquire));
    // SAFETY: they were found under these names.
    let (reserve, release) = unsafe {
        (
            std::mem::transmute::<*mut (), memory::Reserve>(reserve),
            std::mem::transmute::<*mut (), memory::Release>(release),
        )
    };
    if let Some((reserve, release)) = memory::instead_of(reserve, release) {
        places.0.store(reserve as *mut (), Ordering::Release);
        places.1.store(release as *mut (), Ordering::Release);
    }
}

/// Whether the driver is there, so that what is missing besides is worth a word.
pub(super) fn has_driver() -> bool {
    let _ = open();
    LIBRARIES.first().is_some_and(|driver| {
        driver.functions.iter().all(|function| function.1.load(Ordering::Acquire) != absent as *mut ())
    })
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
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
        let named = homes.map(|home| PathBuf::from(home).join("lib64"));
        let folders: Vec<PathBuf> = named.chain(HOMES.map(PathBuf::from)).collect();
        let mut fault = String::new();
        for file in self.files {
            match load(Path::new(file)) {
                Ok(library) => return Ok(library),
                Err(e) if fault.is_empty() => fault = e,
                Err(_) => {}
            }
            for folder in folders.iter().filter(|folder| folder.join(file).exists()) {
                self.open_companions(folder);
                match load(&folder.join(file)) {
                    Ok(library) => return Ok(library),
                    // A library that is there tells more than one that is not.
                    Err(e) => fault = e,
                }
            }
        }
        Err(fault)
    }

    /// Opens what the library looks for by bare names: once opened, it is found by them.
    fn open_companions(&self, folder: &Path) {
        let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains(".so.") && self.companions.iter().any(|companion| name.starts_with(companion))
        };
        let mut left: Vec<PathBuf> = names.filter(wanted).collect();
        // They need each other in no order that is known here, so those that failed are tried again after the others.
        while !left.is_empty() {
            let before = left.len();
            left.retain(|path| load(path).map(std::mem::forget).is_err());
            if left.len() == before {
                break;
            }
        }
    }
}

fn load(path: &Path) -> std::result::Result<Library, String> {
    // SAFETY: these are NVIDIA's libraries, made to be opened so.
    unsafe { Library::new(path) }.map_err(|e| e.to_string())
}
