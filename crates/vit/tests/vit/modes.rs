//! Shared, per-sample and forced decisions.

use espalier_job::{Average, DecideBy, GateInput};
use espalier_vit::{GateConfig, Groups, Routing, Vit, gate_noise};
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{assert_close, dense, dims, gated, gates, images};

const BATCH: i64 = 24;

fn every_gate() -> impl Iterator<Item = Vit> {
    [GateInput::Cls, GateInput::Mean]
        .into_iter()
        .flat_map(|input| {
            [Average::Logits, Average::Probability].map(|average| gated(gates(input, average)))
        })
}

#[test]
fn per_sample_logits_do_not_depend_on_the_batch() {
    for vit in every_gate() {
        let x_BCHW = images(&dims(), BATCH, 1);
        let (whole, decisions_BM) = per_sample(&vit, &x_BCHW);
        assert!(
            distinct(&decisions_BM) > 1,
            "all samples decide the same: nothing is tested"
        );
        for size in [1, 5, 8] {
            let parts: Vec<Tensor> = x_BCHW
                .split(size, 0)
                .iter()
                .map(|part| per_sample(&vit, part).0)
                .collect();
            assert_close(&Tensor::cat(&parts, 0), &whole, 1e-5);
        }
    }
}

#[test]
fn a_batch_of_many_tiles_gives_what_small_batches_give() {
    let vit = gated(gates(GateInput::Mean, Average::Logits));
    let x_BCHW = images(&dims(), 250, 9);
    let (whole, _) = per_sample(&vit, &x_BCHW);
    let parts = x_BCHW.split(BATCH, 0);
    let parts: Vec<Tensor> = parts.iter().map(|part| per_sample(&vit, part).0).collect();
    assert_close(&Tensor::cat(&parts, 0), &whole, 1e-5);
}

#[test]
fn inference_takes_no_gradient() {
    let vit = gated(gates(GateInput::Cls, Average::Logits));
    for routing in [Routing::Shared, Routing::PerSample] {
        let output = vit.forward(&images(&dims(), 4, 10), &routing);
        assert!(!output.logits_BK.requires_grad());
    }
}

#[test]
fn shared_at_batch_one_is_per_sample() {
    for vit in every_gate() {
        for part in images(&dims(), BATCH, 2).split(1, 0) {
            let shared = no_grad(|| vit.forward(&part, &Routing::Shared));
            let (logits_BK, decisions_BM) = per_sample(&vit, &part);
            assert_eq!(shared.decisions_BM, decisions_BM);
            assert_close(&shared.logits_BK, &logits_BK, 1e-5);
        }
    }
}

#[test]
fn shared_decides_once_for_the_batch() {
    let vit = gated(gates(GateInput::Cls, Average::Logits));
    let output = no_grad(|| vit.forward(&images(&dims(), BATCH, 3), &Routing::Shared));
    assert_eq!(distinct(&output.decisions_BM), 1);
}

#[test]
fn forced_repeats_what_was_decided() {
    let vit = gated(gates(GateInput::Mean, Average::Logits));
    let x_BCHW = images(&dims(), BATCH, 4);
    let (logits_BK, decisions_BM) = per_sample(&vit, &x_BCHW);
    let forced = no_grad(|| vit.forward(&x_BCHW, &Routing::Forced(&decisions_BM)));
    assert_close(&forced.logits_BK, &logits_BK, 1e-6);
    assert_eq!(forced.decisions_BM, decisions_BM);

    let other = no_grad(|| vit.forward(&x_BCHW, &Routing::Forced(&decisions_BM.roll(1, 0))));
    let moved = (other.logits_BK - logits_BK).abs().max().double_value(&[]);
    assert!(moved > 1e-3, "decisions of other samples change nothing");
}

#[test]
fn threshold_moves_the_rate_from_all_to_none() {
    let mut vit = gated(gates(GateInput::Cls, Average::Logits));
    let x_BCHW = images(&dims(), BATCH, 5);
    let mut rate = |threshold| {
        vit.set_threshold(threshold);
        per_sample(&vit, &x_BCHW)
            .1
            .mean(Kind::Double)
            .double_value(&[])
    };
    assert_eq!(rate(-1e6), 1.0);
    assert_eq!(rate(1e6), 0.0);
}

#[test]
fn a_skipped_module_is_not_run() {
    // A module that ran would spread its NaN over the residual stream.
    let mut vit = gated(gates(GateInput::Cls, Average::Logits));
    for param in vit.parameters() {
        let module = ["attn.", "mlp.", "norm1.", "norm2."]
            .iter()
            .any(|part| param.name.contains(part));
        if module && !param.name.contains("gate") {
            let _ = no_grad(|| param.tensor.shallow_clone().fill_(f64::NAN));
        }
    }
    vit.set_threshold(1e6);
    for routing in [Routing::Shared, Routing::PerSample] {
        let output = no_grad(|| vit.forward(&images(&dims(), 4, 6), &routing));
        assert!(bool::try_from(output.logits_BK.isfinite().all()).unwrap());
    }
}

