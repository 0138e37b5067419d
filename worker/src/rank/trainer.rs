//! The state of training between two steps, and what changes it.

use std::path::Path;

use espalier_collective::Collective;
use espalier_data::Loaded;
use espalier_job::Job;
use espalier_vit::{Choice, Cost, Param, Ranking, Search, Structure, Vit, slice};
use tch::{Tensor, no_grad};

use super::{
    checkpoint::{self, State, Tensors},
    ema::Ema,
    error::TrainError,
    flat::{Flat, LrScales},
    measure::{Mode as Gating, measure},
    optimizer::AdamW,
    plan::{Position, Stage, alpha_tau, gates_open, lr_factor},
    prepare::Prepared,
    step::{self, Outcome, Setting},
    transition::transition,
};
use crate::ipc::Metrics;

/// Samples of the calibration split that accuracy is measured on during training.
const EVALUATED: usize = 1000;

/// A replica: the same on every rank after every step.
#[derive(Debug)]
pub struct Trainer<'a> {
    prepared: &'a Prepared,
    model: Vit,
    /// Alpha, in the search stage of a job that prunes.
    search: Option<Search>,
    cost: Cost,
    flat: Flat,
    /// The parameters, f32 `[P]`; the model's are copies.
    values: Tensor,
    optimizer: AdamW,
    ema: Option<Ema>,
    /// Steps that are done.
    step: u64,
    /// What was measured of the last of them, where its measurements were due.
    pub(super) measured: Option<Metrics>,
}

/// The tensors of a replica, f32, `[P]` each where nothing else is said.
#[derive(Debug)]
pub(super) struct Moments {
    /// All that is trained.
    pub values: Tensor,
    /// AdamW's mean of gradients.
    pub mean: Tensor,
    /// AdamW's mean of squared gradients.
    pub square: Tensor,
    /// The moving average.
    pub average: Option<Tensor>,
    /// What the search knows of importance since the last ranking, of sizes of its own.
    pub importance: Vec<Tensor>,
}

impl Moments {
    /// In the order of the fields.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tensor> {
        [&self.values, &self.mean, &self.square]
            .into_iter()
            .chain(&self.average)
            .chain(&self.importance)
    }
}

/// What a step did, the same on every rank.
#[derive(Debug)]
pub struct Advance {
    /// Of the global batch.
    pub outcome: Outcome,
    /// Learning rate of the weights.
    pub lr: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// The structure that was chosen, if the search ended with this step.
    pub choice: Option<Choice>,
}

impl<'a> Trainer<'a> {
    /// Before the first step.
    ///
    /// # Errors
    /// First weights that do not fit, or a search that cannot be sliced.
    pub fn new(prepared: &'a Prepared) -> Result<Self, TrainError> {
        let mut trainer = Self::whole(prepared, prepared.first_model()?)?;
        if prepared.plan.transition() == Some(0) {
            trainer.end_search()?;
        }
        Ok(trainer)
    }

    /// After the last step of a training checkpoint of the same job.
    ///
    /// # Errors
    /// A checkpoint that is damaged or of another job.
    pub fn resume(prepared: &'a Prepared, folder: &Path) -> Result<Self, TrainError> {
        let wrong = |reason: &str| TrainError::Checkpoint {
            path: folder.to_owned(),
            reason: reason.to_owned(),
        };
        let state = checkpoint::load_state(folder)?;
        if state.spec_digest != prepared.spec_digest {
            return Err(wrong("it is of another job document"));
        }
        if state.step > prepared.plan.total() {
            return Err(wrong("it has more steps than the job"));
        }
        let mut trainer = Self::shaped(prepared, &state).map_err(|reason| wrong(&reason))?;
        let tensors = checkpoint::load(
            folder,
            trainer.parameters(),
            trainer.importance(),
            trainer.ema.is_some(),
            trainer.model.device(),
        )?;
        let (mean, square) = &tensors.moments;
        let average = trainer.ema.as_mut().zip(tensors.average.as_ref());
        let fits = trainer.optimizer.restore(mean, square)
            && average.is_none_or(|(ema, average)| ema.restore(average));
        if !fits {
            return Err(wrong("its optimiser's state is of another model"));
        }
        trainer.values = trainer.flat.gather();
        trainer.step = state.step;
        Ok(trainer)
    }

