use tch::{Kind, Tensor};

use crate::gate::Gate;
use crate::groups::Groups;
use crate::masks::Masks;

/// How the gates decide in a forward pass.
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

/// On which samples a module runs, and with which weight.
pub(crate) enum Route {
    /// On none: x stays.
    Skip,
    /// On all.
    All,
    /// On the samples of this index, [S].
    Some(Tensor),
    /// On all, times u of each sample, [B].
    Weighted(Tensor),
}

impl Route {
    /// x + u * module(x), computing only what is kept.
    pub(crate) fn apply(&self, x_BND: Tensor, module: impl Fn(&Tensor) -> Tensor) -> Tensor {
        match self {
            Self::Skip => x_BND,
            Self::All => &x_BND + module(&x_BND),
            Self::Some(index_S) => {
                let kept_SND = module(&x_BND.index_select(0, index_S));
                x_BND.index_add(0, index_S, &kept_SND)
            }
            Self::Weighted(u_B) => &x_BND + u_B.reshape([-1, 1, 1]) * module(&x_BND),
        }
    }
}

/// Asks the gates in the order of the modules and keeps what they decided.
pub(crate) struct Router<'a> {
    routing: &'a Routing<'a>,
    batch: i64,
    /// u of each module so far: [G] in training, [B] otherwise.
    columns: Vec<Tensor>,
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
    pub(crate) fn new(routing: &'a Routing<'a>, batch: i64) -> Self {
        Self {
            routing,
            batch,
            columns: Vec::new(),
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
        let (route, column) = match decider {
            Decider::Dropped => (Route::Skip, self.constant(x_BND, 0.0)),
            Decider::Ungated => (Route::All, self.constant(x_BND, 1.0)),
            Decider::Gated(gate) => self.decide(gate, x_BND),
        };
        self.columns.push(column);
        route
    }

    fn decide(&self, gate: &Gate, x_BND: &Tensor) -> (Route, Tensor) {
        match self.routing {
            Routing::Open | Routing::Train { open: true, .. } => {
                (Route::All, self.constant(x_BND, 1.0))
            }
            Routing::Train {
                groups,
                noise_GM,
                tau,
                ..
            } => {
                let margin_G = gate.margin_G(&gate.margin_B(x_BND), groups);
                let noise_G = noise_GM.select(1, self.columns.len() as i64);
                let u_G = gate.sample_G(&margin_G, &noise_G, *tau);
                (Route::Weighted(groups.spread_B(&u_G)), u_G)
            }
            Routing::Shared => {
                let whole = Groups::whole(self.batch, x_BND.device());
                let keep_1 = gate.keeps(&gate.margin_G(&gate.margin_B(x_BND), &whole));
                self.of_samples(&keep_1.expand([self.batch], false))
            }
            Routing::PerSample => self.of_samples(&gate.keeps(&gate.margin_B(x_BND))),
            Routing::Forced(decisions_BM) => {
                let column_B = decisions_BM.select(1, self.columns.len() as i64);
                self.of_samples(&column_B.gt(0.5).to_device(x_BND.device()))
            }
        }
    }

    /// The route of bools of the samples, [B].
    fn of_samples(&self, keep_B: &Tensor) -> (Route, Tensor) {
        let index_S = keep_B.nonzero().squeeze_dim(1);
        let kept = index_S.size()[0];
        let route = if kept == 0 {
            Route::Skip
        } else if kept == self.batch {
            Route::All
        } else {
            Route::Some(index_S)
        };
        (route, keep_B.to_kind(Kind::Float))
    }

    fn constant(&self, x_BND: &Tensor, value: f64) -> Tensor {
        let rows = match self.routing {
            Routing::Train { groups, .. } => groups.count(),
            _ => self.batch,
        };
        Tensor::full([rows], value, (Kind::Float, x_BND.device()))
    }

    /// (sum over samples of u, [M]; u of each sample, [B, M]).
    pub(crate) fn finish(self) -> (Tensor, Tensor) {
        let u = Tensor::stack(&self.columns, 1);
        match self.routing {
            Routing::Train { groups, .. } => {
                let open_M = groups.sizes_G().unsqueeze(0).matmul(&u).squeeze_dim(0);
                (open_M, groups.spread_B(&u.detach()))
            }
            _ => (u.sum_dim_intlist(0, false, None), u),
        }
    }
}
