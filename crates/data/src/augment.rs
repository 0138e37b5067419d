//! The random changes to the images of one step: those of a sample are a pure function of
//! (seed, step, sample), and of nothing else that is drawn.
//!
//! In timm's order: a part is cropped and scaled, mirrored, shifted, changed in colour and geometry,
//! normalised, and a rectangle is erased. Each change has a stream of its own, so that switching one on
//! leaves the others' draws as they were.

mod crop;
mod erase;
mod operation;
mod policy;
mod shift;

use espalier_job::{Augment, Interpolation};

use crate::picture::Picture;
use crate::{Shape, resample};

/// The random changes to the images of one step.
#[derive(Clone, Copy, Debug)]
pub struct Augmentation<'a> {
    /// Which changes are made.
    pub changes: &'a Augment,
    /// The job's seed.
    pub seed: u64,
    /// The step, from 1.
    pub step: u64,
}

/// How a picture is scaled, and what shows where a turned one has no pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Canvas<'a> {
    pub(crate) shape: Shape,
    pub(crate) interpolation: Interpolation,
    /// Per channel.
    pub(crate) fill: &'a [u8],
}

/// What the draws of one sample are keyed by.
#[derive(Clone, Copy, Debug)]
struct Key {
    seed: u64,
    step: u64,
    sample: u32,
}

impl Augmentation<'_> {
    /// The part of a decoded picture that is seen, if it is drawn, scaled to the model's size.
    pub(crate) fn crop(
        &self,
        sample: u32,
        picture: &Picture,
        canvas: Canvas<'_>,
    ) -> Option<Picture> {
        let asked = self.changes.crop.as_ref()?;
        let part = crop::part(asked, self.key(sample), picture.width, picture.height);
        let part = picture.part(part.left, part.top, part.width, part.height);
        Some(resample::whole(
            &part,
            canvas.shape.image_size,
            canvas.interpolation,
        ))
    }

    /// Changes a picture of the model's size.
    pub(crate) fn change(&self, sample: u32, picture: Picture, canvas: Canvas<'_>) -> Picture {
        let key = self.key(sample);
        let shifted = shift::apply(self.changes, key, picture);
        match &self.changes.rand {
            None => shifted,
            Some(asked) => policy::draw(asked, key)
                .into_iter()
                .fold(shifted, |picture, operation| {
                    operation.apply(picture, canvas)
                }),
        }
    }

    /// Changes a normalised image, CHW.
    pub(crate) fn erase(&self, sample: u32, shape: Shape, image: &mut [f32]) {
        if let Some(asked) = &self.changes.erase {
            erase::apply(asked, self.key(sample), shape, image);
        }
    }

    fn key(&self, sample: u32) -> Key {
        Key {
            seed: self.seed,
            step: self.step,
            sample,
        }
    }
}

impl Key {
    fn rng(self, stream: espalier_random::Stream) -> espalier_random::ChaCha8Rng {
        espalier_random::rng(self.seed, stream, self.step, u64::from(self.sample))
    }
}
