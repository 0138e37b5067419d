//! Image folders and CIFAR files that are wrong: the job fails before its first step and says which
//! file or field.

use std::fs;
use std::path::Path;

use espalier_tests::{Cluster, Feed, TinyJob, as_cifar, as_folder, as_shards, repository};

use super::files::{Damage, cut, overwrite, refused};

const FOLDERS: &[Damage] = &[
    (
        |dir| cut(&dir.join("train/c3/3.png"), 100),
        "train/c3/3.png",
    ),
    (
        |dir| fs::write(dir.join("train/c0/x.png"), "no image").unwrap(),
        "train/c0/x.png",
    ),
    (
        |dir| fs::write(dir.join("validation/c2/empty.jpg"), "").unwrap(),
        "validation/c2/empty.jpg",
    ),
    (
        |dir| fs::write(dir.join("train/c1/y.gif"), "GIF89a").unwrap(),
        "train/c1/y.gif",
    ),
    (
        |dir| fs::create_dir(dir.join("train/c1/inner")).unwrap(),
        "train/c1/inner",
    ),
    (
        |dir| {
            fs::remove_dir_all(dir.join("train/c5")).unwrap();
            fs::create_dir(dir.join("train/c5")).unwrap();
        },
        "train/c5",
    ),
    (
        |dir| {
            fs::create_dir(dir.join("train/d0")).unwrap();
            fs::copy(dir.join("train/c3/3.png"), dir.join("train/d0/3.png")).unwrap();
        },
        "model.classes",
    ),
    (
        |dir| fs::remove_dir_all(dir.join("validation/c9")).unwrap(),
        "c9",
    ),
    (
        |dir| {
            fs::remove_dir_all(dir.join("validation")).unwrap();
            fs::create_dir(dir.join("validation")).unwrap();
        },
        "validation",
    ),
];

const CIFAR: &[Damage] = &[
    (
        |dir| cut(&dir.join("data_batch_1.bin"), 4000),
        "data_batch_1.bin",
    ),
    (
        |dir| overwrite(&dir.join("data_batch_1.bin"), 3073 * 5, 10),
        "data_batch_1.bin",
    ),
    (|dir| cut(&dir.join("test_batch.bin"), 0), "test_batch.bin"),
    (
        |dir| fs::remove_file(dir.join("test_batch.bin")).unwrap(),
        "test_batch.bin",
    ),
];

const SHARDS: &[Damage] = &[
    (
        |dir| cut(&dir.join("train-001.tar"), 70_000),
        "train-001.tar",
    ),
    (
        |dir| overwrite(&dir.join("train-000.tar"), 1, b'x'),
        "train-000.tar",
    ),
    (
        |dir| {
            let path = dir.join("train-000.tar");
            let bytes = fs::read(&path).unwrap();
            let header = bytes
                .chunks(512)
                .position(|block| block.starts_with(b"00000.cls"))
                .unwrap();
            overwrite(&path, (header + 1) * 512, b'?');
        },
        "train-000.tar!00000.cls",
    ),
    (
        |dir| fs::remove_file(dir.join("validation-000.tar")).unwrap(),
        "validation-",
    ),
];

const PARQUET: &[Damage] = &[
    (|dir| cut(&dir.join("train.parquet"), 1000), "train.parquet"),
    (
        |dir| fs::write(dir.join("train.parquet"), "PAR1").unwrap(),
        "train.parquet",
    ),
    (
        |dir| fs::remove_file(dir.join("validation.parquet")).unwrap(),
        "validation.parquet",
    ),
    // Nothing is wrong with the files, but they are too few images for a step.
    (|_| {}, "train.global_batch"),
];

#[test]
fn damaged_images_fail_the_job_before_its_first_step() {
    let cluster = Cluster::start(1);
    for (index, (damage, named)) in FOLDERS.iter().enumerate() {
        let dir = cluster.dir().join(format!("folder-{index}"));
        as_folder(&dir, 300, 100);
        damage(&dir);
        let reason = refused(&cluster, &folder_job(&dir));
        assert!(
            reason.contains(named),
            "case {index}: {named} is not in {reason:?}"
        );
    }
    for (index, (damage, named)) in CIFAR.iter().enumerate() {
        let dir = cluster.dir().join(format!("cifar-{index}"));
        as_cifar(&dir, 300, 100);
        damage(&dir);
        let reason = refused(&cluster, &cifar_job(&dir));
        assert!(
            reason.contains(named),
            "case {index}: {named} is not in {reason:?}"
        );
    }
    for (index, (damage, named)) in SHARDS.iter().enumerate() {
        let dir = cluster.dir().join(format!("shards-{index}"));
        as_shards(&dir, 300, 100);
        damage(&dir);
        let reason = refused(&cluster, &shards_job(&dir));
        assert!(
            reason.contains(named),
            "case {index}: {named} is not in {reason:?}"
        );
    }
    for (index, (damage, named)) in PARQUET.iter().enumerate() {
        let dir = cluster.dir().join(format!("parquet-{index}"));
        fs::create_dir(&dir).unwrap();
        let small = repository().join("crates/data/reference");
        for name in ["train.parquet", "validation.parquet"] {
            let from = match name {
                "train.parquet" => "hugging-face.parquet",
                _ => "hugging-face-validation.parquet",
            };
            fs::copy(small.join(from), dir.join(name)).unwrap();
        }
        damage(&dir);
        let reason = refused(
            &cluster,
            &files_job(&dir, "parquet", "train.parquet", "validation.parquet"),
        );
        assert!(
            reason.contains(named),
            "case {index}: {named} is not in {reason:?}"
        );
    }
    let dir = cluster.dir().join("whole");
    as_cifar(&dir, 300, 100);
    let small = cifar_job(&dir).replacen("image_size = 32", "image_size = 28", 1);
    let reason = refused(
        &cluster,
        &small.replacen("patch_size = 8", "patch_size = 7", 1),
    );
    assert!(reason.contains("model.image_size"), "{reason}");
    let grey = cifar_job(&dir).replacen("channels = 3", "channels = 1", 1);
    let reason = refused(&cluster, &grey);
    assert!(reason.contains("model.channels"), "{reason}");
    assert!(
        cluster.models().is_empty(),
        "a failed job published something"
    );
}

