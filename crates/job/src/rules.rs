//! What the schema cannot say: rules of names, and fields that must fit together.

use crate::sections::Sections;
use crate::{
    Budgets, Compress, Cost, Data, DecideBy, Grouping, GroupingPolicy, Init, Mode, Model, Problems,
    Publish, Resources, Train, valid_name, valid_reference,
};

/// Adds the problems of the sections that could be read.
pub(crate) fn check(sections: &Sections, problems: &mut Problems) {
    if let Some(text) = &sections.name {
        name("name", text, problems);
    }
    if let Some(part) = &sections.model {
        model(part, problems);
    }
    if let Some(part) = &sections.data {
        data(part, sections.model.as_ref(), problems);
    }
    if let Some(part) = &sections.compress {
        compress(part, sections.model.as_ref(), problems);
    }
    if let Some(part) = &sections.train {
        train(part, problems);
    }
    if let Some(part) = &sections.resources {
        resources(part, problems);
    }
    if let Some(part) = &sections.publish {
        publish(part, sections.compress.as_ref(), problems);
    }
}

fn name(path: &str, name: &str, problems: &mut Problems) {
    problems.require(valid_name(name), path, || {
        format!(
            "`{name}` is not a name: 1 to 63 of a-z, 0-9, -, _ and ., starting with a letter or digit"
        )
    });
}

fn reference(path: &str, reference: &str, problems: &mut Problems) {
    problems.require(valid_reference(reference), path, || {
        format!(
            "`{reference}` is not a checkpoint reference: name:alias, or name@sha256: and 64 hexadecimal digits"
        )
    });
}

fn model(model: &Model, problems: &mut Problems) {
    if let Err(more) = model.dims() {
        problems.0.extend(more.0);
    }
    match &model.init {
        Init::Scratch => {}
        Init::Safetensors(path) => filled("model.init.safetensors", path, problems),
        Init::Pth(path) => filled("model.init.pth", path, problems),
        Init::Checkpoint(name) => reference("model.init.checkpoint", name, problems),
    }
}

fn data(data: &Data, model: Option<&Model>, problems: &mut Problems) {
    filled("data.train", &data.train, problems);
    filled("data.validation", &data.validation, problems);
    let channels = model
        .and_then(|model| model.dims().ok())
        .map(|dims| dims.channels as usize);
    for (field, values) in [("mean", &data.mean), ("std", &data.std)] {
        let given = values.len();
        let fits = given == 1 || channels.map_or(given > 0, |channels| given == channels);
        problems.require(fits, format!("data.{field}"), || match channels {
            Some(channels) if channels > 1 => {
                format!("{given} values are given: 1, or one per channel ({channels}), is needed")
            }
            _ => format!("{given} values are given: 1 is needed"),
        });
    }
    let image_size = model
        .and_then(|model| model.dims().ok())
        .map(|dims| dims.image_size);
    if let Some(size) = image_size {
        let pad = data.augment.pad;
        problems.require(pad < size, "data.augment.pad", || {
            format!("{pad} is out of range: less than model.image_size = {size}")
        });
    }
    let crop = data.augment.crop.as_ref();
    let erase = data.augment.erase.as_ref();
    let bounds = [
        crop.map(|crop| ("crop.max_area", crop.min_area, crop.max_area)),
        crop.map(|crop| ("crop.max_ratio", crop.min_ratio, crop.max_ratio)),
        erase.map(|erase| ("erase.max_area", erase.min_area, erase.max_area)),
    ];
    for (field, min, max) in bounds.into_iter().flatten() {
        problems.require(min <= max, format!("data.augment.{field}"), || {
            format!("{max} is less than the smallest, {min}")
        });
    }
}

fn compress(compress: &Compress, model: Option<&Model>, problems: &mut Problems) {
    if let Some(share) = compress.static_target {
        let target = compress.target;
        problems.require(share >= target, "compress.static_target", || {
            format!("{share} is less than compress.target = {target}: the part that stays in memory cannot be smaller than the part that runs")
        });
    }
    let gate = &compress.gate;
    let informed = gate.information == 0.0 || gate.decide == DecideBy::Input;
    problems.require(informed, "compress.gate.information", || {
        "only gates that decide by their input can tell of it: leave it out, or set compress.gate.decide to `input`".to_owned()
    });
    if let Some(asked) = &gate.budgets {
        budgets(asked, compress, problems);
    }
    stages(compress, problems);
    let Compress {
        grouping,
        static_part,
        ..
    } = compress;
    if let Cost::Latency(path) = &compress.cost {
        filled("compress.cost.latency", path, problems);
    }
    problems.require(!grouping.is_empty(), "compress.grouping", || {
        "empty: at least one policy is needed".to_owned()
    });
    for (index, entry) in grouping.iter().enumerate() {
        policy(
            &format!("compress.grouping[{index}].policy"),
            entry,
            problems,
        );
    }
    if let Some(dims) = model.and_then(|model| model.dims().ok()) {
        let (candidates, most) = (static_part.neuron_candidates, dims.ffn / 8);
        problems.require(
            candidates <= most,
            "compress.static.neuron_candidates",
            || {
                format!(
                    "{candidates} multiples of 8 do not fit into {} neurons: at most {most}",
                    dims.ffn
                )
            },
        );
    }
}

