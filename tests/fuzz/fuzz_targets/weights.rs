//! Files of weights: ours, and those of other programs.
#![no_main]

use candle_core::Device;
use greedy::network::{Foreign, load, save_bytes};
use greedy::pipeline::Weight;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(tensors) = load(input, "weights", &Device::Cpu) {
        let mut named: Vec<_> = tensors.into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let bytes = save_bytes(&named, None).unwrap();
        assert_eq!(load(&bytes, "again", &Device::Cpu).unwrap().len(), named.len());
    }
    let weight = |name: &str, shape: &[usize]| Weight {
        name: name.into(),
        known_as: vec![name.into()],
        shape: shape.into(),
    };
    let wanted = [weight("a", &[2, 3]), weight("b", &[0, 4])];
    if let Ok(found) = Foreign::read(input, "weights", &wanted, false) {
        assert_eq!(found.tensors[0].1.dims(), [2, 3]);
        assert_eq!(found.tensors[1].1.dims()[1..], [4]);
    }
});