/// The header and the end of every image are read before the first step, its pixels when it is used.
#[test]
fn an_image_with_damaged_pixels_fails_the_job_by_name() {
    let cluster = Cluster::start(1);
    let dir = cluster.dir().join("images-of-a-folder");
    as_folder(&dir, 300, 100);
    let image = dir.join("train/c3/3.png");
    overwrite(
        &image,
        fs::metadata(&image).unwrap().len() as usize / 2,
        0xa5,
    );
    let job_id = cluster.submit(&folder_job(&dir));
    let job = cluster.ended(&job_id);
    assert_eq!(job["state"], "FAILED", "{job:#}");
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.contains("train/c3/3.png"), "{reason}");
    assert!(
        cluster.models().is_empty(),
        "a failed job published something"
    );
}

/// A damaged image that may be skipped costs no step.
#[test]
fn an_image_with_damaged_pixels_may_be_skipped() {
    let cluster = Cluster::start(1);
    let dir = cluster.dir().join("images-of-a-folder");
    as_folder(&dir, 300, 100);
    for name in ["train/c3/3.png", "validation/c2/1.png"] {
        let image = dir.join(name);
        overwrite(
            &image,
            fs::metadata(&image).unwrap().len() as usize / 2,
            0xa5,
        );
    }
    fs::write(dir.join("train/c0/x.png"), "no image").unwrap();
    let skipping = "[data]\ndamaged = \"skip\"\ndamaged_most = 0.05\n";
    let job_id = cluster.submit(&folder_job(&dir).replacen("[data]\n", skipping, 1));
    cluster.succeeded(&job_id);
    Feed::read(&cluster.endpoint(), &job_id).assert_ledger(6);
}

/// What the tables damage is good: all layouts train.
#[test]
fn whole_images_train() {
    let cluster = Cluster::start(1);
    let (folder, cifar) = (cluster.dir().join("folder"), cluster.dir().join("cifar"));
    let shards = cluster.dir().join("shards");
    as_folder(&folder, 300, 100);
    as_cifar(&cifar, 300, 100);
    as_shards(&shards, 300, 100);
    for toml in [folder_job(&folder), cifar_job(&cifar), shards_job(&shards)] {
        let job_id = cluster.submit(&toml);
        cluster.succeeded(&job_id);
        Feed::read(&cluster.endpoint(), &job_id).assert_ledger(6);
    }
}

fn folder_job(dir: &Path) -> String {
    let (train, validation) = (dir.join("train"), dir.join("validation"));
    short(dir)
        .replacen("format = \"idx\"", "format = \"image-folder\"", 1)
        .replacen(
            &format!("train = \"{}\"", dir.display()),
            &format!("train = \"{}\"", train.display()),
            1,
        )
        .replacen(
            &format!("validation = \"{}\"", dir.display()),
            &format!("validation = \"{}\"", validation.display()),
            1,
        )
}

fn shards_job(dir: &Path) -> String {
    files_job(
        dir,
        "webdataset",
        "train-{000..001}.tar",
        "validation-*.tar",
    )
}

fn files_job(dir: &Path, format: &str, train: &str, validation: &str) -> String {
    folder_job(dir)
        .replacen("image-folder", format, 1)
        .replacen(
            &format!("{}\"", dir.join("train").display()),
            &format!("{}\"", dir.join(train).display()),
            1,
        )
        .replacen(
            &format!("{}\"", dir.join("validation").display()),
            &format!("{}\"", dir.join(validation).display()),
            1,
        )
}

fn cifar_job(dir: &Path) -> String {
    short(dir)
        .replacen("format = \"idx\"", "format = \"cifar\"", 1)
        .replacen("image_size = 28", "image_size = 32", 1)
        .replacen("patch_size = 7", "patch_size = 8", 1)
        .replacen("channels = 1", "channels = 3", 1)
}

fn short(dir: &Path) -> String {
    let job = TinyJob {
        search: 3,
        tune: 3,
        ..TinyJob::new(dir)
    };
    job.toml()
}
