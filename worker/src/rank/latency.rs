//! Time of a forward pass, the dense model and the compressed one in turn, so that what else the
//! machine does falls on both alike.

use std::time::{Duration, Instant};

use espalier_data::{DataError, Dataset, load_batch};
use espalier_vit::{Routing, Vit};
use tch::{Cuda, Device, Tensor, no_grad};

use super::{
    card::{ByBatch, LatencyCard},
    report::dense,
    step::tensors,
};

const BATCHES: [usize; 3] = [1, 8, 64];
/// Rounds that are not counted: caches and allocators fill.
const WARM_UP: usize = 3;
/// Rounds of a batch size: at least, at most, and until this much time has passed.
const ROUNDS: (usize, usize) = (5, 50);
const TIME: Duration = Duration::from_secs(1);

/// Medians by batch size. `model` runs in per-sample mode: what its gates skip is not computed.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn latency(model: &Vit, dataset: &Dataset) -> Result<LatencyCard, DataError> {
    let dense = dense(model.config(), model.device());
    let (mut slow, mut fast) = (ByBatch::new(), ByBatch::new());
    for size in BATCHES {
        // A set smaller than the batch fills it by repeating its images.
        let samples: Vec<u32> = (0..size)
            .map(|sample| (sample % dataset.len()) as u32)
            .collect();
        let batch = load_batch(dataset, &samples, None)?;
        let (x_BCHW, _) = tensors(&batch, model, model.device());
        let [dense_ms, model_ms] = in_turn([&dense, model], &x_BCHW);
        slow.insert(size.to_string(), dense_ms);
        fast.insert(size.to_string(), model_ms);
    }
    Ok(LatencyCard {
        dense: slow,
        compressed: fast,
    })
}

fn in_turn(models: [&Vit; 2], x_BCHW: &Tensor) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    let (least, most) = ROUNDS;
    for round in 0..WARM_UP + most {
        if round >= WARM_UP + least && start.elapsed() > TIME {
            break;
        }
        for (model, times) in models.iter().zip(&mut times) {
            let time = forward_ms(model, x_BCHW);
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    times.map(median)
}

fn forward_ms(model: &Vit, x_BCHW: &Tensor) -> f64 {
    let start = Instant::now();
    no_grad(|| model.forward(x_BCHW, &Routing::PerSample));
    if let Device::Cuda(index) = x_BCHW.device() {
        Cuda::synchronize(index as i64);
    }
    start.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
