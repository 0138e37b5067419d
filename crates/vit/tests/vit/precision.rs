//! Modules in bf16.

use espalier_job::{Average, GateInput};
use espalier_vit::{NoBf16, Routing};
use tch::{Kind, Tensor};

use crate::common::{dims, families, gated, gated_of, gates, images};

#[test]
fn logits_in_bf16_are_close_to_those_in_f32() {
    for dims in families() {
        let vit = || gated_of(dims, gates(GateInput::Cls, Average::Logits));
        let x_BCHW = images(&dims, 16, 11);
        let exact = vit().forward(&x_BCHW, &Routing::PerSample);
        let Some(half) = in_bf16(vit().into_bf16()) else {
            return;
        };
        // The same decisions, so that rounding alone is compared.
        let output = half.forward(&x_BCHW, &Routing::Forced(&exact.decisions_BM));
        assert_eq!(output.logits_BK.kind(), Kind::Float);
        let size = |tensor: &Tensor| tensor.square().mean(Kind::Float).sqrt().double_value(&[]);
        let error = size(&(&output.logits_BK - &exact.logits_BK)) / size(&exact.logits_BK);
        assert!(error < 0.03, "{error}");
        assert!(error > 0.0, "nothing was rounded");
    }
}

#[test]
fn only_what_the_modules_multiply_is_bf16() {
    let Some(half) = in_bf16(gated(gates(GateInput::Cls, Average::Logits)).into_bf16()) else {
        return;
    };
    for param in half.parameters() {
        let of_module = [".attn.", ".mlp."]
            .iter()
            .any(|part| param.name.contains(part));
        let expected = if of_module {
            Kind::BFloat16
        } else {
            Kind::Float
        };
        assert_eq!(param.tensor.kind(), expected, "{}", param.name);
    }
    assert_eq!(half.config().dims, dims());
}

/// The model, or nothing on a processor that is right to refuse.
fn in_bf16<T: std::fmt::Debug>(converted: Result<T, NoBf16>) -> Option<T> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if flags.contains("avx512_bf16") {
        return Some(converted.unwrap());
    }
    assert_eq!(converted.unwrap_err(), NoBf16);
    None
}
