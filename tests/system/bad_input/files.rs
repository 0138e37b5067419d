//! Data sets and weights that are wrong: the job fails before its first step and says which file.

use std::fs;
use std::path::{Path, PathBuf};

use espalier_tests::{Cluster, Feed, TinyJob, subset};
use serde_json::Value;

/// How an otherwise good folder of images is damaged, and what the reason names.
pub(super) type Damage = (Edit, &'static str);

/// A change to a file or folder.
pub(super) type Edit = fn(&Path);

const DATA: &[Damage] = &[
    (|dir| fs::remove_dir_all(dir).unwrap(), "images"),
    (
        |dir| fs::remove_file(dir.join("train-images-idx3-ubyte")).unwrap(),
        "train-images-idx3-ubyte",
    ),
    (
        |dir| fs::remove_file(dir.join("t10k-labels-idx1-ubyte")).unwrap(),
        "t10k-labels-idx1-ubyte",
    ),
    (
        |dir| cut(&dir.join("train-images-idx3-ubyte"), 1000),
        "train-images-idx3-ubyte",
    ),
    (
        |dir| cut(&dir.join("train-labels-idx1-ubyte"), 4),
        "train-labels-idx1-ubyte",
    ),
    (
        |dir| overwrite(&dir.join("train-labels-idx1-ubyte"), 8 + 17, 10),
        "train-labels-idx1-ubyte",
    ),
    (
        |dir| overwrite(&dir.join("t10k-images-idx3-ubyte"), 2, 9),
        "t10k-images-idx3-ubyte",
    ),
    (
        |dir| overwrite(&dir.join("t10k-images-idx3-ubyte"), 11, 29),
        "t10k-images-idx3-ubyte",
    ),
];

#[test]
fn damaged_data_fails_the_job_before_its_first_step() {
    let cluster = Cluster::start(1);
    for (index, (damage, named)) in DATA.iter().enumerate() {
        let dir = cluster.dir().join(format!("case-{index}/images"));
        subset(&dir, 300, 100);
        damage(&dir);
        let reason = refused(&cluster, &TinyJob::new(&dir).toml());
        assert!(
            reason.contains(named),
            "case {index}: {named} is not in {reason:?}"
        );
    }
    let few = cluster.dir().join("few");
    subset(&few, 40, 40);
    let reason = refused(&cluster, &TinyJob::new(&few).toml());
    assert!(reason.contains("global_batch"), "{reason}");
    assert!(
        cluster.models().is_empty(),
        "a failed job published something"
    );
}

#[test]
fn damaged_weights_are_named() {
    let cluster = Cluster::start(1);
    let init = cluster.dir().join("init.safetensors");
    let with_init = |init: &str| {
        let init = init.to_owned();
        let job = TinyJob::new(&cluster.data());
        TinyJob { init, ..job }.toml()
    };
    let from_file = with_init(&format!("{{ safetensors = \"{}\" }}", init.display()));
    let cases: [(&[u8], &str); 4] = [
        (b"", "init.safetensors"),
        (b"not a file of weights", "init.safetensors"),
        (&[0xff; 64], "init.safetensors"),
        (b"\x02\0\0\0\0\0\0\0{}", "blocks.{0..1}.norm1.weight"),
    ];
    for (content, named) in cases {
        fs::write(&init, content).unwrap();
        let reason = refused(&cluster, &from_file);
        assert!(reason.contains(named), "{named} is not in {reason:?}");
    }
    fs::remove_file(&init).unwrap();
    assert!(refused(&cluster, &from_file).contains("init.safetensors"));
    let unknown = refused(&cluster, &with_init("{ checkpoint = \"nobody:latest\" }"));
    assert!(unknown.contains("model.init.checkpoint"), "{unknown}");
    // A file of weights that is good, of another model.
    cluster.run(&TinyJob {
        search: 3,
        tune: 3,
        mode: "dense",
        name: "dense".to_owned(),
        ..TinyJob::new(&cluster.data())
    });
    let weights = cluster
        .pull("dense:latest", "dense")
        .join("model.safetensors");
    let init = format!("{{ safetensors = \"{}\" }}", weights.display());
    for (from, to, tensor) in [
        ("width = 32", "width = 64", "cls_token"),
        ("depth = 2", "depth = 3", "blocks.2"),
        ("ffn = 64", "ffn = 128", "mlp.fc1"),
    ] {
        let reason = refused(&cluster, &with_init(&init).replacen(from, to, 1));
        assert!(reason.contains("model.safetensors"), "{reason}");
        assert!(reason.contains(tensor), "{tensor} is not in {reason:?}");
    }
    let wide =
        with_init("{ checkpoint = \"dense:latest\" }").replacen("width = 32", "width = 64", 1);
    let reason = refused(&cluster, &wide);
    assert!(reason.contains("model.init.checkpoint"), "{reason}");
    assert_eq!(
        cluster.models().len(),
        1,
        "a failed job published something"
    );
}

#[test]
fn a_damaged_checkpoint_is_neither_pulled_nor_evaluated() {
    let cluster = Cluster::start(1);
    let job = TinyJob {
        search: 3,
        tune: 3,
        every: 100,
        ..TinyJob::new(&cluster.data())
    };
    cluster.run(&job);
    let good = cluster.pull("tiny:latest", "good");

    let damages: [(&str, Edit); 5] = [
        ("model.safetensors", |file| cut(file, 200)),
        ("model.safetensors", |file| fs::remove_file(file).unwrap()),
        ("config.json", |file| fs::remove_file(file).unwrap()),
        ("config.json", |file| fs::write(file, "{").unwrap()),
        ("config.json", |file| {
            fs::write(file, "{\"dims\": 3}").unwrap()
        }),
    ];
    for (index, (name, damage)) in damages.into_iter().enumerate() {
        let dir = cluster.dir().join(format!("damaged-{index}"));
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(&good).unwrap().flatten() {
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        damage(&dir.join(name));
        let ran = cluster.cli(&["eval", dir.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(name), "{name} is not in {}", ran.stderr);
    }

    // A job must not search from what was searched already, nor learn from what has other inputs.
    let init = "{ checkpoint = \"tiny:latest\" }".to_owned();
    let from_tiny = TinyJob {
        init,
        ..TinyJob::new(&cluster.data())
    };
    let reason = refused(&cluster, &from_tiny.toml());
    assert!(reason.contains("model.init.checkpoint"), "{reason}");
    let taught = TinyJob::new(&cluster.data())
        .toml()
        .replacen("mean = [0.286]", "mean = [0.5]", 1)
        .replacen(
            "seed = 11",
            "seed = 11\ndistillation = { teacher = \"tiny:latest\" }",
            1,
        );
    let reason = refused(&cluster, &taught);
    assert!(reason.contains("train.distillation.teacher"), "{reason}");

    // Flip a bit of the stored weights, then cut them.
    let blob = weights_chunk(&cluster);
    let whole = fs::read(&blob).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (index, damaged) in [flipped.as_slice(), &whole[..whole.len() / 2]]
        .into_iter()
        .enumerate()
    {
        fs::write(&blob, damaged).unwrap();
        let dir = cluster.dir().join(format!("refused-{index}"));
        let ran = cluster.cli(&["checkpoint", "pull", "tiny:latest", dir.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("model.safetensors"), "{}", ran.stderr);
        assert!(!dir.exists(), "a damaged checkpoint is in place");
    }
}

#[test]
fn a_job_does_not_start_from_damaged_weights_of_the_registry() {
    let cluster = Cluster::start(1);
    cluster.run(&TinyJob {
        search: 3,
        tune: 3,
        mode: "dense",
        ..TinyJob::new(&cluster.data())
    });
    cut(&weights_chunk(&cluster), 500);
    let job = TinyJob {
        init: "{ checkpoint = \"tiny:latest\" }".to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let reason = refused(&cluster, &job.toml());
    for named in ["model.init.checkpoint", "model.safetensors", "damaged"] {
        assert!(reason.contains(named), "{named} is not in {reason:?}");
    }
    assert_eq!(
        cluster.models().len(),
        1,
        "a failed job published something"
    );
}

/// Runs a job that must fail without a step; gives the reason.
#[track_caller]
pub(super) fn refused(cluster: &Cluster, toml: &str) -> String {
    let job_id = cluster.submit(toml);
    let job = cluster.ended(&job_id);
    assert_eq!(job["state"], "FAILED", "{job:#}");
    let feed = Feed::read(&cluster.endpoint(), &job_id);
    assert!(
        feed.metrics.is_empty() && feed.ledger().is_empty(),
        "a step was run"
    );
    assert_eq!(cluster.cli(&["job", "wait", &job_id]).code, 5);
    job["reason"].as_str().unwrap().to_owned()
}

pub(super) fn cut(file: &Path, size: u64) {
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(size)
        .unwrap();
}

pub(super) fn overwrite(file: &Path, at: usize, byte: u8) {
    let mut content = fs::read(file).unwrap();
    content[at] = byte;
    fs::write(file, content).unwrap();
}

/// Where the registry keeps the first chunk of the weights of `tiny:latest`.
fn weights_chunk(cluster: &Cluster) -> PathBuf {
    let described = cluster.cli(&["checkpoint", "describe", "tiny:latest", "-o", "json"]);
    let described: Value = serde_json::from_str(&described.stdout).unwrap();
    let files = described["manifest"]["files"].as_array().unwrap();
    let weights = files
        .iter()
        .find(|file| file["path"] == "model.safetensors");
    let digest = weights.unwrap()["chunks"][0]["digest"].as_str().unwrap();
    let hex = digest.trim_start_matches("sha256:");
    cluster.blobs().join("chunks").join(&hex[..1]).join(hex)
}
