use std::sync::Arc;

use espalier_job::{Data, Interpolation};

use crate::augment::Canvas;
use crate::normalise::Normalise;
use crate::picture::Picture;
use crate::source::{Role, Source};
use crate::{Augmentation, DataError, Shape, resample};

/// Images and their labels, numbered from 0. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Arc<Source>,
    /// The samples of the source this set has, when not all.
    subset: Option<Arc<[u32]>>,
    normalise: Arc<Normalise>,
    shape: Shape,
    crop_pct: f64,
    interpolation: Interpolation,
    /// Threads that load a batch.
    loaders: usize,
}

impl Dataset {
    /// The validation data of a job, for whoever needs no training data; `loaders` threads load it.
    ///
    /// # Errors
    /// Files that are missing or damaged, and fields that do not fit them.
    pub fn validation(data: &Data, shape: Shape, loaders: usize) -> Result<Self, DataError> {
        Self::open(data, Role::Validation, shape, loaders)
    }

    pub(crate) fn open(
        data: &Data,
        role: Role,
        shape: Shape,
        loaders: usize,
    ) -> Result<Self, DataError> {
        let normalise = Normalise::new(data, shape)?;
        Ok(Self {
            source: Arc::new(Source::open(data, role, shape, loaders)?),
            subset: None,
            normalise: Arc::new(normalise),
            shape,
            crop_pct: data.crop_pct,
            interpolation: data.interpolation,
            loaders,
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

    /// Threads that load a batch, at least 1.
    pub fn loaders(&self) -> usize {
        self.loaders.max(1)
    }

    /// The label of sample `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    pub fn label(&self, index: usize) -> u32 {
        self.source.label(self.position(index))
    }

    /// Puts `sample` into `image`, normalised, CHW, and gives its label: the centre of the image, or
    /// what `augmentation` makes of it. A damaged image that is to be skipped has the next good one of
    /// this set in its place, changed as it would have been.
    ///
    /// # Errors
    /// An image that cannot be read or decoded, and too many that are skipped.
    ///
    /// # Panics
    /// If `sample` is not below [`Self::len`], or `image` is not [`Shape::values`] long.
    pub fn load(
        &self,
        sample: u32,
        augmentation: Option<Augmentation<'_>>,
        image: &mut [f32],
    ) -> Result<u32, DataError> {
        assert_eq!(image.len(), self.shape.values(), "room for one image");
        let (index, picture) = self.good(sample)?;
        let canvas = Canvas {
            shape: self.shape,
            interpolation: self.interpolation,
            fill: self.normalise.mean(),
        };
        match augmentation {
            None => self.normalise.apply(&self.centre(picture), image),
            Some(augmentation) => {
                let seen = augmentation.crop(sample, &picture, canvas);
                let seen = seen.unwrap_or_else(|| self.centre(picture));
                self.normalise
                    .apply(&augmentation.change(sample, seen, canvas), image);
                augmentation.erase(sample, self.shape, image);
            }
        }
        Ok(self.label(index))
    }

    /// The first image from `sample` on that can be decoded, and its number.
    fn good(&self, sample: u32) -> Result<(usize, Picture), DataError> {
        for offset in 0..self.len() {
            let index = (sample as usize + offset) % self.len();
            let position = self.position(index);
            match self.source.picture(position, self.shape) {
                Ok(picture) => return Ok((index, picture)),
                Err(DataError::Image(bad)) => self.source.skip(position, bad)?,
                Err(other) => return Err(other),
            }
        }
        let reason = format!("all {} images are damaged", self.len());
        Err(DataError::field("data.damaged", reason))
    }

    /// What evaluation sees of a picture.
    fn centre(&self, picture: Picture) -> Picture {
        let side = self.shape.image_size;
        if self.crop_pct == 1.0 && (picture.width, picture.height) == (side, side) {
            return picture;
        }
        resample::centre(&picture, side, self.crop_pct, self.interpolation)
    }

    /// The digest of the files this set was opened from, as `sha256:...`: of their content once
    /// decompressed, or for an image folder of its classes and of every file's path and size.
    /// Training and calibration split share it.
    pub fn digest(&self) -> &str {
        self.source.digest()
    }

    fn position(&self, index: usize) -> usize {
        match &self.subset {
            Some(subset) => subset[index] as usize,
            None => index,
        }
    }
}
