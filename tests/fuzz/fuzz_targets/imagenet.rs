//! ImageNet's archives, and each of the lists that tell labels of validation images.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode, split};
use libfuzzer_sys::fuzz_target;

/// The files of labels, of which each serves where none before it is there.
const LISTS: [&str; 6] = [
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12.tar.gz",
    "val.txt",
    "val_labels.txt",
];

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let [train, val, list] = split::<3>(input);
    for (file, bytes) in [("ILSVRC2012_img_train.tar", train), ("ILSVRC2012_img_val.tar", val)] {
        std::fs::write(folder().join(file), bytes).unwrap();
    }
    for name in LISTS {
        std::fs::write(folder().join(name), list).unwrap();
        let _ = open_and_decode(Source::Imagenet(folder().into()));
        std::fs::remove_file(folder().join(name)).unwrap();
    }
    let _ = open_and_decode(Source::Imagenet(folder().into()));
});