fn budgets(budgets: &Budgets, compress: &Compress, problems: &mut Problems) {
    let Budgets { lo, hi, .. } = *budgets;
    let (target, mode) = (compress.target, compress.mode);
    let path = "compress.gate.budgets";
    problems.require(mode.gates(), path, || {
        "there are no gates in this compress.mode, and without gates a model has one budget: leave it out".to_owned()
    });
    let by_input = !mode.gates() || compress.gate.decide == DecideBy::Input;
    problems.require(by_input, path, || {
        "only gates that decide by their input can be run at several budgets: leave it out, or set compress.gate.decide to `input`".to_owned()
    });
    problems.require(compress.cost == Cost::Macs, path, || {
        "budgets that are dialled are of MACs: leave them out, or compress.cost".to_owned()
    });
    problems.require(lo < hi, "compress.gate.budgets.hi", || {
        format!("{hi} is not above lo = {lo}")
    });
    problems.require(
        lo >= hi || budgets.contains(target),
        "compress.target",
        || format!("{target} is not one of the budgets of compress.gate.budgets, {lo} to {hi}"),
    );
    if let Some(share) = compress.static_target {
        // That it is less than the target is said already.
        problems.require(share >= hi || share < target, "compress.static_target", || {
            format!("{share} is less than compress.gate.budgets.hi = {hi}: the part that stays in memory cannot be smaller than the part that runs at the greatest budget")
        });
    }
}

fn stages(compress: &Compress, problems: &mut Problems) {
    let Compress {
        search, tune, mode, ..
    } = compress;
    let stages = [
        ("compress.search", search.epochs, search.steps),
        ("compress.tune", tune.epochs, tune.steps),
    ];
    for (path, epochs, steps) in stages {
        problems.require(epochs.is_none() || steps.is_none(), path, || {
            "epochs and steps are both given: one of them is needed".to_owned()
        });
    }
    let empty = |(_, epochs, steps): (&str, Option<f64>, Option<u64>)| {
        epochs.unwrap_or(0.0) == 0.0 && steps.unwrap_or(0) == 0
    };
    let all_empty = stages.into_iter().all(empty);
    problems.require(!all_empty, "compress", || {
        "no stage has a length: give search or tune their epochs or steps".to_owned()
    });
    problems.require(all_empty || !mode.prunes() || !empty(stages[0]), "compress.search", || {
        "without a length nothing is searched, so nothing can be pruned: give epochs or steps, or another compress.mode".to_owned()
    });
    let sequential = *mode == Mode::Sequential;
    problems.require(all_empty || !sequential || !empty(stages[1]), "compress.tune", || {
        "without a length the gates that are put in after the search are never trained: give epochs or steps, or another compress.mode".to_owned()
    });
    problems.require(
        !sequential || compress.static_target.is_some(),
        "compress.static_target",
        || "missing: sequential mode prunes to it before there are gates".to_owned(),
    );
    let (warmup, ramp) = (search.warmup, search.ramp);
    problems.require(warmup + ramp <= 1.0, "compress.search.ramp", || {
        format!(
            "{ramp} after a warmup of {warmup} goes beyond the end of the stage: at most 1 together"
        )
    });
}

fn policy(path: &str, entry: &Grouping, problems: &mut Problems) {
    match entry.policy {
        GroupingPolicy::Random { lo, hi } => {
            problems.require(lo <= hi, format!("{path}.random.hi"), || {
                format!("{hi} is less than lo = {lo}")
            });
        }
        GroupingPolicy::Recursive
        | GroupingPolicy::RecursiveRandom
        | GroupingPolicy::TreeLevel
        | GroupingPolicy::Uniform(_)
        | GroupingPolicy::Whole => {}
    }
}

fn train(train: &Train, problems: &mut Problems) {
    let Train {
        global_batch,
        micro_batch,
        ..
    } = *train;
    problems.require(
        global_batch.is_multiple_of(micro_batch),
        "train.micro_batch",
        || format!("{micro_batch} does not divide global_batch = {global_batch}"),
    );
    if let Some(mix) = &train.mix {
        problems.require(mix.mixup > 0.0 || mix.cutmix > 0.0, "train.mix", || {
            "mixup and cutmix are both 0: give one of them, or leave train.mix out".to_owned()
        });
        problems.require(micro_batch > 1, "train.mix", || {
            "a micro-batch of one sample has nothing to mix: raise train.micro_batch".to_owned()
        });
    }
    if let Some(distillation) = &train.distillation {
        reference(
            "train.distillation.teacher",
            &distillation.teacher,
            problems,
        );
    }
}

fn resources(resources: &Resources, problems: &mut Problems) {
    name("resources.queue", &resources.queue, problems);
    let (min, max) = (resources.workers.min, resources.workers.max);
    problems.require(min <= max, "resources.workers.max", || {
        format!("{max} is less than min = {min}")
    });
}

fn publish(publish: &Publish, compress: Option<&Compress>, problems: &mut Problems) {
    name("publish.name", &publish.name, problems);
    name("publish.alias", &publish.alias, problems);
    let random = compress
        .is_some_and(|compress| compress.mode.gates() && compress.gate.decide == DecideBy::Random);
    problems.require(!random || !publish.onnx, "publish.onnx", || {
        "gates that decide at random (compress.gate.decide) are a baseline that ONNX cannot express: set it to false".to_owned()
    });
}

fn filled(path: &str, text: &str, problems: &mut Problems) {
    problems.require(!text.trim().is_empty(), path, || {
        "empty: a path is needed".to_owned()
    });
}
