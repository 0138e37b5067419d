use std::ops::RangeInclusive;

use espalier_job::Architecture;
use proptest::prelude::*;

use super::*;
use crate::Dims;

fn dims() -> Dims {
    Dims {
        image_size: 28,
        patch_size: 4,
        channels: 1,
        classes: 10,
        width: 64,
        depth: 4,
        heads: 4,
        ffn: 128,
        architecture: Architecture::default(),
    }
}

/// Candidates of every module with the given scores: 5 for heads, 9 for neurons, dropped first.
fn with_scores(scores: &[f64]) -> Probabilities {
    let mut scores = scores.iter().copied();
    let modules = (0..8).map(|m| {
        let (unit, count) = if m % 2 == 0 { (1, 5) } else { (16, 9) };
        (0..count)
            .map(|k| Candidate {
                size: unit * k,
                score: scores.next().unwrap(),
            })
            .collect()
    });
    Probabilities {
        modules: modules.collect(),
    }
}

/// Scores of all candidates of `with_scores`.
fn scores() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-8.0..0.0, 4 * (5 + 9))
}

/// Scores that rise with the size, so that the arg max is the whole model.
fn rising() -> Vec<f64> {
    let module = |count: i32| (0..count).map(move |k| f64::from(k - count));
    (0..4).flat_map(|_| module(5).chain(module(9))).collect()
}

impl Probabilities {
    fn score(&self, structure: &Structure) -> f64 {
        let sizes = structure.blocks.iter();
        let sizes = sizes.flat_map(|block| [block.heads, block.neurons]);
        let of_size = |(candidates, size): (&Vec<Candidate>, i64)| {
            let candidate = candidates.iter().find(|c| c.size == size).unwrap();
            candidate.score
        };
        self.modules.iter().zip(sizes).map(of_size).sum()
    }
}

/// The best score of a structure with an MHSA in `budget`, of all there are; minus infinity for none.
fn best_of_all(probabilities: &Probabilities, cost: &Cost, budget: &RangeInclusive<f64>) -> f64 {
    let mut structures = vec![(0.0, cost.fixed(), false)];
    for (m, candidates) in probabilities.modules.iter().enumerate() {
        let with = |&(score, macs, sees): &(f64, f64, bool)| {
            let sees_with = move |size: i64| sees || m % 2 == 0 && size > 0;
            let with = move |c: &Candidate| {
                let macs = macs + cost.module(m, c.size, 1.0);
                (score + c.score, macs, sees_with(c.size))
            };
            candidates.iter().map(with).collect::<Vec<_>>()
        };
        structures = structures.iter().flat_map(with).collect();
    }
    let within = structures
        .iter()
        .filter(|(_, macs, sees)| *sees && budget.contains(&(macs / cost.dense())));
    within.fold(f64::NEG_INFINITY, |best, &(score, ..)| best.max(score))
}

proptest! {
    #[test]
    fn no_structure_within_the_budget_is_likelier(scores in scores(), most in 0.2..1.0) {
        let dims = Dims { depth: 2, ..dims() };
        let cost = Cost::new(&dims, None);
        let mut probabilities = with_scores(&scores);
        probabilities.modules.truncate(4);
        let budget = most - 0.02..=most;
        let choice = probabilities.within(&cost, budget.clone());
        let best = best_of_all(&probabilities, &cost, &budget);
        prop_assert_eq!(choice.within_budget, best > f64::NEG_INFINITY);
        if choice.within_budget {
            let score = probabilities.score(&choice.structure);
            prop_assert!((score - best).abs() < 1e-9, "{} for {}", score, best);
        }
    }

    #[test]
    fn a_budget_of_2_percent_is_met_from_any_arg_max(scores in scores(), most in 0.1..1.0) {
        let cost = Cost::new(&dims(), None);
        let choice = with_scores(&scores).within(&cost, most - 0.02..=most);
        prop_assert!(choice.within_budget, "{}", choice.reason);
    }

    #[test]
    fn no_budget_is_exceeded_from_any_arg_max(scores in scores(), most in 0.1..1.0) {
        let cost = Cost::new(&dims(), None);
        let budget = most - 0.02..=most;
        let choice = with_scores(&scores).within(&cost, budget.clone());
        let ratio = cost.static_macs(&choice.structure) / cost.dense();
        prop_assert_eq!(ratio, choice.static_ratio);
        prop_assert!(ratio <= most, "{}", choice.reason);
        prop_assert_eq!(choice.within_budget, budget.contains(&ratio));
    }

    #[test]
    fn an_arg_max_within_the_budget_stays(scores in scores()) {
        let cost = Cost::new(&dims(), None);
        let probabilities = with_scores(&scores);
        let choice = probabilities.within(&cost, 0.0..=1.0);
        if probabilities.arg_max().blocks.iter().any(|block| block.heads > 0) {
            prop_assert_eq!(choice.structure, probabilities.arg_max());
        }
    }

    #[test]
    fn an_mhsa_is_kept_however_likely_it_is_to_go(mut scores in scores(), most in 0.15..1.0) {
        for block in 0..4 {
            scores[block * (5 + 9)] = 0.0;
            scores[block * (5 + 9) + 1..block * (5 + 9) + 5].fill(-100.0);
        }
        let cost = Cost::new(&dims(), None);
        let choice = with_scores(&scores).within(&cost, most - 0.02..=most);
        prop_assert!(choice.structure.blocks.iter().any(|block| block.heads > 0), "{}", choice.reason);
        prop_assert!(choice.reason.contains("no MHSA"), "{}", choice.reason);
        prop_assert!(choice.within_budget, "{}", choice.reason);
    }
}

