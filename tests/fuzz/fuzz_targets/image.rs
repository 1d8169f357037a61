//! Image files of all formats. A decoder that panics is caught where it is called, so only what is not caught ends this.
#![no_main]

use greedy::images::decode_file;
use greedy::pipeline::Source;
use greedy_fuzz::data;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let mut out = Vec::new();
    let _ = decode_file(input, &data(Source::Builtin), &mut out);
});