    /// The shape that a state belongs to, with some weights, for its tensors to be taken in.
    ///
    /// # Errors
    /// A state of another model.
    pub(super) fn shaped(prepared: &'a Prepared, state: &State) -> Result<Self, String> {
        let failed = |error: TrainError| error.to_string();
        let model = prepared.new_model().map_err(failed)?;
        let mut trainer = Self::whole(prepared, model).map_err(failed)?;
        let end = prepared.plan.transition();
        if end.is_some_and(|end| state.step >= end) {
            trainer.become_structure(&state.structure).map_err(failed)?;
        }
        if !trainer.take_ranking(state.ranking.as_ref()) {
            return Err("its ranking is of another model".to_owned());
        }
        Ok(trainer)
    }

    /// Whether [`Trainer::shaped`] would give the shape that this one has.
    pub(super) fn is_shaped_as(&self, state: &State) -> bool {
        let end = self.prepared.plan.transition();
        let past = |step: u64| end.is_some_and(|end| step >= end);
        past(self.step) == past(state.step) && self.model.config().structure == state.structure
    }

    fn take_ranking(&mut self, ranking: Option<&Ranking>) -> bool {
        let Some((search, ranking)) = self.search.as_mut().zip(ranking) else {
            return true;
        };
        let fits = ranking.fits(&self.model.config().dims);
        if fits {
            search.set_ranking(ranking.clone());
        }
        fits
    }

    /// Takes the state of a peer whose shape this one has; false if it has not.
    pub(super) fn adopt(&mut self, state: &State, tensors: &Moments) -> bool {
        let ranked = self.take_ranking(state.ranking.as_ref())
            && self
                .search
                .as_ref()
                .is_none_or(|search| put_importance(search, &tensors.importance));
        let average = self.ema.as_mut().zip(tensors.average.as_ref());
        let fits = ranked
            && tensors.values.size() == self.values.size()
            && self.optimizer.restore(&tensors.mean, &tensors.square)
            && average.is_none_or(|(ema, average)| ema.restore(average));
        if fits {
            self.values.copy_(&tensors.values);
            self.flat.scatter(&self.values);
            self.step = state.step;
        }
        fits
    }

    /// All that is trained and what the optimiser keeps of it.
    pub(super) fn moments(&self) -> Moments {
        let (mean, square) = self.optimizer.moments();
        Moments {
            values: self.values.shallow_clone(),
            mean: mean.shallow_clone(),
            square: square.shallow_clone(),
            average: self.ema.as_ref().map(|ema| ema.average().shallow_clone()),
            importance: self.importance().into_iter().map(|p| p.tensor).collect(),
        }
    }

    /// What is not a tensor.
    pub(super) fn state(&self) -> State {
        State {
            step: self.step,
            seed: self.job().train.seed,
            spec_digest: self.prepared.spec_digest.clone(),
            structure: self.model.config().structure.clone(),
            ranking: self.search.as_ref().map(|search| search.ranking().clone()),
        }
    }

    /// The whole model, with alpha where the job prunes.
    fn whole(prepared: &'a Prepared, model: Vit) -> Result<Self, TrainError> {
        let compress = &prepared.job.compress;
        let search = compress.mode.prunes().then(|| {
            let dims = &model.config().dims;
            Search::new(dims, &compress.static_part, model.device())
        });
        Ok(Self::of_stage(prepared, model, search))
    }

    /// At the start of a stage: a fresh optimiser and moving average. [paper: the reset]
    fn of_stage(prepared: &'a Prepared, model: Vit, search: Option<Search>) -> Self {
        let train = &prepared.job.train;
        let compress = &prepared.job.compress;
        let device = model.device();
        let flat = Flat::new(parameters(&model, search.as_ref()));
        let scales = LrScales {
            gate: compress.gate.lr_scale,
            alpha: compress.static_part.lr_scale,
        };
        let values = flat.gather();
        Self {
            cost: prepared.cost(model.config().gate.as_ref()),
            optimizer: AdamW::new(
                &train.optimizer,
                flat.lr_scale(scales, device),
                flat.decay(train.optimizer.weight_decay, device),
            ),
            ema: Ema::new(train.ema_decay, &values),
            step: 0,
            measured: None,
            prepared,
            model,
            search,
            flat,
            values,
        }
    }

