//! `greedy inspect`.

use super::compare;
use super::look_args::InspectArgs;
use super::output::Output;
use super::pictures;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::error::{Error, Result};
use crate::features::{Reader, Split, read_labels, read_logits};
use crate::inspect::{ArraySummary, BINS, Channel, arrays, channels, histogram, histograms, values};
use crate::run::{Record, StageFolder, State, observe};
use crate::text::counted;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Samples that tables and comparisons are made of, where nothing else is asked for.
const SAMPLES: usize = 512;
/// Channels that are printed; `--json` has all.
const SHOWN_CHANNELS: usize = 16;
/// Values of each chosen sample that `--values` gives.
const SHOWN_VALUES: usize = 8;

/// `greedy inspect STAGE`
pub(super) fn inspect(args: &InspectArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let (folder, record) = finished(&args.stage)?;
    let samples = args.samples.unwrap_or(SAMPLES);
    if let Some(other) = &args.other {
        let (other, its_record) = finished(other)?;
        return compare::compare([(&folder, &record), (&other, &its_record)], (samples, args.json), terminal, output);
    }
    if let Some(to) = &args.pictures {
        return pictures::write((&folder, &record), args, to, terminal, output);
    }
    let arrays = arrays(folder.path())?;
    let mut measured = Measured { channels: Vec::new(), bins: Vec::new(), samples: 0 };
    if !record.arrays.is_empty() {
        let reader = Reader::open(&Split::Train.array(folder.path(), "features"))?;
        let (channels, looked_at) = channels(&reader, samples)?;
        let drawn = args.json || output.is_terminal();
        let bins = if drawn { histograms(&reader, samples, &channels)? } else { Vec::new() };
        measured = Measured { channels, bins, samples: looked_at };
    }
    let labels = |split: Split| -> Result<Option<Vec<usize>>> {
        let there = arrays.iter().any(|array| array.name == format!("{}/labels", split.name()));
        let count = || Ok(histogram(&read_labels(folder.path(), split)?, record.classes.len()));
        there.then(count).transpose()
    };
    let labels = [labels(Split::Train)?, labels(Split::Val)?];
    if args.json {
        return output.json(&json!({
            "kind": record.kind.word(),
            "stage": record.stage,
            "pipeline": record.pipeline,
            "state": record.state,
            "key": record.key,
            "output": record.output,
            "inputs": record.inputs,
            "manifest": record.manifest,
            "made_on": record.made_on,
            "arrays": arrays_json(folder.path(), &arrays, args.values)?,
            "classes": record.classes,
            "words": (0..record.classes.len()).map(|class| record.words(class)).collect::<Vec<_>>(),
            "data": record.census,
            "labels": { "train": labels[0], "val": labels[1] },
            "figures": record.figures,
            "measures": record.measures,
            "channels": { "samples": measured.samples, "of": measured.json() },
        }));
    }
    output.text(&provenance(&record))?;
    if labels.iter().any(Option::is_some) {
        output.text(&format!("\n{}", array_text(&arrays)))?;
        output.text(&format!("\n{}", label_table(&record, &labels).text()))?;
    }
    if !record.kind.is_stage() {
        return Ok(());
    }
    if measured.channels.is_empty() {
        return output.line("\nits features are not cached: they are computed where they are needed");
    }
    output.text(&format!("\n{}", measured.text()))
}

/// A stage whose features and figures are final.
fn finished(path: &Path) -> Result<(StageFolder, Record)> {
    let folder = StageFolder::new(path);
    let record = folder.record()?;
    if record.state != State::Finished {
        let progress = observe(&folder)?.map_or_else(String::new, |found| found.seen.progress);
        return Err(Error::failed(format!("{} is not finished: {progress}", record.title()))
            .hint("`greedy run` goes on with it"));
    }
    Ok((folder, record))
}

fn provenance(record: &Record) -> String {
    let parent = record
        .parent()
        .map_or_else(String::new, |parent| format!("made from  `{}`, output {:.12}\n", parent.folder, parent.output));
    let output = record.output.as_deref().unwrap_or("not finished");
    let made = &record.made_on;
    let mut text = format!(
        "{} of pipeline `{}`\nkey        {:.12}\noutput     {output:.12}\n{parent}made on    {}, {}, greedy {}\n",
        record.title(),
        record.pipeline,
        record.key,
        made.device,
        counted(made.threads as u64, "thread"),
        made.version
    );
    if let Some(figures) = &record.figures {
        let (own, top5) = (wording::percent(Some(figures.accuracy)), wording::percent(record.top5()));
        text += &format!("accuracy   {own}, top-5 {top5}, ensemble {}\n", wording::percent(figures.ensemble_accuracy));
    }
    let width = record.measures.keys().map(String::len).max().unwrap_or(0).max(10);
    for (name, value) in &record.measures {
        text += &format!("{name:<width$} {value:.4}\n");
    }
    text += "depends on\n";
    for (name, value) in record.manifest().entries() {
        text += &format!("  {name} = {value}\n");
    }
    text
}

