/// An image as it is decoded and changed: rows of pixels, their channels side by side (HWC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1 for grey, 3 for colour.
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// From planes, CHW.
    pub(crate) fn from_planes(side: usize, channels: usize, planes: &[u8]) -> Self {
        let plane = side * side;
        let pixel =
            |index: usize| (0..channels).map(move |channel| planes[channel * plane + index]);
        Self {
            width: side,
            height: side,
            channels,
            pixels: (0..plane).flat_map(pixel).collect(),
        }
    }

    /// Of one colour.
    pub(crate) fn filled(width: usize, height: usize, colour: &[u8]) -> Self {
        Self {
            width,
            height,
            channels: colour.len(),
            pixels: colour.repeat(width * height),
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.width * self.channels)
    }

    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pixels.chunks_exact_mut(self.width * self.channels)
    }

    /// The part of `width` by `height` pixels at (`left`, `top`).
    pub(crate) fn part(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let columns = left * self.channels..(left + width) * self.channels;
        let rows = self.rows().skip(top).take(height);
        Self {
            width,
            height,
            channels: self.channels,
            pixels: rows
                .flat_map(|row| &row[columns.clone()])
                .copied()
                .collect(),
        }
    }
}
