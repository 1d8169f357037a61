//! A Parquet file a split. The reader that panics is caught where it is called, so only what is not caught ends this.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let [train, val] = split::<2>(input);
    for (file, bytes) in [("train-0.parquet", train), ("val-0.parquet", val)] {
        std::fs::write(folder().join(file), bytes).unwrap();
    }
    let _ = open_and_decode(Source::Parquet(folder().into()));
});
