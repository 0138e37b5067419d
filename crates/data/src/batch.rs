use crate::{Augmentation, DataError, Dataset};

/// Images and labels, sample after sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Images, BCHW.
    pub images: Vec<f32>,
    /// Labels, B.
    pub labels: Vec<i64>,
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

/// Loads `samples` of `dataset` in their order, changed by `augmentation` if there is one.
///
/// # Errors
/// An image file that cannot be read or decoded.
///
/// # Panics
/// If a sample is not below the dataset's length.
pub fn load_batch(
    dataset: &Dataset,
    samples: &[u32],
    augmentation: Option<Augmentation<'_>>,
) -> Result<Batch, DataError> {
    let shape = dataset.shape();
    let black = dataset.black();
    let mut batch = Batch {
        images: vec![0.0; samples.len() * shape.values()],
        labels: Vec::with_capacity(samples.len()),
    };
    for (&sample, image) in samples
        .iter()
        .zip(batch.images.chunks_exact_mut(shape.values()))
    {
        dataset.load(sample as usize, image)?;
        if let Some(augmentation) = augmentation {
            augmentation.apply(sample, shape, &black, image);
        }
        batch.labels.push(i64::from(dataset.label(sample as usize)));
    }
    Ok(batch)
}
