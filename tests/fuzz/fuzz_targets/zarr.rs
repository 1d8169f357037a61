//! Metadata, shard and shard index of a feature array, and an array of labels. The checksums of index and labels are
//! made right, so that what lies behind them is reached.
#![no_main]

use greedy::features::{Reader, Split, read_labels};
use greedy_fuzz::{folder, split};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|input: &[u8]| {
    let [metadata, shard, labels_metadata, labels] = split::<4>(input);
    let features = Split::Train.array(folder(), "features");
    write(&features.join("zarr.json"), metadata);
    if let Ok(reader) = Reader::open(&features) {
        let layout = *reader.layout();
        write(&features.join("c/0/0/0/0/0"), &with_checksum(shard, layout.samples_in_shard.saturating_mul(16)));
        let mut sample = Vec::new();
        let last = (layout.views.saturating_sub(1), layout.samples.saturating_sub(1));
        for (view, at) in [(0, 0), (0, 1), (0, 7), last, (layout.views, 0), (0, layout.samples)] {
            if reader.read(view, at, &mut sample).is_ok() {
                assert_eq!(sample.len(), layout.sample_bytes());
            }
        }
    }
    let folder_of_labels = Split::Train.array(folder(), "labels");
    write(&folder_of_labels.join("zarr.json"), labels_metadata);
    write(&folder_of_labels.join("c/0"), &with_checksum(labels, labels.len().saturating_sub(4)));
    let _ = read_labels(folder(), Split::Train);
});

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Puts the right checksum behind the `length` bytes before the last four.
fn with_checksum(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(end) = bytes.len().checked_sub(4)
        && let Some(start) = end.checked_sub(length)
    {
        let checksum = crc32c::crc32c(&bytes[start..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}
