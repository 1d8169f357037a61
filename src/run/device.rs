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
    let number = match word.split_once(':') {
        None => Some(0),
        Some((_, number)) => number.parse().ok(),
    };
    match (word.split(':').next().unwrap_or_default(), number) {
        ("auto", Some(0)) => Ok(ops::open_gpu(0, fast).unwrap_or_else(|e| {
            static SAID: Once = Once::new();
            if ops::gpu_is_there() {
                SAID.call_once(|| progress.say(&format!("the GPU is not used: {}", first_line(&e))));
            }
            Device::Cpu
        })),
        ("cpu", Some(0)) => Ok(Device::Cpu),
        ("cuda", Some(number)) => ops::open_gpu(number, fast).map_err(|e| no_gpu(word, &e)),
        _ => Err(Error::usage(format!("`{word}` is no device")).hint("devices are auto, cpu, cuda and cuda:N")),
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
