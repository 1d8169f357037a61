//! A tar of images.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let path = folder().join("images.tar");
    std::fs::write(&path, input).unwrap();
    let _ = open_and_decode(Source::Tar(path));
});