#[test]
fn where_no_module_may_be_an_mhsa_the_likeliest_is_taken_all_the_same() {
    let mut probabilities = with_scores(&rising());
    for (m, candidates) in probabilities.modules.iter_mut().enumerate() {
        if m % 2 == 0 {
            candidates.truncate(1);
        }
    }
    let cost = Cost::new(&dims(), None);
    let choice = probabilities.within(&cost, 0.0..=1.0);
    assert_eq!(choice.structure, probabilities.arg_max());
}

#[test]
fn the_cheapest_module_gives_way() {
    let mut scores = rising();
    // Block 2's FFN does not care about its size.
    let ffn = 2 * (5 + 9) + 5;
    scores[ffn..ffn + 9].fill(-1.0);
    let cost = Cost::new(&dims(), None);
    let choice = with_scores(&scores).within(&cost, 0.9..=0.97);
    let changed: Vec<usize> = (0..4)
        .filter(|&l| choice.structure.blocks[l] != Structure::full(&dims()).blocks[l])
        .collect();
    assert_eq!(changed, [2], "{}", choice.reason);
    assert_eq!(choice.structure.blocks[2].heads, 4);
    assert!(
        choice.reason.contains("blocks.2 neurons 128 -> "),
        "{}",
        choice.reason
    );
}

#[test]
fn a_budget_below_what_is_fixed_is_said_to_be_missed() {
    let cost = Cost::new(&dims(), None);
    let choice = with_scores(&rising()).within(&cost, 0.0..=0.001);
    assert!(!choice.within_budget);
    assert!(
        choice.reason.ends_with("no structure comes nearer"),
        "{}",
        choice.reason
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two modules can be tried out: nothing likelier meets both budgets.
    #[test]
    fn both_budgets_are_met_by_the_likeliest(
        scores in scores(),
        margins in prop::array::uniform2(-3.0_f64..3.0),
        kept in 0.1_f64..0.35,
        spent in 0.05_f64..0.3,
    ) {
        let cost = Cost::new(&dims(), None);
        let all = with_scores(&scores);
        // What is not among the first two modules is dropped.
        let mut modules = all.modules;
        modules.iter_mut().skip(2).for_each(|candidates| candidates.truncate(1));
        let few = Probabilities { modules };
        let budget = 0.8 * kept..=kept;
        let total = 0.7 * spent..=spent;
        let margins = [&margins[..], &[0.0; 6]].concat();
        let found = few.within_both(&margins, &cost, &budget, &total);

        let log_sigmoid = |z: f64| -(-z).exp().ln_1p();
        let mut best: Option<f64> = None;
        for attn in &few.modules[0] {
            for ffn in &few.modules[1] {
                for open in [[true, true], [true, false], [false, true], [false, false]] {
                    let module = |m: usize, candidate: &Candidate| {
                        let macs = cost.module(m, candidate.size, 1.0) / cost.dense();
                        let margin = if open[m] { margins[m] } else { -margins[m] };
                        let gate = if candidate.size > 0 { log_sigmoid(margin) } else { 0.0 };
                        (macs, if open[m] { macs } else { 0.0 }, candidate.score + gate)
                    };
                    let fixed = cost.fixed() / cost.dense();
                    let (a, b) = (module(0, attn), module(1, ffn));
                    let (kept, spent) = (fixed + a.0 + b.0, fixed + a.1 + b.1);
                    let rest: f64 = few.modules[2..].iter().map(|c| c[0].score).sum();
                    let sees = open[0] && attn.size > 0;
                    if sees && budget.contains(&kept) && total.contains(&spent) {
                        best = Some(best.unwrap_or(f64::MIN).max(a.2 + b.2 + rest));
                    }
                }
            }
        }
        prop_assert_eq!(best.is_some(), found.is_some());
        if let (Some(best), Some(choice)) = (best, found) {
            prop_assert!(choice.within_budget);
            prop_assert!((choice.score - best).abs() < 1e-9, "{} {best}", choice.score);
        }
    }
}