fn array_text(arrays: &[ArraySummary]) -> String {
    let mut text = String::new();
    for array in arrays {
        let dimensions: Vec<String> =
            array.dimension_names.iter().zip(&array.shape).map(|(name, length)| format!("{name} {length}")).collect();
        text += &format!(
            "{}\n  {}, {}\n  chunk {:?}, shard {:?}, codecs {}\n  {} of values in {} on disk, {} files\n",
            array.name,
            array.dtype,
            dimensions.join(", "),
            array.chunk,
            array.shard,
            array.codecs.join(" + "),
            wording::bytes(array.logical_bytes),
            wording::bytes(array.stored_bytes),
            array.files,
        );
    }
    text
}

fn label_table(record: &Record, labels: &[Option<Vec<usize>>; 2]) -> Table {
    let mut table = Table::new(&["class", "train", "val"]);
    for (at, class) in record.classes.iter().enumerate() {
        let count = |split: &Option<Vec<usize>>| split.as_ref().map_or("-".into(), |counts| counts[at].to_string());
        table.row([wording::class(class, record.words(at)), count(&labels[0]), count(&labels[1])]);
    }
    table
}

/// The channels over some samples.
struct Measured {
    channels: Vec<Channel>,
    /// Their histograms, where somebody wants them.
    bins: Vec<[u64; BINS]>,
    samples: usize,
}

impl Measured {
    fn text(&self) -> String {
        let drawn = !self.bins.is_empty();
        let headings = ["channel", "mean", "std", "zeros", "values but zeros"];
        let mut table = Table::new(if drawn { &headings } else { &headings[..4] });
        for (number, channel) in self.channels.iter().enumerate().take(SHOWN_CHANNELS) {
            let figures = [
                number.to_string(),
                format!("{:.4}", channel.mean),
                format!("{:.4}", channel.std),
                wording::percent(Some(channel.zeros)),
            ];
            table.row(figures.into_iter().chain(self.bins.get(number).map(|bins| wording::sparkline(bins))));
        }
        let count = self.channels.len();
        let dead = self.channels.iter().filter(|channel| channel.zeros == 100.0).count();
        let more = match count.saturating_sub(SHOWN_CHANNELS) {
            0 => String::new(),
            hidden => format!("and {hidden} more channels (`--json` has all)\n"),
        };
        let samples = self.samples;
        format!("{}{more}{dead} of {count} channels are always zero, over {samples} training samples\n", table.text())
    }

    fn json(&self) -> Vec<Value> {
        let channel = |(channel, bins): (&Channel, &[u64; BINS])| {
            json!({
                "mean": channel.mean, "std": channel.std, "zeros": channel.zeros,
                "min": channel.least, "max": channel.most, "histogram": bins,
            })
        };
        self.channels.iter().zip(&self.bins).map(channel).collect()
    }
}

fn arrays_json(stage: &Path, arrays: &[ArraySummary], with_values: bool) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for array in arrays {
        let mut fields = json!({
            "shape": array.shape,
            "dimension_names": array.dimension_names,
            "dtype": array.dtype,
            "chunk": array.chunk,
            "shard": array.shard,
            "codecs": array.codecs,
            "logical_bytes": array.logical_bytes,
            "stored_bytes": array.stored_bytes,
            "files": array.files,
        });
        if with_values {
            let (samples, sum) = some_values(stage, &array.name)?;
            fields["samples"] = Value::Object(samples);
            fields["sum"] = json!(sum);
        }
        all.insert(array.name.clone(), fields);
    }
    Ok(all)
}

/// The first values of three samples of an array, by the sample's number, and the sum of all its values.
fn some_values(stage: &Path, name: &str) -> Result<(Map<String, Value>, f64)> {
    let split = if name.starts_with("train") { Split::Train } else { Split::Val };
    let pick = |count: usize| [0, count / 2, count.saturating_sub(1)];
    let collect = |samples: &[usize], values: Vec<Vec<f32>>| {
        samples.iter().map(ToString::to_string).zip(values.into_iter().map(|values| json!(values))).collect()
    };
    if name.ends_with("features") {
        let reader = Reader::open(&stage.join(name))?;
        let samples = pick(reader.layout().samples);
        let (found, sum) = values(&reader, &samples, SHOWN_VALUES)?;
        return Ok((collect(&samples, found), sum));
    }
    let (all, width) = if name.ends_with("labels") {
        (read_labels(stage, split)?.into_iter().map(|label| label as f32).collect(), 1)
    } else {
        read_logits(stage, split)?
    };
    let samples = pick(all.len() / width);
    let found = samples.iter().map(|&at| all[at * width..][..width.min(SHOWN_VALUES)].to_vec()).collect();
    Ok((collect(&samples, found), all.iter().map(|&value| f64::from(value)).sum()))
}
