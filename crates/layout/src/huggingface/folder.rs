use espalier_config::Config;
use espalier_job::{QkScale, Stem};
use serde_json::{Map, Value, json};

use super::family::Family;
use super::names;
use crate::LayoutError;
use crate::export::{Contents, common_reasons, refuse, uniform_neurons};
use crate::tensors::{Tensors, Values};

const LIBRARY: &str = "transformers";

pub(crate) fn contents(config: &Config, tensors: Tensors) -> Result<Contents, LayoutError> {
    let architecture = &config.dims.architecture;
    let neurons = uniform_neurons(&config.structure).unwrap_or(config.dims.ffn);
    let mut reasons = common_reasons(config);
    if architecture.stem != Stem::Patch {
        reasons.push("it has no T2T stem".to_owned());
    }
    if architecture.qk_scale == QkScale::Width {
        reasons.push("it scales attention by the width of a head".to_owned());
    }
    let Some(family) = Family::of(architecture) else {
        reasons.push("it has no LayerScale beside a distillation token".to_owned());
        return Err(LayoutError::Inexpressible {
            library: LIBRARY,
            reasons,
        });
    };
    let width = config.dims.width;
    if family == Family::Dinov2 && neurons % width != 0 {
        reasons.push(format!(
            "its FFN of a DINOv2 has a multiple of the width, {width}, not {neurons} neurons"
        ));
    }
    refuse(LIBRARY, reasons)?;
    Ok(Contents {
        tensors: renamed(family, config, tensors)?,
        json: vec![
            ("config.json", description(family, config, neurons)),
            ("preprocessor_config.json", preparation(config)),
        ],
    })
}

fn renamed(family: Family, config: &Config, tensors: Tensors) -> Result<Tensors, LayoutError> {
    let mut renamed = Tensors::new();
    for (name, values) in tensors {
        let refused = |reason: &str| LayoutError::Tensor {
            name: name.clone(),
            reason: reason.to_owned(),
        };
        let theirs = names::theirs(family, &name).ok_or_else(|| refused("has no place in it"))?;
        let parts = match theirs.len() {
            1 => vec![values],
            _ => values
                .thirds()
                .ok_or_else(|| refused("is not three of one shape"))?
                .to_vec(),
        };
        renamed.extend(theirs.into_iter().zip(parts));
    }
    if family == Family::Dinov2 {
        read_the_class_token_alone(&mut renamed)?;
        mask_token(&mut renamed, config);
    }
    Ok(renamed)
}

/// DINOv2's classifier reads the mean of the patches after the CLS token: zeros for it change nothing.
fn read_the_class_token_alone(tensors: &mut Tensors) -> Result<(), LayoutError> {
    let name = "classifier.weight";
    let wide = tensors.get(name).and_then(Values::with_zeros_beside);
    let wide = wide.ok_or_else(|| LayoutError::Tensor {
        name: "head.weight".to_owned(),
        reason: "is missing, or no matrix".to_owned(),
    })?;
    tensors.insert(name.to_owned(), wide);
    Ok(())
}

/// The token for masked patches, which every DINOv2 has and no classifier uses.
fn mask_token(tensors: &mut Tensors, config: &Config) {
    let width = config.dims.width as usize;
    let zeros = Values {
        shape: vec![1, width],
        bytes: vec![0; 4 * width],
    };
    tensors.insert("dinov2.embeddings.mask_token".to_owned(), zeros);
}

/// `config.json`.
fn description(family: Family, config: &Config, neurons: i64) -> Value {
    let dims = &config.dims;
    let architecture = &dims.architecture;
    let labels = (0..dims.classes).map(|class| (class, format!("LABEL_{class}")));
    let by_label: Map<String, Value> = labels.clone().map(|(k, label)| (label, json!(k))).collect();
    let by_id: Map<String, Value> = labels
        .map(|(k, label)| (k.to_string(), json!(label)))
        .collect();
    let mut description = json!({
        "architectures": [family.class()],
        "model_type": family.model_type(),
        "dtype": "float32",
        "hidden_size": dims.width,
        "num_hidden_layers": dims.depth,
        "num_attention_heads": dims.heads,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": architecture.norm_eps,
        "image_size": dims.image_size,
        "patch_size": dims.patch_size,
        "num_channels": dims.channels,
        "qkv_bias": architecture.qkv_bias,
        "id2label": by_id,
        "label2id": by_label,
    });
    match architecture.layer_scale {
        Some(first) => {
            description["mlp_ratio"] = json!(neurons / dims.width);
            description["layerscale_value"] = json!(first);
        }
        None => description["intermediate_size"] = json!(neurons),
    }
    description
}

/// `preprocessor_config.json`: how pixels become what the model reads.
fn preparation(config: &Config) -> Value {
    let side = config.dims.image_size;
    json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": { "height": side, "width": side },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": config.mean,
        "image_std": config.std,
    })
}
