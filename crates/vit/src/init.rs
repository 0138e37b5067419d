use espalier_random::{Rng as _, StandardNormal, Stream, rng};
use tch::{Device, Kind, Tensor};

/// Makes the tensors of a new model. Values come from the job's seed and the order of creation
/// alone, never from libtorch's global generator.
pub(crate) struct Init {
    values: Values,
    device: Device,
    next: u64,
}

enum Values {
    /// Drawn from this seed.
    Seed(u64),
    /// To be overwritten by a checkpoint at once.
    Zeros,
}

impl Init {
    pub(crate) fn seeded(seed: u64, device: Device) -> Self {
        Self::of(Values::Seed(seed), device)
    }

    pub(crate) fn blank(device: Device) -> Self {
        Self::of(Values::Zeros, device)
    }

    fn of(values: Values, device: Device) -> Self {
        Self {
            values,
            device,
            next: 0,
        }
    }

    /// Normal with standard deviation `std`, cut at two of them.
    pub(crate) fn trunc_normal(&mut self, shape: &[i64], std: f64) -> Tensor {
        self.next += 1;
        let Values::Seed(seed) = self.values else {
            return self.constant(shape, 0.0);
        };
        let mut rng = rng(seed, Stream::Init, 0, self.next - 1);
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = (0..count)
            .map(|_| {
                loop {
                    let z: f32 = rng.sample(StandardNormal);
                    if z.abs() <= 2.0 {
                        return z * std as f32;
                    }
                }
            })
            .collect();
        Tensor::from_slice(&values)
            .reshape(shape)
            .to_device(self.device)
            .set_requires_grad(true)
    }

    pub(crate) fn constant(&self, shape: &[i64], value: f64) -> Tensor {
        Tensor::full(shape, value, (Kind::Float, self.device)).set_requires_grad(true)
    }

    /// A vector of the given values.
    pub(crate) fn vector(&self, values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
            .to_kind(Kind::Float)
            .to_device(self.device)
            .set_requires_grad(true)
    }
}
