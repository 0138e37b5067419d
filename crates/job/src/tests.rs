use std::path::Path;

use proptest::prelude::*;

use crate::{Architecture, Dims, Distilled, GroupingPolicy, Init, Job, Preset};

/// A whole job in which every section can be broken by replacing a line.
const GOOD: &str = r#"name = "small"

[model]
image_size = 28
patch_size = 7
channels = 1
classes = 10
width = 64
depth = 6
heads = 4
ffn = 128
init = { safetensors = "weights.safetensors" }

[data]
format = "idx"
train = "data"
validation = "/data"
mean = [0.286]
std = [0.353]

[compress]
target = 0.5
static_target = 0.75
search = { epochs = 2 }
tune = { steps = 100 }
grouping = [{ policy = "recursive", weight = 2 }, { policy = { uniform = 1 } }]

[train]
global_batch = 256
micro_batch = 64
distillation = { teacher = "teacher:dense" }

[resources]
workers = { min = 1, max = 2 }

[publish]
name = "small"
"#;

fn parse(text: &str) -> Result<Job, String> {
    Job::parse(text).map_err(|problems| problems.to_string())
}

#[test]
fn a_good_job_parses_and_goes_back_to_the_same() {
    let job = parse(GOOD).unwrap();
    assert_eq!(job.compress.grouping[1].policy, GroupingPolicy::Uniform(1));
    assert_eq!(job.publish.alias, "latest");
    assert_eq!(parse(&job.to_toml().unwrap()).unwrap(), job);
}

