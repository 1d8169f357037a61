//! Tests that the same images come out of every form: equal pixels and labels.

use super::{Data, ImageSet, Source};
use crate::pipeline::{BadImage, Keep, Orientation};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, RgbImage};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Classes of ILSVRC 2012 with their numbers in the devkit; the first is that of the first validation image.
const CLASSES: [(&str, usize, u32); 2] = [("n01751748", 490, 65), ("n02119789", 1, 278)];
const SIZE: usize = 8;

/// The bytes of an image that is unlike the others.
fn picture(split: u8, class: u8, at: u8) -> Vec<u8> {
    let image =
        RgbImage::from_fn(12, 10, |x, y| image::Rgb([20 * x as u8 + at, 20 * y as u8 + 100 * class, 90 * split]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Class, name without ending, and bytes of each image of a split.
type Pictures = Vec<(usize, String, Vec<u8>)>;

fn train() -> Pictures {
    let one = |(class, at): (usize, u8)| (class, format!("{}_{at}", CLASSES[class].0), picture(0, class as u8, at));
    (0..2).flat_map(|class| (0..3).map(move |at| (class, at))).map(one).collect()
}

/// Validation images take their classes in turn, the anchor's first.
fn val() -> Pictures {
    let one = |at: u8| {
        let class = usize::from(at % 2);
        (class, format!("ILSVRC2012_val_{:08}", at + 1), picture(1, class as u8, at))
    };
    (0..4).map(one).collect()
}

fn put(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn tar_of(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn class_folders(root: &Path, split: &str, pictures: &Pictures) {
    for (class, name, bytes) in pictures {
        put(root, &format!("{split}/{}/{name}.JPEG", CLASSES[*class].0), bytes);
    }
}

fn flat(root: &Path, folder: &str, pictures: &Pictures) {
    pictures.iter().for_each(|(_, name, bytes)| put(root, &format!("{folder}/{name}.JPEG"), bytes));
}

fn data(source: Source) -> Data {
    Data {
        source,
        size: SIZE,
        keep: Keep::Square,
        channels: 3,
        train_images: None,
        val_images: None,
        decoded: None,
        on_bad_image: BadImage::Fail,
        max_pixels: 1 << 20,
        orientation: Orientation::Upright,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    }
}

/// Label and pixels of all images of both splits.
type Contents = [BTreeSet<(u32, Vec<u8>)>; 2];

fn opened(source: Source) -> crate::error::Result<ImageSet> {
    ImageSet::open(&data(source), 0)
}

fn contents(source: Source) -> Contents {
    let set = opened(source.clone()).unwrap_or_else(|e| panic!("{source:?}: {e}"));
    [&set.train, &set.val].map(|split| {
        let decode = |index| {
            let mut pixels = Vec::new();
            assert_eq!(split.decode(index, &mut pixels).map_err(crate::error::Error::from).unwrap(), None);
            (split.label(index), pixels)
        };
        (0..split.len()).map(decode).collect()
    })
}

fn solution() -> String {
    let line = |(class, name, _): &(usize, String, Vec<u8>)| format!("{name},{} 1 2 3 4 \n", CLASSES[*class].0);
    "ImageId,PredictionString\n".to_string() + &val().iter().map(line).collect::<String>()
}

fn ground_truth() -> String {
    val().iter().map(|(class, ..)| format!("{}\n", CLASSES[*class].1)).collect()
}

fn nested() -> Vec<u8> {
    let inner = |class: usize| {
        let own = train().into_iter().filter(move |(own, ..)| *own == class);
        (format!("{}.tar", CLASSES[class].0), tar_of(own.map(|(_, name, bytes)| (format!("{name}.JPEG"), bytes))))
    };
    tar_of([inner(0), inner(1)])
}

/// Flat validation images in the tree of training folders, and a file beside them.
fn with_list(root: &Path, name: &str, text: impl AsRef<[u8]>) -> Source {
    class_folders(root, "train", &train());
    flat(root, "val", &val());
    put(root, name, text);
    Source::Imagenet(root.into())
}

/// Everything at once, a folder for each.
fn all_forms(space: &Path) -> Vec<Source> {
    let root = |name: &str| space.join(name);
    let mut forms = Vec::new();

    class_folders(&root("folder"), "train", &train());
    class_folders(&root("folder"), "val", &val());
    forms.extend([Source::Folder(root("folder")), Source::Imagenet(root("folder"))]);

    let member = |split: &str, (class, name, bytes): (usize, String, Vec<u8>)| {
        (format!("{split}/{}/{name}.JPEG", CLASSES[class].0), bytes)
    };
    let (first, second) =
        (tar_of(train().into_iter().map(|p| member("train", p))), tar_of(val().into_iter().map(|p| member("val", p))));
    put(space, "images.tar", [first, second].concat());
    forms.push(Source::Tar(root("images.tar")));

    class_folders(&root("kaggle"), "ILSVRC/Data/CLS-LOC/train", &train());
    flat(&root("kaggle"), "ILSVRC/Data/CLS-LOC/val", &val());
    put(&root("kaggle"), "LOC_val_solution.csv", solution());
    forms.push(Source::Imagenet(root("kaggle")));

    put(&root("official"), "ILSVRC2012_img_train.tar", nested());
    let reversed = val().into_iter().rev().map(|(_, name, bytes)| (format!("{name}.JPEG"), bytes));
    put(&root("official"), "ILSVRC2012_img_val.tar", tar_of(reversed));
    let devkit = tar_of([(
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt".into(),
        ground_truth().into_bytes(),
    )]);
    let (one, two) = devkit.split_at(700);
    put(&root("official"), "ILSVRC2012_devkit_t12.tar.gz", [gzipped(one), gzipped(two)].concat());
    forms.push(Source::Imagenet(root("official")));

    forms.push(with_list(&root("truth"), "devkit/data/ILSVRC2012_validation_ground_truth.txt", ground_truth()));
    let indices =
        val().iter().map(|(class, name, _)| format!("{name}.JPEG {}\n", CLASSES[*class].2)).collect::<String>();
    forms.push(with_list(&root("indices"), "val.txt", indices));
    let wnids = val().iter().map(|(class, ..)| format!("{}\r\n", CLASSES[*class].0)).collect::<String>();
    forms.push(with_list(&root("wnids"), "validation_synset_labels.txt", wnids));

    let suffixed: Pictures = val().into_iter().map(|(c, name, b)| (c, format!("{name}_{}", CLASSES[c].0), b)).collect();
    class_folders(&root("suffixes"), "train", &train());
    flat(&root("suffixes"), "val", &suffixed);
    forms.push(Source::Imagenet(root("suffixes")));
    let jpegs =
        |pictures: Pictures| tar_of(pictures.into_iter().map(|(_, name, bytes)| (format!("{name}.JPEG"), bytes)));
    put(&root("old"), "data/train_images_0.tar", jpegs(train()));
    put(&root("old"), "data/val_images.tar", jpegs(suffixed));
    forms.push(Source::Imagenet(root("old")));

    for (class, name, bytes) in train() {
        put(&root("tiny"), &format!("train/{}/images/{name}.JPEG", CLASSES[class].0), bytes);
    }
    flat(&root("tiny"), "val/images", &val());
    let annotations = val()
        .iter()
        .map(|(class, name, _)| format!("{name}.JPEG\t{}\t0\t0\t9\t9\n", CLASSES[*class].0))
        .collect::<String>();
    put(&root("tiny"), "val/val_annotations.txt", annotations);
    forms.push(Source::Imagenet(root("tiny")));

    type Label = fn(&str, usize) -> (String, Vec<u8>);
    let labels: [(&str, Label); 2] = [
        ("cls", |key, class| (format!("{key}.cls"), class.to_string().into_bytes())),
        ("json", |key, class| (format!("{key}.json"), format!("{{\"label\": {class}}}").into_bytes())),
    ];
    for (name, label) in labels {
        for (split, pictures) in [("train", train()), ("validation", val())] {
            let files = pictures
                .into_iter()
                .flat_map(|(class, key, bytes)| [(format!("a/{key}.jpg"), bytes), label(&format!("a/{key}"), class)]);
            let files: Vec<_> = files.collect();
            let (one, two) = files.split_at(4);
            for (number, part) in [one, two].into_iter().enumerate() {
                put(&root(name), &format!("imagenet1k-{split}-{number:04}.tar"), tar_of(part.to_vec()));
            }
        }
        forms.push(Source::WebDataset(root(name)));
    }
    forms.push(Source::WebDataset(root("cls/imagenet1k-{train,validation}-*.tar")));

    for (split, pictures) in [("train", train()), ("validation", val())] {
        write_table(&root("parquet").join(format!("data/{split}-00000-of-00001.parquet")), &pictures);
    }
    forms.push(Source::Parquet(root("parquet")));
    forms
}

/// A table of two groups of rows, with the names of the classes beside the schema.
fn write_table(path: &Path, pictures: &Pictures) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let schema = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";
    let names =
        "{\"info\": {\"features\": {\"label\": {\"names\": [\"sea snake\", \"kit fox\"], \"_type\": \"ClassLabel\"}}}}";
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_string(), names.to_string())]))
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for part in pictures.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let bytes: Vec<ByteArray> = part.iter().map(|(_, _, bytes)| ByteArray::from(bytes.clone())).collect();
        let levels = vec![2i16; part.len()];
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&bytes, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; part.len()]), None).unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = part.iter().map(|(class, ..)| *class as i64).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; part.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_form_gives_equal_pixels_and_labels() {
    let space = tempfile::tempdir().unwrap();
    let forms = all_forms(space.path());
    assert_eq!(forms.len(), 15);
    let expected = contents(forms[0].clone());
    assert_eq!(expected.each_ref().map(BTreeSet::len), [6, 4]);
    for form in &forms[1..] {
        assert!(contents(form.clone()) == expected, "{form:?}");
        // What was taken and what was seen from outside go together.
        assert!(super::look(form).unwrap().text.contains("files"));
    }
}

