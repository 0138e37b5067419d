//! Time of a forward pass, the dense model and the compressed one in turn, so that what else the
//! machine does falls on both alike.

use std::{convert::Infallible, time::Duration};

use espalier_data::{DataError, Dataset, load_batch};
use espalier_vit::{Routing, Vit};
use tch::{Cuda, Device, Tensor};

use super::{
    card::{ByBatch, LatencyCard},
    report::dense,
    step::tensors,
};
use crate::turns::{self, Contestant, Lap, Rounds, Spread};

const BATCHES: [usize; 3] = [1, 8, 64];
const ROUNDS: Rounds = Rounds {
    warm_up: 3,
    least: 5,
    most: 50,
    time: Duration::from_secs(1),
};

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
    let contestant = |model| -> Contestant<'_, Infallible> {
        Box::new(move |_| Ok(Lap::of(|| forward(model, x_BCHW))))
    };
    let Ok(laps) = turns::in_turn(&mut models.map(contestant), 1, ROUNDS);
    [0, 1].map(|model| Spread::of(laps[model].iter().map(|lap| lap.wall_ms)).median)
}

fn forward(model: &Vit, x_BCHW: &Tensor) {
    model.forward(x_BCHW, &Routing::PerSample);
    if let Device::Cuda(index) = x_BCHW.device() {
        Cuda::synchronize(index as i64);
    }
}
