//! The four files of an IDX data set, of which any may be compressed.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode, split};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

fuzz_target!(|input: &[u8]| {
    for (name, bytes) in NAMES.iter().zip(split::<4>(input)) {
        std::fs::write(folder().join(name), bytes).unwrap();
    }
    let _ = open_and_decode(Source::Idx(folder().into()));
});
