//! `record.json`, and everything that is read off a record.
#![no_main]

use greedy::run::{Record, StageFolder, observe, settings};
use greedy_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    std::fs::write(folder().join("record.json"), input).unwrap();
    let stage = StageFolder::new(folder());
    let _ = observe(&stage);
    if let Ok(Some(record)) = Record::read(folder()) {
        record.manifest().key();
        let _ = (record.total_seconds(), record.images_per_second(), record.stored_bytes());
        let _ = settings(&stage, &record, &[]);
        let _ = stage.parent(&record);
    }
});
