use tch::Tensor;

/// A learnable tensor of a model or of a search.
#[derive(Debug)]
pub struct Param {
    /// Name in checkpoints; timm's where timm has one.
    pub name: String,
    /// The tensor itself (a handle to the same storage), a leaf that takes gradients.
    pub tensor: Tensor,
    /// How it is optimised.
    pub kind: ParamKind,
}

/// How a parameter is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A weight of the transformer.
    Weight {
        /// Whether weight decay applies: not to norms, biases, position and CLS embeddings.
        decay: bool,
    },
    /// Part of the model but not learnable: it takes no gradient and no update.
    Frozen,
    /// A parameter of a gate: its own learning rate, no decay.
    Gate,
    /// A logit of a static choice: its own learning rate, no decay.
    Alpha,
}

/// Collects parameters under a name that grows with the path into the model.
pub(crate) struct Collector {
    prefix: String,
    params: Vec<Param>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self {
            prefix: String::new(),
            params: Vec::new(),
        }
    }

    /// Collects `part`'s parameters under `name`.
    pub(crate) fn scope(&mut self, name: &str, part: impl FnOnce(&mut Self)) {
        let outer = self.prefix.len();
        self.prefix.push_str(name);
        self.prefix.push('.');
        part(self);
        self.prefix.truncate(outer);
    }

    pub(crate) fn add(&mut self, name: &str, tensor: &Tensor, kind: ParamKind) {
        self.params.push(Param {
            name: format!("{}{name}", self.prefix),
            tensor: tensor.shallow_clone(),
            kind,
        });
    }

    pub(crate) fn into_params(self) -> Vec<Param> {
        self.params
    }
}
