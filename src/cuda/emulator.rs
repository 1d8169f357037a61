//! A GPU that is emulated on the CPU: the kernels' own source, compiled as C++, run thread by thread.

use super::gpu::{Argument, Element, Gpu, KERNELS, Launch, Pointer};
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use half::bf16;
use libloading::Library;
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bytes before and after what is reserved, which no kernel may touch.
const GUARD: usize = 256;
/// What reserved memory and its guards hold at first: floats in it are not numbers.
const POISON: u8 = 0xff;

/// The words of CUDA in C++, and a launch.
const SOURCE: &str = include_str!("emulator.cpp");

/// `Argument` of the C++ source.
#[repr(C)]
struct Given {
    kind: u32,
    bits: u64,
}

type Run = unsafe extern "C" fn(*const c_char, *const u32, u32, *const Given, u32, u32) -> *const c_char;

/// The emulated GPU. Its kernels run one at a time.
pub(crate) struct Emulator {
    library: &'static Mutex<Library>,
    /// What the order of blocks and threads is drawn from.
    seed: u32,
}

/// Memory with guards.
pub(crate) struct Memory {
    bytes: Vec<u8>,
    first: usize,
    length: usize,
}

impl Emulator {
    /// Compiles the kernels, once in a process.
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    /// The same, with another order of blocks and threads.
    pub fn with_seed(seed: u32) -> Self {
        static LIBRARY: OnceLock<Mutex<Library>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| Mutex::new(compile(SOURCE, KERNELS)));
        Self { library, seed }
    }

    /// Values of a tensor, rounded to a type, in memory.
    pub fn put(&self, tensor: &Tensor, element: Element) -> Memory {
        let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = match element {
            Element::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Element::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes()).collect(),
        };
        self.put_bytes(&bytes)
    }

    /// Bytes in memory.
    pub fn put_bytes(&self, bytes: &[u8]) -> Memory {
        let mut memory = self.reserve(bytes.len()).unwrap();
        memory.bytes[memory.first..][..bytes.len()].copy_from_slice(bytes);
        memory
    }

    /// Room for the values of a shape.
    pub fn unset(&self, shape: &[usize], element: Element) -> Memory {
        self.reserve(shape.iter().product::<usize>() * element.bytes()).unwrap()
    }

    /// What memory holds.
    pub fn bytes(&self, memory: &Memory) -> Vec<u8> {
        memory.check();
        memory.bytes[memory.first..][..memory.length].to_vec()
    }

    /// What memory holds, in f32.
    pub fn get(&self, memory: &Memory, element: Element, shape: &[usize]) -> Tensor {
        let bytes = self.bytes(memory);
        let values: Vec<f32> = match element {
            Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Element::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes([b[0], b[1]]).to_f32()).collect(),
        };
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

impl Memory {
    /// Fails where a kernel wrote outside.
    fn check(&self) {
        let outside = self.bytes[..self.first].iter().chain(&self.bytes[self.first + self.length..]);
        assert!(outside.into_iter().all(|&byte| byte == POISON), "a kernel wrote outside of its memory");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

impl Gpu for Emulator {
    type Memory = Memory;

    fn reserve(&self, length: usize) -> Result<Memory> {
        let bytes = vec![POISON; length + 3 * GUARD];
        let first = (bytes.as_ptr() as usize).next_multiple_of(GUARD) - bytes.as_ptr() as usize + GUARD;
        Ok(Memory { bytes, first, length })
    }

    fn pointer(&self, memory: &Memory) -> Pointer {
        Pointer(memory.bytes[memory.first..].as_ptr() as u64)
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let name = CString::new(launch.kernel).map_err(Error::wrap)?;
        let given = |argument: &Argument| match *argument {
            Argument::Pointer(Pointer(bits)) => Given { kind: 0, bits },
            Argument::Count(count) => Given { kind: 1, bits: u64::from(count) },
            Argument::Value(value) => Given { kind: 2, bits: u64::from(value.to_bits()) },
        };
        let given: Vec<Given> = launch.arguments.iter().map(given).collect();
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `run` has this type in the source; the pointers are the caller's promise, and one thread runs it.
        let fault = unsafe {
            let run = library.get::<Run>(b"run").map_err(Error::wrap)?;
            let (blocks, count) = (launch.blocks.as_ptr(), given.len() as u32);
            let fault = run(name.as_ptr(), blocks, launch.threads, given.as_ptr(), count, self.seed);
            (!fault.is_null()).then(|| CStr::from_ptr(fault).to_string_lossy().into_owned())
        };
        match fault {
            Some(fault) => bail!("`{}`: {fault}", launch.kernel),
            None => Ok(()),
        }
    }
}

/// Compiles kernels with the machine's C++ compiler and loads them.
fn compile(source: &str, kernels: &str) -> Library {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("emulator.cpp"), source).unwrap();
    std::fs::write(path("kernels.cu"), kernels).unwrap();
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-fPIC", "-shared", "-Wno-unknown-pragmas", "-o"]);
    command.args([path("emulator.so"), path("emulator.cpp")]);
    let done =
        command.output().unwrap_or_else(|e| panic!("the tests of CUDA's kernels need a C++ compiler: {compiler}: {e}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    load(&path("emulator.so"))
}

fn load(path: &Path) -> Library {
    // SAFETY: the library was just compiled from our own source, whose constructors do nothing but note the kernels.
    unsafe { Library::new(path) }.unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulate(kernel: &str, arguments: &[Argument]) -> Result<()> {
        let library = Box::leak(Box::new(Mutex::new(compile(SOURCE, kernel))));
        let gpu = Emulator { library, seed: 3 };
        // SAFETY: the callers below give what their kernels take.
        unsafe { gpu.launch(&Launch { kernel: "test", blocks: [2, 1, 1], threads: 64, arguments }) }
    }

    #[test]
    fn threads_meet_at_barriers() {
        let kernel = "__device__ void turn(float *x) { __shared__ float all[64]; all[threadIdx.x] = threadIdx.x; __syncthreads(); \
                      x[blockIdx.x * 64 + threadIdx.x] = all[63 - threadIdx.x]; }
                      KERNEL(test, (float *x), (turn(x)))";
        let memory = Emulator::new().unset(&[128], Element::F32);
        emulate(kernel, &[Argument::Pointer(Emulator::new().pointer(&memory))]).unwrap();
        let expected: Vec<f32> = (0..128).map(|at| (63 - at % 64) as f32).collect();
        assert_eq!(Emulator::new().get(&memory, Element::F32, &[128]).to_vec1::<f32>().unwrap(), expected);
    }

    #[test]
    fn faults_are_told() {
        let early = "__device__ void some() { if (threadIdx.x < 9) return; __syncthreads(); }
                     KERNEL(test, (), (some()))";
        assert!(emulate(early, &[]).unwrap_err().to_string().contains("barrier"));
        assert!(emulate(early, &[Argument::Count(1)]).unwrap_err().to_string().contains("arguments"));
        let typed = "KERNEL(test, (unsigned count), ((void)count))";
        assert!(emulate(typed, &[Argument::Value(1.0)]).unwrap_err().to_string().contains("kind"));
    }

    #[test]
    #[should_panic(expected = "outside of its memory")]
    fn writing_outside_is_noticed() {
        let kernel = "KERNEL(test, (float *x), (x[64 * blockIdx.x + threadIdx.x] = 1.f))";
        let memory = Emulator::new().unset(&[127], Element::F32);
        emulate(kernel, &[Argument::Pointer(Emulator::new().pointer(&memory))]).unwrap();
        memory.check();
    }
}
