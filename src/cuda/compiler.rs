//! Our kernels as machine code for a GPU: compiled by NVRTC, and kept in a folder of the user's caches, since that takes a
//! second of every start.

use super::gpu::KERNELS;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaModule, sys as driver};
use candle_core::cuda_backend::cudarc::nvrtc::{Ptx, result, sys};
use candle_core::{Error, Result};
use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A kernel that is looked up at once, so that faults of all of them show early.
const ANY: &str = "blend_f32";
/// Bytes of the hash before what is kept.
const HASH: usize = blake3::OUT_LEN;

/// Our kernels on a GPU.
///
/// # Errors
/// When they cannot be compiled for it.
pub(super) fn kernels(context: &Arc<CudaContext>) -> Result<Arc<CudaModule>> {
    let (major, minor) = context.compute_capability().w()?;
    let arch = format!("sm_{major}{minor}");
    let kept = place(&arch)?;
    if let Some(module) = kept.as_deref().and_then(read).and_then(|code| load(context, code).ok()) {
        return Ok(module);
    }
    let fault = |e| Error::msg(format!("the kernels cannot be compiled for this GPU ({arch}): {e}"));
    let code = compile(&arch).map_err(fault)?;
    if let Some(path) = kept {
        // Without it the next start takes a second longer, which is no fault.
        let _ = keep(&path, &code);
    }
    load(context, code).map_err(|e| fault(e.to_string()))
}

fn load(context: &Arc<CudaContext>, code: Vec<u8>) -> Result<Arc<CudaModule>> {
    let module = context.load_module(Ptx::from_binary(code)).w()?;
    module.load_function(ANY).w()?;
    Ok(module)
}

/// Where machine code is kept that this source came to with these versions of compiler and driver; nowhere where the user
/// has no folder for caches.
fn place(arch: &str) -> Result<Option<PathBuf>> {
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let Some(caches) = home("XDG_CACHE_HOME").or_else(|| Some(home("HOME")?.join(".cache"))) else { return Ok(None) };
    let (mut version, mut major, mut minor) = (0, 0, 0);
    // SAFETY: each writes the numbers that it is given room for.
    unsafe {
        driver::cuDriverGetVersion(&mut version).result().w()?;
        sys::nvrtcVersion(&mut major, &mut minor).result().map_err(Error::wrap)?;
    }
    let key = blake3::hash(format!("{arch} driver {version} nvrtc {major}.{minor}\n{KERNELS}").as_bytes()).to_hex();
    Ok(Some(caches.join("greedy").join(format!("kernels-{arch}-{}.cubin", &key[..16]))))
}

/// What is kept, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let code = bytes.split_off(HASH.min(bytes.len()));
    (!code.is_empty() && blake3::hash(&code).as_bytes()[..] == bytes).then_some(code)
}

/// Writes it beside its place and renames it, so that others never see a part.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, [blake3::hash(code).as_bytes(), code].concat())?;
    fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Compiles our kernels to the machine code of an architecture; else in the compiler's words why not.
fn compile(arch: &str) -> std::result::Result<Vec<u8>, String> {
    let source = CString::new(KERNELS).map_err(|e| e.to_string())?;
    let program = result::create_program(&source, None).map_err(|e| e.to_string())?;
    let options = [format!("--gpu-architecture={arch}"), "--std=c++17".into()];
    // SAFETY: the program was just made, and is used no more once it is destroyed.
    unsafe {
        let code = match result::compile_program(program, &options) {
            Ok(()) => machine_code(program),
            Err(e) => Err(log(program).unwrap_or_else(|| e.to_string())),
        };
        let _ = result::destroy_program(program);
        code
    }
}

/// # Safety
/// The program is alive, and was compiled.
unsafe fn machine_code(program: sys::nvrtcProgram) -> std::result::Result<Vec<u8>, String> {
    let mut size = 0;
    // SAFETY: as much room as is asked for.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(|e| e.to_string())?;
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast::<c_char>()).result().map_err(|e| e.to_string())?;
        Ok(code)
    }
}

/// The first line of the compiler's log that says anything.
///
/// # Safety
/// The program is alive.
unsafe fn log(program: sys::nvrtcProgram) -> Option<String> {
    // SAFETY: the caller's promise.
    let log = unsafe { result::get_program_log(program) }.ok()?;
    let bytes: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_string)
}
