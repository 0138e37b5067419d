//! Exponential moving average of the parameters, on the flat vector.

use tch::Tensor;

/// The average, f32 `[P]`.
#[derive(Debug)]
pub(super) struct Ema {
    decay: f64,
    average: Tensor,
}

impl Ema {
    /// Starts at `parameters`; none when `decay` is 0.
    pub(super) fn new(decay: f64, parameters: &Tensor) -> Option<Self> {
        (decay > 0.0).then(|| Self {
            decay,
            average: parameters.copy(),
        })
    }

    /// The average, f32 `[P]`.
    pub(super) fn average(&self) -> &Tensor {
        &self.average
    }

    /// Takes in the parameters after update `t` (from 1). The decay is lower at first, so that
    /// the starting point is soon forgotten.
    pub(super) fn update(&mut self, parameters: &Tensor, t: u64) {
        let t = t as f64;
        let decay = self.decay.min((1.0 + t) / (10.0 + t));
        // In this form what never changes stays what it is, to the bit.
        self.average += (parameters - &self.average) * (1.0 - decay);
    }

    /// Takes the average of a checkpoint; false when its shape is another.
    pub(super) fn restore(&mut self, average: &Tensor) -> bool {
        let fits = average.size() == self.average.size();
        if fits {
            self.average.copy_(average);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_forgets_its_start() {
        let mut ema = Ema::new(0.9, &Tensor::from_slice(&[5.0_f32])).unwrap();
        ema.update(&Tensor::from_slice(&[1.0_f32]), 1);
        let first = ema.average().double_value(&[0]);
        assert!((first - (5.0 * 2.0 / 11.0 + 9.0 / 11.0)).abs() < 1e-6);
        for t in 2..200 {
            ema.update(&Tensor::from_slice(&[1.0_f32]), t);
        }
        assert!((ema.average().double_value(&[0]) - 1.0).abs() < 1e-6);
        assert!(Ema::new(0.0, &Tensor::from_slice(&[1.0_f32])).is_none());
    }
}
