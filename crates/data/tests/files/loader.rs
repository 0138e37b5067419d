//! The loader gives what loading by hand gives.

use std::fs;
use std::sync::mpsc::channel;

use crate::written::{TINY, data, write_idx, write_images};
use espalier_data::{Dataset, Feed, Loader, Sampler, Shape, Splits, Work};
use espalier_job::{Augment, DataFormat, Erase, Mix, RandAugment, RandomCrop};
use tempfile::tempdir;

pub(crate) fn feed(dataset: Dataset, global_batch: usize) -> Feed {
    let sampler = Sampler::new(dataset.len(), global_batch, 5).unwrap();
    Feed {
        dataset,
        sampler,
        micro_batch: global_batch / 2,
        augment: Augment {
            flip: true,
            pad: 1,
            ..Augment::default()
        },
        mix: None,
        seed: 5,
    }
}

fn work(steps: u64) -> impl Iterator<Item = Work> + Send {
    (1..=steps).flat_map(|step| (0..2).map(move |micro_batch| Work { step, micro_batch }))
}

#[test]
fn micro_batches_come_in_order_and_as_loaded_alone() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let mut feed = feed(Splits::open(&section, TINY, 2).unwrap().train, 4);
    let loaded: Vec<_> = Loader::start(feed.clone(), work(5))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(loaded.len(), 10);
    // Backwards, so that nothing can depend on the order.
    let mut alone: Vec<_> = work(5).collect();
    alone.reverse();
    for (work, loaded) in alone.into_iter().zip(loaded.into_iter().rev()) {
        assert_eq!(feed.load(work).unwrap(), loaded);
        assert_eq!(loaded.batch.len(), 2);
        assert_eq!(loaded.batch.images.len(), 2 * 4);
    }
}

#[test]
fn the_number_of_loaders_changes_nothing() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let loaded = |loaders| -> Vec<_> {
        let mut feed = feed(Splits::open(&section, TINY, loaders).unwrap().train, 4);
        feed.augment.crop = Some(RandomCrop::default());
        feed.augment.rand = Some(RandAugment::default());
        feed.augment.erase = Some(Erase::default());
        feed.mix = Some(Mix::default());
        let loader = Loader::start(feed, work(30)).unwrap();
        loader.collect::<Result<_, _>>().unwrap()
    };
    let one = loaded(1);
    assert_eq!(one.len(), 60);
    for loaders in [2, 7] {
        assert_eq!(loaded(loaders), one);
    }
}

#[test]
fn no_more_is_loaded_ahead_than_is_said() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let feed = feed(Splits::open(&section, TINY, 5).unwrap().train, 4);
    let (sender, asked) = channel();
    // An endless work that tells what was asked of it.
    let work = work(u64::MAX).inspect(move |work| sender.send(*work).unwrap_or_default());
    let mut loader = Loader::start(feed, work).unwrap();
    let most = loader.images_ahead() / 2 / 2;
    let mut seen = 0;
    for taken in 1..20 {
        assert!(loader.next().unwrap().is_ok());
        // Those asked for so far are ahead or were taken.
        std::thread::yield_now();
        seen += asked.try_iter().count();
        assert!(seen <= most + taken, "{seen} after {taken}");
    }
}

#[test]
fn a_loader_can_be_left_at_any_time() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let feed = feed(Splits::open(&section, TINY, 2).unwrap().train, 4);
    for taken in 0..4 {
        let mut loader = Loader::start(feed.clone(), work(u64::MAX)).unwrap();
        assert_eq!(loader.by_ref().take(taken).count(), taken);
    }
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_loading() {
    let folder = tempdir().unwrap();
    write_images(folder.path());
    let section = data(DataFormat::ImageFolder, folder.path(), folder.path());
    let shape = Shape {
        channels: 3,
        image_size: 2,
        classes: 2,
    };
    let feed = feed(Dataset::validation(&section, shape, 2).unwrap(), 2);
    let path = folder.path().join("cat/a.png");
    fs::remove_file(&path).unwrap();
    let results: Vec<_> = Loader::start(feed.clone(), work(3)).unwrap().collect();
    let (last, before) = results.split_last().unwrap();
    assert!(before.len() <= 1 && before.iter().all(Result::is_ok));
    let message = format!(
        "cannot read {}: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(last.as_ref().unwrap_err().to_string(), message);
}

#[test]
#[should_panic(expected = "steps count from 1")]
fn a_panic_of_the_thread_is_not_an_end() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let feed = feed(Splits::open(&section, TINY, 2).unwrap().train, 4);
    let work = [Work {
        step: 0,
        micro_batch: 0,
    }];
    Loader::start(feed, work).unwrap().for_each(drop);
}
