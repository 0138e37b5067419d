//! One step: a pure function of (job, seed, step, parameters), whoever runs which micro-batch.

use std::time::Duration;

use espalier_collective::{Collective, CollectiveError};
use espalier_data::Loaded;
use espalier_job::{DecideBy, Job, ReduceDtype};
use espalier_vit::{Cost, Routing, Search, Sizes, Vit, gate_noise, plan};
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    flat::Flat,
    objective::{Global, Labels, Objective, Part, sums},
    plan::{self, Plan, alpha_tau, budget, gates_open},
};

/// How long a rank waits for the others. Rank 0 may itself be waiting for a checkpoint to be
/// stored, for as long as [`super::observer::STORED_DEADLINE`].
pub(super) const PEERS_DEADLINE: Duration = Duration::from_secs(660);

/// Keeps the threshold of chance finite.
const LEAST_RATE: f64 = 1e-6;

/// What a step works on.
#[derive(Debug)]
pub(super) struct Setting<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its stages.
    pub plan: &'a Plan,
    /// The model.
    pub model: &'a Vit,
    /// Alpha, in the search stage of a job that prunes.
    pub search: Option<&'a Search>,
    /// The dense teacher, if there is one.
    pub teacher: Option<&'a Vit>,
    /// All that is trained.
    pub flat: &'a Flat,
    /// Counts MACs.
    pub cost: &'a Cost,
    /// The step, from 1.
    pub step: u64,
}

/// What a step gives, the same on every rank.
#[derive(Debug)]
pub struct Outcome {
    /// Gradient of L over the global batch, `[P]`, in the job's reduce format.
    pub gradient: Tensor,
    /// Means over the global batch.
    pub global: Global,
    /// L.
    pub loss: f64,
    /// L_res, before gamma.
    pub resource: f64,
    /// F / F_full in expectation.
    pub macs_soft: f64,
}

/// Runs this rank's micro-batches of the step and sums over the ranks.
///
/// # Errors
/// A peer that is lost or silent.
pub(super) fn run(
    setting: &Setting<'_>,
    own: &[Loaded],
    world: &dyn Collective,
) -> Result<Outcome, CollectiveError> {
    let device = setting.model.device();
    let parts: Vec<Part> = own
        .iter()
        .map(|loaded| setting.forward(loaded, device))
        .collect();

    let modules = setting.model.config().dims.modules();
    let mut sums = sums(&parts, modules, device);
    world.all_reduce_sum(&mut sums)?.wait(PEERS_DEADLINE)?;
    let global = Global::new(&sums);

    let objective = setting.objective();
    let mut gradient = setting.flat.zeros(reduce_kind(setting.job), device);
    for part in parts {
        part.loss(&global, &objective).backward();
        setting.flat.take_gradients(&gradient);
    }
    world.all_reduce_sum(&mut gradient)?.wait(PEERS_DEADLINE)?;

    let sizes = no_grad(|| setting.masks_sizes());
    let (loss, resource) = objective.value(&global, &sizes);
    let gamma = objective.budget.gamma;
    Ok(Outcome {
        gradient,
        global,
        loss,
        resource: if gamma > 0.0 {
            resource.loss.double_value(&[]) / gamma
        } else {
            0.0
        },
        macs_soft: resource.ratio,
    })
}

impl Setting<'_> {
    fn forward(&self, loaded: &Loaded, device: Device) -> Part {
        let (x_BCHW, label_B) = tensors(&loaded.batch, self.model, device);
        let on_device = |tensor: Tensor| tensor.to_device(device);
        let mixed = loaded.batch.mixed.as_ref().map(|mixed| {
            (
                on_device(Tensor::from_slice(&mixed.others)),
                on_device(Tensor::from_slice(&mixed.shares)),
            )
        });
        let (seed, step) = (self.job.train.seed, self.step);
        let micro_batch = loaded.work.micro_batch as u64;
        let compress = &self.job.compress;
        let position = self.plan.at(step);

        let samples = loaded.batch.len();
        let groups = plan(&compress.grouping, seed, step, micro_batch, samples).groups(device);
        let modules = self.model.config().dims.modules();
        // Every micro-batch has a graph of its own from alpha, walked backward on its own: sums
        // over micro-batches are then taken outside of autograd, in the job's reduce format.
        let masks = self
            .search
            .map(|search| search.sample(seed, step, alpha_tau(&position, compress)));
        let noise_GM = gate_noise(seed, step, micro_batch, groups.count(), modules, device);
        let output = self.model.forward(
            &x_BCHW,
            &Routing::Train {
                groups: &groups,
                noise_GM: &(noise_GM - self.threshold()),
                tau: self.plan.gate_tau(step, compress),
                open: gates_open(&position, compress),
                masks: masks.as_ref(),
            },
        );
        let teacher_BK = self
            .teacher
            .map(|teacher| no_grad(|| teacher.forward(&x_BCHW, &Routing::Open).logits_BK));
        let sizes = masks.map_or_else(|| self.fixed_sizes(), |masks| masks.sizes);
        Part::new(
            output,
            sizes,
            &Labels { label_B, mixed },
            teacher_BK.as_ref(),
            &self.job.train,
        )
    }

    /// What the gates decide around: 0, or where chance decides, where its rate meets the step's budget.
    pub(super) fn threshold(&self) -> f64 {
        let gate = self.model.config().gate;
        if gate.is_none_or(|gate| gate.decide != DecideBy::Random) {
            return 0.0;
        }
        let sizes = no_grad(|| self.masks_sizes());
        let rate = self.cost.even_rate(&sizes, self.objective().budget.target);
        let rate = rate.clamp(LEAST_RATE, 1.0 - LEAST_RATE);
        (1.0 / rate - 1.0).ln()
    }

    /// F_t of the step.
    pub(super) fn target(&self) -> f64 {
        plan::target(self.job.train.seed, self.step, &self.job.compress)
    }

    fn objective(&self) -> Objective<'_> {
        Objective {
            train: &self.job.train,
            cost: self.cost,
            budget: budget(&self.plan.at(self.step), &self.job.compress, self.target()),
            information: self.job.compress.gate.information,
        }
    }

    /// The sizes of the step, whatever micro-batches this rank runs.
    fn masks_sizes(&self) -> Sizes {
        let tau = alpha_tau(&self.plan.at(self.step), &self.job.compress);
        match self.search {
            Some(search) => search.sample(self.job.train.seed, self.step, tau).sizes,
            None => self.fixed_sizes(),
        }
    }

    fn fixed_sizes(&self) -> Sizes {
        Sizes::of(&self.model.config().structure, self.model.device())
    }
}

/// Images `[B, C, H, W]` and labels `[B]` on `device`.
pub(crate) fn tensors(
    batch: &espalier_data::Batch,
    model: &Vit,
    device: Device,
) -> (Tensor, Tensor) {
    let dims = &model.config().dims;
    let shape = [-1, dims.channels, dims.image_size, dims.image_size];
    (
        Tensor::from_slice(&batch.images)
            .reshape(shape)
            .to_device(device),
        Tensor::from_slice(&batch.labels).to_device(device),
    )
}

fn reduce_kind(job: &Job) -> Kind {
    match job.train.reduce {
        ReduceDtype::F64 => Kind::Double,
        ReduceDtype::F32 => Kind::Float,
    }
}
