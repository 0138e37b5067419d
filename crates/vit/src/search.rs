use std::ops::RangeInclusive;

use espalier_job::{Importance, Static};
use espalier_random::{ChaCha8Rng, Stream, gumbel, rng};
use tch::{Device, Kind, Tensor};

use crate::choice::{Candidate, Choice, Probabilities};
use crate::masks::Masks;
use crate::param::{Param, ParamKind};
use crate::ranking::positions;
use crate::taylor::Taylor;
use crate::{Cost, Dims, Ranking, Sizes, Structure, Vit};

/// The static part in the search stage: the logits alpha of what stays for good, and the ranking
/// that says which heads and neurons a size means.
#[derive(Debug)]
pub struct Search {
    dims: Dims,
    straight_through: bool,
    attn: Keep,
    ffn: Keep,
    heads: Size,
    neurons: Size,
    ranking: Ranking,
    /// The sums of Taylor importance, where it ranks.
    taylor: Option<Taylor>,
}

/// Whether each block's module stays.
#[derive(Debug)]
struct Keep {
    /// (drop, keep); `None` where modules are not searched.
    alpha_L2: Option<Tensor>,
}

/// How many of each block's ranked items stay.
#[derive(Debug)]
struct Size {
    /// `None` where this size is not searched.
    alpha_LK: Option<Tensor>,
    /// The candidates, rising; the last is all.
    candidates: Vec<i64>,
    /// 1 where candidate k keeps the item of rank r.
    kept_KR: Tensor,
    /// Rank of each item.
    position_LR: Tensor,
}

impl Search {
    /// Alpha for models of `dims`, initialised toward keeping all.
    pub fn new(dims: &Dims, options: &Static, device: Device) -> Self {
        let keep = || Keep::new(options.modules, dims.depth, options.keep_init, device);
        let size = |searched: bool, candidates: Vec<i64>| {
            Size::new(searched, candidates, dims.depth, options.keep_init, device)
        };
        let mut search = Self {
            dims: *dims,
            straight_through: options.straight_through,
            attn: keep(),
            ffn: keep(),
            heads: size(options.heads, (1..=dims.heads).collect()),
            neurons: size(
                options.neurons,
                neuron_candidates(dims.ffn, options.neuron_candidates.into()),
            ),
            ranking: Ranking::identity(dims),
            taylor: (options.importance == Importance::Taylor).then(|| Taylor::new(dims, device)),
        };
        search.set_ranking(Ranking::identity(dims));
        search
    }

    /// The alpha that are searched, as `search.*`, in a fixed order.
    pub fn parameters(&self) -> Vec<Param> {
        [
            ("attn", &self.attn.alpha_L2),
            ("ffn", &self.ffn.alpha_L2),
            ("heads", &self.heads.alpha_LK),
            ("neurons", &self.neurons.alpha_LK),
        ]
        .into_iter()
        .filter_map(|(name, alpha)| {
            let alpha = alpha.as_ref()?;
            Some(Param {
                name: format!("search.alpha_{name}"),
                tensor: alpha.shallow_clone(),
                kind: ParamKind::Alpha,
            })
        })
        .collect()
    }

    /// Ranks heads and neurons by their importance in `vit`, a whole model; by their norm before there
    /// is another.
    pub fn rank(&mut self, vit: &Vit) {
        let by_taylor = self.taylor.as_mut().and_then(Taylor::take);
        self.set_ranking(by_taylor.unwrap_or_else(|| Ranking::by_norm(vit)));
    }

    /// Takes in the gradient of a step over the global batch, before `vit` is updated with it: `gradient`
    /// of a parameter's name, in its shape.
    pub fn observe(&mut self, vit: &Vit, gradient: impl Fn(&str) -> Option<Tensor>) {
        if let Some(taylor) = &mut self.taylor {
            taylor.add(vit, gradient);
        }
    }

    /// What is known of importance since the last ranking, for a checkpoint: tensors to be saved, or to
    /// be loaded into. Empty where norms rank.
    pub fn importance(&self) -> Vec<Param> {
        let taylor = self.taylor.iter();
        let named = taylor.flat_map(|taylor| {
            [
                ("importance.heads", &taylor.heads_LH),
                ("importance.neurons", &taylor.neurons_Ln),
            ]
        });
        named
            .map(|(name, tensor)| Param {
                name: name.to_owned(),
                tensor: tensor.shallow_clone(),
                kind: ParamKind::Frozen,
            })
            .collect()
    }

    /// The ranking in force.
    pub fn ranking(&self) -> &Ranking {
        &self.ranking
    }

