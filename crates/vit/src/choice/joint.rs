use std::ops::RangeInclusive;

use super::{Choice, Probabilities};
use crate::Cost;

/// Cells over 0 ..= F_full, of MACs with every gate open and of MACs that are spent. Of two partial choices in
/// one cell the likelier is kept; each keeps its own MACs, so no budget is met only by rounding.
const CELLS: usize = 256;

/// A choice for the first modules.
#[derive(Clone, Copy)]
struct Partial {
    /// Sum of log-probabilities.
    score: f64,
    /// F / F_full of what is fixed and of these modules, every gate open.
    kept: f64,
    /// F / F_full of what is fixed and of those of these modules that run.
    spent: f64,
}

/// How a partial choice came about: the cell before its last module, and that module's candidate.
#[derive(Clone, Copy)]
struct Step {
    before: u32,
    candidate: u32,
}

impl Probabilities {
    /// The likeliest structure within `budget` together with a set of its modules that never run, so that
    /// what is spent is within `total`; both as shares of the dense model's MACs. None where there is none. [ours]
    ///
    /// Of constant gates, which cannot make up for a structure that misses: `margins` are keep - skip of the M
    /// modules' gates, and score the set; the score is of both.
    pub fn within_both(
        &self,
        margins: &[f64],
        cost: &Cost,
        budget: &RangeInclusive<f64>,
        total: &RangeInclusive<f64>,
    ) -> Option<Choice> {
        let fixed = cost.fixed() / cost.dense();
        let mut cells = vec![None; CELLS * CELLS];
        let nothing = Partial {
            score: 0.0,
            kept: fixed,
            spent: fixed,
        };
        cells[nothing.cell()] = Some(nothing);
        let mut steps: Vec<Vec<Step>> = Vec::with_capacity(self.modules.len());
        for (m, (candidates, &margin)) in self.modules.iter().zip(margins).enumerate() {
            let none = Step {
                before: 0,
                candidate: 0,
            };
            let (mut next, mut step) = (vec![None; CELLS * CELLS], vec![none; CELLS * CELLS]);
            for (before, partial) in cells.iter().enumerate() {
                let Some(partial) = partial else { continue };
                for (k, candidate) in candidates.iter().enumerate() {
                    for runs in [true, false] {
                        let with = partial.with(m, candidate, runs, margin, cost);
                        // Nothing that is added later brings it back.
                        if with.kept > *budget.end() || with.spent > *total.end() {
                            continue;
                        }
                        let cell = with.cell();
                        if next[cell].is_none_or(|there: Partial| with.score > there.score) {
                            next[cell] = Some(with);
                            step[cell] = Step {
                                before: before as u32,
                                candidate: k as u32,
                            };
                        }
                    }
                }
            }
            cells = next;
            steps.push(step);
        }

        let both =
            |partial: &Partial| budget.contains(&partial.kept) && total.contains(&partial.spent);
        let ends = cells.iter().enumerate();
        let (mut cell, best) = ends
            .filter_map(|(cell, partial)| partial.filter(both).map(|partial| (cell, partial)))
            .max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))?;
        let mut chosen = vec![0; steps.len()];
        for (m, step) in steps.iter().enumerate().rev() {
            let Step { before, candidate } = step[cell];
            (chosen[m], cell) = (candidate as usize, before as usize);
        }
        Some(Choice {
            score: best.score,
            ..self.choice(cost, &chosen, budget)
        })
    }
}

impl Partial {
    /// With module m of a size, which runs or not. A dropped module has no gate to score.
    fn with(
        &self,
        m: usize,
        candidate: &super::Candidate,
        runs: bool,
        margin: f64,
        cost: &Cost,
    ) -> Self {
        let share = |open: f64| cost.module(m, candidate.size, open) / cost.dense();
        let gate = match (candidate.size, runs) {
            (0, _) => 0.0,
            (_, true) => log_sigmoid(margin),
            (_, false) => log_sigmoid(-margin),
        };
        Self {
            score: self.score + candidate.score + gate,
            kept: self.kept + share(1.0),
            spent: self.spent + share(if runs { 1.0 } else { 0.0 }),
        }
    }

    fn cell(&self) -> usize {
        let place = |ratio: f64| ((ratio * CELLS as f64) as usize).min(CELLS - 1);
        place(self.kept) * CELLS + place(self.spent)
    }
}

fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}
