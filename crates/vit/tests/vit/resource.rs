//! The resource term over micro-batches, and the cost of real models.

use espalier_job::{Average, DecideBy, GateInput, Preset, ResourceForm, Static};
use espalier_vit::{
    Budget, Config, Cost, Dims, GateConfig, Groups, Masks, Output, ParamKind, Routing, Search,
    Sizes, Structure, Vit, gate_noise, global_mean_M, resource_loss,
};
use tch::{Device, Kind, Tensor};

use crate::common::{assert_close, dims, families, gated, gates, images, seeing_budget};

const BUDGET: Budget = Budget {
    target: 0.4,
    static_target: Some(0.7),
    gamma: 100.0,
    form: ResourceForm::Square,
};

/// One micro-batch run forward: (output, its masks, its samples).
type Ran = (Output, Masks, f64);

fn run(vit: &Vit, search: &Search, x_BCHW: &Tensor, ids: &[i64], noise_GM: &Tensor) -> Ran {
    let masks = search.sample(4, 9, 0.5);
    let routing = Routing::Train {
        groups: &Groups::new(ids, Device::Cpu),
        noise_GM,
        tau: 0.5,
        open: false,
        masks: Some(&masks),
    };
    let output = vit.forward(x_BCHW, &routing);
    (output, masks, ids.len() as f64)
}

/// Gradients of the resource term summed over micro-batches, and its value in each.
fn gradients(vit: &Vit, search: &Search, micro_batches: Vec<Ran>) -> (Vec<Tensor>, Vec<f64>) {
    let cost = Cost::new(&dims(), vit.config().gate.as_ref());
    let samples: f64 = micro_batches.iter().map(|(_, _, samples)| samples).sum();
    let sums: Vec<Tensor> = micro_batches
        .iter()
        .map(|(output, _, _)| output.open_M.detach().to_kind(Kind::Double))
        .collect();
    let global_M = Tensor::stack(&sums, 0).sum_dim_intlist(0, false, None) / samples;
    let values = micro_batches
        .into_iter()
        .map(|(output, masks, own)| {
            let mean_M = global_mean_M(&output.open_M, &global_M, samples);
            let resource = resource_loss(&cost, &masks.sizes, &mean_M, &BUDGET, own / samples);
            resource.loss.backward();
            resource.loss.double_value(&[])
        })
        .collect();
    let params = vit.parameters().into_iter().chain(search.parameters());
    let gradients = params
        .filter(|param| param.name.contains("gate") || param.name.contains("alpha"))
        .map(|mut param| {
            let gradient = param.tensor.grad().copy();
            param.tensor.zero_grad();
            gradient
        })
        .collect();
    (gradients, values)
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    let vit = gated(gates(GateInput::Mean, Average::Logits));
    let search = Search::new(&dims(), &Static::default(), Device::Cpu);
    let x_BCHW = images(&dims(), 10, 1);
    let noise_GM = gate_noise(4, 9, 0, 5, dims().modules(), Device::Cpu);

    let ids = [0, 1, 1, 0, 2, 3, 4, 3, 3, 3];
    let whole = run(&vit, &search, &x_BCHW, &ids, &noise_GM);
    let (expected, values) = gradients(&vit, &search, vec![whole]);

    let (first, last) = (x_BCHW.narrow(0, 0, 5), x_BCHW.narrow(0, 5, 5));
    let (first_ids, last_ids) = ([0, 1, 1, 0, 2], [0, 1, 0, 0, 0]);
    let parts = vec![
        run(&vit, &search, &first, &first_ids, &noise_GM.narrow(0, 0, 3)),
        run(&vit, &search, &last, &last_ids, &noise_GM.narrow(0, 3, 2)),
    ];
    let (summed, part_values) = gradients(&vit, &search, parts);

    for value in part_values {
        assert!((value - values[0]).abs() < 1e-9, "{value} {}", values[0]);
    }
    let largest = expected.iter().map(|g| g.abs().max().double_value(&[]));
    assert!(largest.fold(0.0, f64::max) > 1e-3, "no gradient to compare");
    for (summed, expected) in summed.iter().zip(&expected) {
        assert_close(summed, expected, 1e-5);
    }
}

