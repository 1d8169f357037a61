//! Which device computes.

use crate::error::{Error, Result};
use crate::ops;
use crate::progress::Progress;
use candle_core::Device;
use std::sync::Once;

/// The device of a word: `auto`, `cpu`, `cuda` or `cuda:N`. With `fast` a GPU may take ways of computing gradients that
/// do not give the same bits at every run; a CPU has none. Where `auto` passes over a GPU, that is said, once.
///
/// # Errors
/// When the word is none of these, or the GPU that it names cannot be used.
pub fn device(word: &str, fast: bool, progress: &dyn Progress) -> Result<Device> {
    match named(word) {
        Some(Named::Auto) => Ok(ops::open_gpu(0, fast).unwrap_or_else(|e| {
            static SAID: Once = Once::new();
            if ops::gpu_is_there() {
                SAID.call_once(|| progress.say(&format!("the GPU is not used: {}", first_line(&e))));
            }
            Device::Cpu
        })),
        Some(Named::Cpu) => Ok(Device::Cpu),
        Some(Named::Gpu(number)) => ops::open_gpu(number, fast).map_err(|e| no_gpu(word, &e)),
        None => Err(no_device(word)),
    }
}

/// Fails where a word is that of no device, be it there or not.
///
/// # Errors
/// As said.
pub fn check_device(word: &str) -> Result<()> {
    named(word).map(drop).ok_or_else(|| no_device(word))
}

fn no_device(word: &str) -> Error {
    Error::usage(format!("`{word}` is no device")).hint("devices are auto, cpu, cuda and cuda:N")
}

enum Named {
    Auto,
    Cpu,
    Gpu(usize),
}

fn named(word: &str) -> Option<Named> {
    match word {
        "auto" => Some(Named::Auto),
        "cpu" => Some(Named::Cpu),
        "cuda" => Some(Named::Gpu(0)),
        _ => word.strip_prefix("cuda:")?.parse().ok().map(Named::Gpu),
    }
}

fn no_gpu(word: &str, error: &candle_core::Error) -> Error {
    let hint = if cfg!(feature = "cuda") {
        "`--device auto` takes the CPU where there is no GPU"
    } else {
        "this program was built without CUDA: `cargo build --release --features cuda`"
    };
    Error::failed(format!("cannot use device `{word}`: {}", first_line(error))).hint(hint)
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
