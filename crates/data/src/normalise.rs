use espalier_job::Data;

use crate::{DataError, Shape};

/// (pixel / 255 - mean) / std per channel, as a table over the 256 pixel values.
#[derive(Debug)]
pub(crate) struct Normalise {
    tables: Vec<[f32; 256]>,
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
        let table = |(mean, std): (f64, f64)| {
            std::array::from_fn(|pixel| ((pixel as f64 / 255.0 - mean) / std) as f32)
        };
        let tables = means.into_iter().zip(stds).map(table).collect();
        Ok(Self { tables })
    }

    /// Normalises `pixels` into `image`, both CHW of `plane` values a channel.
    pub(crate) fn apply(&self, plane: usize, pixels: &[u8], image: &mut [f32]) {
        let planes = pixels
            .chunks_exact(plane)
            .zip(image.chunks_exact_mut(plane));
        for (table, (pixels, values)) in self.tables.iter().zip(planes) {
            for (value, &pixel) in values.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel)];
            }
        }
    }

    /// The normalised value of a zero pixel, per channel.
    pub(crate) fn black(&self) -> impl Iterator<Item = f32> {
        self.tables.iter().map(|table| table[0])
    }
}
