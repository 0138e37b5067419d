use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use espalier_job::Augment;

use crate::{Augmentation, Batch, DataError, Dataset, Sampler, load_batch};

/// Micro-batches that wait, loaded, to be taken.
const DEPTH: usize = 2;

/// What micro-batches are made of.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Where samples come from.
    pub dataset: Dataset,
    /// Which samples a step holds.
    pub sampler: Sampler,
    /// Samples in a micro-batch.
    pub micro_batch: usize,
    /// Changes to the images.
    pub augment: Augment,
    /// The job's seed.
    pub seed: u64,
}

/// A micro-batch to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The step s, from 1.
    pub step: u64,
    /// The micro-batch v of the step, from 0.
    pub micro_batch: usize,
}

/// A micro-batch, loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Which one.
    pub work: Work,
    /// Its images and labels.
    pub batch: Batch,
}

impl Feed {
    /// Loads one micro-batch: a pure function of the feed and `work`.
    ///
    /// # Errors
    /// An image file that cannot be read or decoded.
    ///
    /// # Panics
    /// If the step has no such micro-batch.
    pub fn load(&mut self, work: Work) -> Result<Loaded, DataError> {
        let first = work.micro_batch * self.micro_batch;
        let samples = &self.sampler.step_samples(work.step)[first..first + self.micro_batch];
        let augmentation = Augmentation {
            changes: &self.augment,
            seed: self.seed,
            step: work.step,
        };
        let batch = load_batch(&self.dataset, samples, Some(augmentation))?;
        Ok(Loaded { work, batch })
    }
}

/// Loads micro-batches ahead of their use on a thread of its own, which ends with the loader.
///
/// As an iterator it gives the micro-batches in the order of the work; an error is the last item.
#[derive(Debug)]
pub struct Loader {
    loaded: Option<Receiver<Result<Loaded, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts to load `work` from `feed`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start<W>(mut feed: Feed, work: W) -> io::Result<Self>
    where
        W: IntoIterator<Item = Work> + Send + 'static,
    {
        let (sender, loaded) = sync_channel(DEPTH);
        let load = move || {
            for work in work {
                let loaded = feed.load(work);
                let failed = loaded.is_err();
                if sender.send(loaded).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("loader".to_owned())
            .spawn(load)?;
        Ok(Self {
            loaded: Some(loaded),
            thread: Some(thread),
        })
    }
}

impl Iterator for Loader {
    type Item = Result<Loaded, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.loaded.as_ref()?.recv().ok();
        if next.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            std::panic::resume_unwind(panic);
        }
        next
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails and it returns.
        self.loaded = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the loader panicked after its last micro-batch was taken");
        }
    }
}
