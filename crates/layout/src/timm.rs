//! timm's layout: our names are timm's, so the tensors stay as they are.

use espalier_config::Config;
use espalier_job::{Distilled, QkScale, Stem};
use serde_json::{Value, json};

use crate::LayoutError;
use crate::export::{Contents, common_reasons, refuse, uniform_neurons};
use crate::tensors::Tensors;

/// Epsilon of timm's norms, which a file cannot set.
const NORM_EPS: f64 = 1e-6;

pub(crate) fn contents(config: &Config, tensors: Tensors) -> Result<Contents, LayoutError> {
    let neurons = uniform_neurons(&config.structure).unwrap_or(config.dims.ffn);
    refuse("timm", reasons(config))?;
    Ok(Contents {
        tensors,
        json: vec![("config.json", description(config, neurons))],
    })
}

fn reasons(config: &Config) -> Vec<String> {
    let architecture = &config.dims.architecture;
    let mut reasons = common_reasons(config);
    if architecture.stem != Stem::Patch {
        reasons.push("it has no T2T stem".to_owned());
    }
    if architecture.distilled == Distilled::Token {
        reasons.push("its distillation token always has a head".to_owned());
    }
    if architecture.distilled.has_head() && architecture.layer_scale.is_some() {
        reasons.push("it has no LayerScale beside a distillation token".to_owned());
    }
    if architecture.qk_scale == QkScale::Width {
        reasons.push("it scales attention by the width of a head".to_owned());
    }
    if architecture.norm_eps != NORM_EPS {
        let eps = architecture.norm_eps;
        reasons.push(format!("its norms have epsilon {NORM_EPS:e}, not {eps:e}"));
    }
    reasons
}

/// timm's `config.json`: a registered model of the same class, and what of it is otherwise.
fn description(config: &Config, neurons: i64) -> Value {
    let dims = &config.dims;
    let architecture = &dims.architecture;
    let distilled = architecture.distilled.has_head();
    let registered = if distilled {
        "deit_tiny_distilled_patch16_224"
    } else {
        "vit_tiny_patch16_224"
    };
    let side = dims.image_size;
    let mut arguments = json!({
        "img_size": side,
        "patch_size": dims.patch_size,
        "embed_dim": dims.width,
        "depth": dims.depth,
        "num_heads": dims.heads,
        "mlp_ratio": mlp_ratio(neurons, dims.width),
        "qkv_bias": architecture.qkv_bias,
    });
    if let Some(first) = architecture.layer_scale {
        arguments["init_values"] = json!(first);
    }
    let heads = if distilled {
        json!(["head", "head_dist"])
    } else {
        json!("head")
    };
    json!({
        "architecture": registered,
        "num_classes": dims.classes,
        "num_features": dims.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [dims.channels, side, side],
            "fixed_input_size": true,
            "num_classes": dims.classes,
            "mean": config.mean,
            "std": config.std,
            "first_conv": "patch_embed.proj",
            "classifier": heads,
        },
    })
}

/// The ratio of which timm makes `neurons` again: it multiplies by the width and rounds down.
fn mlp_ratio(neurons: i64, width: i64) -> f64 {
    let ratio = neurons as f64 / width as f64;
    if (ratio * width as f64) as i64 == neurons {
        ratio
    } else {
        (neurons as f64 + 0.5) / width as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_neurons_comes_back() {
        for width in [24, 192, 384, 448, 1000] {
            for neurons in (8..6 * width).step_by(8) {
                let ratio = mlp_ratio(neurons, width);
                assert_eq!((ratio * width as f64) as i64, neurons, "{width}");
            }
        }
    }
}
