//! Mixup and cutmix: each image of a micro-batch and another of it, the labels in the same shares.
//!
//! The partner of sample i of B is sample B - 1 - i, and what is drawn is a pure function of
//! (seed, step, micro-batch): mixing never looks beyond a micro-batch, so the number of workers
//! changes nothing.

use espalier_job::{Mix, MixMode};
use espalier_random::{ChaCha8Rng, Rng as _, Stream, beta, rng};

use crate::{Batch, Shape};

/// The second labels of mixed samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mixed {
    /// Labels of the other images, B.
    pub others: Vec<i64>,
    /// Share of [`Batch::labels`] in the target, B, in [0.5, 1]; the rest is that of `others`.
    pub shares: Vec<f32>,
}

/// How an image is mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Blend {
    /// Share of the image itself.
    share: f64,
    /// What is taken from the other image, when it is a part of it.
    part: Option<Part>,
}

/// Rows and columns, the ends left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    rows: (usize, usize),
    columns: (usize, usize),
}

/// Mixes the images of `micro_batch` of a step.
pub(crate) fn mix(
    asked: &Mix,
    (seed, step, micro_batch): (u64, u64, u64),
    shape: Shape,
    batch: &mut Batch,
) {
    let count = batch.len();
    let blends = blends(
        asked,
        &mut rng(seed, Stream::Mix, step, micro_batch),
        shape,
        count,
    );
    for first in 0..count / 2 {
        let second = count - 1 - first;
        let (head, tail) = batch.images.split_at_mut(second * shape.values());
        let one = &mut head[first * shape.values()..][..shape.values()];
        let other = &mut tail[..shape.values()];
        let before = one.to_vec();
        blends[first].apply(shape, one, other);
        blends[second].apply(shape, other, &before);
    }
    let labels = batch.labels.clone();
    let mut mixed = Mixed::default();
    for (index, blend) in blends.iter().enumerate() {
        let other = labels[count - 1 - index];
        let (label, other, share) = match blend.share {
            share if share < 0.5 => (other, labels[index], 1.0 - share),
            share => (labels[index], other, share),
        };
        batch.labels[index] = label;
        mixed.others.push(other);
        mixed.shares.push(share as f32);
    }
    batch.mixed = Some(mixed);
}

fn blends(asked: &Mix, rng: &mut ChaCha8Rng, shape: Shape, count: usize) -> Vec<Blend> {
    match asked.mode {
        MixMode::Batch => vec![Blend::draw(asked, rng, shape.image_size); count],
        MixMode::Elem => (0..count)
            .map(|_| Blend::draw(asked, rng, shape.image_size))
            .collect(),
    }
}

impl Blend {
    const NONE: Self = Self {
        share: 1.0,
        part: None,
    };

    fn draw(asked: &Mix, rng: &mut ChaCha8Rng, side: usize) -> Self {
        if rng.random::<f64>() >= asked.probability {
            return Self::NONE;
        }
        let both = asked.mixup > 0.0 && asked.cutmix > 0.0;
        let cuts = match both {
            true => rng.random::<f64>() < asked.switch,
            false => asked.cutmix > 0.0,
        };
        if !cuts {
            return Self {
                share: beta(rng, asked.mixup),
                part: None,
            };
        }
        let part = Part::draw(beta(rng, asked.cutmix), rng, side);
        Self {
            // What the image really keeps: the part may reach over its edge.
            share: 1.0 - part.area() as f64 / (side * side) as f64,
            part: Some(part),
        }
    }

    /// Mixes `image` with `other`, both CHW.
    fn apply(&self, shape: Shape, image: &mut [f32], other: &[f32]) {
        let side = shape.image_size;
        match self.part {
            None => {
                let share = self.share as f32;
                for (value, other) in image.iter_mut().zip(other) {
                    *value = share * *value + (1.0 - share) * other;
                }
            }
            Some(Part { rows, columns }) => {
                for plane in 0..shape.channels {
                    for row in rows.0..rows.1 {
                        let at = plane * shape.plane() + row * side;
                        let part = at + columns.0..at + columns.1;
                        image[part.clone()].copy_from_slice(&other[part]);
                    }
                }
            }
        }
    }
}

impl Part {
    /// A square of 1 - `share` of the area about a random centre, cut off at the edges.
    fn draw(share: f64, rng: &mut ChaCha8Rng, side: usize) -> Self {
        let length = (side as f64 * (1.0 - share).sqrt()) as usize;
        let mut along = || {
            let centre = rng.random_range(0..side);
            (
                centre.saturating_sub(length / 2),
                (centre + length.div_ceil(2)).min(side),
            )
        };
        Self {
            rows: along(),
            columns: along(),
        }
    }

