use espalier_job::DecideBy;
use tch::{Device, Kind, Tensor};

use crate::Config;
use crate::chance::chance_GM;
use crate::gate::Gate;
use crate::groups::Groups;
use crate::masks::Masks;
use crate::tile::{self, Tile};

/// How the gates decide in a forward pass. [`Routing::Shared`], [`Routing::PerSample`] and
/// [`Routing::Forced`] are of inference: what they skip is not computed, and no gradient flows.
#[derive(Clone, Copy, Debug)]
pub enum Routing<'a> {
    /// Training: every group samples, gradients flow.
    Train {
        /// Which samples gate together.
        groups: &'a Groups,
        /// Of [`crate::gate_noise`], [G, M].
        noise_GM: &'a Tensor,
        /// Temperature of the Gumbel-softmax.
        tau: f64,
        /// Warm-up: every gate is held open and gets no gradient.
        open: bool,
        /// The sampled static choices, in the search stage.
        masks: Option<&'a Masks>,
    },
    /// Every gate is open.
    Open,
    /// The batch decides as one group; a module the batch skips is not run.
    Shared,
    /// Every sample decides alone; a module runs on the samples that keep it, and not at all when
    /// there are none. No sample's output depends on its neighbours. [ours]
    PerSample,
    /// The given decisions, [B, M]: above 0.5 keeps.
    Forced(&'a Tensor),
}

impl Routing<'_> {
    /// Whether modules run on what keeps them alone, in place.
    pub(crate) fn is_inference(&self) -> bool {
        matches!(self, Self::Shared | Self::PerSample | Self::Forced(_))
    }
}

/// On which samples a module runs, and with which weight.
pub(crate) enum Route {
    /// On none: x stays.
    Skip,
    /// On all.
    All,
    /// On all, times u of each sample, [B].
    Weighted(Tensor),
    /// On the samples of these tiles, in place.
    Kept(Vec<Tile>),
}

impl Route {
    /// x + u * module(x), computing only what is kept.
    pub(crate) fn apply(&self, mut x_BND: Tensor, module: impl Fn(&Tensor) -> Tensor) -> Tensor {
        match self {
            Self::Skip => x_BND,
            Self::All => &x_BND + module(&x_BND),
            Self::Weighted(u_B) => &x_BND + u_B.reshape([-1, 1, 1]) * module(&x_BND),
            Self::Kept(tiles) => {
                for tile in tiles {
                    tile.add(&mut x_BND, &module);
                }
                x_BND
            }
        }
    }
}

/// Asks the gates in the order of the modules and keeps what they decided.
pub(crate) struct Router<'a> {
    routing: &'a Routing<'a>,
    batch: i64,
    /// Samples that a module runs on at a time, at inference.
    tile: i64,
    /// What chance adds to the margins at evaluation, of the batch or of each sample: [1, M] or [B, M].
    chance: Option<Tensor>,
    /// u of each module so far: [G] in training, [B] otherwise.
    columns: Vec<Tensor>,
    /// The margin of each module so far, [B].
    margins: Vec<Tensor>,
}

/// What a module has to decide with.
pub(crate) enum Decider<'a> {
    /// The module is dropped.
    Dropped,
    /// The module is there and always runs.
    Ungated,
    /// The module is there with this gate.
    Gated(&'a Gate),
}

impl<'a> Router<'a> {
    /// For the images `x_BCHW` of a model of this configuration.
    pub(crate) fn new(config: &Config, routing: &'a Routing<'a>, x_BCHW: &Tensor) -> Self {
        let batch = x_BCHW.size()[0];
        let by_chance = config
            .gate
            .is_some_and(|gate| gate.decide == DecideBy::Random);
        let ids: Option<Vec<i64>> = match routing {
            Routing::Shared => Some(vec![0; batch as usize]),
            Routing::PerSample => Some((0..batch).collect()),
            Routing::Train { .. } | Routing::Open | Routing::Forced(_) => None,
        };
        Self {
            routing,
            batch,
            tile: tile::size(config.dims.tokens(), batch, x_BCHW.device()),
            chance: ids
                .filter(|_| by_chance)
                .map(|ids| chance_GM(config, x_BCHW, &ids)),
            columns: Vec::new(),
            margins: Vec::new(),
        }
    }

    /// Samples that are embedded at a time: at inference a tile, else all.
    pub(crate) fn embedded(&self) -> i64 {
        if self.routing.is_inference() {
            self.tile
        } else {
            self.batch
        }
    }

