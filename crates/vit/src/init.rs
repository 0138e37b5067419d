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
        let rng = rng(seed, Stream::Init, 0, self.next - 1);
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<f32> = rng
            .sample_iter::<f32, _>(StandardNormal)
            .filter(|z| z.abs() <= 2.0)
            .map(|z| z * std as f32)
            .take(count)
            .collect();
        Tensor::from_slice(&values)
            .reshape(shape)
            .to_device(self.device)
            .set_requires_grad(true)
    }

    pub(crate) fn constant(&self, shape: &[i64], value: f64) -> Tensor {
        Tensor::full(shape, value, (Kind::Float, self.device)).set_requires_grad(true)
    }

    /// `rows` orthogonal rows of length `norm`, in directions that are uniform; at most `columns` of
    /// them. Not learnable.
    pub(crate) fn orthogonal(&mut self, rows: i64, columns: i64, norm: f64) -> Tensor {
        self.next += 1;
        let shape = [rows, columns];
        let Values::Seed(seed) = self.values else {
            return Tensor::zeros(shape, (Kind::Float, self.device));
        };
        let mut normal = rng(seed, Stream::Init, 0, self.next - 1).sample_iter(StandardNormal);
        let mut done: Vec<Vec<f64>> = Vec::new();
        for _ in 0..rows {
            // Gram-Schmidt.
            let mut row: Vec<f64> = normal.by_ref().take(columns as usize).collect();
            for other in &done {
                let along = dot(&row, other);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            let length = dot(&row, &row).sqrt();
            row.iter_mut().for_each(|x| *x /= length);
            done.push(row);
        }
        let values: Vec<f32> = done.concat().iter().map(|x| (x * norm) as f32).collect();
        self.frozen(&values, &shape)
    }

    /// The given values, row by row; not learnable.
    pub(crate) fn frozen(&self, values: &[f32], shape: &[i64]) -> Tensor {
        Tensor::from_slice(values)
            .reshape(shape)
            .to_device(self.device)
    }

    /// A vector of the given values.
    pub(crate) fn vector(&self, values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
            .to_kind(Kind::Float)
            .to_device(self.device)
            .set_requires_grad(true)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_rows_are_orthogonal_and_of_the_asked_length() {
        let rows = Init::seeded(4, Device::Cpu).orthogonal(6, 9, 3.0);
        let products = rows.matmul(&rows.transpose(0, 1));
        let expected = Tensor::eye(6, (Kind::Float, Device::Cpu)) * 9.0;
        let apart = (products - expected).abs().max().double_value(&[]);
        assert!(apart < 1e-5, "{apart}");
    }
}
