//! Turns the result of the command line into an exit code.

use std::process::ExitCode;

/// Feature maps of many megabytes come and go at every step; mimalloc gives their memory back to the next one, where
/// the system's allocator would give it back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that memory without an owner stays ours. After the usual 10 the kernel has to clear most of it again for
/// the next step.
const KEPT: std::ffi::c_long = 1000;

fn main() -> ExitCode {
    // SAFETY: the number is one of mimalloc's options. What the environment sets goes first.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT) };
    greedy::cli::main()
}
