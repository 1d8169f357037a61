//! Files of weights.
#![no_main]

use candle_core::Device;
use greedy::network::{load, save_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(tensors) = load(input, "weights", &Device::Cpu) {
        let mut named: Vec<_> = tensors.into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let bytes = save_bytes(&named, None).unwrap();
        assert_eq!(load(&bytes, "again", &Device::Cpu).unwrap().len(), named.len());
    }
});