#[test]
fn soft_cost_of_a_choice_is_its_hard_cost() {
    let gate = gates(GateInput::Cls, Average::Logits);
    let cost = Cost::new(&dims(), Some(&gate));
    let mut structure = Structure::full(&dims());
    structure.blocks[0].heads = 3;
    structure.blocks[1].heads = 0;
    structure.blocks[2].neurons = 40;
    let sizes = Sizes::of(&structure, Device::Cpu);
    let open = [0.5, 0.25, 0.0, 1.0, 0.75, 0.125];
    let soft = cost.soft(&sizes, &Tensor::from_slice(&open));
    let hard = cost.effective(&structure, |m| open[m]);
    assert!((soft.double_value(&[]) / hard - 1.0).abs() < 1e-12);
    let all = cost.soft(&sizes, &Tensor::ones([6], (Kind::Double, Device::Cpu)));
    assert!((all.double_value(&[]) / cost.static_macs(&structure) - 1.0).abs() < 1e-12);
}

#[test]
fn an_even_rate_meets_the_target() {
    let cost = Cost::new(&dims(), None);
    let mut structure = Structure::full(&dims());
    structure.blocks[1].neurons = 16;
    let sizes = Sizes::of(&structure, Device::Cpu);
    let rate = cost.even_rate(&sizes, 0.4);
    let met = cost.effective(&structure, |_| rate) / cost.dense();
    assert!((met - 0.4).abs() < 1e-9, "{met}");
    assert_eq!(cost.even_rate(&sizes, 1.0), 1.0);
    assert_eq!(cost.even_rate(&sizes, 0.0), 0.0);
}

#[test]
fn cost_is_the_published_one() {
    // Parameters where they are published to the last one, else to 0.01M.
    let published = [
        (Preset::DeitTiny, 5_717_416, 0, 1.254),
        (Preset::DeitSmall, 22_050_664, 0, 4.599),
        (Preset::DeitBase, 86_567_656, 0, 17.564),
        (Preset::VitSmallPatch16, 22_050_664, 0, 4.599),
        (Preset::DeitTinyDistilled, 5_910_800, 0, 1.261),
        (Preset::DeitSmallDistilled, 22_436_432, 0, 4.624),
        (Preset::DeitBaseDistilled, 87_338_192, 0, 17.657),
        (Preset::T2tVit14, 21_470_000, 5_000, 4.78),
        (Preset::T2tVit19, 39_090_000, 5_000, 8.48),
        (Preset::T2tVit24, 64_000_000, 5_000, 13.66),
    ];
    for (preset, params, rounding, gmacs) in published {
        let dims = Dims::from(preset.dims(1000));
        let cost = Cost::new(&dims, None);
        let counted = cost.params(&Structure::full(&dims));
        assert!((counted - params).abs() <= rounding, "{preset:?} {counted}");
        let counted = cost.dense() / 1e9;
        let rounding = if rounding == 0 { 5e-4 } else { 5e-3 };
        assert!((counted - gmacs).abs() <= rounding, "{preset:?} {counted}");
        assert_eq!(cost.static_macs(&Structure::full(&dims)), cost.dense());
    }
    let small = Cost::new(&Dims::from(Preset::DeitSmall.dims(1000)), None);
    assert!((small.attn(6.0) / 1e6 - 146.0).abs() < 0.1);
    assert!((small.ffn(1536.0) / 1e6 - 232.4).abs() < 0.1);
}

#[test]
fn parameters_counted_are_the_learnable_parameters_there_are() {
    let gate = gates(GateInput::Cls, Average::Logits);
    for dims in families() {
        let mut structure = Structure::full(&dims);
        structure.blocks[0].heads = 1;
        structure.blocks[1].neurons = 0;
        let by = |decide| Some(GateConfig { decide, ..gate });
        for gate in [
            None,
            by(DecideBy::Input),
            Some(seeing_budget(gate)),
            by(DecideBy::Constant),
            by(DecideBy::Random),
        ] {
            let config = Config {
                structure: structure.clone(),
                gate,
                ..Config::dense(dims, vec![0.0], vec![1.0])
            };
            let vit = Vit::new(config, 0, Device::Cpu).unwrap();
            let learnable = vit.parameters().into_iter();
            let there: usize = learnable
                .filter(|param| param.kind != ParamKind::Frozen)
                .map(|param| param.tensor.numel())
                .sum();
            let counted = Cost::new(&dims, gate.as_ref()).params(&structure);
            assert_eq!(counted, there as i64, "{dims:?}");
        }
    }
}