#[test]
fn every_example_is_a_good_job() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap();
    let mut count = 0;
    for file in files.map(|file| file.unwrap().path()) {
        let job = parse(&std::fs::read_to_string(&file).unwrap());
        assert!(job.is_ok(), "{}: {}", file.display(), job.unwrap_err());
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn one_change_gives_one_problem() {
    let cases = [
        ("name = \"small\"\n\n", "\n\n", "name: missing"),
        (
            "name = \"small\"\n\n",
            "name = \"Small\"\n\n",
            "name: `Small` is not a name: 1 to 63 of a-z, 0-9, -, _ and ., starting with a letter or digit (line 1)",
        ),
        (
            "[compress]",
            "[compres]",
            "compress: no stage has a length: give search or tune their epochs or steps\ncompres: unknown field; did you mean `compress`? (line 21)",
        ),
        (
            "[resources]",
            "[resources]\ndevice = \"gpu\"",
            "resources.device: unknown value `gpu`; known are `cpu` and `cuda` (line 34)",
        ),
        (
            "heads = 4",
            "heads = 5",
            "model.width: 64 is not a multiple of heads = 5 (line 8)",
        ),
        (
            "heads = 4",
            "heads = \"4\"",
            "model.heads: an integer is needed, found a string (line 10)",
        ),
        (
            "heads = 4",
            "heads = 4.0",
            "model.heads: an integer is needed, found a number (line 10)",
        ),
        (
            "heads = 4",
            "heads = 0",
            "model.heads: 0 is out of range: at least 1 and at most 256 (line 10)",
        ),
        (
            "heads = 4",
            "",
            "model.heads: missing: give it, or a model.preset (line 3)",
        ),
        (
            "heads = 4",
            "head = 4",
            "model.head: unknown field; did you mean `heads`? (line 10)",
        ),
        (
            "heads = 4",
            "heads = 99999999999999999999",
            "model.heads: 99999999999999999999 is out of range: at most 9223372036854775807 (line 10)",
        ),
        (
            "ffn = 128",
            "ffn = 100",
            "model.ffn: 100 is not a multiple of 8 (line 11)",
        ),
        (
            "ffn = 128",
            "ffn = 32",
            "compress.static.neuron_candidates: 8 multiples of 8 do not fit into 32 neurons: at most 4 (line 21)",
        ),
        (
            "patch_size = 7",
            "patch_size = 8",
            "model.patch_size: 8 does not divide image_size = 28 (line 5)",
        ),
        (
            "channels = 1",
            "channels = 2",
            "model.channels: 2 is out of range: 1 for grey or 3 for colour (line 6)",
        ),
        ("classes = 10", "", "model.classes: missing (line 3)"),
        (
            "init = { safetensors = \"weights.safetensors\" }",
            "preset = \"deit-smal\"",
            "model.preset: unknown value `deit-smal`; did you mean `deit-small`? (line 12)",
        ),
        (
            "{ safetensors = \"weights.safetensors\" }",
            "\"safetensors\"",
            "model.init: `safetensors` needs a value: { safetensors = .. } (line 12)",
        ),
        (
            "{ safetensors = \"weights.safetensors\" }",
            "{ scratch = 1 }",
            "model.init: `scratch` takes no value: write \"scratch\" (line 12)",
        ),
        (
            "{ safetensors = \"weights.safetensors\" }",
            "{ checkpoint = \"a:b\", safetensors = \"c\" }",
            "model.init: exactly one of `scratch`, `safetensors`, `pth` and `checkpoint` is needed (line 12)",
        ),
        (
            "{ safetensors = \"weights.safetensors\" }",
            "{ checkpoint = \"small\" }",
            "model.init.checkpoint: `small` is not a checkpoint reference: name:alias, or name@sha256: and 64 hexadecimal digits (line 12)",
        ),
        (
            "\"weights.safetensors\"",
            "\"\"",
            "model.init.safetensors: empty: a path is needed (line 12)",
        ),
        (
            "format = \"idx\"",
            "format = 3",
            "data.format: one of `idx`, `cifar`, `image-folder`, `webdataset` and `parquet` is needed, found an integer (line 15)",
        ),
        (
            "train = \"data\"",
            "train = \" \"",
            "data.train: empty: a path is needed (line 16)",
        ),
        (
            "mean = [0.286]",
            "mean = [0.5, 0.5]",
            "data.mean: 2 values are given: 1 is needed (line 18)",
        ),
        (
            "mean = [0.286]",
            "mean = [127.5]",
            "data.mean[0]: 127.5 is out of range: at least 0 and at most 1 (line 18)",
        ),
        (
            "std = [0.353]",
            "std = [0]",
            "data.std[0]: 0 is out of range: at least 0.000001 and at most 1 (line 19)",
        ),
        (
            "std = [0.353]",
            "std = 0.353",
            "data.std: a list is needed, found a number (line 19)",
        ),
        (
            "std = [0.353]",
            "std = [0.353]\ncalibration = 0.6",
            "data.calibration: 0.6 is out of range: more than 0 and at most 0.5 (line 20)",
        ),
        (
            "std = [0.353]",
            "std = [0.353]\naugment = { pad = 28 }",
            "data.augment.pad: 28 is out of range: less than model.image_size = 28 (line 20)",
        ),
        (
            "std = [0.353]",
            "std = [0.353]\naugment = { crop = { min_area = 0.5, max_area = 0.4 } }",
            "data.augment.crop.max_area: 0.4 is less than the smallest, 0.5 (line 20)",
        ),
        (
            "std = [0.353]",
            "std = [0.353]\naugment = { rand = { magnitude = 11 } }",
            "data.augment.rand.magnitude: 11 is out of range: at least 0 and at most 10 (line 20)",
        ),
        (
            "std = [0.353]",
            "std = [0.353]\ncrop_pct = 1.1",
            "data.crop_pct: 1.1 is out of range: at least 0.1 and at most 1 (line 20)",
        ),
        (
            "target = 0.5\n",
            "target = nan\n",
            "compress.target: nan is out of range: more than 0 and at most 1 (line 22)",
        ),
        (
            "target = 0.5\n",
            "target = 0.9\n",
            "compress.static_target: 0.75 is less than compress.target = 0.9: the part that stays in memory cannot be smaller than the part that runs (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\nmode = \"static \"\n",
            "compress.mode: unknown value `static `; did you mean `static`? (line 23)",
        ),
        (
            "search = { epochs = 2 }",
            "search = { epochs = 2, steps = 3 }",
            "compress.search: epochs and steps are both given: one of them is needed (line 24)",
        ),
        (
            "search = { epochs = 2 }",
            "",
            "compress.search: without a length nothing is searched, so nothing can be pruned: give epochs or steps, or another compress.mode (line 21)",
        ),
        (
            "target = 0.5\nstatic_target = 0.75\n",
            "target = 0.5\nmode = \"sequential\"\n",
            "compress.static_target: missing: sequential mode prunes to it before there are gates (line 21)",
        ),
        (
            "search = { epochs = 2 }\ntune = { steps = 100 }\n",
            "mode = \"sequential\"\nsearch = { epochs = 2 }\n",
            "compress.tune: without a length the gates that are put in after the search are never trained: give epochs or steps, or another compress.mode (line 21)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { decide = \"random\" }\n",
            "publish.onnx: gates that decide at random (compress.gate.decide) are a baseline that ONNX cannot express: set it to false (line 37)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { decide = \"constant\", information = 0.1 }\n",
            "compress.gate.information: only gates that decide by their input can tell of it: leave it out, or set compress.gate.decide to `input` (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.6, hi = 0.4 } }\n",
            "compress.gate.budgets.hi: 0.4 is not above lo = 0.6 (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.4, hi = 0.4 } }\n",
            "compress.gate.budgets.hi: 0.4 is not above lo = 0.4 (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.4 } }\n",
            "compress.gate.budgets.hi: missing (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0, hi = 0.7 } }\n",
            "compress.gate.budgets.lo: 0 is out of range: more than 0 and at most 1 (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.6, hi = 0.7 } }\n",
            "compress.target: 0.5 is not one of the budgets of compress.gate.budgets, 0.6 to 0.7 (line 22)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.4, hi = 0.8 } }\n",
            "compress.static_target: 0.75 is less than compress.gate.budgets.hi = 0.8: the part that stays in memory cannot be smaller than the part that runs at the greatest budget (line 24)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { decide = \"constant\", budgets = { lo = 0.4, hi = 0.7 } }\n",
            "compress.gate.budgets: only gates that decide by their input can be run at several budgets: leave it out, or set compress.gate.decide to `input` (line 23)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\nmode = \"static\"\ngate = { budgets = { lo = 0.4, hi = 0.7 } }\n",
            "compress.gate.budgets: there are no gates in this compress.mode, and without gates a model has one budget: leave it out (line 24)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\nmode = \"dense\"\ngate = { budgets = { lo = 0.4, hi = 0.7 } }\n",
            "compress.gate.budgets: there are no gates in this compress.mode, and without gates a model has one budget: leave it out (line 24)",
        ),
        (
            "target = 0.5\n",
            "target = 0.5\ngate = { budgets = { lo = 0.4, hi = 0.7, adapt = \"gate\" } }\n",
            "compress.gate.budgets.adapt: unknown value `gate`; did you mean `gates`? (line 23)",
        ),
        (
            "search = { epochs = 2 }",
            "search = { epochs = 2, warmup = 0.7 }",
            "compress.search.ramp: 0.4 after a warmup of 0.7 goes beyond the end of the stage: at most 1 together (line 24)",
        ),
        (
            "{ policy = \"recursive\", weight = 2 }, { policy = { uniform = 1 } }",
            "",
            "compress.grouping: empty: at least one policy is needed (line 26)",
        ),
        (
            "uniform = 1",
            "uniform = 0",
            "compress.grouping[1].policy.uniform: 0 is out of range: at least 1 and at most 65536 (line 26)",
        ),
        (
            "uniform = 1",
            "unifrom = 1",
            "compress.grouping[1].policy.unifrom: unknown value `unifrom`; did you mean `uniform`? (line 26)",
        ),
        (
            "uniform = 1",
            "random = { lo = 4, hi = 2 }",
            "compress.grouping[1].policy.random.hi: 2 is less than lo = 4 (line 26)",
        ),
        (
            "uniform = 1",
            "random = { lo = 4 }",
            "compress.grouping[1].policy.random.hi: missing (line 26)",
        ),
        (
            "weight = 2",
            "weight = 0",
            "compress.grouping[0].weight: 0 is out of range: more than 0 and at most 1000000 (line 26)",
        ),
        (
            "micro_batch = 64",
            "micro_batch = 60",
            "train.micro_batch: 60 does not divide global_batch = 256 (line 30)",
        ),
        (
            "micro_batch = 64",
            "micro_batch = 64\noptimizer = { learning_rate = 1 }",
            "train.optimizer.learning_rate: unknown field; known are `beta1`, `beta2`, `clip_norm`, `eps`, `lr` and `weight_decay` (line 31)",
        ),
        (
            "micro_batch = 64",
            "micro_batch = 64\nseed = -1",
            "train.seed: -1 is out of range: at least 0 (line 31)",
        ),
        (
            "micro_batch = 64",
            "micro_batch = 1\nmix = {}",
            "train.mix: a micro-batch of one sample has nothing to mix: raise train.micro_batch (line 31)",
        ),
        (
            "micro_batch = 64",
            "micro_batch = 64\nmix = { mixup = 0, cutmix = 0 }",
            "train.mix: mixup and cutmix are both 0: give one of them, or leave train.mix out (line 31)",
        ),
        (
            "teacher:dense",
            "teacher",
            "train.distillation.teacher: `teacher` is not a checkpoint reference: name:alias, or name@sha256: and 64 hexadecimal digits (line 31)",
        ),
        (
            "{ min = 1, max = 2 }",
            "{ min = 3, max = 2 }",
            "resources.workers.max: 2 is less than min = 3 (line 34)",
        ),
        (
            "{ min = 1, max = 2 }",
            "2",
            "resources.workers: a table is needed, found an integer (line 34)",
        ),
        (
            "{ min = 1, max = 2 }",
            "{ min = 1, max = 2 }\nranks_per_worker = 0",
            "resources.ranks_per_worker: 0 is out of range: at least 1 and at most 64 (line 35)",
        ),
        (
            "[publish]",
            "[publish]\nalias = \"a b\"",
            "publish.alias: `a b` is not a name: 1 to 63 of a-z, 0-9, -, _ and ., starting with a letter or digit (line 37)",
        ),
        (
            "[publish]",
            "[publish]\nevery = 2024-01-01",
            "publish.every: an integer is needed, found a date (line 37)",
        ),
    ];
    let differs = |(good, bad, message): &(&str, &str, &str)| {
        assert!(GOOD.contains(good), "{good}");
        let said = parse(&GOOD.replacen(good, bad, 1)).unwrap_err();
        (said != *message).then(|| format!("{good} -> {bad}: {said}"))
    };
    let wrong: Vec<String> = cases.iter().filter_map(differs).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_problems_come_at_once_in_order() {
    let text = GOOD
        .replace("heads = 4", "heads = 5\nhads = 4")
        .replace("target = 0.5\n", "target = 2\n")
        .replace("micro_batch = 64", "micro_batch = 60")
        .replace("max = 2", "max = 0")
        .replace("[publish]\nname = \"small\"\n", "");
    assert_eq!(
        parse(&text).unwrap_err().lines().collect::<Vec<_>>(),
        [
            "publish: missing",
            "model.hads: unknown field; did you mean `heads`? (line 11)",
            "compress.target: 2 is out of range: more than 0 and at most 1 (line 23)",
            "train.micro_batch: 60 does not divide global_batch = 256 (line 31)",
            "resources.workers.max: 0 is out of range: at least 1 and at most 4096 (line 35)",
        ]
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_lines() {
    let error = Job::parse("name = \"a\"\nmodel = = 3\n[data\n").unwrap_err();
    assert!(error.0.iter().all(|problem| problem.path.is_empty()));
    assert_eq!(
        error
            .0
            .iter()
            .map(|problem| problem.line)
            .collect::<Vec<_>>(),
        [Some(2), Some(3)],
        "{error}"
    );
}

#[test]
fn a_document_has_a_largest_size() {
    let text = format!("{GOOD}#{}", " ".repeat(Job::MAX_BYTES));
    let error = parse(&text).unwrap_err();
    assert!(
        error.ends_with("bytes are more than a job document may have, 262144"),
        "{error}"
    );
}

#[test]
fn a_preset_fills_in_what_is_not_given() {
    let mut job = parse(GOOD).unwrap();
    job.model.preset = Some(Preset::DeitSmall);
    job.model.width = None;
    job.model.ffn = None;
    job.model.heads = None;
    let dims = Dims {
        image_size: 28,
        patch_size: 7,
        channels: 1,
        classes: 10,
        width: 384,
        depth: 6,
        heads: 6,
        ffn: 1536,
        architecture: Architecture::default(),
    };
    assert_eq!(job.model.dims(), Ok(dims));
}

#[test]
fn what_is_given_wins_over_the_preset_s_architecture() {
    let text = GOOD.replace(
        "ffn = 128",
        "ffn = 128\ndistilled = \"token\"\nlayer_scale = 0\nqkv_bias = true",
    );
    let mut job = parse(&text).unwrap();
    job.model.preset = Some(Preset::Dinov2Small);
    let expected = Architecture {
        distilled: Distilled::Token,
        ..Architecture::default()
    };
    assert_eq!(job.model.dims().unwrap().architecture, expected);
    job.model.layer_scale = None;
    let architecture = job.model.dims().unwrap().architecture;
    assert_eq!(architecture.layer_scale, Some(1e-5));

    job.model.preset = Some(Preset::T2tVit14);
    let problems = job.model.dims().unwrap_err().to_string();
    assert!(
        problems.contains("model.patch_size: 7 is not 16"),
        "{problems}"
    );
}

#[test]
fn paths_become_absolute() {
    let mut job = parse(GOOD).unwrap();
    assert_eq!(
        job.relative_paths(),
        ["data.train", "model.init.safetensors"]
    );
    job.absolute_paths(Path::new("/jobs"));
    assert_eq!(job.relative_paths(), [""; 0]);
    assert_eq!(job.data.train, "/jobs/data");
    assert_eq!(job.data.validation, "/data");
    assert_eq!(
        job.model.init,
        Init::Safetensors("/jobs/weights.safetensors".to_owned())
    );
}

#[test]
fn the_examples_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(problems) = Job::parse(&text) {
                panic!("{}:\n{problems}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} examples");
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,200}") {
        let _ = Job::parse(&text);
    }

    /// Whatever happens to one place of a good job, it is a job that survives a round trip, or every
    /// problem says something.
    #[test]
    fn a_damaged_job_is_a_job_or_has_problems(
        place in 0..GOOD.len(), cut in 0_usize..12, put in "[-a-z0-9\\[\\]{}=\"\n. ]{0,6}",
    ) {
        let end = (place + cut).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..place], &GOOD[end..]);
        match Job::parse(&text) {
            Ok(job) => prop_assert_eq!(Job::parse(&job.to_toml().unwrap()), Ok(job)),
            Err(problems) => {
                prop_assert!(!problems.0.is_empty());
                prop_assert!(problems.0.iter().all(|problem| !problem.message.is_empty()));
            }
        }
    }
}
