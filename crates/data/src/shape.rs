use espalier_job::Dims;

/// What a model expects of its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels C: 1 for grey, 3 for colour.
    pub channels: usize,
    /// Height H and width W, in pixels.
    pub image_size: usize,
    /// Labels are below this.
    pub classes: usize,
}

impl Shape {
    /// Values in an image: C * H * W.
    pub fn values(&self) -> usize {
        self.channels * self.plane()
    }

    /// Values in a channel: H * W.
    pub(crate) fn plane(&self) -> usize {
        self.image_size * self.image_size
    }
}

impl From<Dims> for Shape {
    fn from(dims: Dims) -> Self {
        Self {
            channels: dims.channels as usize,
            image_size: dims.image_size as usize,
            classes: dims.classes as usize,
        }
    }
}
