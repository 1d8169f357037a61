//! The stages before one that it reads: the nearest features, the frozen blocks after them, and for new views the images.

use super::folder::StageFolder;
use super::network::{load_block, recipe};
use super::record::Record;
use crate::error::{Error, Result};
use crate::features::{Loader, Refresh, Split, View};
use crate::lock::Lock;
use crate::network::{Chain, map_type};
use crate::ops::free_memory;
use crate::pipeline::{Precision, Recipe, Shape, Shuffle, Stage, Training};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use candle_core::Device;
use std::ops::Range;

/// Consecutive stages, first to last.
#[derive(Clone, Debug)]
pub(super) struct Ancestry {
    stages: Vec<(StageFolder, Record)>,
}

/// What a stage is trained on and looked at with.
pub(super) struct Inputs {
    pub train: Loader,
    pub val: Loader,
    pub classes: Vec<String>,
}

impl Ancestry {
    /// Stages that were looked at already.
    pub fn new(stages: Vec<(StageFolder, Record)>) -> Self {
        Self { stages }
    }

    /// Follows the records from a stage back to that of a number.
    ///
    /// # Errors
    /// When one of them is gone, or no longer what the next was made of.
    pub fn follow(last: &StageFolder, first: usize) -> Result<Self> {
        let mut stages = vec![(last.clone(), last.record()?)];
        while let Some((folder, record)) = stages.last().filter(|(_, record)| record.stage > first) {
            let parent = folder.parent(record)?.ok_or_else(|| {
                Error::failed(format!("the record in `{}` names no stage before it", folder.path().display()))
            })?;
            stages.push(parent);
        }
        stages.reverse();
        Ok(Self { stages })
    }

    /// Folder and record of each.
    pub fn stages(&self) -> &[(StageFolder, Record)] {
        &self.stages
    }

    /// The stage right before.
    pub fn parent(&self) -> Result<&(StageFolder, Record)> {
        self.stages.last().ok_or_else(|| Error::failed("there is no stage before it"))
    }

    /// Keeps others from writing to any of them.
    pub fn share(&self) -> Result<Vec<Lock>> {
        let locks = self.stages.iter().map(|(folder, _)| Lock::share(folder.path()));
        Ok(locks.collect::<Result<Vec<Option<Lock>>>>()?.into_iter().flatten().collect())
    }

    fn of(&self, number: usize) -> Result<&(StageFolder, Record)> {
        let found = self.stages.iter().find(|(_, record)| record.stage == number);
        found.ok_or_else(|| Error::failed(format!("stage {number} is needed, but not among those that are read")))
    }

    /// The frozen blocks of some stages, each as its own record has it.
    fn chain(&self, numbers: Range<usize>, precision: Precision, device: &Device) -> Result<Chain> {
        let block = |number| {
            let (folder, record) = self.of(number)?;
            let pipeline = recipe(folder, record, &[])?;
            Ok(load_block(folder, record, &pipeline, device)?.frozen()?)
        };
        Ok(Chain::new(numbers.map(block).collect::<Result<_>>()?, device, map_type(precision)))
    }

    /// Opens what a stage reads: the features of the stage `nearest`, or the images where that is 0.
    ///
    /// # Errors
    /// When something is missing or damaged, or does not fit the stage.
    pub fn inputs(&self, pipeline: &Recipe, stage: &Stage, nearest: usize, device: &Device) -> Result<Inputs> {
        self.refuse_mixture(pipeline, nearest)?;
        let (folder, record) = self.of(nearest)?;
        let precision = stage.training.precision;
        let Inputs { train, val, classes } = self.open(pipeline, (nearest, stage.number), precision, device)?;
        let epoch = View::Epoch { stage: stage.number, epoch: 0 };
        let wanted = stage.block.input;
        if let Some(found) = [train.shape(epoch), val.shape(View::Centre)].into_iter().find(|found| *found != wanted) {
            let folder = folder.path().display();
            let say = |shape: Shape| format!("{} x {} x {}", shape.channels, shape.size, shape.size);
            let (found, wanted) = (say(found), say(wanted));
            return Err(Error::usage(format!(
                "`{folder}`, which is stage {}, gives {found} features, but the block reads {wanted}",
                record.stage
            ))
            .hint("settings of earlier stages cannot be changed here; `greedy run` makes those anew"));
        }
        let (found, wanted) = (train.layout().views, pipeline.features.views);
        if nearest > 0 && pipeline.features.caches(stage.number) && found < wanted {
            let folder = folder.path().display();
            return Err(Error::usage(format!("`{folder}` holds {found} views, too few to make {wanted} of them"))
                .hint(format!("`--set features.views={found}`, or `greedy run` writes those as well")));
        }
        Ok(Inputs { train, val, classes })
    }

