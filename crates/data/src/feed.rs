use espalier_job::{Augment, Mix};

use crate::mix::mix;
use crate::{Augmentation, Batch, DataError, Dataset, Sampler};

/// What micro-batches are made of.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Where samples come from.
    pub dataset: Dataset,
    /// Which samples a step holds.
    pub sampler: Sampler,
    /// Samples in a micro-batch.
    pub micro_batch: usize,
    /// Changes to the images.
    pub augment: Augment,
    /// How images are mixed, if they are.
    pub mix: Option<Mix>,
    /// The job's seed.
    pub seed: u64,
}

/// A micro-batch to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The step s, from 1.
    pub step: u64,
    /// The micro-batch v of the step, from 0.
    pub micro_batch: usize,
}

/// A micro-batch, loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Which one.
    pub work: Work,
    /// Its images and labels.
    pub batch: Batch,
}

impl Feed {
    /// Loads one micro-batch: a pure function of the feed and `work`.
    ///
    /// # Errors
    /// An image that cannot be read or decoded.
    ///
    /// # Panics
    /// If the step has no such micro-batch.
    pub fn load(&mut self, work: Work) -> Result<Loaded, DataError> {
        let mut batch = Batch::default();
        for sample in self.samples(work) {
            let (image, label) = self.sample(work, sample)?;
            batch.images.extend(image);
            batch.labels.push(label);
        }
        Ok(self.finish(work, batch))
    }

    /// The samples of a micro-batch, in order.
    pub(crate) fn samples(&mut self, work: Work) -> Vec<u32> {
        let first = work.micro_batch * self.micro_batch;
        self.sampler.step_samples(work.step)[first..first + self.micro_batch].to_vec()
    }

    /// One image, CHW, and its label.
    pub(crate) fn sample(&self, work: Work, sample: u32) -> Result<(Vec<f32>, i64), DataError> {
        let augmentation = Augmentation {
            changes: &self.augment,
            seed: self.seed,
            step: work.step,
        };
        let mut image = vec![0.0; self.dataset.shape().values()];
        let label = self.dataset.load(sample, Some(augmentation), &mut image)?;
        Ok((image, i64::from(label)))
    }

    /// What is done to a micro-batch as a whole.
    pub(crate) fn finish(&self, work: Work, mut batch: Batch) -> Loaded {
        if let Some(asked) = &self.mix {
            let key = (self.seed, work.step, work.micro_batch as u64);
            mix(asked, key, self.dataset.shape(), &mut batch);
        }
        Loaded { work, batch }
    }
}
