//! `[features]`: which features are cached between stages, in what form, and how a stage is fed with them.

use super::section::Section;
use super::{Fault, Layers};

/// The type that features are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 8-bit whole numbers: decoded images, or features on a scale of their own.
    U8,
    /// 16-bit floating point, with 11 bits of precision.
    F16,
    /// 16-bit floating point with the range of `F32` and 8 bits of precision.
    Bf16,
    /// 32-bit floating point.
    F32,
}

impl Dtype {
    const ALL: [Self; 4] = [Self::U8, Self::F16, Self::Bf16, Self::F32];

    /// Bytes a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Its name in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// How the bytes of a sample are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// LZ4 after a shuffle of bits (Blosc): little smaller, nearly as fast to read.
    Lz4,
    /// A Huffman code of the bytes, as a frame of Zstandard in which hardly any repetition is looked for: of features as
    /// small as its levels, and much faster.
    Huffman,
    /// Zstandard of a level.
    Zstd(i32),
}

impl Codec {
    /// Its name in a pipeline file.
    pub fn word(self) -> String {
        match self {
            Self::None => "none".into(),
            Self::Lz4 => "lz4".into(),
            Self::Huffman => "huffman".into(),
            Self::Zstd(level) => format!("zstd:{level}"),
        }
    }

    /// The level that a frame of Zstandard is made with, where it is one.
    pub fn zstd_level(self) -> Option<i32> {
        match self {
            Self::None | Self::Lz4 => None,
            Self::Huffman => Some(-1000),
            Self::Zstd(level) => Some(level),
        }
    }
}

/// The codec of a pipeline's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecChoice {
    /// This one.
    Fixed(Codec),
    /// Whichever reads fastest, as tried on the first samples, of those that fit the disk.
    Fastest,
}

impl CodecChoice {
    /// Its name in a pipeline file.
    pub fn word(self) -> String {
        match self {
            Self::Fixed(codec) => codec.word(),
            Self::Fastest => "auto".into(),
        }
    }

    fn read(section: &mut Section<'_>) -> Result<Option<Self>, Fault> {
        let Some(word) = section.optional::<String>("codec")? else { return Ok(None) };
        let known = "\"none\", \"lz4\", \"huffman\", \"zstd:1\" to \"zstd:22\" or \"auto\"";
        let fault = || {
            let fault = section.fault("codec", format!("is \"{word}\", but must be {known}"));
            fault.suggest(&word, ["none", "lz4", "huffman", "zstd:1", "auto"].into_iter())
        };
        Self::named(&word).ok_or_else(fault).map(Some)
    }

    fn named(word: &str) -> Option<Self> {
        Some(match (word, word.strip_prefix("zstd:").and_then(|level| level.parse().ok())) {
            ("none", _) => Self::Fixed(Codec::None),
            ("lz4", _) => Self::Fixed(Codec::Lz4),
            ("huffman", _) => Self::Fixed(Codec::Huffman),
            ("auto", _) => Self::Fastest,
            (_, Some(level @ 1..=22)) => Self::Fixed(Codec::Zstd(level)),
            _ => return None,
        })
    }
}

/// How the values of a stage's features are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Their type.
    pub dtype: Dtype,
    /// How they are compressed.
    pub codec: CodecChoice,
}

/// What is usual of features of trained networks is the mean of what `tests/bench/forms_of_features.py` measured at four
/// stages of two pipelines (docs/cache.md).
impl Encoding {
    /// The one of these names, that of the codec only where there is one.
    pub(super) fn named(dtype: &str, codec: Option<&str>) -> Option<Self> {
        let dtype = Dtype::ALL.into_iter().find(|own| own.word() == dtype)?;
        let codec = codec.map_or(Some(CodecChoice::Fixed(Codec::None)), CodecChoice::named)?;
        Some(Self { dtype, codec })
    }

    /// Bytes that features usually take over bytes of their values.
    pub fn usual_compression(self) -> f64 {
        match (self.codec, self.dtype) {
            (CodecChoice::Fixed(Codec::None) | CodecChoice::Fastest, _) => 1.0,
            (CodecChoice::Fixed(Codec::Lz4), Dtype::U8 | Dtype::Bf16) => 0.7,
            (CodecChoice::Fixed(Codec::Lz4), Dtype::F16 | Dtype::F32) => 0.86,
            (CodecChoice::Fixed(Codec::Huffman | Codec::Zstd(_)), Dtype::U8 | Dtype::Bf16) => 0.46,
            (CodecChoice::Fixed(Codec::Huffman), Dtype::F16 | Dtype::F32) => 0.55,
            (CodecChoice::Fixed(Codec::Zstd(_)), Dtype::F16 | Dtype::F32) => 0.54,
        }
    }

    /// Seconds that a core usually takes to compress a byte of values, and to get it back.
    pub fn usual_seconds(self) -> [f64; 2] {
        match self.codec {
            CodecChoice::Fixed(Codec::None) | CodecChoice::Fastest => [0.0; 2],
            CodecChoice::Fixed(Codec::Lz4) => [650e6, 1200e6].map(f64::recip),
            CodecChoice::Fixed(Codec::Huffman) => [500e6, 800e6].map(f64::recip),
            CodecChoice::Fixed(Codec::Zstd(_)) => [200e6, 500e6].map(f64::recip),
        }
    }
}

