use espalier_job::Architecture;
use proptest::prelude::*;

use super::*;

fn dims() -> Dims {
    Dims {
        image_size: 8,
        patch_size: 4,
        channels: 1,
        classes: 2,
        width: 16,
        depth: 2,
        heads: 4,
        ffn: 32,
        architecture: Architecture::default(),
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten(0, -1).iter::<f64>().unwrap().collect()
}

#[test]
fn neuron_candidates_are_even_multiples_of_eight() {
    assert_eq!(
        neuron_candidates(128, 8),
        [16, 32, 48, 64, 80, 96, 112, 128]
    );
    assert_eq!(neuron_candidates(24, 8), [8, 16, 24]);
    assert_eq!(neuron_candidates(8, 8), [8]);
    assert_eq!(neuron_candidates(40, 3), [16, 32, 40]);
}

#[test]
fn first_sizes_have_the_asked_expectation() {
    for (candidates, share) in [(vec![1, 2, 3, 4], 0.95), (vec![8, 16, 24, 32, 40], 0.8)] {
        let weights: Vec<f64> = rising_logits(&candidates, share)
            .iter()
            .map(|logit| logit.exp())
            .collect();
        let sizes = candidates.iter().zip(&weights);
        let sum: f64 = sizes.map(|(&size, weight)| size as f64 * weight).sum();
        let largest = *candidates.last().unwrap() as f64;
        assert!((sum / weights.iter().sum::<f64>() / largest - share).abs() < 1e-9);
    }
}

#[test]
fn the_first_arg_max_is_the_whole_model() {
    let search = Search::new(&dims(), &Static::default(), Device::Cpu);
    assert_eq!(search.choose(), Structure::full(&dims()));
    assert_eq!(search.parameters().len(), 4);
}

#[test]
fn masks_follow_the_ranking_and_their_sums_are_the_sizes() {
    let mut search = Search::new(&dims(), &Static::default(), Device::Cpu);
    let mut ranking = Ranking::identity(&dims());
    ranking.heads[1] = vec![2, 0, 3, 1];
    search.set_ranking(ranking);
    let masks = search.sample(1, 2, 0.5);
    let row = values(&masks.heads_LH.get(1));
    assert!(
        row[2] > row[0] && row[0] > row[3] && row[3] > row[1],
        "{row:?}"
    );
    assert!(
        (row[2] - 1.0).abs() < 1e-6,
        "the best head stays in every candidate"
    );
    let sum_L = masks.neurons_Ln.sum_dim_intlist(1, false, None);
    for (sum, size) in values(&sum_L).iter().zip(values(&masks.sizes.neurons_L)) {
        assert!((sum - size).abs() < 1e-4);
    }
}

#[test]
fn samples_are_a_function_of_seed_and_step() {
    let search = Search::new(&dims(), &Static::default(), Device::Cpu);
    let heads = |seed, step| values(&search.sample(seed, step, 0.5).heads_LH);
    assert_eq!(heads(1, 2), heads(1, 2));
    assert_ne!(heads(1, 2), heads(1, 3));
    assert_ne!(heads(1, 2), heads(2, 2));
}

#[test]
fn straight_through_samples_are_hard_and_have_gradients() {
    let options = Static {
        straight_through: true,
        keep_init: 0.6,
        ..Static::default()
    };
    let search = Search::new(&dims(), &options, Device::Cpu);
    let masks = search.sample(3, 1, 0.5);
    for factor in values(&masks.neurons_Ln)
        .into_iter()
        .chain(values(&masks.heads_LH))
    {
        assert!(factor == 0.0 || factor == 1.0, "{factor}");
    }
    masks.sizes.neurons_L.sum(Kind::Float).backward();
    let params = search.parameters();
    let alpha = params
        .iter()
        .find(|p| p.name == "search.alpha_neurons")
        .unwrap();
    assert!(alpha.tensor.grad().abs().max().double_value(&[]) > 0.0);
}

#[test]
fn what_is_not_searched_has_no_alpha_and_stays_whole() {
    let options = Static {
        heads: false,
        modules: false,
        ..Static::default()
    };
    let search = Search::new(&dims(), &options, Device::Cpu);
    let names: Vec<String> = search.parameters().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["search.alpha_neurons"]);
    let masks = search.sample(1, 1, 0.5);
    assert_eq!(values(&masks.sizes.keep_attn_L), [1.0; 2]);
    assert_eq!(values(&masks.sizes.heads_L), [4.0; 2]);
    let cost = Cost::new(&dims(), None);
    let choice = search.choose_within(&cost, 0.0..=0.1);
    assert!(!choice.within_budget);
    assert!(
        choice
            .structure
            .blocks
            .iter()
            .all(|block| block.heads == 4 && block.neurons == 8)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever alpha says and whichever way the structure is chosen: a module that stays has a head, or
    /// 8 neurons.
    #[test]
    fn every_choice_keeps_whole_modules_or_none(
        values in prop::collection::vec(-9.0_f32..9.0, 24),
        budget in 0.0_f64..1.0,
        total in 0.0_f64..1.0,
    ) {
        let search = Search::new(&dims(), &Static::default(), Device::Cpu);
        let mut values = values.into_iter();
        for param in search.parameters() {
            let alpha: Vec<f32> = values.by_ref().take(param.tensor.numel()).collect();
            let alpha = Tensor::from_slice(&alpha).view_as(&param.tensor);
            tch::no_grad(|| param.tensor.shallow_clone().copy_(&alpha));
        }
        let cost = Cost::new(&dims(), None);
        let joint = search.probabilities().within_both(
            &[0.5, -0.5, 1.0, 2.0],
            &cost,
            &(0.0..=budget),
            &(0.0..=total),
        );
        let chosen = [
            Some(search.choose()),
            Some(search.choose_within(&cost, 0.9 * budget..=budget).structure),
            joint.map(|choice| choice.structure),
        ];
        for structure in chosen.into_iter().flatten() {
            let config = crate::Config {
                structure,
                ..crate::Config::dense(dims(), vec![0.5], vec![0.5])
            };
            prop_assert_eq!(config.check(), Ok(()));
        }
    }
}