    /// Puts a ranking in force: that of a checkpoint. It must fit the model (see [`Ranking::fits`]).
    pub fn set_ranking(&mut self, ranking: Ranking) {
        self.heads.rank(&ranking.heads);
        self.neurons.rank(&ranking.neurons);
        self.ranking = ranking;
    }

    /// The sample of `step`: p = softmax((alpha + g) / tau) for every choice, as masks. [paper]
    ///
    /// The noise is a function of (seed, step), so all micro-batches of a step train the same masks.
    /// Each call makes a graph of its own from alpha, to be walked backward once.
    pub fn sample(&self, seed: u64, step: u64, tau: f64) -> Masks {
        let mut draw = Draw {
            rng: rng(seed, Stream::StaticGumbel, step, 0),
            tau,
            straight_through: self.straight_through,
        };
        let depth = self.dims.depth;
        let keep_attn_L = self.attn.sample(depth, &mut draw);
        let keep_ffn_L = self.ffn.sample(depth, &mut draw);
        let (heads_L, heads_LH) = self.heads.sample(depth, &mut draw);
        let (neurons_L, neurons_Ln) = self.neurons.sample(depth, &mut draw);
        let device = heads_LH.device();
        let sizes = Sizes {
            keep_attn_L: keep_attn_L.to_device(device),
            keep_ffn_L: keep_ffn_L.to_device(device),
            heads_L,
            neurons_L,
        };
        Masks::new(heads_LH, neurons_Ln, sizes, self.dims.head_dim())
    }

    /// The arg max of alpha. [paper]
    pub fn choose(&self) -> Structure {
        self.probabilities().arg_max()
    }

    /// The arg max of alpha, moved as little as it takes to have static MACs within `budget`, as
    /// shares of the dense model's. See [`Probabilities::within`]. [ours]
    pub fn choose_within(&self, cost: &Cost, budget: RangeInclusive<f64>) -> Choice {
        self.probabilities().within(cost, budget)
    }

    /// What alpha says about every module, without noise.
    pub fn probabilities(&self) -> Probabilities {
        let mut modules = Vec::with_capacity(self.dims.modules() as usize);
        for l in 0..self.dims.depth {
            modules.push(candidates(&self.attn, &self.heads, l));
            modules.push(candidates(&self.ffn, &self.neurons, l));
        }
        Probabilities { modules }
    }
}

/// The sizes module `l` can have, 0 for dropped, with their scores.
///
/// Sizes are scored against the likeliest one, so that whether the module stays is decided before how
/// much of it does.
fn candidates(keep: &Keep, size: &Size, l: i64) -> Vec<Candidate> {
    let sizes = size.log_p(l);
    let likeliest = sizes.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (dropped, kept) = match &keep.alpha_L2 {
        None => (None, 0.0),
        Some(alpha_L2) => {
            let log_p = log_softmax(&alpha_L2.get(l));
            (Some(log_p[0]), log_p[1])
        }
    };
    let dropped = dropped.map(|score| Candidate { size: 0, score });
    let kept = size.candidates.iter().zip(&sizes).map(|(&size, log_p)| {
        let score = kept + log_p - likeliest;
        Candidate { size, score }
    });
    dropped.into_iter().chain(kept).collect()
}

/// Gumbel-softmax samples, one after the other from one generator.
struct Draw {
    rng: ChaCha8Rng,
    tau: f64,
    straight_through: bool,
}

impl Draw {
    /// p = softmax((alpha + g) / tau), row by row: [L, K] -> [L, K].
    fn sample(&mut self, alpha_LK: &Tensor) -> Tensor {
        let noise = gumbel(&mut self.rng, alpha_LK.numel());
        let noise_LK = Tensor::from_slice(&noise)
            .reshape(alpha_LK.size())
            .to_device(alpha_LK.device());
        let p_LK = ((alpha_LK + noise_LK) / self.tau).softmax(-1, None);
        if !self.straight_through {
            return p_LK;
        }
        let choice_L1 = p_LK.argmax(-1, true);
        let hard_LK = p_LK.zeros_like().scatter_value(1, &choice_L1, 1.0);
        hard_LK + (&p_LK - p_LK.detach())
    }
}

impl Keep {
    fn new(searched: bool, depth: i64, keep_init: f64, device: Device) -> Self {
        let log_odds = (keep_init / (1.0 - keep_init)).ln();
        let row = [-log_odds / 2.0, log_odds / 2.0];
        Self {
            alpha_L2: searched.then(|| alpha(&row, depth, device)),
        }
    }

