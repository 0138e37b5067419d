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

proptest! {
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
        prop_assert_eq!(choice.structure, probabilities.arg_max());
    }
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
        choice.reason.ends_with("no candidate comes nearer"),
        "{}",
        choice.reason
    );
}
