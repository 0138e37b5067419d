//! `README.md` of a published model: what the folder is, for someone who finds it.

use espalier_job::DecideBy;
use espalier_vit::{Config, Dims, Vit};

use super::{card::ReportCard, prepare::Prepared};

/// The text. `onnx`: whether the folder holds the ONNX files.
pub(super) fn readme(prepared: &Prepared, model: &Vit, card: &ReportCard, onnx: bool) -> String {
    let dims = &model.config().dims;
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    let decide = model.config().gate.map(|gate| gate.decide);
    let gates = match (decide, card.gates.constant) {
        (None, _) => "It has no gates: every image runs the whole of it.".to_owned(),
        (Some(DecideBy::Constant), _) => {
            "Its gates are constants, a control: they decide the same for every image.".to_owned()
        }
        (Some(DecideBy::Random), _) => {
            "Its modules are skipped at random, a baseline: an image's draw comes from its pixels."
                .to_owned()
        }
        (Some(DecideBy::Input), true) => "Its gates decide the same for every image.".to_owned(),
        (Some(DecideBy::Input), false) => format!(
            "Its gates choose among {} paths, image by image.",
            card.gates.distinct_paths
        ),
    };
    format!(
        "# {name}\n\n\
         A vision transformer of width {width} and {depth} blocks for images of {side} by {side} pixels, \
         compressed by Espalier (job {job}, {step} steps). {gates}{budgets}\n\n\
         | | dense | this model |\n|---|---|---|\n\
         | parameters | {params_dense} | {params} |\n\
         | bytes of weights | {bytes_dense} | {bytes} |\n\
         | MACs for an image | {macs_dense:.0} | {macs:.0} ({ratio}) |\n\n\
         Accuracy on the validation set, every image deciding alone: {accuracy}. All figures, by inference batch \
         as well, are in `report.json`.\n\n\
         - `model.safetensors`: the weights, named as in timm; block i's gates are `blocks.i.gate_attn.*` and \
         `blocks.i.gate_ffn.*`.\n\
         - `config.json`: dimensions, what is left of each block, the gates and their threshold, and the mean and \
         standard deviation that images are normalised with.\n\
         - `report.json`: the report card.\n\
         {loading}",
        name = prepared.job.publish.name,
        width = dims.width,
        depth = dims.depth,
        side = dims.image_size,
        job = card.job,
        step = card.step,
        params_dense = card.params.dense,
        params = card.params.compressed,
        bytes_dense = card.bytes_dense,
        bytes = card.bytes,
        macs_dense = card.macs.dense,
        macs = card.macs.effective,
        ratio = percent(card.macs.effective_ratio),
        accuracy = percent(card.accuracy.per_sample),
        budgets = budgets(card),
        loading = loading(model.config(), onnx),
    )
}

/// At which budgets the model can be run, where it has several.
fn budgets(card: &ReportCard) -> String {
    let [first, .., last] = card.frontier.as_slice() else {
        return String::new();
    };
    format!(
        " It can be run at any budget from {} to {} of the dense model's MACs (`espalier eval . --budget B`); the \
         figures here are of {}.",
        first.budget, last.budget, card.macs.target
    )
}

/// Which files are for whom, and how each is loaded.
fn loading(config: &Config, onnx: bool) -> String {
    let Dims {
        channels,
        image_size: side,
        ..
    } = config.dims;
    let gated = config.gate.is_some();
    let mut text = String::new();
    if onnx {
        text.push_str("- `model.onnx`: the same model for ONNX runtimes, weights included.");
        if gated {
            text.push_str(
                " The batch decides together, and modules that it skips are not run; with one image at a \
                 time that is exact.\n- `model-masked.onnx`: every image decides alone, in a batch of any size, \
                 at the cost of running all modules.",
            );
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "\n## Loading it\n\n\
         Input: f32 `[batch, {channels}, {side}, {side}]`, pixels scaled to 0..1, less the mean, over the standard \
         deviation of `config.json`.\n"
    ));
    if onnx {
        text.push_str(
            "\n```python\nimport onnxruntime\n\n\
             session = onnxruntime.InferenceSession(\"model.onnx\")\n\
             logits = session.run([\"logits\"], {\"pixels\": pixels})[0]\n```\n",
        );
    }
    let decide = config.gate.map(|gate| gate.decide);
    if decide == Some(DecideBy::Random) {
        text.push_str("\nOnly `espalier eval` repeats the draws of this baseline.\n");
        return text;
    }
    text.push_str(
        "\nWith PyTorch, through Espalier's `python/espalier_vit.py`, a single file:\n\n\
         ```python\nimport espalier_vit\n\n\
         model = espalier_vit.load(\".\")  # a torch.nn.Module\nlogits = model(pixels)\n```\n",
    );
    text.push_str(if gated {
        "\ntimm has no gates, so this model cannot be loaded into it.\n"
    } else {
        "\nAs a model of timm: `python/espalier_timm.py`, `espalier_timm.load(\".\")`.\n"
    });
    text
}
