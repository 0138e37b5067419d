//! Accuracy and gate decisions over a dataset, in any number of modes in one pass over the images.

use espalier_data::{DataError, Dataset, load_batch};
use espalier_vit::{Groups, Masks, Output, Routing, Vit};
use tch::{Device, Kind, Tensor, no_grad};

use super::step::tensors;

/// Samples in a forward pass, about. A constant: results then do not depend on who measures.
const CHUNK: usize = 256;

/// Inference batches from this size on are run one by one, skipping what they skip; smaller ones
/// would be so many forward passes that masking in one of them is faster.
const WORTH_SKIPPING: usize = 32;

/// How the gates decide.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode<'a> {
    /// Every sample alone.
    PerSample,
    /// Every run of this many samples together: an inference batch.
    Shared(usize),
    /// As given for each sample of the set, `[samples, M]`.
    Forced(&'a Tensor),
    /// Every sample alone, in a model that is still searched: its masks, and whether gates are
    /// held open.
    Searched(&'a Masks, bool),
}

/// What a mode gives over a dataset.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Samples classified right.
    pub correct: u64,
    /// Samples.
    pub samples: u64,
    /// Whether each module ran for each sample, 0 or 1, f32 `[samples, M]` on the processor.
    pub decisions_BM: Tensor,
    /// The margin by which each module was decided, f32 `[samples, M]` on the processor; infinite where
    /// no gate was asked.
    pub margins_BM: Tensor,
}

impl Measured {
    /// The same result, for another mode that is known to give it.
    pub(crate) fn share(&self) -> Self {
        Self {
            decisions_BM: self.decisions_BM.shallow_clone(),
            margins_BM: self.margins_BM.shallow_clone(),
            ..*self
        }
    }

    /// Share of samples classified right.
    pub(crate) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }

    /// Share of samples that ran each module, M values.
    pub(crate) fn rates(&self) -> Vec<f64> {
        let mean_M = self
            .decisions_BM
            .mean_dim([0].as_slice(), false, Kind::Double);
        (0..mean_M.size()[0])
            .map(|module| mean_M.double_value(&[module]))
            .collect()
    }
}

/// Runs `model` in each of `modes` over the first `limit` samples of `dataset`.
///
/// # Errors
/// An image that cannot be read.
pub(crate) fn measure(
    model: &Vit,
    dataset: &Dataset,
    limit: usize,
    modes: &[Mode<'_>],
) -> Result<Vec<Measured>, DataError> {
    let count = dataset.len().min(limit);
    let chunk = chunk_of(modes);
    let mut tallies: Vec<Tally> = modes.iter().map(|_| Tally::default()).collect();
    for first in (0..count).step_by(chunk) {
        let samples: Vec<u32> = (first..count.min(first + chunk))
            .map(|sample| sample as u32)
            .collect();
        let batch = load_batch(dataset, &samples, None)?;
        let (x_BCHW, label_B) = tensors(&batch, model, model.device());
        for (mode, tally) in modes.iter().zip(&mut tallies) {
            no_grad(|| run(model, &x_BCHW, &label_B, mode, first, tally));
        }
    }
    Ok(tallies.into_iter().map(Tally::finish).collect())
}

/// A whole number of every mode's inference batches. The modes of one call share it, so their
/// sizes must divide one another; those of the report card do.
fn chunk_of(modes: &[Mode<'_>]) -> usize {
    let largest = modes.iter().map(|mode| match mode {
        Mode::Shared(size) => *size,
        _ => 1,
    });
    let largest = largest.max().unwrap_or(1).max(1);
    largest * (CHUNK / largest).max(1)
}

/// Runs `mode` over the chunk that starts at sample `first`.
fn run(
    model: &Vit,
    x_BCHW: &Tensor,
    label_B: &Tensor,
    mode: &Mode<'_>,
    first: usize,
    tally: &mut Tally,
) {
    let batch = x_BCHW.size()[0];
    let ids = |size: i64| -> Vec<i64> { (0..batch).map(|sample| sample / size).collect() };
    let output = match *mode {
        Mode::PerSample => model.forward(x_BCHW, &Routing::PerSample),
        Mode::Forced(decisions_BM) => {
            let own = decisions_BM.narrow(0, first as i64, batch);
            model.forward(x_BCHW, &Routing::Forced(&own))
        }
        Mode::Shared(size) if size >= WORTH_SKIPPING => {
            for (x_BCHW, label_B) in x_BCHW
                .split(size as i64, 0)
                .iter()
                .zip(&label_B.split(size as i64, 0))
            {
                tally.add(&model.forward(x_BCHW, &Routing::Shared), label_B);
            }
            return;
        }
        Mode::Shared(size) => grouped(model, x_BCHW, &ids(size as i64), None, false),
        Mode::Searched(masks, open) => grouped(model, x_BCHW, &ids(1), Some(masks), open),
    };
    tally.add(&output, label_B);
}

/// The decisions of shared mode for all groups in one forward pass: a group keeps a module where
/// its margin less the threshold is above 0. The
/// module's output counts for the groups that keep it and is multiplied by 0 for the others, so
/// that this gives what really skipping gives, at full cost.
fn grouped(model: &Vit, x_BCHW: &Tensor, ids: &[i64], masks: Option<&Masks>, open: bool) -> Output {
    let device = model.device();
    let groups = Groups::new(ids, device);
    let modules = model.config().dims.modules();
    let threshold = |samples: f64| {
        let gate = model.config().gate;
        gate.map_or(0.0, |gate| gate.threshold_of(samples as i64))
    };
    let sizes = groups.sizes_G().iter::<f64>();
    let threshold_G: Vec<f32> = sizes
        .into_iter()
        .flatten()
        .map(|samples| threshold(samples) as f32)
        .collect();
    let threshold_G1 = Tensor::from_slice(&threshold_G)
        .unsqueeze(1)
        .to_device(device);
    let chance_GM = model
        .chance_GM(x_BCHW, ids)
        .unwrap_or_else(|| Tensor::zeros([groups.count(), modules], (Kind::Float, device)));
    model.forward(
        x_BCHW,
        &Routing::Train {
            groups: &groups,
            noise_GM: &(chance_GM - threshold_G1),
            tau: 1.0,
            open,
            masks,
        },
    )
}

#[derive(Default)]
struct Tally {
    correct: u64,
    samples: u64,
    decisions: Vec<Tensor>,
    margins: Vec<Tensor>,
}

impl Tally {
    fn add(&mut self, output: &Output, label_B: &Tensor) {
        let hits = output.logits_BK.argmax(-1, false).eq_tensor(label_B);
        self.correct += hits.sum(Kind::Int64).int64_value(&[]) as u64;
        self.samples += label_B.size()[0] as u64;
        self.decisions
            .push(output.decisions_BM.to_device(Device::Cpu));
        self.margins.push(output.margins_BM.to_device(Device::Cpu));
    }

    fn finish(self) -> Measured {
        Measured {
            correct: self.correct,
            samples: self.samples,
            decisions_BM: Tensor::cat(&self.decisions, 0),
            margins_BM: Tensor::cat(&self.margins, 0),
        }
    }
}
