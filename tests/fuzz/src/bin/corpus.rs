//! Fills `tests/fuzz/corpus` with real files: pipelines and pictures of this repository, a small run of the built-in data,
//! and data sets made of its pictures.
//!
//! `cargo run --release --manifest-path tests/fuzz/Cargo.toml --bin corpus`

use candle_core::Device;
use flate2::{Compression, write::GzEncoder};
use greedy::images::ImageSet;
use greedy::pipeline::{Recipe, Source};
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
    let pipeline = Recipe::parse("small", "small", SMALL, &[]).map_err(greedy::error::Error::from)?;
    let mut project = Project::open(pipeline, folder(), false);
    let all = project.find(&[])?;
    project.update(&all, &Device::Cpu, &Silent, |_, _| {}, |_, _| Ok(()))?;
    for stage in ["stage0", "stage1"].map(|stage| folder().join(stage)) {
        corpus.add("record", &fs::read(stage.join("record.json"))?)?;
        for split in ["train", "val"].map(|split| stage.join(split)) {
            let read = |name: &str| fs::read(split.join(name));
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
        set.train.decode(index, &mut pixels).map_err(|fault| format!("{fault:?}"))?;
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
    let long = format!("train/b/{}.png", "x".repeat(150));
    let named = pictures.iter().filter(|path| path.extension().is_some_and(|e| e == "png"));
    let pictures: Vec<Vec<u8>> = named.take(4).map(fs::read).collect::<Result<_, _>>()?;
    let names = ["train/a/1.png", long.as_str(), "val/a/1.png", "val/b/1.png"];
    corpus.add("tar", &archive(names.into_iter().zip(&pictures))?)?;
    let (Some(first), Some(second)) = (pictures.first(), pictures.last()) else { return Ok(()) };
    // Two classes of ILSVRC 2012: those of the first two numbers that the lists below name.
    let inner = |wnid: &str| archive([(format!("{wnid}_1.png").as_str(), first)]);
    let (one, two) = (inner("n01751748")?, inner("n02119789")?);
    let train = archive([("n01751748.tar", &one), ("n02119789.tar", &two)])?;
    let names = ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"];
    let val = archive(names.map(|name| format!("{name}.png")).iter().map(String::as_str).zip([first, second]))?;
    let suffixed = archive([("a_n01751748.png", first), ("b_n02119789.png", second)])?;
    for (val, list) in [
        (&val, "ILSVRC2012_val_00000001,n01751748 1 2 3 4 \nILSVRC2012_val_00000002,n02119789 1 2 3 4 \n"),
        (&val, "490\n1\n"),
        (&val, "ILSVRC2012_val_00000001.png 65\nILSVRC2012_val_00000002.png 278\n"),
        (&val, "n01751748\nn02119789\n"),
        (&val, "ILSVRC2012_val_00000001.png\tn01751748\t0\nILSVRC2012_val_00000002.png\tn02119789\t0\n"),
        (&suffixed, ""),
    ] {
        corpus.add("imagenet", &join(&[&train, val, list.as_bytes()]))?;
    }
    let (zero, one) = (b"0".to_vec(), b"{\"label\": 1}".to_vec());
    let shard = archive([("a.png", first), ("a.cls", &zero), ("b.png", second), ("b.json", &one)])?;
    corpus.add("webdataset", &join(&[&shard, &shard]))?;
    Ok(())
}

fn archive<'a>(files: impl IntoIterator<Item = (&'a str, &'a Vec<u8>)>) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, &bytes[..])?;
    }
    Ok(archive.into_inner()?)
}
