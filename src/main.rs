//! Turns the result of the command line into an exit code.

use std::process::ExitCode;

/// Feature maps of many megabytes come and go at every step; mimalloc gives their memory back to the next one, where
/// the system's allocator would give it back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    greedy::cli::main()
}
