//! All parameters of a stage one after another in a single vector, for the all-reduce, the
//! optimiser and the moving average.

use espalier_vit::{Param, ParamKind};
use tch::{Device, Kind, Tensor, no_grad};

use super::optimizer::per_element;

/// The parameters, in the model's fixed order.
#[derive(Debug)]
pub(super) struct Flat {
    parameters: Vec<Param>,
    counts: Vec<usize>,
}

/// Learning rates of the gates and of alpha over that of the weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct LrScales {
    /// Of gates.
    pub gate: f64,
    /// Of alpha.
    pub alpha: f64,
}

impl Flat {
    /// Over `parameters`, whose tensors it shares.
    pub(super) fn new(parameters: Vec<Param>) -> Self {
        let counts = parameters.iter().map(|p| p.tensor.numel()).collect();
        Self { parameters, counts }
    }

    /// P, the number of elements.
    pub(super) fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Learning rate of each element over that of the weights, f32 `[P]`.
    pub(super) fn lr_scale(&self, scales: LrScales, device: Device) -> Tensor {
        self.each(device, |kind| match kind {
            ParamKind::Weight { .. } => 1.0,
            ParamKind::Frozen => 0.0,
            ParamKind::Gate => scales.gate,
            ParamKind::Alpha => scales.alpha,
        })
    }

    /// Decoupled weight decay of each element, f32 `[P]`: none on norms, biases, position and CLS
    /// embeddings, gates and alpha. [paper]
    pub(super) fn decay(&self, decay: f64, device: Device) -> Tensor {
        self.each(device, |kind| match kind {
            ParamKind::Weight { decay: true } => decay,
            _ => 0.0,
        })
    }

    fn each(&self, device: Device, value: impl Fn(ParamKind) -> f64) -> Tensor {
        let runs = self.parameters.iter().zip(&self.counts);
        per_element(runs.map(|(p, &count)| (count, value(p.kind))), device)
    }

    /// A copy of the parameters, f32 `[P]`.
    pub(super) fn gather(&self) -> Tensor {
        no_grad(|| {
            let rows: Vec<Tensor> = self
                .parameters
                .iter()
                .map(|p| p.tensor.detach().reshape([-1]))
                .collect();
            Tensor::cat(&rows, 0)
        })
    }

    /// Sets the parameters from a vector `[P]`.
    pub(super) fn scatter(&self, values: &Tensor) {
        no_grad(|| {
            for (parameter, row) in self.parameters.iter().zip(self.rows(values)) {
                let mut tensor = parameter.tensor.shallow_clone();
                tensor.copy_(&row.view_as(&tensor));
            }
        });
    }

    /// Adds the parameters' gradients to `sum` (`[P]`, f64 or f32) and clears them. A parameter
    /// that took no part in the loss adds nothing.
    pub(super) fn take_gradients(&self, sum: &Tensor) {
        no_grad(|| {
            for (parameter, mut row) in self.parameters.iter().zip(self.rows(sum)) {
                let mut gradient = parameter.tensor.grad();
                if gradient.defined() {
                    row += gradient.reshape([-1]).to_kind(sum.kind());
                    let _ = gradient.zero_();
                }
            }
        });
    }

    /// The part of a vector `[P]` that is of the parameter `name`, in its shape.
    pub(super) fn part(&self, vector: &Tensor, name: &str) -> Option<Tensor> {
        let mut parts = self.parameters.iter().zip(self.rows(vector));
        parts
            .find(|(parameter, _)| parameter.name == name)
            .map(|(parameter, row)| row.view_as(&parameter.tensor))
    }

    /// Zeros `[P]` of a kind.
    pub(super) fn zeros(&self, kind: Kind, device: Device) -> Tensor {
        Tensor::zeros([self.len() as i64], (kind, device))
    }

    /// One view per parameter of a vector `[P]`.
    fn rows<'a>(&'a self, values: &'a Tensor) -> impl Iterator<Item = Tensor> + 'a {
        self.counts.iter().scan(0, |start, &count| {
            let row = values.narrow(0, *start, count as i64);
            *start += count as i64;
            Some(row)
        })
    }
}
