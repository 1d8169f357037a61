//! A WebDataset of one tar a split.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let [train, val] = split::<2>(input);
    for (file, bytes) in [("a-train-0.tar", train), ("a-val-0.tar", val)] {
        std::fs::write(folder().join(file), bytes).unwrap();
    }
    let _ = open_and_decode(Source::WebDataset(folder().into()));
});