/// The stages whose features are written, as a pipeline file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Materialize {
    /// These, by number.
    Only(Vec<usize>),
    /// Those that make the whole fastest, as planned from this machine's rates and the disk.
    Auto,
}

/// The order in which an epoch meets the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// Any sample may follow any other.
    Global,
    /// Shards in random order, and the samples of so many of them at a time: reads are long and local.
    Shards(usize),
}

impl Shuffle {
    /// Its name in a pipeline file.
    pub fn word(self) -> String {
        match self {
            Self::Global => "global".into(),
            Self::Shards(count) => format!("shards:{count}"),
        }
    }

    fn read(section: &mut Section<'_>) -> Result<Self, Fault> {
        let word = section.get("shuffle", "global".to_string())?;
        match (word.as_str(), word.strip_prefix("shards:").and_then(|count| count.parse().ok())) {
            ("global", _) => Ok(Self::Global),
            (_, Some(count @ 1..=1_000_000)) => Ok(Self::Shards(count)),
            _ => {
                let message = format!("is \"{word}\", but must be \"global\" or \"shards:N\", such as \"shards:8\"");
                Err(section.fault("shuffle", message).suggest(&word, ["global", "shards:8"].into_iter()))
            }
        }
    }
}

/// How the output of a stage is stored, and how the stage after it is fed.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// The type of the values, where the file says it.
    pub dtype: Option<Dtype>,
    /// How they are compressed, where the file says it.
    pub codec: Option<CodecChoice>,
    /// The size of a shard that is aimed at, in MiB.
    pub shard_mib: usize,
    /// The augmented views that are cached of each training image.
    pub views: usize,
    /// Whether the features of whole padded images are cached, and cropped afresh at every epoch.
    pub late_crops: bool,
    /// The share of the training samples that get a new view, from their images, at every epoch.
    pub refresh: f64,
    /// The stages whose features are written, in order.
    pub cached: Vec<usize>,
    /// Bytes that all features together may take, where that is limited.
    pub disk: Option<u64>,
    /// The order of the samples in an epoch.
    pub shuffle: Shuffle,
    /// Bytes of memory that features of a stage's input may be cached in.
    pub memory: u64,
}

/// What a file leaves to the machine, and what it says itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    pub materialize: Materialize,
    pub refresh: Option<f64>,
    pub memory: Option<u64>,
}

/// The share of views that are refreshed where the file does not say: measured to learn as well from one view as from
/// fresh ones at every epoch, for a quarter of their cost.
const REFRESH: f64 = 0.25;

impl Features {
    /// Reads the table of a network of so many blocks, and what it leaves open; `random` says whether images are augmented
    /// at random, without which no view differs from another.
    pub(super) fn read(section: &mut Section<'_>, blocks: usize, random: bool) -> Result<(Self, Open), Fault> {
        let dtypes = [("f16", Dtype::F16), ("bf16", Dtype::Bf16), ("f32", Dtype::F32), ("u8", Dtype::U8)];
        let open = Open {
            refresh: section.has("refresh").then_some(section.within("refresh", 0.0, 0.0..=1.0)?),
            materialize: read_materialize(section, blocks)?,
            memory: read_size(section, "memory")?,
        };
        let features = Self {
            dtype: if section.has("dtype") { Some(section.choice("dtype", Dtype::F16, &dtypes)?) } else { None },
            codec: CodecChoice::read(section)?,
            shard_mib: section.within("shard_mib", 256, 1..=16_384)?,
            views: section.within("views", 1, 1..=1024)?,
            late_crops: section.choice("crop", false, &[("early", false), ("late", true)])?,
            refresh: if random { open.refresh.unwrap_or(REFRESH) } else { 0.0 },
            cached: match &open.materialize {
                Materialize::Only(stages) => stages.clone(),
                Materialize::Auto => (1..=blocks).collect(),
            },
            disk: read_size(section, "disk")?,
            shuffle: Shuffle::read(section)?,
            memory: open.memory.unwrap_or(0),
        };
        Ok((features, open))
    }

    /// How the features that a block gives are stored. Where the file leaves it open: in 8 bits behind a ReLU, which cost
    /// no accuracy that could be seen, and in 16 where values may be negative; what has 8 bits, with a Huffman code.
    pub fn encoding(&self, block: &Layers) -> Encoding {
        let dtype = self.dtype.unwrap_or(if block.is_rectified() { Dtype::U8 } else { Dtype::F16 });
        let codec = if dtype == Dtype::U8 { Codec::Huffman } else { Codec::None };
        Encoding { dtype, codec: self.codec.unwrap_or(CodecChoice::Fixed(codec)) }
    }

    /// Samples in a shard, where a sample takes so many bytes.
    pub fn samples_in_shard(&self, sample_bytes: usize) -> usize {
        ((self.shard_mib << 20) / sample_bytes.max(1)).max(1)
    }

