use std::thread;

use crate::{Augmentation, DataError, Dataset, Mixed};

/// Images and labels, sample after sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Images, BCHW.
    pub images: Vec<f32>,
    /// Labels, B; of mixed images those with the larger share.
    pub labels: Vec<i64>,
    /// The second labels, if images were mixed.
    pub mixed: Option<Mixed>,
}

impl Batch {
    /// Number of samples B.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Loads `samples` of `dataset` in their order, changed by `augmentation` if there is one, on as many
/// threads as the set has loaders.
///
/// # Errors
/// An image that cannot be read or decoded: the first of them, in the order of the samples.
///
/// # Panics
/// If a sample is not below the dataset's length, or the system cannot start a thread.
pub fn load_batch(
    dataset: &Dataset,
    samples: &[u32],
    augmentation: Option<Augmentation<'_>>,
) -> Result<Batch, DataError> {
    let values = dataset.shape().values();
    let mut batch = Batch {
        images: vec![0.0; samples.len() * values],
        labels: vec![0; samples.len()],
        mixed: None,
    };
    let load = |samples: &[u32], images: &mut [f32], labels: &mut [i64]| {
        let places = images.chunks_exact_mut(values).zip(labels);
        for (&sample, (image, label)) in samples.iter().zip(places) {
            *label = i64::from(dataset.load(sample, augmentation, image)?);
        }
        Ok(())
    };
    let share = samples.len().div_ceil(dataset.loaders()).max(1);
    if share >= samples.len() {
        load(samples, &mut batch.images, &mut batch.labels)?;
        return Ok(batch);
    }
    thread::scope(|scope| {
        let parts = samples
            .chunks(share)
            .zip(batch.images.chunks_mut(share * values))
            .zip(batch.labels.chunks_mut(share));
        let threads: Vec<_> = parts
            .map(|((samples, images), labels)| scope.spawn(move || load(samples, images, labels)))
            .collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All are joined before the first error is given.
        results
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<(), _>>()
    })?;
    Ok(batch)
}
