//! Everything that can be wrong with a job is found here, before any step.

use std::path::{Path, PathBuf};

use espalier_collective::load_cuda;
use espalier_data::{Dataset, Feed, Sampler, Shape, Splits, loaders};
use espalier_job::{Init, Job};
use espalier_vit::{
    Config, Cost, Dims, FileFormat, GateConfig, LatencyTable, Mismatch, Structure, Vit,
    WeightsError, import, neuron_candidates,
};
use sha2::{Digest as _, Sha256};
use tch::Device;

use super::{error::TrainError, plan::Plan};

const INIT_FILE: &str = "model.init.safetensors";
const INIT_PTH: &str = "model.init.pth";
const NEW_HEAD: &str = "model.new_head";
const INIT_CHECKPOINT: &str = "model.init.checkpoint";
const TEACHER: &str = "train.distillation.teacher";

/// Folders of the checkpoints that the job names.
#[derive(Clone, Debug, Default)]
pub struct Assets {
    /// Of `model.init.checkpoint`.
    pub init: Option<PathBuf>,
    /// Of `train.distillation.teacher`.
    pub teacher: Option<PathBuf>,
}

/// A job whose parts are all there and fit together.
#[derive(Debug)]
pub struct Prepared {
    /// Identity of the job.
    pub job_id: String,
    /// The job.
    pub job: Job,
    /// SHA-256 of the job document, in hex: checkpoints carry it.
    pub spec_digest: String,
    /// Its stages.
    pub plan: Plan,
    /// Its data.
    pub splits: Splits,
    /// Which samples a step holds.
    pub sampler: Sampler,
    /// The dense teacher.
    pub teacher: Option<Vit>,
    /// The whole model, with gates where the mode has them from the first step.
    pub config: Config,
    /// The gates of the tune stage.
    pub gate: Option<GateConfig>,
    /// Where tensors live.
    pub device: Device,
    /// The times that the budget counts, where it does not count MACs.
    table: Option<LatencyTable>,
    init: Option<PathBuf>,
}

impl Prepared {
    /// Checks the job document, its data and its teacher. `rank` chooses the GPU. The first weights
    /// are checked by [`Self::first_model`]: a job that goes on from a checkpoint needs none.
    ///
    /// # Errors
    /// The first part that is wrong; for the document, all that is wrong with it.
    pub fn new(
        job_id: &str,
        spec_toml: &str,
        assets: &Assets,
        rank: u32,
    ) -> Result<Self, TrainError> {
        let job = Job::parse(spec_toml).map_err(TrainError::Job)?;
        let device = device(&job, rank)?;
        let config = config(&job)?;
        let shape = Shape::from(job.model.dims().map_err(TrainError::Job)?);
        let loaders = loaders(job.data.loaders, job.resources.ranks_per_worker.0);
        let splits = Splits::open(&job.data, shape, loaders).map_err(TrainError::Data)?;
        let sampler = Sampler::new(
            splits.train.len(),
            job.train.global_batch as usize,
            job.train.seed,
        )
        .map_err(TrainError::Data)?;
        let plan = Plan::new(&job, sampler.steps_per_epoch());
        if plan.total() == 0 {
            return Err(TrainError::Field {
                field: "compress.search",
                reason: format!(
                    "both stages round to 0 steps (an epoch is {} steps); make one longer",
                    sampler.steps_per_epoch()
                ),
            });
        }
        Ok(Self {
            job_id: job_id.to_owned(),
            spec_digest: hex(&Sha256::digest(spec_toml)),
            plan,
            splits,
            sampler,
            teacher: teacher(&job, assets, &config, device)?,
            gate: gate(&job, &config.dims),
            table: table(&job, &config.dims)?,
            config,
            device,
            init: assets.init.clone(),
            job,
        })
    }

