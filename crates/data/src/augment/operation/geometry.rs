//! Operations that move pixels: every pixel of the result is interpolated where an affine map puts it.

use espalier_job::Interpolation;

use crate::augment::Canvas;
use crate::picture::Picture;

/// Turns about the centre.
pub(super) fn rotate(picture: &Picture, degrees: f64, canvas: Canvas<'_>) -> Picture {
    let angle = -degrees.to_radians();
    // PIL rounds to fifteen places.
    let rounded = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let minus_sin = rounded(-angle.sin());
    let (x, y) = (picture.width as f64 / 2.0, picture.height as f64 / 2.0);
    let (right, down) = (cos * -x + sin * -y + x, minus_sin * -x + cos * -y + y);
    affine(picture, [cos, sin, right, minus_sin, cos, down], canvas)
}

/// Takes the pixel at (x, y) from (a x + b y + c, d x + e y + f), in coordinates in which pixels have
/// their centres at halves.
pub(super) fn affine(picture: &Picture, matrix: [f64; 6], canvas: Canvas<'_>) -> Picture {
    let [a, b, c, d, e, f] = matrix;
    let (width, height, channels) = (picture.width, picture.height, picture.channels);
    let mut moved = Picture::filled(width, height, canvas.fill);
    for (row, pixels) in moved.rows_mut().enumerate() {
        for (column, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            if !((0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y)) {
                continue;
            }
            for (channel, value) in pixel.iter_mut().enumerate() {
                *value = match canvas.interpolation {
                    Interpolation::Bilinear => bilinear(picture, channel, x - 0.5, y - 0.5),
                    Interpolation::Bicubic => bicubic(picture, channel, x - 0.5, y - 0.5),
                };
            }
        }
    }
    moved
}

/// Between the four nearest pixels; those outside have the value at the edge.
fn bilinear(picture: &Picture, channel: usize, x: f64, y: f64) -> u8 {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let line = |row: isize| {
        let [a, b] = values(picture, channel, left as isize, row);
        a + (b - a) * dx
    };
    let (above, below) = (line(top as isize), line(top as isize + 1));
    // A cast from float cuts off the fraction.
    (above + (below - above) * dy) as u8
}

/// Between the sixteen nearest pixels.
fn bicubic(picture: &Picture, channel: usize, x: f64, y: f64) -> u8 {
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let line = |row: isize| cubic(values(picture, channel, left as isize - 1, row), dx);
    let top = top as isize;
    cubic([top - 1, top, top + 1, top + 2].map(line), dy) as u8
}

/// The cubic through the inner two of four values, at `d` between them.
fn cubic([a, b, c, d]: [f64; 4], at: f64) -> f64 {
    let square = 2.0 * (a - b) + c - d;
    let cube = -a + b - c + d;
    b + at * ((-a + c) + at * (square + at * cube))
}

/// `N` values of a row from `left` on, the row and the columns moved inside the picture.
fn values<const N: usize>(picture: &Picture, channel: usize, left: isize, row: isize) -> [f64; N] {
    let row = row.clamp(0, picture.height as isize - 1) as usize * picture.width;
    std::array::from_fn(|index| {
        let column = (left + index as isize).clamp(0, picture.width as isize - 1) as usize;
        f64::from(picture.pixels[(row + column) * picture.channels + channel])
    })
}