#[test]
fn the_origin_of_labels_is_said_and_the_order_of_trust_kept() {
    let space = tempfile::tempdir().unwrap();
    let notes = |source: &Source| opened(source.clone()).unwrap().census.notes.join("; ");
    let source = with_list(space.path(), "val.txt", "wrong");
    put(space.path(), "ILSVRC2012_validation_ground_truth.txt", ground_truth());
    assert!(notes(&source).contains("from `ILSVRC2012_validation_ground_truth.txt`"), "{}", notes(&source));
    put(space.path(), "LOC_val_solution.csv", solution());
    assert!(notes(&source).contains("from `LOC_val_solution.csv`"), "{}", notes(&source));
}

#[test]
fn lists_that_are_wrong_are_refused_with_file_and_line() {
    let fault = |name: &str, text: String| {
        let space = tempfile::tempdir().unwrap();
        let source = with_list(space.path(), name, text);
        opened(source).err().unwrap_or_else(|| panic!("{name} was taken")).to_string()
    };
    let running = val().iter().enumerate().map(|(at, (_, name, _))| format!("{name} {}\n", at + 1)).collect();
    assert!(fault("val.txt", running).contains("val.txt`:1: the numbers in it count the images"));
    let devkit_order = ground_truth().replace("490", "65");
    assert!(
        fault("ILSVRC2012_validation_ground_truth.txt", devkit_order)
            .contains("truth.txt`:1: it gives `ILSVRC2012_val_00000001`")
    );
    let swapped = solution().replacen("00000001,n01751748", "00000001,n02119789", 1);
    assert!(fault("LOC_val_solution.csv", swapped).contains("solution.csv`:2: it gives"));
    let unequal = solution().replacen("00000004,n02119789", "00000004,n01751748", 1);
    let unequal = fault("LOC_val_solution.csv", unequal);
    assert!(unequal.contains("solution.csv`:") && unequal.contains("images, where others have"), "{unequal}");
    assert!(
        fault("ILSVRC2012_validation_ground_truth.txt", "490\n1\n490\n1001\n".into())
            .contains("truth.txt`:4: `1001` is not a number from 1 to 1000")
    );
    assert!(fault("val.txt", "a.JPEG x\n".into()).contains("val.txt`:1: `a.JPEG x` is not `name index`"));
    let missing = solution().lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
    assert!(fault("LOC_val_solution.csv", missing).contains("has no label of `ILSVRC2012_val_00000003.JPEG`"));
}