    /// p[keep], [L].
    fn sample(&self, depth: i64, draw: &mut Draw) -> Tensor {
        match &self.alpha_L2 {
            Some(alpha_L2) => draw.sample(alpha_L2).select(1, 1),
            None => Tensor::ones([depth], (Kind::Float, Device::Cpu)),
        }
    }
}

impl Size {
    fn new(
        searched: bool,
        candidates: Vec<i64>,
        depth: i64,
        keep_init: f64,
        device: Device,
    ) -> Self {
        let all = candidates.last().copied().unwrap_or(0);
        let kept: Vec<f32> = candidates
            .iter()
            .flat_map(|&size| (0..all).map(move |rank| f32::from(u8::from(rank < size))))
            .collect();
        let kept_KR = Tensor::from_slice(&kept)
            .reshape([candidates.len() as i64, all])
            .to_device(device);
        Self {
            alpha_LK: (searched && candidates.len() > 1)
                .then(|| alpha(&rising_logits(&candidates, keep_init), depth, device)),
            position_LR: Tensor::zeros([depth, all], (Kind::Int64, device)),
            candidates,
            kept_KR,
        }
    }

    fn rank(&mut self, orders: &[Vec<i64>]) {
        self.position_LR = positions(orders).to_device(self.kept_KR.device());
    }

    /// (expected size, [L]; factor of each item, the sum of p[k] over the candidates that keep it, [L, R]).
    fn sample(&self, depth: i64, draw: &mut Draw) -> (Tensor, Tensor) {
        let all = self.kept_KR.size()[1];
        let options = (Kind::Float, self.kept_KR.device());
        let Some(alpha_LK) = &self.alpha_LK else {
            let size_L = Tensor::full([depth], all, options);
            return (size_L, Tensor::ones([depth, all], options));
        };
        let by_rank_LR = draw.sample(alpha_LK).matmul(&self.kept_KR);
        let size_L = by_rank_LR.sum_dim_intlist(1, false, None);
        let by_item_LR = by_rank_LR.gather(1, &self.position_LR, false);
        (size_L, by_item_LR)
    }

    /// Log-probability of each candidate in block `l`.
    fn log_p(&self, l: i64) -> Vec<f64> {
        match &self.alpha_LK {
            Some(alpha_LK) => log_softmax(&alpha_LK.get(l)),
            None => {
                let mut certain = vec![f64::NEG_INFINITY; self.candidates.len()];
                if let Some(all) = certain.last_mut() {
                    *all = 0.0;
                }
                certain
            }
        }
    }
}

/// The same logits for every block: [L, K].
fn alpha(row: &[f64], depth: i64, device: Device) -> Tensor {
    Tensor::from_slice(row)
        .to_kind(Kind::Float)
        .to_device(device)
        .repeat([depth, 1])
        .set_requires_grad(true)
}

fn log_softmax(row_K: &Tensor) -> Vec<f64> {
    let log_p = row_K.detach().log_softmax(-1, Kind::Double);
    log_p
        .iter::<f64>()
        .unwrap_or_else(|error| panic!("a vector of f64 was just made: {error}"))
        .collect()
}

/// `count` numbers of neurons, evenly spaced up to `ffn`, each a multiple of 8. [ours]
pub fn neuron_candidates(ffn: i64, count: i64) -> Vec<i64> {
    let mut candidates: Vec<i64> = (1..=count)
        .map(|k| {
            let octets = (ffn * k + 8 * count - 1) / (8 * count);
            (8 * octets).min(ffn)
        })
        .collect();
    candidates.dedup();
    candidates
}

/// Logits proportional to the size, so steep that the expected size is `share` of the largest, or
/// uniform where that is already more. Neighbours differ little, so that sizes can move in small steps. [ours]
fn rising_logits(candidates: &[i64], share: f64) -> Vec<f64> {
    let largest = candidates.last().copied().unwrap_or(1) as f64;
    let logits = |slope: f64| -> Vec<f64> {
        let sizes = candidates.iter();
        sizes
            .map(|&size| slope * (size as f64 / largest - 1.0))
            .collect()
    };
    let expected = |slope: f64| {
        let weights: Vec<f64> = logits(slope).iter().map(|logit| logit.exp()).collect();
        let sizes = candidates.iter().zip(&weights);
        let sum: f64 = sizes.map(|(&size, weight)| size as f64 * weight).sum();
        sum / weights.iter().sum::<f64>() / largest
    };
    let (mut low, mut high) = (0.0, STEEPEST);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if expected(middle) < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    logits(low)
}

/// Slope at which all but the largest candidate have vanished.
const STEEPEST: f64 = 1e4;

/// Halvings after which the slope is exact to double precision.
const BISECTIONS: u32 = 64;

#[cfg(test)]
mod tests;