#[test]
fn one_training_group_a_sample_without_noise_is_per_sample() {
    for vit in every_gate() {
        let x_BCHW = images(&dims(), BATCH, 7);
        let groups = Groups::new(&(0..BATCH).collect::<Vec<_>>(), Device::Cpu);
        let noise_GM = gate_noise(0, 1, 0, BATCH, dims().modules(), Device::Cpu).zeros_like();
        let routing = Routing::Train {
            groups: &groups,
            noise_GM: &noise_GM,
            tau: 0.5,
            open: false,
            masks: None,
        };
        let trained = vit.forward(&x_BCHW, &routing);
        let (logits_BK, decisions_BM) = per_sample(&vit, &x_BCHW);
        assert_eq!(trained.decisions_BM, decisions_BM);
        assert_close(&trained.logits_BK, &logits_BK, 1e-5);
        let sum_M = decisions_BM.sum_dim_intlist(0, false, None);
        assert_close(&trained.open_M.detach(), &sum_M, 1e-6);
    }
}

fn deciding(decide: DecideBy) -> Vit {
    gated(GateConfig {
        decide,
        ..gates(GateInput::Mean, Average::Logits)
    })
}

#[test]
fn constant_gates_decide_the_same_in_every_mode() {
    let vit = deciding(DecideBy::Constant);
    let x_BCHW = images(&dims(), BATCH, 9);
    let (logits_BK, decisions_BM) = per_sample(&vit, &x_BCHW);
    assert_eq!(distinct(&decisions_BM), 1);
    let rate = decisions_BM.mean(Kind::Double).double_value(&[]);
    assert!(rate > 0.0 && rate < 1.0, "nothing is decided: {rate}");
    let shared = no_grad(|| vit.forward(&x_BCHW, &Routing::Shared));
    assert_eq!(shared.decisions_BM, decisions_BM);
    assert_eq!(shared.logits_BK, logits_BK);
}

#[test]
fn chance_keeps_the_asked_share_and_knows_the_sample_alone() {
    let mut vit = deciding(DecideBy::Random);
    let x_BCHW = images(&dims(), 600, 10);
    for rate in [0.3, 0.8_f64] {
        vit.set_threshold((1.0 / rate - 1.0).ln());
        let (logits_BK, decisions_BM) = per_sample(&vit, &x_BCHW);
        let kept_M = decisions_BM.mean_dim([0].as_slice(), false, Kind::Double);
        for kept in Vec::<f64>::try_from(&kept_M).unwrap() {
            // 4 standard deviations of the mean of 600.
            assert!((kept - rate).abs() < 0.082, "{kept} for {rate}");
        }
        assert_eq!(per_sample(&vit, &x_BCHW).1, decisions_BM);
        // In another order and beside others.
        let (flipped_BK, flipped_BM) = per_sample(&vit, &x_BCHW.flip([0]).narrow(0, 0, 7));
        assert_eq!(flipped_BM, decisions_BM.flip([0]).narrow(0, 0, 7));
        assert_close(&flipped_BK, &logits_BK.flip([0]).narrow(0, 0, 7), 1e-5);
    }
}

#[test]
fn chance_draws_once_for_a_batch() {
    let mut vit = deciding(DecideBy::Random);
    vit.set_threshold(0.0);
    let draws: Vec<Tensor> = (0..40)
        .map(|index| {
            let x_BCHW = images(&dims(), 3, index);
            let output = no_grad(|| vit.forward(&x_BCHW, &Routing::Shared));
            assert_eq!(distinct(&output.decisions_BM), 1);
            output.decisions_BM.narrow(0, 0, 1)
        })
        .collect();
    let rate = Tensor::cat(&draws, 0).mean(Kind::Double).double_value(&[]);
    assert!((rate - 0.5).abs() < 0.13, "{rate}");
}

#[test]
fn without_gates_every_mode_is_open() {
    let vit = dense();
    let x_BCHW = images(&dims(), 6, 8);
    let open = vit.forward(&x_BCHW, &Routing::Open);
    assert_eq!(open.decisions_BM, Tensor::ones_like(&open.decisions_BM));
    for routing in [Routing::Shared, Routing::PerSample] {
        let output = vit.forward(&x_BCHW, &routing);
        assert_close(&output.logits_BK, &open.logits_BK, 1e-6);
    }
}

fn per_sample(vit: &Vit, x_BCHW: &Tensor) -> (Tensor, Tensor) {
    let output = no_grad(|| vit.forward(x_BCHW, &Routing::PerSample));
    (output.logits_BK, output.decisions_BM)
}

fn distinct(rows: &Tensor) -> i64 {
    rows.unique_dim(0, true, false, false).0.size()[0]
}
