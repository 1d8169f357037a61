//! Fills `fuzz/corpus` with real files: pipelines and pictures of this repository, a small run of the built-in data,
//! and data sets made of its pictures.
//!
//! `cargo run --release --manifest-path fuzz/Cargo.toml --bin corpus`

use candle_core::Device;
use flate2::{Compression, write::GzEncoder};
use greedy::images::ImageSet;
use greedy::pipeline::{Pipeline, Source};
use greedy::progress::Silent;
use greedy::run::Project;
use greedy_fuzz::{data, folder, join};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const SMALL: &str = "[data]\nsource = \"builtin\"\nsize = 8\ntrain_images = 12\nval_images = 6\n[network]\nblocks = 1\n\
width = 2\n[auxiliary]\nwidth = 2\n[training]\nepochs = 1\nbatch = 6\n";

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = Corpus(here.join("corpus"));
    let repository = here.join("..");
    for path in files(&repository.join("pipelines"))? {
        corpus.add("pipeline", &fs::read(path)?)?;
    }
    let pictures = files(&repository.join("tests/fixtures/images"))?;
    for path in &pictures {
        corpus.add("image", &fs::read(path)?)?;
    }
    for path in files(&repository.join("tests/fixtures"))?.iter().filter(|path| path.is_file()) {
        let bytes = fs::read(path)?;
        if path.extension().is_some_and(|e| e == "safetensors") && bytes.len() < 1 << 16 {
            corpus.add("weights", &bytes)?;
        }
    }
    add_run(&corpus)?;
    add_data_sets(&corpus)?;
    add_archive(&corpus, &pictures)
}

struct Corpus(PathBuf);

impl Corpus {
    /// Adds an input, named by its bytes.
    fn add(&self, target: &str, bytes: &[u8]) -> std::io::Result<()> {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{:08x}-{}", crc32c::crc32c(bytes), bytes.len())), bytes)
    }
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path| path.as_ref().is_ok_and(|p| p.is_file()))
        .collect()
}

/// Records, weights and arrays.
fn add_run(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let pipeline = Pipeline::parse("small", "small", SMALL, &[]).map_err(greedy::error::Error::from)?;
    Project::open(pipeline, folder(), false).update(&Device::Cpu, &Silent, |_, _| {})?;
    for stage in ["stage0", "stage1"].map(|stage| folder().join(stage)) {
        corpus.add("record", &fs::read(stage.join("record.json"))?)?;
        for subset in ["train", "val"].map(|subset| stage.join(subset)) {
            let read = |name: &str| fs::read(subset.join(name));
            let (metadata, shard) = (read("features/zarr.json")?, read("features/c/0/0/0/0/0")?);
            let (labels_metadata, labels) = (read("labels/zarr.json")?, read("labels/c/0")?);
            corpus.add("zarr", &join(&[&metadata, &shard, &labels_metadata, &labels]))?;
        }
    }
    for name in ["block.safetensors", "auxiliary.safetensors"] {
        corpus.add("weights", &fs::read(folder().join("stage1").join(name))?)?;
    }
    Ok(())
}

/// A CIFAR and two IDX data sets of a few built-in pictures.
fn add_data_sets(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let mut description = data(Source::Builtin);
    description.size = 32;
    let set = ImageSet::open(&description, 0)?;
    let mut pixels = vec![0; 3 * 32 * 32];
    let (mut batch, mut planes, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..2 {
        set.train.decode(index, &mut pixels)?;
        let label = set.train.label(index) as u8;
        batch.extend([0, label]);
        batch.extend_from_slice(&pixels);
        planes.extend_from_slice(&pixels[..64]);
        labels.push(label);
    }
    let names: String = (0..100).map(|number| format!("class {number}\n")).collect();
    corpus.add("cifar", &join(&[names.as_bytes(), &batch, &batch]))?;
    corpus.add("cifar", &join(&[b"", &batch[1..3074], &batch[1..3074]]))?;
    let header = |sides: &[u32]| {
        let sides = sides.iter().flat_map(|side| side.to_be_bytes()).collect::<Vec<u8>>();
        [&[0, 0, 8, (sides.len() / 4) as u8][..], &sides].concat()
    };
    let images = [header(&[2, 8, 8]), planes].concat();
    let labels = [header(&[2]), labels].concat();
    let zipped = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes)?;
        encoder.finish()
    };
    corpus.add("idx", &join(&[&images, &labels, &images, &labels]))?;
    corpus.add("idx", &join(&[&zipped(&images)?, &zipped(&labels)?, &images, &labels]))?;
    Ok(())
}

fn add_archive(corpus: &Corpus, pictures: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut archive = tar::Builder::new(Vec::new());
    let long = format!("train/b/{}.png", "x".repeat(150));
    let named = pictures.iter().filter(|path| path.extension().is_some_and(|e| e == "png"));
    for (path, picture) in ["train/a/1.png", long.as_str(), "val/a/1.png", "val/b/1.png"].iter().zip(named) {
        let bytes = fs::read(picture)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, &bytes[..])?;
    }
    corpus.add("tar", &archive.into_inner()?)?;
    Ok(())
}