    fn area(&self) -> usize {
        (self.rows.1 - self.rows.0) * (self.columns.1 - self.columns.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape {
        channels: 2,
        image_size: 8,
        classes: 100,
    };

    /// Sample i is filled with i and has label i.
    fn batch(count: usize) -> Batch {
        Batch {
            images: (0..count)
                .flat_map(|sample| vec![sample as f32; SHAPE.values()])
                .collect(),
            labels: (0..count as i64).collect(),
            mixed: None,
        }
    }

    fn mixed(asked: &Mix, step: u64, count: usize) -> Batch {
        let mut batch = batch(count);
        mix(asked, (7, step, 3), SHAPE, &mut batch);
        batch
    }

    fn asked() -> impl Strategy<Value = Mix> {
        let alpha = prop_oneof![Just(0.0), 0.1..2.0];
        let mode = prop_oneof![Just(MixMode::Batch), Just(MixMode::Elem)];
        (alpha.clone(), alpha, 0.0..=1.0, 0.0..=1.0, mode)
            .prop_filter("something is on", |(mixup, cutmix, ..)| {
                mixup + cutmix > 0.0
            })
            .prop_map(|(mixup, cutmix, probability, switch, mode)| Mix {
                mixup,
                cutmix,
                probability,
                switch,
                mode,
            })
    }

    proptest! {
        /// The mean of an image is that of its labels in their shares.
        #[test]
        fn labels_have_the_shares_of_the_pixels(
            asked in asked(), step in 1_u64..1000, count in 1_usize..9,
        ) {
            let batch = mixed(&asked, step, count);
            let second = batch.mixed.as_ref().unwrap();
            for (index, image) in batch.images.chunks(SHAPE.values()).enumerate() {
                let (label, other) = (batch.labels[index], second.others[index]);
                let share = f64::from(second.shares[index]);
                let partner = (count - 1 - index) as i64;
                let mut pair = [label, other];
                pair.sort_unstable();
                let mut expected = [index as i64, partner];
                expected.sort_unstable();
                prop_assert_eq!(pair, expected);
                prop_assert!((0.5..=1.0).contains(&share));
                let mean = image.iter().copied().map(f64::from).sum::<f64>()
                    / SHAPE.values() as f64;
                let target = share * label as f64 + (1.0 - share) * other as f64;
                prop_assert!((mean - target).abs() < 1e-4, "mean {} target {}", mean, target);
            }
            prop_assert_eq!(&batch, &mixed(&asked, step, count));
        }
    }

    #[test]
    fn a_batch_shares_a_draw_and_elements_do_not() {
        let shares = |mode, step| {
            let asked = Mix {
                mode,
                ..Mix::default()
            };
            mixed(&asked, step, 6).mixed.unwrap().shares
        };
        for step in 1..20 {
            let shares = shares(MixMode::Batch, step);
            assert_eq!(shares, [shares[0]; 6]);
        }
        assert_ne!(shares(MixMode::Batch, 1), shares(MixMode::Batch, 2));
        let alone = shares(MixMode::Elem, 1);
        assert!(alone.iter().any(|share| *share != alone[0]), "{alone:?}");
    }

    #[test]
    fn cutmix_puts_in_a_rectangle() {
        let asked = Mix {
            mixup: 0.0,
            ..Mix::default()
        };
        for step in 1..50 {
            let batch = mixed(&asked, step, 2);
            let image = &batch.images[..SHAPE.plane()];
            assert!(image.iter().all(|&value| value == 0.0 || value == 1.0));
            let taken = |line: &dyn Fn(usize) -> Vec<f32>| -> Vec<usize> {
                (0..8).filter(|&at| line(at).contains(&1.0)).collect()
            };
            let rows = taken(&|row| image[row * 8..row * 8 + 8].to_vec());
            let columns = taken(&|column| image.iter().skip(column).step_by(8).copied().collect());
            let count = image.iter().filter(|&&value| value == 1.0).count();
            assert_eq!(count, rows.len() * columns.len());
        }
    }

    #[test]
    fn cutmix_takes_the_beta_share_on_average() {
        let mean = |share: f64| {
            let mut rng = rng(1, Stream::Mix, 1, 1);
            let areas = (0..500).map(|_| Part::draw(share, &mut rng, 224).area() as f64);
            areas.sum::<f64>() / 500.0 / (224.0 * 224.0)
        };
        // Cut off at the edges: (1 - l / 4)^2 of the square of side l is left on average.
        for share in [0.9_f64, 0.5] {
            let length = (1.0 - share).sqrt();
            let expected = (length * (1.0 - length / 4.0)).powi(2);
            assert!(
                (mean(share) - expected).abs() < 0.02,
                "{} {expected}",
                mean(share)
            );
        }
    }
}