    /// The model that the first step starts from.
    ///
    /// # Errors
    /// Weights that do not fit the job's model.
    pub fn first_model(&self) -> Result<Vit, TrainError> {
        let model = self.new_model()?;
        match &self.job.model.init {
            Init::Scratch => {}
            Init::Safetensors(path) => {
                self.load_file(&model, INIT_FILE, FileFormat::Safetensors, Path::new(path))?;
            }
            Init::Pth(path) => {
                self.load_file(&model, INIT_PTH, FileFormat::Pth, Path::new(path))?;
            }
            Init::Checkpoint(reference) => {
                let folder = asset(self.init.as_deref(), INIT_CHECKPOINT, reference)?;
                let dense = open(folder, INIT_CHECKPOINT, Device::Cpu)?;
                self.require_same_dims(&dense)?;
                let path = folder.join("model.safetensors");
                self.load_file(&model, INIT_CHECKPOINT, FileFormat::Safetensors, &path)?;
            }
        }
        Ok(model)
    }

    /// A model with weights drawn from the job's seed, whatever `model.init` says: one that a
    /// checkpoint's weights overwrite.
    ///
    /// # Errors
    /// Dimensions that describe no model.
    pub fn new_model(&self) -> Result<Vit, TrainError> {
        let seed = self.job.train.seed;
        Vit::new(self.config.clone(), seed, self.device).map_err(|error| TrainError::Field {
            field: "model",
            reason: error.to_string(),
        })
    }

    /// What the budget counts, in models with these gates.
    pub fn cost(&self, gate: Option<&GateConfig>) -> Cost {
        let cost = Cost::new(&self.config.dims, gate);
        match &self.table {
            Some(table) => cost.in_time(table.clone()),
            None => cost,
        }
    }

    /// Training data, micro-batch by micro-batch.
    pub fn feed(&self) -> Feed {
        Feed {
            dataset: self.splits.train.clone(),
            sampler: self.sampler.clone(),
            micro_batch: self.job.train.micro_batch as usize,
            augment: self.job.data.augment.clone(),
            mix: self.job.train.mix.clone(),
            seed: self.job.train.seed,
        }
    }

    /// V: micro-batches in a step.
    pub fn micro_batches(&self) -> u32 {
        self.job.train.global_batch / self.job.train.micro_batch
    }

    /// The validation data.
    pub fn validation(&self) -> &Dataset {
        &self.splits.validation
    }

    /// The parameters of a file, without gates and, where the job says so, without heads.
    fn load_file(
        &self,
        model: &Vit,
        field: &'static str,
        format: FileFormat,
        path: &Path,
    ) -> Result<(), TrainError> {
        let wrong = |source| TrainError::Weights { field, source };
        let tensors = import(path, format, &self.config.dims, self.device).map_err(wrong)?;
        let loaded = if self.job.model.new_head {
            model.load_headless(&tensors)
        } else {
            model.load_ungated(&tensors)
        };
        loaded.map_err(|mismatch: Mismatch| {
            if mismatch.is_of_heads_alone() {
                return TrainError::Field {
                    field: NEW_HEAD,
                    reason: format!(
                        "only the heads differ, so true would start them anew; {mismatch}"
                    ),
                };
            }
            let path = path.to_owned();
            wrong(WeightsError::Mismatch { path, mismatch })
        })
    }

    fn require_same_dims(&self, dense: &Vit) -> Result<(), TrainError> {
        let found = dense.config();
        let mut expected = self.config.dims;
        if self.job.model.new_head {
            expected.classes = found.dims.classes;
        }
        let reason = if !is_dense(found) {
            "it is a compressed model; a search starts from a dense one".to_owned()
        } else if found.dims != expected {
            format!(
                "its dimensions are {:?} where the job's model has {expected:?}",
                found.dims
            )
        } else {
            return Ok(());
        };
        Err(TrainError::Field {
            field: INIT_CHECKPOINT,
            reason,
        })
    }
}