    /// Opens the features of a stage, or the images where it is 0: as they are written, or else computed from the nearest
    /// that are.
    ///
    /// # Errors
    /// When something is missing or damaged.
    pub fn features(&self, pipeline: &Recipe, stage: usize, precision: Precision, device: &Device) -> Result<Inputs> {
        self.open(pipeline, (pipeline.features.nearest(stage + 1), stage + 1), precision, device)
    }

    /// Opens what a stage, the second number, reads from that of the first.
    fn open(
        &self,
        pipeline: &Recipe,
        (nearest, stage): (usize, usize),
        precision: Precision,
        device: &Device,
    ) -> Result<Inputs> {
        let (folder, _) = self.of(nearest)?;
        let classes = self.parent()?.1.classes.clone();
        let open = |split| {
            let chain = self.chain(nearest + 1..stage, precision, device)?;
            Loader::open(folder.path(), split, pipeline, classes.len(), chain)
        };
        Ok(Inputs { train: open(Split::Train)?, val: open(Split::Val)?, classes })
    }

    /// Late crops need validation, and every block, to meet canvases: stages that were made otherwise do not go together.
    fn refuse_mixture(&self, pipeline: &Recipe, nearest: usize) -> Result<()> {
        let (folder, record) = self.parent()?;
        if record.stage == 0 {
            return Ok(());
        }
        let made = recipe(folder, record, &[])?;
        let folder = folder.path().display();
        let (late, seed) = (made.features.late_crops, made.seed);
        if late != pipeline.features.late_crops {
            let word = if late { "late" } else { "early" };
            return Err(Error::usage(format!("`{folder}` was made with `features.crop = \"{word}\"`"))
                .hint(format!("`--set features.crop={word}`; `greedy run` makes all stages otherwise")));
        }
        if late && nearest > 0 && seed != pipeline.seed {
            return Err(Error::usage(format!(
                "`{folder}` was made with seed {seed}, which its canvases were drawn by"
            ))
            .hint(format!("`--set seed={seed}`")));
        }
        Ok(())
    }

    /// What makes new views of the features of the stage `nearest`, where the pipeline wants some.
    ///
    /// # Errors
    /// When the images are gone or not those that the features were made of.
    pub fn refresh(
        &self,
        pipeline: &Recipe,
        (training, nearest): (&Training, usize),
        train: &Loader,
        device: &Device,
    ) -> Result<Option<Refresh>> {
        if nearest == 0 || pipeline.features.refresh == 0.0 {
            return Ok(None);
        }
        let (images, features) = (self.of(0)?.0.path(), self.of(nearest)?.0.path());
        // As many samples of a batch want a new view, more or less.
        let wanted = (pipeline.features.refresh * training.batch as f64).ceil() as usize;
        let chain = self.chain(1..nearest + 1, training.precision, device)?.in_groups_of(wanted.next_power_of_two());
        let refresh = Refresh::open(images, chain, pipeline)?;
        if !refresh.makes(train.layout()) {
            let (images, features) = (images.display(), features.display());
            return Err(Error::failed(format!("`{images}` does not hold the images that `{features}` was made of"))
                .hint("`--set features.refresh=0` does without new views; `greedy run` brings all stages up to date"));
        }
        Ok(Some(refresh))
    }
}

impl Inputs {
    /// Lets the training samples get new views and be cached in memory as the pipeline says, and says where they come
    /// from: to the stage of a title and a number, in batches of a size, whose folder is given.
    ///
    /// # Errors
    /// When the stage's own folder refuses a file for new views.
    pub fn prepare(
        self,
        refresh: Option<Refresh>,
        pipeline: &Recipe,
        (title, (stage, batch), own): (&str, (usize, usize), &StageFolder),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Self { mut train, mut val, classes } = self;
        let features = &pipeline.features;
        let memory = features.memory;
        // The network needs the other half.
        let device = train.device().clone();
        let room = || Ok::<_, Error>(free_memory(&device)?.map_or(0, |free| free / 2));
        train = train.resident(room()?)?;
        if let Some(mut refresh) = refresh {
            refresh = refresh.resident(room()?)?;
            train = train.refreshed(refresh, memory, &own.checkpoints())?;
        }
        val = val.resident(room()?)?;
        train = train.remembering(memory)?;
        let mut line = format!("{title}: {}", train.describe());
        if features.shuffle != Shuffle::Global {
            let mut stream = Stream::new(Purpose::Order, pipeline.seed, (stage as u64, 0));
            let mixing = 100.0 * train.mixing(batch, &mut stream);
            line += &format!(", classes mixed to {mixing:.0} % in a batch");
        }
        progress.say(&line);
        Ok(Self { train, val, classes })
    }
}
