use espalier_job::Data;

use crate::picture::Picture;
use crate::{DataError, Shape};

/// (pixel / 255 - mean) / std per channel, as a table over the 256 pixel values.
#[derive(Debug)]
pub(crate) struct Normalise {
    tables: Vec<[f32; 256]>,
    /// The mean pixel.
    mean: Vec<u8>,
}

impl Normalise {
    pub(crate) fn new(data: &Data, shape: Shape) -> Result<Self, DataError> {
        let per_channel = |field, values: &[f64]| match values {
            [one] => Ok(vec![*one; shape.channels]),
            many if many.len() == shape.channels => Ok(many.to_vec()),
            many => {
                let (given, channels) = (many.len(), shape.channels);
                let reason = format!("{given} values for {channels} channels");
                Err(DataError::field(field, reason))
            }
        };
        let means = per_channel("data.mean", &data.mean)?;
        let stds = per_channel("data.std", &data.std)?;
        let mean = means
            .iter()
            .map(|mean| (mean * 255.0).round_ties_even() as u8);
        let table = |(mean, std): (&f64, f64)| {
            std::array::from_fn(|pixel| ((pixel as f64 / 255.0 - mean) / std) as f32)
        };
        Ok(Self {
            tables: means.iter().zip(stds).map(table).collect(),
            mean: mean.collect(),
        })
    }

    /// Normalises `picture` into `image`, CHW.
    pub(crate) fn apply(&self, picture: &Picture, image: &mut [f32]) {
        let planes = image.chunks_exact_mut(picture.width * picture.height);
        for (channel, (table, plane)) in self.tables.iter().zip(planes).enumerate() {
            let pixels = picture
                .pixels
                .iter()
                .skip(channel)
                .step_by(picture.channels);
            for (value, &pixel) in plane.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel)];
            }
        }
    }

    /// The mean pixel, one value per channel.
    pub(crate) fn mean(&self) -> &[u8] {
        &self.mean
    }
}
