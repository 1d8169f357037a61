//! What `greedy plan` prints: the stages, what the whole takes, and what each decision saves.

use super::table::Table;
use super::wording::{bytes, magnitude, seconds};
use crate::pipeline::{Codec, CodecChoice, Cost, Costs, Encoding, Estimate, Limit, Memory, Shape, Time};
use crate::run::Record;
use serde_json::{Value, json};

/// A plan, ready to be said.
pub(super) struct Plan<'a> {
    pub estimate: Estimate<'a>,
    /// Of the stages, first to last.
    pub costs: &'a Costs,
    /// Of the stages that are there as the pipeline would make them; the images first.
    pub records: &'a [Option<&'a Record>],
    /// Of the network of which stages are taken, if it is there.
    pub network: Option<&'a Record>,
    /// Of the ensemble, if it is there.
    pub ensemble: Option<&'a Record>,
    /// Of each probe, in the order of the graph.
    pub probes: Vec<Option<&'a Record>>,
    /// Classes that are told apart.
    pub classes: usize,
    /// Bytes that features may take.
    pub disk: Option<u64>,
    /// The stages whose features make it fastest.
    pub chosen: Vec<usize>,
    /// The stages whose features are written in the plan that the table shows.
    pub cached: Vec<usize>,
}

/// What is predicted of one stage.
struct Row<'a> {
    number: usize,
    output: Shape,
    cost: &'a Cost,
    /// The features that it is fed from.
    from: usize,
    /// An epoch in this plan, from the features of the stage before, and from the images.
    epoch: Time,
    read: Time,
    recomputed: Time,
    /// Seconds of all epochs, of all looks at the validation images, and of writing features.
    train: f64,
    evaluation: f64,
    features: f64,
    memory: Memory,
}

