//! The binary files of CIFAR-10, CIFAR-100 and STL-10, and the names of their classes.
#![no_main]

use greedy::pipeline::Source;
use greedy_fuzz::{folder, open_and_decode, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [names, train, val] = split::<3>(input);
    for (file, bytes) in [("fine_label_names.txt", names), ("train.bin", train), ("test.bin", val)] {
        std::fs::write(folder().join(file), bytes).unwrap();
    }
    let _ = open_and_decode(Source::Cifar100(folder().into()));
    for number in 1..=5 {
        std::fs::write(folder().join(format!("data_batch_{number}.bin")), if number == 1 { train } else { val })
            .unwrap();
    }
    std::fs::write(folder().join("test_batch.bin"), val).unwrap();
    std::fs::write(folder().join("batches.meta.txt"), names).unwrap();
    let _ = open_and_decode(Source::Cifar10(folder().into()));
    // Images of equal values, as many as there are labels: they would be too long for the fuzzer.
    for (split, labels) in [("train", train), ("test", val)] {
        let labels = &labels[..labels.len().min(8)];
        std::fs::write(folder().join(format!("{split}_y.bin")), labels).unwrap();
        std::fs::write(folder().join(format!("{split}_X.bin")), vec![7; labels.len() * 3 * 96 * 96]).unwrap();
    }
    std::fs::write(folder().join("class_names.txt"), names).unwrap();
    let _ = open_and_decode(Source::Stl10(folder().into()));
});
