//! Image folders and CIFAR files that are wrong: the job fails before its first step and says which
//! file or field.

use std::fs;
use std::path::Path;

use espalier_tests::{Cluster, Feed, TinyJob, as_cifar, as_folder};

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

/// What the tables damage is good: both layouts train.
#[test]
fn whole_images_train() {
    let cluster = Cluster::start(1);
    let (folder, cifar) = (cluster.dir().join("folder"), cluster.dir().join("cifar"));
    as_folder(&folder, 300, 100);
    as_cifar(&cifar, 300, 100);
    for toml in [folder_job(&folder), cifar_job(&cifar)] {
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
