use std::ops::RangeInclusive;

use self::knapsack::Knapsack;
use crate::{BlockStructure, Cost, Structure};

mod joint;
mod knapsack;

/// What the search says about the sizes of every module.
#[derive(Clone, Debug, PartialEq)]
pub struct Probabilities {
    /// For each of the M modules its candidates, by rising size.
    pub modules: Vec<Vec<Candidate>>,
}

/// A size a module may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Heads or neurons; 0 drops the module.
    pub size: i64,
    /// Log-probability that the module stays (or goes), plus that of the size over the likeliest size.
    pub score: f64,
}

/// A chosen structure and why it was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The structure.
    pub structure: Structure,
    /// Its log-probability, up to what all structures have in common.
    pub score: f64,
    /// Its MACs with every gate open, over those of the dense model.
    pub static_ratio: f64,
    /// Whether `static_ratio` is within the budget.
    pub within_budget: bool,
    /// For people: where arg max was, what was changed, and where that leads.
    pub reason: String,
}

impl Probabilities {
    /// The likeliest size of each module. [paper]
    pub fn arg_max(&self) -> Structure {
        self.structure(&self.likeliest())
    }

    /// The likeliest structure whose F / F_full is in `budget`: the arg max if it is there. [ours]
    ///
    /// One without any MHSA is none: the classes are read from a token that has then seen no other.
    ///
    /// Where no structure is in the budget, the largest below it, else the smallest of all;
    /// `within_budget` says so.
    pub fn within(&self, cost: &Cost, budget: RangeInclusive<f64>) -> Choice {
        let arg_max = self.likeliest();
        if budget.contains(&self.ratio(cost, &arg_max)) && self.sees(&arg_max) {
            return self.choice(cost, &arg_max, &budget);
        }
        self.choice(
            cost,
            &Knapsack::fill(&self.modules, cost).take(&budget),
            &budget,
        )
    }

    /// As [`Self::within`] for each of several budgets, but never the arg max for its own sake. [ours]
    pub fn within_each(&self, cost: &Cost, budgets: &[RangeInclusive<f64>]) -> Vec<Choice> {
        let filled = Knapsack::fill(&self.modules, cost);
        let budgets = budgets.iter();
        budgets
            .map(|budget| self.choice(cost, &filled.take(budget), budget))
            .collect()
    }

    fn choice(&self, cost: &Cost, chosen: &[usize], budget: &RangeInclusive<f64>) -> Choice {
        let static_ratio = self.ratio(cost, chosen);
        let scores = self.modules.iter().zip(chosen);
        Choice {
            structure: self.structure(chosen),
            score: scores.map(|(candidates, &k)| candidates[k].score).sum(),
            static_ratio,
            within_budget: budget.contains(&static_ratio),
            reason: self.reason(cost, chosen, budget),
        }
    }

    /// Whether any module is an MHSA that is kept, or none may be.
    fn sees(&self, chosen: &[usize]) -> bool {
        let mut sizes = self.sizes(chosen).enumerate();
        let may = |(m, candidates): (usize, &Vec<Candidate>)| {
            candidates
                .iter()
                .any(|candidate| sees_by(m, candidate.size))
        };
        sizes.any(|(m, size)| sees_by(m, size)) || !self.modules.iter().enumerate().any(may)
    }

    fn ratio(&self, cost: &Cost, chosen: &[usize]) -> f64 {
        cost.static_macs(&self.structure(chosen)) / cost.dense()
    }

    /// Index of each module's likeliest candidate; of equals the largest.
    fn likeliest(&self) -> Vec<usize> {
        let modules = self.modules.iter();
        modules
            .map(|candidates| {
                let scores = candidates.iter().enumerate();
                scores
                    .max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))
                    .map_or(0, |(k, _)| k)
            })
            .collect()
    }

    fn structure(&self, chosen: &[usize]) -> Structure {
        let sizes: Vec<i64> = self.sizes(chosen).collect();
        Structure {
            blocks: sizes
                .chunks_exact(2)
                .map(|block| BlockStructure {
                    heads: block[0],
                    neurons: block[1],
                })
                .collect(),
        }
    }

    fn sizes(&self, chosen: &[usize]) -> impl Iterator<Item = i64> {
        let modules = self.modules.iter().zip(chosen);
        modules.map(|(candidates, &k)| candidates[k].size)
    }

    fn reason(&self, cost: &Cost, chosen: &[usize], budget: &RangeInclusive<f64>) -> String {
        let arg_max = self.likeliest();
        let (first_ratio, ratio) = (self.ratio(cost, &arg_max), self.ratio(cost, chosen));
        let (least, most) = (budget.start(), budget.end());
        let blind = if self.sees(&arg_max) {
            ""
        } else {
            " and no MHSA, so that it would not see the image"
        };
        let start = format!("arg max has {first_ratio:.4} of the dense MACs{blind}");
        let range = format!("the budget is {least:.4} to {most:.4}");
        let changes: Vec<String> = self
            .sizes(&arg_max)
            .zip(self.sizes(chosen))
            .enumerate()
            .filter(|(_, (before, after))| before != after)
            .map(|(m, (before, after))| format!("{} {before} -> {after}", module_name(m)))
            .collect();
        let moved = if changes.is_empty() {
            String::new()
        } else {
            format!("; moved to {ratio:.4}: {}", changes.join(", "))
        };
        let miss = if budget.contains(&ratio) {
            ""
        } else {
            "; no structure comes nearer"
        };
        format!("{start}, {range}{moved}{miss}")
    }
}

/// Whether module m of this size shows the class token the other tokens.
fn sees_by(m: usize, size: i64) -> bool {
    m.is_multiple_of(2) && size > 0
}

fn module_name(m: usize) -> String {
    let (block, unit) = (m / 2, ["heads", "neurons"][m % 2]);
    format!("blocks.{block} {unit}")
}

#[cfg(test)]
mod tests;
