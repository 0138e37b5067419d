use std::ops::RangeInclusive;

use super::{Candidate, sees_by};
use crate::Cost;

/// Cells over 0 ..= F_full. Of two partial structures in one cell the likelier is kept, so a budget
/// narrower than a few cells may be missed; each keeps its own MACs, so none is met only by rounding.
const CELLS: usize = 1 << 14;

/// The likeliest structures of every cost: scores and MACs both add up over the modules, so choosing
/// one size for each is a multiple-choice knapsack.
pub(super) struct Knapsack {
    /// For the first m modules, m = 0 ..= M.
    filled: Vec<Cells>,
}

/// For each cell of MACs the likeliest sizes, of structures without any MHSA and of those with one.
struct Cells([Vec<Option<Partial>>; 2]);

/// Sizes of the first modules.
#[derive(Clone, Copy)]
struct Partial {
    /// Sum of log-probabilities.
    score: f64,
    /// F / F_full of what is fixed and of these modules, every gate open.
    ratio: f64,
    /// The candidate of the last of these modules.
    candidate: usize,
    /// Whether the modules before it have an MHSA, and their cell.
    before: (bool, usize),
}

impl Knapsack {
    pub(super) fn fill(modules: &[Vec<Candidate>], cost: &Cost) -> Self {
        let mut first = Cells::empty();
        let nothing = Partial {
            score: 0.0,
            ratio: cost.fixed() / cost.dense(),
            candidate: 0,
            before: (false, 0),
        };
        first.put(false, nothing);
        let mut filled = vec![first];
        for (m, candidates) in modules.iter().enumerate() {
            let mut next = Cells::empty();
            for sees in [false, true] {
                for (before, partial) in filled[m].occupied(sees) {
                    for (k, candidate) in candidates.iter().enumerate() {
                        if candidate.score == f64::NEG_INFINITY {
                            continue;
                        }
                        let with = Partial {
                            score: partial.score + candidate.score,
                            ratio: partial.ratio
                                + cost.module(m, candidate.size, 1.0) / cost.dense(),
                            candidate: k,
                            before: (sees, before),
                        };
                        next.put(sees || sees_by(m, candidate.size), with);
                    }
                }
            }
            filled.push(next);
        }
        Self { filled }
    }

    /// The candidate of each module, of the likeliest structure in `budget`; where there is none, of
    /// the largest below it, else of the smallest. It has an MHSA, if any module may be one.
    pub(super) fn take(&self, budget: &RangeInclusive<f64>) -> Vec<usize> {
        let modules = self.filled.len() - 1;
        let all = &self.filled[modules];
        let mut sees = all.occupied(true).next().is_some();
        let whole = || all.occupied(sees);
        let largest_below = || whole().rfind(|(_, p)| p.ratio <= *budget.end());
        let best = whole()
            .filter(|(_, p)| budget.contains(&p.ratio))
            .max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))
            .or_else(largest_below)
            .or_else(|| whole().next());

        let mut chosen = vec![0; modules];
        let mut cell = best.map_or(0, |(cell, _)| cell);
        for m in (0..modules).rev() {
            let Some(partial) = self.filled[m + 1].0[usize::from(sees)][cell] else {
                break;
            };
            chosen[m] = partial.candidate;
            (sees, cell) = partial.before;
        }
        chosen
    }
}

impl Cells {
    fn empty() -> Self {
        Self([vec![None; CELLS + 1], vec![None; CELLS + 1]])
    }

    /// Keeps the likelier of this and what has its place.
    fn put(&mut self, sees: bool, partial: Partial) {
        let cell = ((partial.ratio * CELLS as f64) as usize).min(CELLS);
        let place = &mut self.0[usize::from(sees)][cell];
        if place.is_none_or(|there| partial.score > there.score) {
            *place = Some(partial);
        }
    }

    /// The partial structures with their cells, by rising MACs.
    fn occupied(&self, sees: bool) -> impl DoubleEndedIterator<Item = (usize, Partial)> {
        let cells = self.0[usize::from(sees)].iter().enumerate();
        cells.filter_map(|(cell, partial)| partial.map(|partial| (cell, partial)))
    }
}