#[test]
fn a_flat_folder_without_labels_is_refused_with_what_is_missing() {
    let space = tempfile::tempdir().unwrap();
    class_folders(space.path(), "train", &train());
    flat(space.path(), "val", &val());
    let error = opened(Source::Imagenet(space.path().into())).err().unwrap();
    assert!(error.to_string().contains("nothing tells the class of `ILSVRC2012_val_00000001.JPEG`"), "{error}");
    assert!(error.hint_text().unwrap().contains("LOC_val_solution.csv"));
    let empty = tempfile::tempdir().unwrap();
    assert!(opened(Source::Imagenet(empty.path().into())).err().unwrap().to_string().contains("no training images"));
}

#[test]
fn words_for_people_come_from_the_data_set_or_from_the_program() {
    let space = tempfile::tempdir().unwrap();
    let source = with_list(space.path(), "LOC_val_solution.csv", solution());
    let words = |source: &Source| opened(source.clone()).unwrap().words;
    assert_eq!(words(&source), ["sea snake", "kit fox, Vulpes macrotis"]);
    put(space.path(), "LOC_synset_mapping.txt", "n01751748 snake of the sea\n");
    assert_eq!(words(&source), ["snake of the sea", "kit fox, Vulpes macrotis"]);
}

#[test]
fn broken_tables_and_archives_are_errors_that_name_them() {
    let space = tempfile::tempdir().unwrap();
    let forms = all_forms(space.path());
    let broken = |name: &str, bytes: &[u8]| {
        let path = space.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let faults: Vec<String> =
            forms.iter().filter_map(|form| opened(form.clone()).err()).map(|error| error.to_string()).collect();
        fs::write(&path, whole).unwrap();
        faults
    };
    let table = "parquet/data/train-00000-of-00001.parquet";
    let whole = fs::read(space.path().join(table)).unwrap();
    for bytes in [&b""[..], b"PAR1", &whole[..whole.len() / 2], &whole[..whole.len() - 3], &[0x55; 4000]] {
        let faults = broken(table, bytes);
        assert!(faults.len() == 1 && faults[0].contains("train-00000-of-00001.parquet"), "{faults:?}");
    }
    let shard = "cls/imagenet1k-train-0000.tar";
    let whole = fs::read(space.path().join(shard)).unwrap();
    let faults = broken(shard, &whole[..whole.len() / 2]);
    assert!(faults.len() == 2 && faults.iter().all(|fault| fault.contains("imagenet1k-train-0000.tar")), "{faults:?}");
    let faults = broken("official/ILSVRC2012_img_train.tar", &nested()[..2000]);
    assert!(faults.len() == 1 && faults[0].contains("is cut off"), "{faults:?}");
}

#[test]
fn samples_without_a_label_and_splits_without_files_are_errors() {
    let space = tempfile::tempdir().unwrap();
    put(space.path(), "a-train-0.tar", tar_of([("k.jpg".into(), picture(0, 0, 0))]));
    let open = || opened(Source::WebDataset(PathBuf::from(space.path()))).err().unwrap().to_string();
    assert!(open().contains("no .tar file has `val` or `validation` in its name"), "{}", open());
    put(space.path(), "a-val-0.tar", tar_of([("k.jpg".into(), picture(0, 0, 0)), ("k.cls".into(), b"0".to_vec())]));
    assert!(open().contains("a-train-0.tar/k.jpg`: nothing tells its label"), "{}", open());
}