    /// Steps that are done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The model as it is trained.
    pub fn model(&self) -> &Vit {
        &self.model
    }

    /// Counts MACs.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// All that is trained, f32 `[P]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Names and tensors of all that is trained.
    pub fn parameters(&self) -> Vec<Param> {
        parameters(&self.model, self.search.as_ref())
    }

    /// What a search that ranks by gradients knows of them.
    fn importance(&self) -> Vec<Param> {
        self.search
            .as_ref()
            .map(Search::importance)
            .unwrap_or_default()
    }

    /// The structure that the model would have if the search ended now.
    pub fn structure(&self) -> Structure {
        match &self.search {
            Some(search) => search.choose(),
            None => self.model.config().structure.clone(),
        }
    }

    /// Runs the next step, of which this rank has the micro-batches `own`.
    ///
    /// # Errors
    /// A peer that is lost or silent, or a loss that is not a number.
    pub fn advance(
        &mut self,
        own: &[Loaded],
        world: &dyn Collective,
    ) -> Result<Advance, TrainError> {
        let step = self.step + 1;
        let job = self.job();
        let position = self.prepared.plan.at(step);
        let before = self.rank_anew(&position);
        // A function of the step alone, so that it needs no place in a checkpoint.
        let threshold = self.setting(step).threshold();
        self.model.set_threshold(threshold);
        // F_t itself, whatever the ramp asks for so far, so that gates never see what they were not made for.
        self.model.see_budget(self.setting(step).target());
        let outcome = step::run(&self.setting(step), own, world);
        // Between two steps, and in the end, the model is one of the job's budget.
        self.model.see_budget(job.compress.target);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // The step may be run again: then it is ranked again, by the same figures.
                self.take_back(before);
                return Err(error.into());
            }
        };
        if !outcome.loss.is_finite() {
            return Err(TrainError::Diverged {
                step,
                loss: outcome.loss,
            });
        }
        if let Some(search) = &mut self.search {
            search.observe(&self.model, |name| self.flat.part(&outcome.gradient, name));
        }
        // The optimiser starts anew with each stage, so its updates count from the stage's start.
        let t = position.index + 1;
        let lr = job.train.optimizer.lr * lr_factor(&position, &job.train.schedule);
        let grad_norm = self
            .optimizer
            .step(&mut self.values, &outcome.gradient, t, lr);
        self.flat.scatter(&self.values);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.values, t);
        }
        self.step = step;
        self.measured = None;
        let ends = self.prepared.plan.transition() == Some(step);
        let choice = if ends { self.end_search()? } else { None };
        Ok(Advance {
            outcome,
            lr,
            grad_norm,
            choice,
        })
    }

    /// Ranks heads and neurons anew where it is due; gives what was there before.
    fn rank_anew(&mut self, position: &Position) -> Option<(Ranking, Vec<Tensor>)> {
        let interval = self.job().compress.static_part.rank_interval;
        let importance = self.importance();
        let search = self.search.as_mut()?;
        if !position.index.is_multiple_of(interval) {
            return None;
        }
        let kept = importance.iter().map(|p| p.tensor.copy()).collect();
        let before = (search.ranking().clone(), kept);
        search.rank(&self.model);
        Some(before)
    }

    fn take_back(&mut self, before: Option<(Ranking, Vec<Tensor>)>) {
        let Some((search, (ranking, kept))) = self.search.as_mut().zip(before) else {
            return;
        };
        search.set_ranking(ranking);
        put_importance(search, &kept);
    }

    /// Accuracy on held-out training samples: of the searched model under the masks of its last
    /// step, or of the model with its gates deciding for each sample.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn accuracy(&self) -> Result<f64, TrainError> {
        let compress = &self.job().compress;
        let position = self.prepared.plan.at(self.step.max(1));
        let masks = self.search.as_ref().map(|search| {
            let tau = alpha_tau(&position, compress);
            no_grad(|| search.sample(self.job().train.seed, self.step, tau))
        });
        let searching = position.stage == Stage::Search;
        let gating = match &masks {
            Some(masks) if searching => Gating::Searched(masks, gates_open(&position, compress)),
            _ => Gating::PerSample,
        };
        let calibration = &self.prepared.splits.calibration;
        self.with_average(|model| measure(model, calibration, EVALUATED, &[gating]))
            .map(|measured| measured[0].accuracy())
            .map_err(TrainError::Data)
    }

    /// Writes a training checkpoint.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let state = self.state();
        let (mean, square) = self.optimizer.moments();
        let tensors = Tensors {
            parameters: self.parameters(),
            moments: (mean.shallow_clone(), square.shallow_clone()),
            average: self.ema.as_ref().map(|ema| ema.average().shallow_clone()),
            importance: self.importance(),
        };
        checkpoint::save(folder, &state, &tensors)
    }

    /// The finished model: the moving average of the weights where the job keeps one.
    pub fn into_model(self) -> Vit {
        if let Some(ema) = &self.ema {
            self.flat.scatter(ema.average());
        }
        self.model
    }

    fn job(&self) -> &'a Job {
        &self.prepared.job
    }

    fn setting(&self, step: u64) -> Setting<'_> {
        Setting {
            job: self.job(),
            plan: &self.prepared.plan,
            model: &self.model,
            search: self.search.as_ref(),
            teacher: self.prepared.teacher.as_ref(),
            flat: &self.flat,
            cost: &self.cost,
            step,
        }
    }

    /// Arg max and slicing, if this job prunes; the tune stage starts in any case.
    fn end_search(&mut self) -> Result<Option<Choice>, TrainError> {
        let step = self.step;
        let (model, choice) = match self.search.take() {
            Some(search) => {
                let compress = &self.job().compress;
                // What the tune stage's gates cost is part of its static MACs.
                let cost = self.prepared.cost(self.prepared.gate.as_ref());
                let next = transition(&self.model, &search, &cost, compress)
                    .map_err(|error| TrainError::Machine(error.to_string()))?;
                (next.model, Some(next.choice))
            }
            None => (self.sliced(&self.model.config().structure)?, None),
        };
        *self = Self::of_stage(self.prepared, self.with_gates(model)?, None);
        self.step = step;
        Ok(choice)
    }

    /// The shape of the tune stage with some weights, for a checkpoint to be loaded into.
    fn become_structure(&mut self, structure: &Structure) -> Result<(), TrainError> {
        let model = self.sliced(structure)?;
        *self = Self::of_stage(self.prepared, self.with_gates(model)?, None);
        Ok(())
    }

    /// The model of the tune stage: with new gates where it has none so far.
    fn with_gates(&self, model: Vit) -> Result<Vit, TrainError> {
        match self.prepared.gate {
            Some(gate) if model.config().gate.is_none() => model
                .with_gates(gate, self.job().train.seed)
                .map_err(|error| TrainError::Machine(error.to_string())),
            _ => Ok(model),
        }
    }

    fn sliced(&self, structure: &Structure) -> Result<Vit, TrainError> {
        let ranking = Ranking::identity(&self.model.config().dims);
        slice(&self.model, &ranking, structure)
            .map_err(|error| TrainError::Machine(error.to_string()))
    }

    /// Runs `use_model` on the model with its averaged weights, where the job keeps an average.
    fn with_average<T>(&self, use_model: impl FnOnce(&Vit) -> T) -> T {
        let Some(ema) = &self.ema else {
            return use_model(&self.model);
        };
        self.flat.scatter(ema.average());
        let result = use_model(&self.model);
        self.flat.scatter(&self.values);
        result
    }
}

/// Copies flat or shaped tensors into what a search knows of importance; false if they are another's.
fn put_importance(search: &Search, tensors: &[Tensor]) -> bool {
    let known = search.importance();
    let fits = known.len() == tensors.len()
        && known
            .iter()
            .zip(tensors)
            .all(|(known, tensor)| known.tensor.numel() == tensor.numel());
    if fits {
        for (mut known, tensor) in known.into_iter().zip(tensors) {
            known.tensor.copy_(&tensor.view_as(&known.tensor));
        }
    }
    fits
}

fn parameters(model: &Vit, search: Option<&Search>) -> Vec<Param> {
    let mut all = model.parameters();
    all.extend(search.map(Search::parameters).unwrap_or_default());
    all
}