    pub(crate) fn masks(&self) -> Option<&'a Masks> {
        match self.routing {
            Routing::Train { masks, .. } => *masks,
            _ => None,
        }
    }

    /// The route of the next module, from the block's input.
    pub(crate) fn next(&mut self, decider: &Decider<'_>, x_BND: &Tensor) -> Route {
        let (route, column, margin_B) = match decider {
            Decider::Dropped => self.certain(x_BND, false),
            Decider::Ungated => self.certain(x_BND, true),
            Decider::Gated(gate) => self.decide(gate, x_BND),
        };
        self.columns.push(column);
        self.margins.push(margin_B);
        route
    }

    fn decide(&self, gate: &Gate, x_BND: &Tensor) -> (Route, Tensor, Tensor) {
        let module = self.columns.len() as i64;
        if let Routing::Open | Routing::Train { open: true, .. } = self.routing {
            return self.certain(x_BND, true);
        }
        if let Routing::Forced(decisions_BM) = self.routing {
            let column_B = decisions_BM.select(1, module);
            let keep_B = column_B.gt(0.5).to_device(x_BND.device());
            let (route, column) = self.of_samples(&keep_B);
            return (
                route,
                column,
                self.constant(self.batch, f64::INFINITY, x_BND),
            );
        }
        let margin_B = gate.margin_B(x_BND);
        let with_chance = |margin: Tensor| match &self.chance {
            Some(noise) => margin + noise.select(1, module),
            None => margin,
        };
        if let Routing::Train {
            groups,
            noise_GM,
            tau,
            ..
        } = self.routing
        {
            let margin_G = gate.margin_G(&margin_B, groups);
            let u_G = gate.sample_G(&margin_G, &noise_GM.select(1, module), *tau);
            return (Route::Weighted(groups.spread_B(&u_G)), u_G, margin_B);
        }
        let (deciding, samples) = if let Routing::Shared = self.routing {
            let whole = Groups::whole(self.batch, x_BND.device());
            let margin_1 = with_chance(gate.margin_G(&margin_B, &whole));
            (margin_1.expand([self.batch], false), self.batch)
        } else {
            (with_chance(margin_B), 1)
        };
        let (route, column) = self.of_samples(&gate.keeps(&deciding, samples));
        (route, column, deciding)
    }

    /// The route of the gate's decision for each sample, bool [B].
    fn of_samples(&self, keep_B: &Tensor) -> (Route, Tensor) {
        let mut keep = vec![false; self.batch as usize];
        keep_B.copy_data(&mut keep, self.batch as usize);
        let route = self.kept(&keep, keep_B.device());
        (route, keep_B.to_kind(Kind::Float))
    }

    fn kept(&self, keep: &[bool], device: Device) -> Route {
        Route::Kept(tile::tiles(keep, self.tile, device))
    }

    /// What is decided without a gate: the route, u and an infinite margin.
    fn certain(&self, x_BND: &Tensor, keep: bool) -> (Route, Tensor, Tensor) {
        let rows = match self.routing {
            Routing::Train { groups, .. } => groups.count(),
            _ => self.batch,
        };
        let (route, u, margin) = match (keep, self.routing.is_inference()) {
            (false, _) => (Route::Skip, 0.0, f64::NEG_INFINITY),
            (true, false) => (Route::All, 1.0, f64::INFINITY),
            (true, true) => {
                let all = vec![true; self.batch as usize];
                (self.kept(&all, x_BND.device()), 1.0, f64::INFINITY)
            }
        };
        let margin_B = self.constant(self.batch, margin, x_BND);
        (route, self.constant(rows, u, x_BND), margin_B)
    }

    fn constant(&self, rows: i64, value: f64, x_BND: &Tensor) -> Tensor {
        Tensor::full([rows], value, (Kind::Float, x_BND.device()))
    }

    pub(crate) fn finish(self) -> Routed {
        let u = Tensor::stack(&self.columns, 1);
        let (open_M, decisions_BM) = match self.routing {
            Routing::Train { groups, .. } => {
                let open_M = groups.sizes_G().unsqueeze(0).matmul(&u).squeeze_dim(0);
                (open_M, groups.spread_B(&u.detach()))
            }
            _ => (u.sum_dim_intlist(0, false, None), u),
        };
        Routed {
            open_M,
            decisions_BM,
            margins_BM: Tensor::stack(&self.margins, 1),
        }
    }
}

/// What the gates of all modules decided, and by how much.
pub(crate) struct Routed {
    /// Sum over samples of u, [M].
    pub(crate) open_M: Tensor,
    /// u of each sample, [B, M].
    pub(crate) decisions_BM: Tensor,
    /// Margin of each sample, [B, M].
    pub(crate) margins_BM: Tensor,
}
