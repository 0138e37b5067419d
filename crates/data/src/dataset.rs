use std::sync::Arc;

use espalier_job::Data;

use crate::normalise::Normalise;
use crate::source::{Role, Source};
use crate::{DataError, Shape};

/// Images and their labels, numbered from 0. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Arc<Source>,
    /// The samples of the source this set has, when not all.
    subset: Option<Arc<[u32]>>,
    normalise: Arc<Normalise>,
    shape: Shape,
}

impl Dataset {
    /// The validation data of a job, for whoever needs no training data.
    ///
    /// # Errors
    /// Files that are missing or damaged, and fields that do not fit them.
    pub fn validation(data: &Data, shape: Shape) -> Result<Self, DataError> {
        Self::open(data, Role::Validation, shape)
    }

    pub(crate) fn open(data: &Data, role: Role, shape: Shape) -> Result<Self, DataError> {
        let normalise = Normalise::new(data, shape)?;
        Ok(Self {
            source: Arc::new(Source::open(data, role, shape)?),
            subset: None,
            normalise: Arc::new(normalise),
            shape,
        })
    }

    /// The samples of this whole set numbered in `subset`.
    pub(crate) fn only(&self, subset: Vec<u32>) -> Self {
        Self {
            subset: Some(subset.into()),
            ..self.clone()
        }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match &self.subset {
            Some(subset) => subset.len(),
            None => self.source.len(),
        }
    }

    /// Whether there are no samples; never of an opened set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the images are shaped like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of classes of the model; every label is below it.
    pub fn classes(&self) -> usize {
        self.shape.classes
    }

    /// The label of sample `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    pub fn label(&self, index: usize) -> u32 {
        self.source.label(self.position(index))
    }

    /// Puts sample `index` into `image`, normalised, CHW.
    ///
    /// # Errors
    /// An image file that cannot be read or decoded.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`], or `image` is not [`Shape::values`] long.
    pub fn load(&self, index: usize, image: &mut [f32]) -> Result<(), DataError> {
        assert_eq!(image.len(), self.shape.values(), "room for one image");
        let pixels = self.source.pixels(self.position(index), self.shape)?;
        self.normalise.apply(self.shape.plane(), &pixels, image);
        Ok(())
    }

    /// The digest of the files this set was opened from, as `sha256:...`: of their content once
    /// decompressed, or for an image folder of its classes and of every file's path and size.
    /// Training and calibration split share it.
    pub fn digest(&self) -> &str {
        self.source.digest()
    }

    /// The normalised value of a zero pixel, per channel.
    pub(crate) fn black(&self) -> Vec<f32> {
        self.normalise.black().collect()
    }

    fn position(&self, index: usize) -> usize {
        match &self.subset {
            Some(subset) => subset[index] as usize,
            None => index,
        }
    }
}
