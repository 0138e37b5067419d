//! The search's masks and the sliced model.

use espalier_job::{Average, GateInput, Importance, Static};
use espalier_vit::{
    BlockStructure, Groups, ParamKind, Ranking, Routing, Search, SliceError, Structure, Tensors,
    Vit, copy_into, gate_noise, slice,
};
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{assert_close, dense, dims, families, gated, gated_of, gates, images, normal};

fn structure() -> Structure {
    let blocks = [(2, 24), (0, 64), (4, 0)];
    Structure {
        blocks: blocks
            .map(|(heads, neurons)| BlockStructure { heads, neurons })
            .to_vec(),
    }
}

/// A search that is certain of `structure()`.
fn certain(vit: &Vit) -> Search {
    let mut search = Search::new(&dims(), &Static::default(), Device::Cpu);
    search.rank(vit);
    let pick = |sizes: Vec<i64>, chosen: fn(&BlockStructure) -> i64| {
        let rows: Vec<Tensor> = structure()
            .blocks
            .iter()
            .map(|block| {
                let chosen = chosen(block);
                let row: Vec<f32> = sizes
                    .iter()
                    .map(|&size| if size == chosen { 1e4 } else { 0.0 })
                    .collect();
                Tensor::from_slice(&row)
            })
            .collect();
        Tensor::stack(&rows, 0)
    };
    let alpha: Tensors = [
        (
            "search.alpha_attn",
            pick(vec![0, 1], |block| block.heads.signum()),
        ),
        (
            "search.alpha_ffn",
            pick(vec![0, 1], |block| block.neurons.signum()),
        ),
        (
            "search.alpha_heads",
            pick((1..=4).collect(), |block| block.heads),
        ),
        (
            "search.alpha_neurons",
            pick((1..=8).map(|k| 8 * k).collect(), |block| block.neurons),
        ),
    ]
    .map(|(name, alpha)| (name.to_owned(), alpha))
    .into();
    copy_into(&search.parameters(), &alpha).unwrap();
    search
}

/// What Taylor importance claims: to first order, how much the loss changes when a head or neuron goes.
#[test]
fn taylor_importance_is_the_gradient_of_a_mask() {
    let vit = dense();
    let options = Static {
        importance: Importance::Taylor,
        ..Static::default()
    };
    let mut search = Search::new(&dims(), &options, Device::Cpu);
    let loss = || {
        let output = vit.forward(&images(&dims(), 6, 1), &Routing::Open);
        output.logits_BK.square().mean(Kind::Float)
    };
    loss().backward();
    let params = vit.parameters();
    let named = |name: &str| params.iter().find(|param| param.name == name).unwrap();
    search.observe(&vit, |name| Some(named(name).tensor.grad()));
    let importance = search.importance();
    let (head, neuron) = (2, 11);
    let step = 1e-2;
    for (found, weight, first, width) in [
        (
            &importance[0].tensor.get(1),
            "blocks.1.attn.proj.weight",
            head,
            8,
        ),
        (
            &importance[1].tensor.get(1),
            "blocks.1.mlp.fc2.weight",
            neuron,
            1,
        ),
    ] {
        let mut columns = named(weight).tensor.narrow(1, first * width, width);
        let kept = columns.detach().copy();
        let scaled = |factor: f64| {
            no_grad(|| {
                columns.shallow_clone().copy_(&(&kept * factor));
                loss().double_value(&[])
            })
        };
        let slope = (scaled(1.0 + step) - scaled(1.0 - step)) / (2.0 * step);
        no_grad(|| columns.copy_(&kept));
        let found = found.double_value(&[first]);
        assert!(
            (found - slope.abs()).abs() < 2e-2 * slope.abs(),
            "{found} {slope}"
        );
    }

    search.rank(&vit);
    assert!(search.ranking().fits(&dims()));
    assert_ne!(search.ranking(), &Ranking::by_norm(&vit));
    // The sums started anew, and without any the norm ranks.
    search.rank(&vit);
    assert_eq!(search.ranking(), &Ranking::by_norm(&vit));
}

#[test]
fn masked_model_with_hard_choices_is_the_sliced_model() {
    let gates = [GateInput::Cls, GateInput::Mean].map(|input| gates(input, Average::Logits));
    let gated = families().into_iter().zip(gates.into_iter().cycle());
    let models = gated.map(|(dims, gate)| gated_of(dims, gate));
    for vit in models.chain([dense()]) {
        let search = certain(&vit);
        assert_eq!(search.choose(), structure());
        let sliced = slice(&vit, search.ranking(), &structure()).unwrap();

        let x_BCHW = images(&vit.config().dims, 12, 1);
        let groups = Groups::new(&[0, 0, 1, 2, 1, 0, 3, 3, 2, 1, 0, 2], Device::Cpu);
        let noise_GM = gate_noise(5, 2, 0, groups.count(), dims().modules(), Device::Cpu);
        let masks = search.sample(5, 2, 0.5);
        let train = |vit: &Vit, masks| {
            let routing = Routing::Train {
                groups: &groups,
                noise_GM: &noise_GM,
                tau: 0.5,
                open: false,
                masks,
            };
            vit.forward(&x_BCHW, &routing).logits_BK
        };
        assert_close(&train(&vit, Some(&masks)), &train(&sliced, None), 1e-5);
    }
}

