//! Whole trainers of each architecture, from the files that other libraries keep weights in.

use std::fs;
use std::path::Path;

use espalier_collective::Solo;
use espalier_random::{Rng as _, Stream, rng};
use espalier_vit::{Routing, Vit};
use tch::{Device, Kind, Tensor};

use super::tests::Record;
use super::{Assets, Prepared, TrainError, Trainer, train};

/// Images of noise in the binary form of CIFAR-10, more for training than for validation.
fn noise(folder: &Path) {
    for (index, (name, samples)) in [("data_batch_1.bin", 96), ("test_batch.bin", 32)]
        .into_iter()
        .enumerate()
    {
        let mut rng = rng(1, Stream::Init, index as u64, 0);
        let records = (0..samples).flat_map(|sample| {
            let pixels: Vec<u8> = (0..3072).map(|_| rng.random()).collect();
            [vec![sample % 5], pixels].concat()
        });
        fs::write(folder.join(name), records.collect::<Vec<u8>>()).unwrap();
    }
}

fn spec(data: &Path, model: &str) -> String {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/vit/reference");
    format!(
        r#"
        name = "small"
        [model]
        image_size = 32
        channels = 3
        width = 24
        depth = 2
        heads = 3
        ffn = 48
        {model}
        [data]
        format = "cifar"
        train = "{data}"
        validation = "{data}"
        mean = [0.5]
        std = [0.25]
        [compress]
        target = 0.7
        search = {{ steps = 2 }}
        tune = {{ steps = 2 }}
        static = {{ neuron_candidates = 6 }}
        [train]
        global_batch = 32
        micro_batch = 16
        ema_decay = 0.9
        [publish]
        name = "small"
        "#,
        data = data.display()
    )
    .replace("REFERENCE", &reference.display().to_string())
}

fn prepare(spec: &str) -> Result<Prepared, TrainError> {
    tch::set_num_threads(1);
    Prepared::new("job-1", spec, &Assets::default(), 0)
}

const T2T: &str = r#"
        classes = 5
        patch_size = 16
        stem = "t2t"
        qkv_bias = false
        qk_scale = "width"
        norm_eps = 1e-5
        init = { pth = "REFERENCE/t2t.pth" }
        "#;

#[test]
fn every_architecture_trains_and_is_published() {
    let data = tempfile::tempdir().unwrap();
    noise(data.path());
    let distilled = r#"
        classes = 5
        patch_size = 8
        distilled = "token-and-head"
        "#;
    let scaled = r#"
        classes = 5
        patch_size = 8
        layer_scale = 0.1
        "#;
    let of_other_classes = r#"
        classes = 7
        patch_size = 8
        init = { pth = "REFERENCE/deit.pth" }
        new_head = true
        "#;
    for model in [distilled, scaled, of_other_classes, T2T] {
        let prepared = prepare(&spec(data.path(), model)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::at(folder.path());
        let trainer = Trainer::new(&prepared).unwrap();
        train(&prepared, trainer, &Solo::default(), &mut record).unwrap();
        assert!(
            record.losses().iter().all(|loss| loss.is_finite()),
            "{model}"
        );
        let (_, published, _) = record.checkpoints.pop().unwrap();
        let vit = Vit::open(&published, Device::Cpu).unwrap();
        assert_eq!(vit.config().dims, prepared.config.dims);
    }
}

#[test]
fn what_is_frozen_stays_and_what_is_not_moves() {
    let data = tempfile::tempdir().unwrap();
    noise(data.path());
    let prepared = prepare(&spec(data.path(), T2T)).unwrap();
    let value = |vit: &Vit, name: &str| {
        let params = vit.parameters().into_iter();
        let mut found = params.filter(|param| param.name == name);
        found.next().unwrap().tensor.detach().copy()
    };
    let first = prepared.first_model().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::at(folder.path());
    let trainer = Trainer::new(&prepared).unwrap();
    train(&prepared, trainer, &Solo::default(), &mut record).unwrap();
    let (_, published, _) = record.checkpoints.pop().unwrap();
    let last = Vit::open(&published, Device::Cpu).unwrap();
    for frozen in ["pos_embed", "tokens_to_token.attention1.w"] {
        assert_eq!(value(&last, frozen), value(&first, frozen), "{frozen}");
    }
    let learnt = "tokens_to_token.attention1.kqv.weight";
    assert_ne!(value(&last, learnt), value(&first, learnt));
}

#[test]
fn the_first_model_is_that_of_the_file_whatever_the_seed() {
    let data = tempfile::tempdir().unwrap();
    noise(data.path());
    let spec = spec(data.path(), T2T);
    let x_BCHW = Tensor::ones([1, 3, 32, 32], (Kind::Float, Device::Cpu));
    let [one, other] = ["[train]\nseed = 1", "[train]\nseed = 2"].map(|train| {
        let prepared = prepare(&spec.replace("[train]", train)).unwrap();
        let model = prepared.first_model().unwrap();
        model.forward(&x_BCHW, &Routing::Open).logits_BK
    });
    assert_eq!(one, other);
}

#[test]
fn weights_that_do_not_fit_are_refused_with_all_that_differs() {
    let data = tempfile::tempdir().unwrap();
    noise(data.path());
    let refused = |model: &str| {
        let prepared = prepare(&spec(data.path(), model)).unwrap();
        let error = prepared.first_model().unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    let deit = "classes = 7\npatch_size = 8\ninit = { pth = \"REFERENCE/deit.pth\" }";
    let heads = refused(deit);
    for part in [
        "model.new_head",
        "head.weight is [5, 24] where the model has [7, 24]",
    ] {
        assert!(heads.contains(part), "{heads}");
    }
    let distilled = refused(&format!("{deit}\ndistilled = \"token\""));
    for part in ["model.init.pth", "deit.pth", "missing: dist_token"] {
        assert!(distilled.contains(part), "{distilled}");
    }
    let other = refused(&deit.replace("pth =", "safetensors ="));
    assert!(other.contains("not a whole safetensors file"), "{other}");
}
