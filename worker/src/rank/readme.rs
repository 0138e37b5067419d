//! `README.md` of a published model: what the folder is, for someone who finds it.

use espalier_vit::Vit;

use super::{card::ReportCard, prepare::Prepared};

/// The text.
pub(super) fn readme(prepared: &Prepared, model: &Vit, card: &ReportCard) -> String {
    let dims = &model.config().dims;
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    let gates = match (&model.config().gate, card.gates.constant) {
        (None, _) => "It has no gates: every image runs the whole of it.".to_owned(),
        (Some(_), true) => "Its gates decide the same for every image.".to_owned(),
        (Some(_), false) => format!(
            "Its gates choose among {} paths, image by image.",
            card.gates.distinct_paths
        ),
    };
    format!(
        "# {name}\n\n\
         A vision transformer of width {width} and {depth} blocks for images of {side} by {side} pixels, \
         compressed by Espalier (job {job}, {step} steps). {gates}\n\n\
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
         - `report.json`: the report card.\n",
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
    )
}