/// The gates of the finished model.
fn gate(job: &Job, dims: &Dims) -> Option<GateConfig> {
    let compress = &job.compress;
    compress
        .mode
        .gates()
        .then(|| GateConfig::from_job(&compress.gate, compress.target, dims))
}

/// The whole model of a job, with gates where its mode has them from the first step.
fn config(job: &Job) -> Result<Config, TrainError> {
    let dims = Dims::from_job(&job.model).map_err(TrainError::Job)?;
    let per_channel = |values: &[f64]| match values {
        // One value serves all channels.
        [one] => vec![*one; dims.channels as usize],
        many => many.to_vec(),
    };
    let mut config = Config::dense(
        dims,
        per_channel(&job.data.mean),
        per_channel(&job.data.std),
    );
    if job.compress.mode.gates_in_search() {
        config.gate = gate(job, &dims);
    }
    Ok(config)
}

/// The table that the job names, if it counts time.
fn table(job: &Job, dims: &Dims) -> Result<Option<LatencyTable>, TrainError> {
    let espalier_job::Cost::Latency(path) = &job.compress.cost else {
        return Ok(None);
    };
    let candidates = job.compress.static_part.neuron_candidates;
    let sizes = neuron_candidates(dims.ffn, candidates.into());
    let hidden = gate(job, dims).map(|gate| gate.hidden);
    let table = LatencyTable::open(Path::new(path)).and_then(|table| {
        table.fits(dims, hidden, &sizes)?;
        Ok(table)
    });
    table.map(Some).map_err(|error| TrainError::Field {
        field: "compress.cost.latency",
        reason: error.to_string(),
    })
}

/// The processor, or the GPU of this rank's place on its worker.
fn device(job: &Job, rank: u32) -> Result<Device, TrainError> {
    match job.resources.device {
        espalier_job::Device::Cpu => Ok(Device::Cpu),
        espalier_job::Device::Cuda => {
            load_cuda()?;
            Ok(Device::Cuda(
                (rank % job.resources.ranks_per_worker.0) as usize,
            ))
        }
    }
}

fn teacher(
    job: &Job,
    assets: &Assets,
    config: &Config,
    device: Device,
) -> Result<Option<Vit>, TrainError> {
    let Some(asked) = &job.train.distillation else {
        return Ok(None);
    };
    let folder = asset(assets.teacher.as_deref(), TEACHER, &asked.teacher)?;
    let teacher = open(folder, TEACHER, device)?;
    let (theirs, ours) = (&teacher.config().dims, &config.dims);
    let differs = [
        ("image_size", theirs.image_size, ours.image_size),
        ("channels", theirs.channels, ours.channels),
        ("classes", theirs.classes, ours.classes),
    ];
    let wrong = |reason| TrainError::Field {
        field: TEACHER,
        reason,
    };
    if let Some((name, theirs, ours)) = differs.into_iter().find(|(_, a, b)| a != b) {
        return Err(wrong(format!(
            "its {name} is {theirs} where the job's model has {ours}"
        )));
    }
    if teacher.config().mean != config.mean || teacher.config().std != config.std {
        return Err(wrong(
            "it was trained on images normalised otherwise; use its data.mean and data.std"
                .to_owned(),
        ));
    }
    Ok(Some(teacher))
}

fn asset<'a>(
    folder: Option<&'a Path>,
    field: &'static str,
    reference: &str,
) -> Result<&'a Path, TrainError> {
    folder.ok_or_else(|| {
        TrainError::Machine(format!(
            "{field}: the checkpoint {reference} was not fetched for this rank"
        ))
    })
}

fn open(folder: &Path, field: &'static str, device: Device) -> Result<Vit, TrainError> {
    Vit::open(folder, device).map_err(|source| TrainError::Weights { field, source })
}

fn is_dense(config: &Config) -> bool {
    config.structure == Structure::full(&config.dims) && config.gate.is_none()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
