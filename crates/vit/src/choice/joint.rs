use std::ops::RangeInclusive;

use super::{Choice, Probabilities, sees_by};
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
    /// Whether one of those that run is an MHSA.
    sees: bool,
}

/// How a partial choice came about: the cell before its last module, and that module's candidate.
#[derive(Clone, Copy)]
struct Step {
    before: u32,
    candidate: u32,
}

impl Probabilities {
    /// The likeliest structure within `budget` together with a set of its modules that never run, so that
    /// what is spent is within `total`; both as shares of the dense model's MACs. An MHSA runs. None where there
    /// is none. [ours]
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
        let mut cells = vec![None; 2 * CELLS * CELLS];
        let nothing = Partial {
            score: 0.0,
            kept: fixed,
            spent: fixed,
            sees: false,
        };
        cells[nothing.cell()] = Some(nothing);
        let mut steps: Vec<Vec<Step>> = Vec::with_capacity(self.modules.len());
        let to_come = self.to_come(cost);
        for (m, (candidates, &margin)) in self.modules.iter().zip(margins).enumerate() {
            let none = Step {
                before: 0,
                candidate: 0,
            };
            let (mut next, mut step) = (vec![None; cells.len()], vec![none; cells.len()]);
            for (before, partial) in cells.iter().enumerate() {
                let Some(partial) = partial else { continue };
                for (k, candidate) in candidates.iter().enumerate() {
                    for runs in [true, false] {
                        let with = partial.with(m, candidate, runs, margin, cost);
                        // It would only take the cell of one that arrives.
                        if !with.may_meet(to_come[m + 1], budget, total) {
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

        let both = |partial: &Partial| {
            partial.sees && budget.contains(&partial.kept) && total.contains(&partial.spent)
        };
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

    /// For each m = 0 ..= M the least and the most that modules m .. M add to F / F_full.
    fn to_come(&self, cost: &Cost) -> Vec<(f64, f64)> {
        let mut to_come = vec![(0.0, 0.0)];
        for (m, candidates) in self.modules.iter().enumerate().rev() {
            let shares = candidates
                .iter()
                .map(|candidate| cost.module(m, candidate.size, 1.0) / cost.dense());
            let (least, most) = shares.fold((f64::INFINITY, 0.0_f64), |(least, most), share| {
                (least.min(share), most.max(share))
            });
            let (least_after, most_after) = to_come[to_come.len() - 1];
            to_come.push((least + least_after, most + most_after));
        }
        to_come.reverse();
        to_come
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
            sees: self.sees || runs && sees_by(m, candidate.size),
        }
    }

    /// Whether modules that add `least` to `most` can bring it into both budgets. Those that do not run
    /// spend nothing.
    fn may_meet(
        &self,
        (least, most): (f64, f64),
        budget: &RangeInclusive<f64>,
        total: &RangeInclusive<f64>,
    ) -> bool {
        // Shares are summed in another order than here, so that an edge may be missed by rounding.
        let slack = 1e-12;
        self.kept + least <= budget.end() + slack
            && self.kept + most >= budget.start() - slack
            && self.spent <= total.end() + slack
            && self.spent + most >= total.start() - slack
    }

    fn cell(&self) -> usize {
        let place = |ratio: f64| ((ratio * CELLS as f64) as usize).min(CELLS - 1);
        (usize::from(self.sees) * CELLS + place(self.kept)) * CELLS + place(self.spent)
    }
}

fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}
