//! AdamW on the flat vector of all parameters.

use espalier_job::Optimizer;
use tch::{Device, Kind, Tensor};

/// The optimiser's state over P parameters, and what differs from one element to the next.
#[derive(Debug)]
pub(super) struct AdamW {
    config: Optimizer,
    /// Learning rate over that of the weights, f32 `[P]`.
    lr_scale: Tensor,
    /// Decoupled weight decay, f32 `[P]`.
    decay: Tensor,
    mean: Tensor,
    square: Tensor,
}

impl AdamW {
    /// A fresh optimiser: both moments zero. `lr_scale` and `decay` are f32 `[P]`.
    pub(super) fn new(config: &Optimizer, lr_scale: Tensor, decay: Tensor) -> Self {
        let zeros = || Tensor::zeros_like(&lr_scale);
        Self {
            config: config.clone(),
            mean: zeros(),
            square: zeros(),
            lr_scale,
            decay,
        }
    }

    /// The moments, f32 `[P]` each: mean of gradients, mean of squared gradients.
    pub(super) fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.mean, &self.square)
    }

    /// Takes the moments of a checkpoint; false when their shape is another.
    pub(super) fn restore(&mut self, mean: &Tensor, square: &Tensor) -> bool {
        if mean.size() != self.mean.size() || square.size() != self.square.size() {
            return false;
        }
        self.mean.copy_(mean);
        self.square.copy_(square);
        true
    }

    /// Update `t` (from 1) of `parameters` (f32 `[P]`) at learning rate `lr`, with the summed
    /// gradient (`[P]`, any float). Returns the gradient's norm before clipping.
    pub(super) fn step(
        &mut self,
        parameters: &mut Tensor,
        gradient: &Tensor,
        t: u64,
        lr: f64,
    ) -> f64 {
        let Optimizer {
            beta1,
            beta2,
            eps,
            clip_norm,
            ..
        } = self.config;
        let norm = gradient.square().sum(Kind::Double).sqrt().double_value(&[]);
        let scale = clip_scale(norm, clip_norm);
        let gradient = (gradient * scale).to_kind(Kind::Float);

        let _ = self.mean.g_mul_scalar_(beta1);
        self.mean += &gradient * (1.0 - beta1);
        let _ = self.square.g_mul_scalar_(beta2);
        self.square += gradient.square() * (1.0 - beta2);

        // exp(t ln beta), not powi: t outgrows an i32.
        let correction1 = 1.0 - (t as f64 * beta1.ln()).exp();
        let correction2 = 1.0 - (t as f64 * beta2.ln()).exp();
        let denominator = self.square.sqrt() / correction2.sqrt() + eps;
        let rate = &self.lr_scale * lr;
        *parameters -= &rate * &self.decay * &*parameters;
        *parameters -= rate * (&self.mean / correction1) / denominator;
        norm
    }
}

/// What the gradient is multiplied with so that its norm is at most `clip_norm`; 0 turns it off.
fn clip_scale(norm: f64, clip_norm: f64) -> f64 {
    if clip_norm > 0.0 && norm > clip_norm {
        clip_norm / norm
    } else {
        1.0
    }
}

/// An f32 `[P]` tensor of one value per run of elements.
pub(super) fn per_element(runs: impl Iterator<Item = (usize, f64)>, device: Device) -> Tensor {
    let mut values = Vec::new();
    for (count, value) in runs {
        values.resize(values.len() + count, value as f32);
    }
    Tensor::from_slice(&values).to_device(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Algorithm 2 of arXiv 1711.05101 in f64, one element.
    fn reference(
        config: &Optimizer,
        gradients: &[f64],
        mut weight: f64,
        decay: f64,
        lr: f64,
    ) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (index, gradient) in gradients.iter().enumerate() {
            let t = index as i32 + 1;
            m = config.beta1 * m + (1.0 - config.beta1) * gradient;
            v = config.beta2 * v + (1.0 - config.beta2) * gradient * gradient;
            let m_hat = m / (1.0 - config.beta1.powi(t));
            let v_hat = v / (1.0 - config.beta2.powi(t));
            weight -= lr * decay * weight + lr * m_hat / (v_hat.sqrt() + config.eps);
        }
        weight
    }

    #[test]
    fn follows_the_closed_form() {
        let config = Optimizer {
            clip_norm: 0.0,
            ..Optimizer::default()
        };
        let scales = [1.0, 1.0, 10.0];
        let decays = [0.05, 0.0, 0.0];
        let start = [0.5, -1.25, 2.0];
        let gradients: Vec<[f64; 3]> = (0..20)
            .map(|t| {
                let t = f64::from(t);
                [t.sin(), 1e-3 * t.cos(), -0.7]
            })
            .collect();
        let runs = |values: [f64; 3]| per_element(values.into_iter().map(|v| (1, v)), Device::Cpu);
        let mut adamw = AdamW::new(&config, runs(scales), runs(decays));
        let mut weights = runs(start);
        for (index, gradient) in gradients.iter().enumerate() {
            adamw.step(
                &mut weights,
                &Tensor::from_slice(gradient),
                index as u64 + 1,
                1e-2,
            );
        }
        for element in 0..3 {
            let own: Vec<f64> = gradients.iter().map(|g| g[element]).collect();
            let expected = reference(
                &config,
                &own,
                start[element],
                decays[element],
                1e-2 * scales[element],
            );
            let got = weights.double_value(&[element as i64]);
            assert!((got - expected).abs() < 2e-6, "{element}: {got} {expected}");
        }
    }

    #[test]
    fn clips_by_the_whole_norm_and_reports_it() {
        let config = Optimizer {
            clip_norm: 1.0,
            beta1: 0.0,
            ..Optimizer::default()
        };
        let ones = || per_element([(2, 1.0)].into_iter(), Device::Cpu);
        let mut adamw = AdamW::new(&config, ones(), ones());
        let norm = adamw.step(&mut ones(), &Tensor::from_slice(&[3.0, 4.0]), 1, 1e-3);
        assert!((norm - 5.0).abs() < 1e-12);
        let mean = Vec::<f32>::try_from(adamw.moments().0).unwrap();
        assert!((mean[0] - 0.6).abs() < 1e-6 && (mean[1] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn refuses_moments_of_another_model() {
        let ones = |count| per_element([(count, 1.0)].into_iter(), Device::Cpu);
        let mut adamw = AdamW::new(&Optimizer::default(), ones(2), ones(2));
        assert!(!adamw.restore(&ones(3), &ones(3)));
        assert!(adamw.restore(&ones(2), &ones(2)));
    }
}
