//! `record.json`, and everything that is read off a record. Its seal is made right, so that what lies behind it is
//! reached.
#![no_main]

use greedy::run::{Record, StageFolder, observe, settings};
use greedy_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    std::fs::write(folder().join("record.json"), sealed(input)).unwrap();
    let stage = StageFolder::new(folder());
    let _ = observe(&stage);
    if let Ok(Some(record)) = Record::read(folder()) {
        record.manifest().key();
        let _ = (record.total_seconds(), record.images_per_second(), record.stored_bytes());
        let _ = settings(&stage, &record, &[]);
        let _ = stage.parent(&record);
    }
});

/// The text with a hash of its other lines in its second line.
fn sealed(text: &str) -> String {
    let rest = match text.split_once("\",\n") {
        Some((start, rest)) if start.starts_with("{\n  \"blake3\": \"") => rest,
        _ => text.strip_prefix("{\n").unwrap_or(text),
    };
    let hash = blake3::hash(format!("{{\n{rest}").as_bytes()).to_hex();
    format!("{{\n  \"blake3\": \"{hash}\",\n{rest}")
}
