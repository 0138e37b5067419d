//! What is measured: a model, its dense twin, and images.

use anyhow::Context as _;
use espalier_data::load_batch;
use espalier_vit::{Cost, Dims, Vit};
use tch::{Device, Tensor};

use super::synthetic;
use crate::{
    args::{BenchArgs, Precision},
    eval,
    rank::{chain, dense, tensors},
};

/// A model and what it is measured on.
pub(super) struct Subject {
    /// What the model is, for people.
    pub name: String,
    pub model: Vit,
    /// The dense model of the same dimensions; its weights mean nothing.
    pub dense: Vit,
    /// As many images as the largest batch, or more.
    pub x_BCHW: Tensor,
}

/// Images, at least: small batches are of different ones.
const IMAGES: u32 = 64;

impl Subject {
    /// The folder's model on its validation data, or a synthetic one on synthetic images.
    pub(super) fn of(args: &BenchArgs) -> anyhow::Result<Self> {
        let subject = Self::in_f32(args)?;
        Ok(match args.precision {
            Precision::F32 => subject,
            Precision::Bf16 => Self {
                model: subject.model.into_bf16().context("--precision")?,
                dense: subject.dense.into_bf16().context("--precision")?,
                name: format!("{} in bf16", subject.name),
                ..subject
            },
        })
    }

    fn in_f32(args: &BenchArgs) -> anyhow::Result<Self> {
        let images = args.batch.iter().copied().max().unwrap_or(1).max(IMAGES);
        match (&args.dir, args.preset) {
            (Some(dir), _) => {
                let model =
                    Vit::open(dir, Device::Cpu).map_err(|error| anyhow::anyhow!(chain(&error)))?;
                let x_BCHW = validation(args, &model, images)?;
                Ok(Self::new(dir.display().to_string(), model, x_BCHW))
            }
            (None, Some(preset)) => {
                let dims = Dims::from(preset.dims(CLASSES));
                let x_BCHW = synthetic::images(&dims, images.into());
                let model = synthetic::model(dims, args.target, &x_BCHW)?;
                let name = serde_json::to_value(preset)?;
                let name = format!(
                    "{} with random weights",
                    name.as_str().context("a preset's name is a string")?
                );
                Ok(Self::new(name, model, x_BCHW))
            }
            (None, None) => anyhow::bail!("give the checkpoint's folder, or --preset"),
        }
    }

    fn new(name: String, model: Vit, x_BCHW: Tensor) -> Self {
        let dense = dense(model.config(), model.device());
        Self {
            name,
            model,
            dense,
            x_BCHW,
        }
    }

    pub(super) fn cost(&self) -> Cost {
        let config = self.model.config();
        Cost::new(&config.dims, config.gate.as_ref())
    }

    /// Up to `most` batches of different images.
    pub(super) fn batches(&self, batch: u32, most: usize) -> Vec<Tensor> {
        let whole = self.x_BCHW.split(batch.into(), 0).into_iter();
        whole
            .filter(|x_BCHW| x_BCHW.size()[0] == i64::from(batch))
            .take((most / batch as usize).max(1))
            .collect()
    }
}

/// Classes of a preset's head, as in ImageNet.
const CLASSES: u32 = 1000;

/// The first images of the validation data; a set that is too small is repeated.
fn validation(args: &BenchArgs, model: &Vit, images: u32) -> anyhow::Result<Tensor> {
    let dir = args.dir.as_deref().context("a folder was given")?;
    let dataset = eval::validation(dir, args.data.as_deref(), args.format, model.config())?;
    let samples: Vec<u32> = (0..images)
        .map(|sample| sample % dataset.len() as u32)
        .collect();
    let batch = load_batch(&dataset, &samples, None)?;
    Ok(tensors(&batch, model, model.device()).0)
}