    /// Whether the features of a stage are written.
    pub fn caches(&self, stage: usize) -> bool {
        self.cached.contains(&stage)
    }

    /// The nearest stage before another whose output is written; 0, the images, where there is none.
    pub fn nearest(&self, stage: usize) -> usize {
        (1..stage).rev().find(|&before| self.caches(before)).unwrap_or(0)
    }
}

/// `materialize`, or `mode = "recompute"` for none.
fn read_materialize(section: &mut Section<'_>, blocks: usize) -> Result<Materialize, Fault> {
    let recompute = section.choice("mode", false, &[("cached", false), ("recompute", true)])?;
    if recompute && section.has("materialize") {
        return Err(section.fault("materialize", "has no meaning where all features are recomputed"));
    }
    if let Ok(Some(word)) = section.optional::<String>("materialize") {
        return match word.as_str() {
            "all" => Ok(Materialize::Only((1..=blocks).collect())),
            "auto" => Ok(Materialize::Auto),
            _ => {
                let fault =
                    section.fault("materialize", format!("is \"{word}\", but must be \"auto\", \"all\" or a list"));
                Err(fault.suggest(&word, ["auto", "all"].into_iter()))
            }
        };
    }
    match section.optional::<Vec<usize>>("materialize")? {
        _ if recompute => Ok(Materialize::Only(Vec::new())),
        None => Ok(Materialize::Only((1..=blocks).collect())),
        Some(mut stages) => {
            if let Some(stage) = stages.iter().find(|&stage| !(1..=blocks).contains(stage)) {
                return Err(section.fault("materialize", format!("names stage {stage}, but stages are 1 to {blocks}")));
            }
            stages.sort_unstable();
            stages.dedup();
            Ok(Materialize::Only(stages))
        }
    }
}

/// A number of bytes, written as `"2TB"`, `"512 MiB"` or a whole number.
fn read_size(section: &mut Section<'_>, key: &str) -> Result<Option<u64>, Fault> {
    if let Ok(size @ Some(_)) = section.optional::<u64>(key) {
        return Ok(size);
    }
    let Some(text) = section.optional_as::<String>(key, "a size such as \"2TB\"")? else { return Ok(None) };
    match bytes(&text) {
        None => Err(section.fault(key, format!("is \"{text}\", but must be a size such as \"2TB\" or \"512MiB\""))),
        size => Ok(size),
    }
}

/// Bytes of a size such as `2TB`, `1.5 TiB` or `0`.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => f64::from(1 << 30),
        "tib" => 1024.0 * f64::from(1 << 30),
        _ => return None,
    };
    let bytes = number * factor;
    (0.0..=1e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let found = ["2TB", "1.5 TiB", "0", "512 mib", "3kb"].map(bytes);
        assert_eq!(found, [2_000_000_000_000, 1_649_267_441_664, 0, 536_870_912, 3000].map(Some));
        assert_eq!(["", "TB", "1.2.3", "5 bananas", "-1", "1e9", "9999999TB"].map(bytes), [None; 7]);
    }

    #[test]
    fn features_behind_a_relu_have_eight_bits_where_nothing_is_said_and_manifests_tell() {
        let text = "[data]\nsource = \"builtin\"\n[network]\narchitecture = \"custom\"\n\
                    blocks = [[{ conv = 4 }, \"batch_norm\", \"relu\"], [{ conv = 4 }, \"batch_norm\"]]\n";
        let (huffman, none) = (CodecChoice::Fixed(Codec::Huffman), CodecChoice::Fixed(Codec::None));
        for (setting, expected) in [
            ("seed=0", [(Dtype::U8, huffman), (Dtype::F16, none)]),
            ("features.codec=auto", [(Dtype::U8, CodecChoice::Fastest), (Dtype::F16, CodecChoice::Fastest)]),
            ("features.codec=none", [(Dtype::U8, none), (Dtype::F16, none)]),
            ("features.dtype=f32", [(Dtype::F32, none); 2]),
            ("features.dtype=u8", [(Dtype::U8, huffman); 2]),
        ] {
            let pipeline = super::super::Recipe::parse("p", "p", text, &[setting.into()]).unwrap();
            for (stage, (dtype, codec)) in pipeline.stages.iter().zip(expected) {
                let encoding = Encoding { dtype, codec };
                assert_eq!(pipeline.features.encoding(&stage.block), encoding, "{setting}");
                let manifest = super::super::Manifest::of_stage(&pipeline, stage);
                assert_eq!(manifest.encoding(), Some(encoding), "{setting}");
            }
        }
    }

    #[test]
    fn a_stage_reads_the_nearest_features_that_are_cached() {
        let text = "[data]\nsource = \"builtin\"\n[features]\nmaterialize = [4, 2]\n[network]\nblocks = 6\n";
        let pipeline = super::super::Recipe::parse("p", "p", text, &[]).unwrap();
        let nearest: Vec<usize> = (1..=6).map(|stage| pipeline.features.nearest(stage)).collect();
        assert_eq!(nearest, [0, 0, 2, 2, 4, 4]);
    }
}
