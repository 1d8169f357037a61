//! Runs a frozen block once over the data set and writes its features.

use super::array::{Files, Layout, Order, Split};
use super::encoding::encode_sample;
use super::loader::{Batch, Loader};
use super::on_device::form;
use super::portion::Ledger;
use super::scale::unfit;
use super::schedule::View;
use super::shard::{ShardSum, ShardWriter, StoredSamples};
use super::storage_format::Form;
use super::writer::{Written, describe, known_shard, rewrite_shards, samples_in, write_array, write_part};
use crate::error::{Error, Result};
use crate::network::Frozen;
use crate::ops::{Downloaded, Downloads, Maps, on_host};
use crate::pipeline::{Codec, CodecChoice, Dtype, Encoding, Features, Processor, Shape};
use crate::progress::{Progress, Task};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::path::Path;

/// Samples that scale and codec are chosen by at most.
const FIRST: usize = 64;

/// The writing of a block's features into the folder of its stage.
pub struct Extraction<'a> {
    /// The folder of the stage.
    pub stage: &'a Path,
    /// Its block.
    pub block: &'a Frozen,
    /// How features are divided into shards and views.
    pub features: &'a Features,
    /// How their values are stored.
    pub encoding: Encoding,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Extraction<'_> {
    /// Writes one split, training samples in all their views; shards that are there are kept, and those that the ledger
    /// knows not even read.
    ///
    /// # Errors
    /// When the input is damaged, a feature does not fit the type, the disk refuses or the user interrupts.
    pub fn write(&self, split: Split, input: &Loader, ledger: &dyn Ledger) -> Result<Written> {
        let layout = self.layout(split, input)?;
        let task = self.progress.start(&format!("features {}", split.name()), (layout.views * layout.samples) as u64);
        write_array(&split.array(self.stage, "features"), &layout, (ledger, &*task), |view, samples, shard| {
            self.fill(shard, input, (view_of(split, view), &layout), samples, &*task)
        })
    }

    /// Writes the metadata of a split's array and no shard: whoever writes shards from then on does so in this form.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn begin(&self, split: Split, input: &Loader) -> Result<()> {
        describe(&split.array(self.stage, "features"), &self.layout(split, input)?)
    }

    /// The layout that a split's array was begun with.
    ///
    /// # Errors
    /// When it was not begun, or this process would write it otherwise.
    pub fn begun(&self, split: Split, input: &Loader) -> Result<Layout> {
        let array = split.array(self.stage, "features");
        let found = Layout::open(&array)?;
        if found != self.layout(split, input)? {
            let fault = format!("`{}` was begun in another form than is written here", array.display());
            return Err(Error::failed(fault).hint("is it the same version of greedy, with the same settings?"));
        }
        Ok(found)
    }

    /// How many shards of a split the ledger does not know, or not as they are there.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn unknown(&self, split: Split, input: &Loader, ledger: &dyn Ledger) -> Result<usize> {
        let (array, layout) = (split.array(self.stage, "features"), self.layout(split, input)?);
        Ok(layout.shards().filter(|&place| known_shard(&array, &layout, place, ledger).is_none()).count())
    }

    /// Writes some shards of an array that was begun, by view and position, but for those that the ledger knows.
    ///
    /// # Errors
    /// As [`write`](Self::write), and when the ledger does not admit a shard.
    pub fn write_part(
        &self,
        split: Split,
        (input, layout): (&Loader, &Layout),
        places: &[(usize, usize)],
        ledger: &dyn Ledger,
    ) -> Result<()> {
        let count: usize = places.iter().map(|&(_, at)| layout.samples_of(at).len()).sum();
        let task = self.progress.start(&format!("features {}", split.name()), count as u64);
        let array = split.array(self.stage, "features");
        write_part(&array, layout, places, (ledger, &*task), |view, samples, shard| {
            self.fill(shard, input, (view_of(split, view), layout), samples, &*task)
        })
    }

    /// Writes single shards of a split again, so that their bytes are the recorded ones.
    ///
    /// # Errors
    /// As [`write`](Self::write), and when other bytes come out; such a shard is left as it is.
    pub fn rewrite(&self, split: Split, input: &Loader, shards: &[ShardSum]) -> Result<()> {
        let layout = self.layout(split, input)?;
        let count = samples_in(&layout, shards);
        let task = self.progress.start(&format!("features {}", split.name()), count as u64);
        rewrite_shards(&split.array(self.stage, "features"), &layout, shards, |view, samples, shard| {
            self.fill(shard, input, (view_of(split, view), &layout), samples, &*task)
        })
    }

    /// Appends the features of samples to a shard.
    fn fill(
        &self,
        shard: &mut ShardWriter,
        input: &Loader,
        (view, layout): (View, &Layout),
        samples: Range<usize>,
        task: &dyn Task,
    ) -> Result<()> {
        let at_once = at_once(input.device(), input.shape(view), layout.shape);
        let samples: Vec<u32> = samples.map(|sample| sample as u32).collect();
        if !input.device().is_cpu() {
            return self.fill_from_device(shard, input, (view, layout), (&samples, at_once), task);
        }
        // A batch is hashed and written while the one after it is computed.
        shard.append_aside(layout, |shard| {
            input.for_each_batch(&samples, at_once, view, |batch| {
                self.progress.check()?;
                shard.append(|out| self.run(&batch, layout, out))?;
                task.advance(batch.len() as u64);
                Ok(())
            })
        })
    }

    /// The same where the device encodes the features: the host takes the bytes of a batch while the next is computed.
    fn fill_from_device(
        &self,
        shard: &mut ShardWriter,
        input: &Loader,
        (view, layout): (View, &Layout),
        (samples, at_once): (&[u32], usize),
        task: &dyn Task,
    ) -> Result<()> {
        let (device, form, one) = (input.device(), form(layout), layout.sample_bytes());
        let slots = Tensor::arange(0, at_once as u32, device)?;
        let fault = Tensor::zeros(1, DType::U8, device)?;
        let downloads = Downloads::new(device)?;
        shard.append_aside(layout, |shard| {
            let write = |sent: Downloaded| {
                let bytes = sent.wait()?;
                shard.append(|out| {
                    out.fill(bytes.len() / one.max(1), |at, out| {
                        out.copy_from_slice(&bytes[at * one..][..one]);
                        Ok(())
                    })
                })
            };
            let mut before: Option<Downloaded> = None;
            input.for_each_batch(samples, at_once, view, |batch| {
                self.progress.check()?;
                let stored = Tensor::zeros((batch.len(), one), DType::U8, device)?;
                form.encode(&self.block.forward(&batch.x)?, (&stored, &slots.narrow(0, 0, batch.len())?), &fault)?;
                if let Some(sent) = before.replace(downloads.begin(&stored)?) {
                    write(sent)?;
                }
                task.advance(batch.len() as u64);
                Ok(())
            })?;
            before.map_or(Ok(()), write)
        })?;
        match fault.to_vec1::<u8>()?.as_slice() {
            [0] => Ok(()),
            _ => Err(unfit(layout.dtype)),
        }
    }

    /// The metadata file of a split's array, in every form that it may have had where nothing is left that tells.
    ///
    /// # Errors
    /// When it cannot be described.
    pub fn array_files(&self, split: Split, input: &Loader) -> Result<Files> {
        let forms = match (Form::begun(self.stage, self.encoding)?, split) {
            (Some(form), _) => vec![form],
            (None, Split::Val) => Vec::new(),
            (None, Split::Train) => {
                let plain = Encoding { codec: CodecChoice::Fixed(Codec::None), ..self.encoding };
                Form::possible(self.encoding, self.find(input, plain)?.scale)
            }
        };
        forms.into_iter().map(|form| self.formed(split, input, form).file(split)).collect()
    }

    /// The layout of a split's array: both have the form that one of them was begun with.
    fn layout(&self, split: Split, input: &Loader) -> Result<Layout> {
        let form = match Form::begun(self.stage, self.encoding)? {
            Some(form) => form,
            None if split == Split::Train => self.find(input, self.encoding)?,
            None => return Err(Error::failed("the form of features is chosen by training samples, which come first")),
        };
        Ok(self.formed(split, input, form))
    }

    fn formed(&self, split: Split, input: &Loader, Form { order, codec, scale }: Form) -> Layout {
        let shape = self.block.output(input.shape(view_of(split, 0)));
        let dtype = self.encoding.dtype;
        Layout {
            views: if split == Split::Train { self.features.views } else { 1 },
            samples: input.len(),
            shape,
            dtype,
            order,
            codec,
            scale,
            samples_in_shard: self.features.samples_in_shard(shape.values() * dtype.bytes()).min(input.len()),
        }
    }

    /// Chooses a form by the first training samples, where there is a choice.
    fn find(&self, input: &Loader, encoding: Encoding) -> Result<Form> {
        let codec = match encoding.codec {
            CodecChoice::Fixed(codec) => codec,
            CodecChoice::Fastest => Codec::None,
        };
        let plain = Form { order: Order::Pixels, codec, scale: None };
        if encoding.dtype != Dtype::U8 && encoding.codec != CodecChoice::Fastest {
            return Ok(plain);
        }
        let (view, layout) = (view_of(Split::Train, 0), self.formed(Split::Train, input, plain));
        let first = input.len().min(FIRST).min(at_once(input.device(), input.shape(view), layout.shape)) as u32;
        let batch = input.batch(&(0..first).collect::<Vec<u32>>(), view)?;
        self.forward(&batch, |values| {
            let (mut buffer, kept) = (Vec::new(), (encoding, self.features.disk));
            Form::find(self.stage, kept, &layout, values.widened(&mut buffer))
        })
    }

    /// Encodes the features of a batch.
    fn run(&self, batch: &Batch, layout: &Layout, out: &mut StoredSamples) -> Result<()> {
        let one = layout.shape.values();
        self.forward(batch, |values| {
            out.fill(batch.len(), |at, bytes| encode_sample(values.sample(at, one), layout, bytes))
        })
    }

    /// Hands the features of a batch over, \[sample, y, x, channel\].
    fn forward<T>(&self, batch: &Batch, f: impl FnOnce(Maps<'_>) -> Result<T>) -> Result<T> {
        on_host(&self.block.forward(&batch.x)?, f)?
    }
}

/// Samples of these shapes, read and made, that a device takes at once.
pub(crate) fn at_once(device: &Device, read: Shape, made: Shape) -> usize {
    processor(device).extraction_batch(read, made)
}

/// What computes on a device.
pub(crate) fn processor(device: &Device) -> Processor {
    if device.is_cpu() { Processor::Cpu { threads: rayon::current_num_threads() } } else { Processor::Gpu }
}

/// The view of a split that is written as one of a number.
fn view_of(split: Split, view: usize) -> View {
    if split == Split::Train { View::Cached(view) } else { View::CentreCanvas }
}
