//! From the search to the tune stage: arg max of alpha, and the tensors are cut to it. [paper]

use std::ops::RangeInclusive;

use espalier_job::{Compress, Mode};
use espalier_vit::{Choice, Cost, Search, SliceError, Vit, slice};

/// How far off its target the static structure may land: nothing can correct it later.
const STATIC_TOLERANCE: f64 = 0.01;

/// The sliced model, and why it has the structure it has.
#[derive(Debug)]
pub(super) struct Transition {
    /// The model that is tuned.
    pub model: Vit,
    /// The choice.
    pub choice: Choice,
}

/// Chooses within the job's budget and slices. The model keeps its gates.
///
/// # Errors
/// A model and a search that do not belong together.
pub(super) fn transition(
    model: &Vit,
    search: &Search,
    cost: &Cost,
    compress: &Compress,
) -> Result<Transition, SliceError> {
    let choice = search.choose_within(cost, static_budget(compress));
    let model = slice(model, search.ranking(), &choice.structure)?;
    Ok(Transition { model, choice })
}

/// Where F / F_full may be with every gate open. Gates can only skip, so a gated model must have at
/// least its target before they do, and never more than its static target or the dense model.
pub(super) fn static_budget(compress: &Compress) -> RangeInclusive<f64> {
    let target = compress.target;
    match (compress.mode, compress.static_target) {
        (Mode::Static, _) => target * (1.0 - STATIC_TOLERANCE)..=target * (1.0 + STATIC_TOLERANCE),
        (_, Some(most)) => target.max(most * (1.0 - STATIC_TOLERANCE))..=most,
        (_, None) => target..=1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_mode() {
        let mut compress = Compress {
            target: 0.5,
            ..Compress::default()
        };
        assert_eq!(static_budget(&compress), 0.5..=1.0);
        compress.static_target = Some(0.75);
        assert_eq!(static_budget(&compress), 0.75 * 0.99..=0.75);
        compress.mode = Mode::Static;
        assert_eq!(static_budget(&compress), 0.495..=0.505);
    }
}
