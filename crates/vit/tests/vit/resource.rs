//! The resource term over micro-batches, and the cost of real models.

use espalier_job::{Average, GateInput, Static};
use espalier_vit::{
    Budget, Config, Cost, Dims, Groups, Masks, Output, Routing, Search, Sizes, Structure, Vit,
    gate_noise, global_mean_M, resource_loss,
};
use tch::{Device, Kind, Tensor};

use crate::common::{assert_close, dims, gated, gates, images};

const BUDGET: Budget = Budget {
    target: 0.4,
    static_target: Some(0.7),
    gamma: 100.0,
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

fn deit(width: i64, heads: i64) -> Dims {
    Dims {
        image_size: 224,
        patch_size: 16,
        channels: 3,
        classes: 1000,
        width,
        depth: 12,
        heads,
        ffn: 4 * width,
    }
}

#[test]
fn cost_of_deit_is_the_published_one() {
    for (width, heads, params, gmacs) in [
        (192, 3, 5_717_416, 1.254),
        (384, 6, 22_050_664, 4.599),
        (768, 12, 86_567_656, 17.564),
    ] {
        let dims = deit(width, heads);
        let cost = Cost::new(&dims, None);
        assert_eq!(cost.params(&Structure::full(&dims)), params);
        let counted = cost.dense() / 1e9;
        assert!((counted - gmacs).abs() < 5e-4, "{counted} {gmacs}");
        assert_eq!(cost.static_macs(&Structure::full(&dims)), cost.dense());
    }
    let small = Cost::new(&deit(384, 6), None);
    assert!((small.attn(6.0) / 1e6 - 146.0).abs() < 0.1);
    assert!((small.ffn(1536.0) / 1e6 - 232.4).abs() < 0.1);
}

#[test]
fn parameters_counted_are_the_parameters_there_are() {
    let gate = gates(GateInput::Cls, Average::Logits);
    let mut structure = Structure::full(&dims());
    structure.blocks[0].heads = 1;
    structure.blocks[1].neurons = 0;
    for gate in [None, Some(gate)] {
        let config = Config {
            structure: structure.clone(),
            gate,
            ..Config::dense(dims(), vec![0.0], vec![1.0])
        };
        let vit = Vit::new(config, 0, Device::Cpu).unwrap();
        let there: usize = vit.parameters().iter().map(|p| p.tensor.numel()).sum();
        let counted = Cost::new(&dims(), gate.as_ref()).params(&structure);
        assert_eq!(counted, there as i64);
    }
}