#[test]
fn sliced_model_is_smaller_and_keeps_its_names() {
    let vit = gated(gates(GateInput::Cls, Average::Logits));
    let sliced = slice(&vit, &Ranking::by_norm(&vit), &structure()).unwrap();
    let shape = |name: &str| {
        let params = sliced.parameters();
        let found = params.iter().find(|param| param.name == name);
        found.map(|param| param.tensor.size())
    };
    assert_eq!(shape("blocks.0.attn.qkv.weight"), Some(vec![3 * 2 * 8, 32]));
    assert_eq!(shape("blocks.0.attn.proj.weight"), Some(vec![32, 2 * 8]));
    assert_eq!(shape("blocks.0.mlp.fc1.weight"), Some(vec![24, 32]));
    assert_eq!(shape("blocks.0.mlp.fc2.weight"), Some(vec![32, 24]));
    assert!(shape("blocks.1.mlp.fc1.weight").is_some());
    for gone in [
        "blocks.1.attn.qkv.weight",
        "blocks.1.norm1.weight",
        "blocks.1.gate_attn.fc1.weight",
        "blocks.2.mlp.fc1.weight",
    ] {
        assert_eq!(shape(gone), None, "{gone}");
    }
}

#[test]
fn slicing_leaves_the_whole_model_alone() {
    let vit = dense();
    let full = Structure::full(&dims());
    let copy = slice(&vit, &Ranking::by_norm(&vit), &full).unwrap();
    let x_BCHW = images(&dims(), 3, 2);
    let before = vit.forward(&x_BCHW, &Routing::Open).logits_BK;
    assert_close(
        &copy.forward(&x_BCHW, &Routing::Open).logits_BK,
        &before,
        1e-6,
    );
    no_grad(|| {
        for param in copy.parameters() {
            let _ = param.tensor.shallow_clone().zero_();
        }
    });
    assert_eq!(vit.forward(&x_BCHW, &Routing::Open).logits_BK, before);
}

#[test]
fn slicing_refuses_what_does_not_belong_together() {
    let vit = dense();
    let ranking = Ranking::by_norm(&vit);
    let sliced = slice(&vit, &ranking, &structure()).unwrap();
    let again = slice(&sliced, &ranking, &structure());
    assert!(matches!(again, Err(SliceError::NotWhole)));

    let mut doubled = ranking.clone();
    doubled.heads[1] = vec![0, 0, 1, 2];
    let refused = slice(&vit, &doubled, &structure());
    assert!(matches!(refused, Err(SliceError::Ranking)));

    let mut wide = structure();
    wide.blocks[0].heads = 5;
    let error = slice(&vit, &ranking, &wide).unwrap_err();
    assert!(
        error.to_string().contains("structure.blocks[0].heads"),
        "{error}"
    );
}

#[test]
fn ranking_puts_the_largest_columns_first() {
    let vit = dense();
    no_grad(|| {
        for param in vit.parameters() {
            if param.name == "blocks.1.attn.proj.weight" {
                let _ = param.tensor.narrow(1, 2 * 8, 8).fill_(9.0);
                let _ = param.tensor.narrow(1, 8, 8).fill_(-7.0);
            }
            if param.name == "blocks.1.mlp.fc2.weight" {
                let _ = param.tensor.select(1, 40).fill_(9.0);
            }
        }
    });
    let ranking = Ranking::by_norm(&vit);
    assert_eq!(ranking.heads[1][..2], [2, 1]);
    assert_eq!(ranking.neurons[1][0], 40);
    assert!(ranking.fits(&dims()));
}

#[test]
fn gradients_reach_every_weight_gate_and_alpha() {
    for dims in families() {
        gradients_reach(&gated_of(dims, gates(GateInput::Mean, Average::Logits)));
    }
}

fn gradients_reach(vit: &Vit) {
    let mut search = Search::new(&dims(), &Static::default(), Device::Cpu);
    search.rank(vit);
    let groups = Groups::new(&[0, 1, 1, 2, 0, 2], Device::Cpu);
    // The second group keeps every module, so that each has a sample to learn from.
    let noise_GM = gate_noise(1, 1, 0, groups.count(), dims().modules(), Device::Cpu);
    let _ = noise_GM.get(1).fill_(15.0);
    let masks = search.sample(1, 1, 0.5);
    let routing = Routing::Train {
        groups: &groups,
        noise_GM: &noise_GM,
        tau: 5.0,
        open: false,
        masks: Some(&masks),
    };
    let output = vit.forward(&images(&vit.config().dims, 6, 3), &routing);
    let weights_M = normal(&[dims().modules()], 4);
    let loss = (output.logits_BK * normal(&[6, 10], 5)).sum(Kind::Float)
        + (output.open_M * weights_M).sum(Kind::Float);
    loss.backward();
    let learnable = vit.parameters().into_iter().chain(search.parameters());
    for param in learnable.filter(|param| param.kind != ParamKind::Frozen) {
        let gradient = param.tensor.grad();
        assert!(gradient.defined(), "{} {:?}", param.name, vit.config().dims);
        let largest = gradient.abs().max().double_value(&[]);
        assert!(
            largest > 0.0 && largest.is_finite(),
            "{} {largest} {:?}",
            param.name,
            vit.config().dims
        );
    }
}
