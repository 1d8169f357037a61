//! How fast a machine is: measured figures, or the assumed ones of a named profile, as seconds a sample.

use super::{Costs, Processor, Recipe};

/// The parts of a stage's work: seconds a sample of each. Stage 0 is the images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// To make values of a stored sample of the stage's output; of an image, to crop it.
    pub load: f64,
    /// To run the frozen block.
    pub frozen: f64,
    /// A training step.
    pub train: f64,
    /// To run block and classifier.
    pub classify: f64,
    /// To make stored bytes of the block's output and write them; of an image, to decode its file as well.
    pub store: f64,
}

/// A machine, as far as the time of a pipeline depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What it is called.
    pub name: String,
    /// What computes: with a GPU loading and computing run side by side, on a CPU they take turns on the same cores.
    pub processor: Processor,
    /// The parts of each stage, images first.
    pub stages: Vec<Parts>,
    /// The steps and the classification of the whole network, where it is trained as a whole.
    pub network: Parts,
    /// Of the probes, in the order of the graph: in place of a training step what is done once for each training sample of an
    /// iteration or an epoch, and of a classification for each validation sample or, of what compares, each pair.
    pub probes: Vec<Parts>,
    /// Bytes a second that are read from the disk.
    pub read: f64,
    /// Bytes a second that are written to the disk.
    pub write: f64,
    /// Bytes of memory in which files that were read or written stay until the next epoch.
    pub memory: f64,
}

/// Figures of a machine that do not depend on the pipeline; what is not given stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Operations a second of frozen blocks and of classification.
    pub forward: Option<f64>,
    /// Operations a second of training steps.
    pub training: Option<f64>,
    /// Bytes a second that are read from the disk.
    pub read: Option<f64>,
    /// Bytes a second that are written to the disk.
    pub write: Option<f64>,
    /// Stored images a second that are cropped for the network.
    pub decode: Option<f64>,
    /// Image files a second that are decoded once, for stage 0.
    pub files: Option<f64>,
    /// Bytes a second of features that are checked and converted, on the way in or out.
    pub convert: Option<f64>,
    /// Cores among which the compression of features is divided.
    pub cores: Option<f64>,
    /// Bytes of memory in which files stay.
    pub memory: Option<f64>,
}

/// A machine that is only assumed.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it stands for.
    about: &'static str,
    processor: Processor,
    figures: Figures,
}

impl Profile {
    /// All profiles. Their figures are assumptions, each with its origin beside it.
    pub const ALL: [Self; 2] = [
        Self {
            name: "h200",
            about: "one H200, two NVMe disks and 16 cores",
            processor: Processor::Gpu,
            figures: Figures {
                // 989 TFLOP/s dense in bf16 by the data sheet, at an efficiency of 40 % forward and 30 % in training.
                forward: Some(400e12),
                training: Some(300e12),
                // Two disks for PCIe 4.0 x4, each 6.5 GB/s in and 4 GB/s out when it is written for hours.
                read: Some(13e9),
                write: Some(8e9),
                // 16 cores, each a little faster than one of `cpu2`.
                decode: Some(20_000.0),
                files: Some(6_000.0),
                convert: Some(20e9),
                cores: Some(16.0),
                // Half of 512 GB.
                memory: Some(256e9),
            },
        },
        Self {
            name: "cpu2",
            about: "two cores of a Xeon with AVX-512 and one disk",
            processor: Processor::Cpu { threads: 2 },
            figures: Figures {
                // As `greedy bench steps` measured it, with 64 to 256 channels and k = 2.
                forward: Some(700e9),
                training: Some(500e9),
                // A solid-state disk of the usual kind.
                read: Some(1.5e9),
                write: Some(1e9),
                // Assumed for crops of 224 x 224; files at 350 a core, as measured with full-size photographs.
                decode: Some(2_000.0),
                files: Some(700.0),
                convert: Some(1e9),
                cores: Some(2.0),
                memory: Some(8e9),
            },
        },
    ];

    /// The machine for the stages of a pipeline, whose costs are given first to last.
    pub fn machine(&self, pipeline: &Recipe, costs: &Costs) -> Machine {
        let mut machine = Machine {
            name: format!("{}: {} (assumed)", self.name, self.about),
            processor: self.processor,
            network: Parts::default(),
            probes: vec![Parts::default(); costs.probes.len()],
            stages: vec![Parts::default(); costs.stages.len() + 1],
            read: f64::INFINITY,
            write: f64::INFINITY,
            memory: 0.0,
        };
        machine.set(&self.figures, pipeline, costs);
        machine
    }
}

impl Machine {
    /// Takes the figures that are given in place of its own.
    pub fn set(&mut self, figures: &Figures, pipeline: &Recipe, costs: &Costs) {
        for ((parts, cost), stage) in self.stages[1..].iter_mut().zip(&costs.stages).zip(&pipeline.stages) {
            let encoding = pipeline.features.encoding(&stage.block);
            let bytes = (stage.block.output.values() * encoding.dtype.bytes()) as f64;
            let [pack, unpack] = encoding.usual_seconds().map(|seconds| seconds / figures.cores.unwrap_or(1.0));
            replace(&mut parts.frozen, figures.forward.map(|rate| cost.forward / rate));
            replace(&mut parts.classify, figures.forward.map(|rate| cost.classify / rate));
            replace(&mut parts.train, figures.training.map(|rate| cost.training / rate));
            replace(&mut parts.load, figures.convert.map(|rate| bytes * (rate.recip() + unpack)));
            replace(&mut parts.store, figures.convert.map(|rate| bytes * (rate.recip() + pack)));
        }
        if let Some(whole) = &costs.network {
            replace(&mut self.network.train, figures.training.map(|rate| whole.training / rate));
            replace(&mut self.network.classify, figures.forward.map(|rate| whole.classify / rate));
        }
        for (parts, [learn, ask]) in self.probes.iter_mut().zip(&costs.probes) {
            replace(&mut parts.train, figures.training.map(|rate| learn / rate));
            replace(&mut parts.classify, figures.forward.map(|rate| ask / rate));
        }
        replace(&mut self.stages[0].load, figures.decode.map(f64::recip));
        replace(&mut self.stages[0].store, figures.files.map(f64::recip));
        replace(&mut self.read, figures.read);
        replace(&mut self.write, figures.write);
        replace(&mut self.memory, figures.memory);
    }
}

fn replace(figure: &mut f64, by: Option<f64>) {
    *figure = by.unwrap_or(*figure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_given_changes_what_it_is_of_and_nothing_else() {
        let pipeline = Recipe::parse("p", "p", "[data]\nsource = \"builtin\"\n", &[]).unwrap();
        let costs = Costs::of(&pipeline, 10);
        let before = Profile::ALL[0].machine(&pipeline, &costs);
        let mut after = before.clone();
        after.set(&Figures { training: Some(1e12), read: Some(5.0), ..Figures::default() }, &pipeline, &costs);
        assert_eq!((after.stages[2].train, after.read), (costs.stages[1].training / 1e12, 5.0));
        for (before, after) in before.stages.iter().zip(&after.stages).skip(1) {
            assert_eq!(Parts { train: before.train, ..*after }, *before);
        }
        assert_eq!((after.write, after.memory, after.stages[0]), (before.write, before.memory, before.stages[0]));
    }
}