impl Plan<'_> {
    fn row(&self, number: usize) -> Row<'_> {
        let (estimate, cost) = (&self.estimate, &self.costs.stages[number - 1]);
        let from = self.cached.iter().copied().take_while(|&stage| stage < number).last().unwrap_or(0);
        let train = estimate.epochs(number, from);
        let cached = self.cached.contains(&number);
        Row {
            number,
            output: estimate.pipeline.stages[number - 1].block.output,
            cost,
            from,
            epoch: estimate.epoch(number, from),
            read: estimate.epoch(number, number - 1),
            recomputed: estimate.epoch(number, 0),
            train,
            evaluation: estimate.training(number, from) - train,
            features: if cached { estimate.extraction(number, from).seconds } else { 0.0 },
            memory: estimate.memory(number, from, cost),
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (1..=self.costs.stages.len()).map(|number| self.row(number))
    }

    /// Seconds of training and of writing features as the pipeline itself says what is cached, not this plan: what stages
    /// that are there are to be compared with.
    fn as_done(&self, number: usize) -> [f64; 2] {
        let (estimate, features) = (&self.estimate, &self.estimate.pipeline.features);
        let from = features.nearest(number);
        let written = if features.caches(number) { estimate.extraction(number, from).seconds } else { 0.0 };
        [estimate.epochs(number, from), written]
    }

    /// Seconds that a part of a stage's work really took.
    fn actual(&self, stage: usize, part: &str) -> Option<f64> {
        self.records[stage]?.seconds.get(part).copied()
    }

    pub fn text(&self) -> String {
        let Estimate { pipeline, machine, images: [train, val], .. } = self.estimate;
        let (name, machine) = (&pipeline.name, &machine.name);
        let heading = format!("{name}, predicted for {machine}\n{train} training and {val} validation images\n\n");
        let choice = format!("features.materialize = {:?}\n", self.chosen);
        let leaves = self.leaves();
        let leaves = if leaves.is_empty() { leaves } else { format!("\n{leaves}") };
        let line = || "\n".to_string();
        let stages = [self.sizes(), line(), self.times(), leaves, line(), self.taken()].concat();
        [heading, stages, self.totals(), line(), self.decisions(), line(), choice].concat()
    }

    /// What there is: shapes, parameters, multiplications and bytes.
    fn sizes(&self) -> String {
        let Estimate { pipeline, .. } = self.estimate;
        let mut table =
            Table::new(&["stage", "output", "parameters", "forward", "step", "stored", "an image", "cached"]);
        let data = &pipeline.data;
        let mut cells = vec!["images".into(), say(Shape { channels: data.channels, size: data.size })];
        cells.extend([NONE; 3].map(String::from));
        cells.extend(["u8".into(), bytes(self.estimate.sample_bytes(0) as u64), bytes(self.estimate.bytes(0))]);
        table.row(cells);
        if let Some(cost) = &self.costs.network {
            let step = if pipeline.pretrained.is_none() { magnitude(cost.training) } else { NONE.into() };
            let mut cells = vec!["network".into(), NONE.into(), magnitude(cost.parameters() as f64)];
            cells.extend([magnitude(cost.classify), step]);
            cells.extend([NONE; 3].map(String::from));
            table.row(cells);
        }
        for row in self.rows() {
            let (size, cached) = (self.estimate.bytes(row.number), self.cached.contains(&row.number));
            table.row([
                row.number.to_string(),
                say(row.output),
                magnitude(row.cost.parameters() as f64),
                magnitude(row.cost.forward),
                if self.is_alone(row.number) { magnitude(row.cost.training) } else { NONE.into() },
                stored(self.encoding(row.number)),
                bytes(self.estimate.sample_bytes(row.number) as u64),
                if cached { bytes(size) } else { format!("({})", bytes(size)) },
            ]);
        }
        table.text()
    }

    fn encoding(&self, number: usize) -> Encoding {
        let pipeline = self.estimate.pipeline;
        pipeline.features.encoding(&pipeline.stages[number - 1].block)
    }

    /// What it takes: seconds, what limits them, and memory.
    fn times(&self) -> String {
        let mut headings = vec!["stage", "fed by", "epoch read", "recomputed", "limit", "in all", "host"];
        let on_device = self.rows().any(|row| row.memory.device > 0.0);
        headings.extend(on_device.then_some("device"));
        let mut table = Table::new(&headings);
        let mut add = |cells: [String; 6], memory: [String; 2]| {
            table.row(cells.into_iter().chain(memory.into_iter().take(1 + usize::from(on_device))));
        };
        let decoding = self.estimate.decoding();
        let (limit, all) = (word(decoding.limit), seconds(decoding.seconds));
        add(["images", NONE, NONE, NONE, limit, &all].map(String::from), [NONE; 2].map(String::from));
        if let Some(cost) = &self.costs.network {
            let estimate = &self.estimate;
            let epoch = estimate.epoch_of_network();
            let memory = Memory::of_network(estimate.pipeline, cost, (estimate.images[0], estimate.machine.processor));
            let said_if = |text: String| if estimate.pipeline.pretrained.is_none() { text } else { NONE.into() };
            let (epoch, limit) = (said_if(seconds(epoch.seconds)), said_if(word(epoch.limit).into()));
            let all = seconds(estimate.network());
            add(["network", "images", &epoch, NONE, &limit, &all].map(String::from), said(memory));
        }
        for row in self.rows() {
            let fed = if row.from == 0 { "images".into() } else { row.from.to_string() };
            let (read, recomputed) = (seconds(row.read.seconds), seconds(row.recomputed.seconds));
            let (cells, all) = match self.is_alone(row.number) {
                true => ([read, recomputed, word(row.epoch.limit).into()], row.train + row.evaluation + row.features),
                false => ([NONE; 3].map(String::from), row.features),
            };
            let [read, recomputed, limit] = cells;
            add([row.number.to_string(), fed, read, recomputed, limit, seconds(all)], said(row.memory));
        }
        table.text()
    }

    /// What was predicted of nodes that are there as the pipeline would make them, beside what they took; nothing where there
    /// are none.
    fn taken(&self) -> String {
        if self.network.is_none() && self.records.iter().all(Option::is_none) {
            return String::new();
        }
        let mut table = Table::new(&["stage", "training", "it took", "features", "they took"]);
        let beside = |predicted: f64, actual: Option<f64>| {
            let predicted = if predicted > 0.0 { seconds(predicted) } else { NONE.into() };
            [predicted, actual.map_or(NONE.into(), seconds)]
        };
        let decoding = beside(self.estimate.decoding().seconds, self.actual(0, "decode"));
        let images = ["images", NONE, NONE].map(String::from);
        table.row(images.into_iter().chain(decoding));
        if self.costs.network.is_some() {
            let estimate = &self.estimate;
            let epochs = estimate.epoch_of_network().seconds * estimate.pipeline.training.epochs as f64;
            let trained = estimate.pipeline.pretrained.is_none();
            let took = self.network.and_then(|record| record.seconds.get("train").copied());
            let cells = beside(if trained { epochs } else { 0.0 }, took);
            table.row(std::iter::once("network".into()).chain(cells).chain([NONE; 2].map(String::from)));
        }
        for number in 1..=self.costs.stages.len() {
            let [train, features] = self.as_done(number);
            let alone = self.is_alone(number);
            let trained = beside(if alone { train } else { 0.0 }, self.actual(number, "train").filter(|_| alone));
            let written = beside(features, self.actual(number, "features"));
            table.row(std::iter::once(number.to_string()).chain(trained).chain(written));
        }
        format!("{}\n", table.text())
    }

    fn is_alone(&self, number: usize) -> bool {
        let pipeline = self.estimate.pipeline;
        pipeline.trains_alone(&pipeline.stages[number - 1])
    }

    /// Choices beside each other: name, stages.
    fn choices(&self) -> Vec<(&'static str, Vec<usize>)> {
        let all: Vec<usize> = (1..=self.costs.stages.len()).collect();
        let mut choices = vec![("all features cached", all), ("none, all recomputed", Vec::new())];
        if choices.iter().all(|(_, cached)| *cached != self.cached) && self.cached != self.chosen {
            choices.push(("as the pipeline says", self.cached.clone()));
        }
        choices.push(("fastest", self.chosen.clone()));
        choices
    }

    fn size(&self, cached: &[usize]) -> u64 {
        cached.iter().map(|&stage| self.estimate.bytes(stage)).sum()
    }

    fn totals(&self) -> String {
        let mut table = Table::new(&["features of", "stages", "on disk", "in all"]);
        for (name, cached) in self.choices() {
            let name = match self.disk {
                Some(disk) if name == "fastest" => format!("fastest within {}", bytes(disk)),
                _ => name.into(),
            };
            table.row([name, list(&cached), bytes(self.size(&cached)), seconds(self.estimate.total(&cached))]);
        }
        table.text()
    }

    /// Of each stage, what the total would be with the other decision about it.
    fn others(&self) -> impl Iterator<Item = (usize, bool, f64, bool)> {
        let total = self.estimate.total(&self.chosen);
        (1..=self.costs.stages.len()).map(move |stage| {
            let cached = self.chosen.contains(&stage);
            let mut other: Vec<usize> = self.chosen.iter().copied().filter(|&chosen| chosen != stage).collect();
            if !cached {
                other.push(stage);
                other.sort_unstable();
            }
            let fits = self.disk.is_none_or(|disk| self.size(&other) <= disk);
            (stage, cached, self.estimate.total(&other) - total, fits)
        })
    }

    fn decisions(&self) -> String {
        let mut table = Table::new(&["stage", "features", "on disk", "otherwise"]);
        for (stage, cached, more, fits) in self.others() {
            let verb = if cached { "cached" } else { "recomputed" };
            let more = match (more >= 0.0, fits) {
                _ if more.abs() < 0.05 => "the same".into(),
                (true, _) => format!("{} more", seconds(more)),
                (false, true) => format!("{} less", seconds(-more)),
                (false, false) => format!("{} less, but no room", seconds(-more)),
            };
            table.row([stage.to_string(), verb.into(), bytes(self.estimate.bytes(stage)), more]);
        }
        table.text()
    }

    pub fn json(&self) -> Value {
        let Estimate { pipeline, machine, images, .. } = self.estimate;
        let choices = self.choices().into_iter().map(|(name, cached)| {
            json!({
                "name": name, "materialize": cached, "bytes": self.size(&cached), "seconds": self.estimate.total(&cached),
            })
        });
        let decisions = self.others().map(|(stage, cached, more, fits)| {
            json!({ "stage": stage, "cached": cached, "otherwise_more_seconds": more, "otherwise_fits": fits })
        });
        let decoding = self.estimate.decoding();
        json!({
            "pipeline": pipeline.name,
            "machine": machine.name,
            "images": { "train": images[0], "val": images[1] },
            "read_bytes_per_second": machine.read,
            "write_bytes_per_second": machine.write,
            "decoding": {
                "bytes": self.estimate.bytes(0), "seconds": decoding.seconds, "actual_seconds": self.actual(0, "decode"),
            },
            "network": self.costs.network.map(|cost| self.network_json(&cost)),
            "stages": self.rows().map(|row| self.row_json(&row)).collect::<Vec<_>>(),
            "measured": self.leaf_rows().iter().map(|row| row.json()).collect::<Vec<_>>(),
            "choices": choices.collect::<Vec<_>>(),
            "decisions": decisions.collect::<Vec<_>>(),
            "disk": self.disk,
            "materialize": self.chosen,
        })
    }

    fn network_json(&self, cost: &Cost) -> Value {
        let estimate = &self.estimate;
        let memory = Memory::of_network(estimate.pipeline, cost, (estimate.images[0], estimate.machine.processor));
        json!({
            "parameters": cost.parameters(),
            "feedback_values": cost.feedback_values,
            "forward_flops": cost.classify,
            "step_flops": cost.training,
            "epoch_seconds": estimate.epoch_of_network().seconds,
            "seconds": estimate.network(),
            "actual_seconds": self.network.map(|record| &record.seconds),
            "host_bytes": memory.host,
            "device_bytes": memory.device,
        })
    }

    fn row_json(&self, row: &Row<'_>) -> Value {
        let (parts, done) = (&self.estimate.machine.stages[row.number], self.as_done(row.number));
        let Encoding { dtype, codec } = self.encoding(row.number);
        json!({
            "stage": row.number,
            "shape": [row.output.channels, row.output.size, row.output.size],
            "block_parameters": row.cost.block_parameters,
            "auxiliary_parameters": row.cost.head_parameters,
            "forward_flops": row.cost.forward,
            "step_flops": row.cost.training,
            "sample_bytes": self.estimate.sample_bytes(row.number),
            "bytes": self.estimate.bytes(row.number),
            "dtype": dtype.word(),
            "codec": codec.word(),
            "compression": self.estimate.compression(row.number),
            "cached": self.cached.contains(&row.number),
            "from": row.from,
            "limit": word(row.epoch.limit),
            "epoch_seconds": row.epoch.seconds,
            "epoch_seconds_read": row.read.seconds,
            "epoch_seconds_recomputed": row.recomputed.seconds,
            "seconds": { "train": row.train, "evaluation": row.evaluation, "features": row.features },
            "predicted_seconds": { "train": done[0], "features": done[1] },
            "actual_seconds": self.records[row.number].map(|record| &record.seconds),
            "host_bytes": row.memory.host,
            "device_bytes": row.memory.device,
            "seconds_per_sample": {
                "load": parts.load, "frozen": parts.frozen, "train": parts.train, "classify": parts.classify,
                "store": parts.store,
            },
        })
    }
}

/// Type and codec of features.
fn stored(Encoding { dtype, codec }: Encoding) -> String {
    let codec = if codec == CodecChoice::Fixed(Codec::None) { String::new() } else { format!(" {}", codec.word()) };
    format!("{}{codec}", dtype.word())
}

/// What stands where there is nothing to say.
const NONE: &str = "-";

fn say(shape: Shape) -> String {
    format!("{} x {} x {}", shape.channels, shape.size, shape.size)
}

/// Memory of the host, and of the device where it has its own.
pub(super) fn said(memory: Memory) -> [String; 2] {
    let device = if memory.device > 0.0 { bytes(memory.device as u64) } else { "-".into() };
    [bytes(memory.host as u64), device]
}

fn word(limit: Limit) -> &'static str {
    match limit {
        Limit::Compute => "compute",
        Limit::Disk => "disk",
        Limit::Decode => "decode",
    }
}

fn list(stages: &[usize]) -> String {
    let all: Vec<String> = stages.iter().map(usize::to_string).collect();
    if all.is_empty() { "-".into() } else { all.join(" ") }
}
