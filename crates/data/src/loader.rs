//! Loading ahead of the steps: a pool of threads decodes the images of the next micro-batches, which
//! come out in the order of the work.

mod queue;

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::{Batch, DataError, Feed, Loaded, Work};
use queue::{Queue, Task};

/// How many threads load for a rank: as `asked`, or one less than its share of the machine's cores when
/// `ranks` share them; at least 1.
pub fn loaders(asked: Option<u32>, ranks: u32) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    match asked {
        Some(asked) => asked.max(1) as usize,
        None => (cores / ranks.max(1) as usize).saturating_sub(1).max(1),
    }
}

/// Loads micro-batches ahead of their use on threads of its own, which end with the loader.
///
/// As an iterator it gives the micro-batches in the order of the work; an error is the last item. What
/// comes out does not depend on the number of threads. At most [`Loader::images_ahead`] images are in
/// memory beside those that were taken.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    images_ahead: usize,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to load, or no more will come.
    work: Condvar,
    /// A micro-batch is ready, or none will be.
    ready: Condvar,
}

impl Loader {
    /// Starts to load `work` from `feed` on as many threads as its set has loaders.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start<W>(feed: Feed, work: W) -> io::Result<Self>
    where
        W: IntoIterator<Item = Work>,
        W::IntoIter: Send + 'static,
    {
        let count = feed.dataset.loaders();
        // Two wait while one is loaded; more where micro-batches are so small that threads would idle.
        let ahead = 3.max(1 + (2 * count).div_ceil(feed.micro_batch.max(1)));
        // Each lies in memory twice while a batch is made of its images.
        let images_ahead = 2 * ahead * feed.micro_batch;
        let queue = Queue::new(feed.clone(), Box::new(work.into_iter()), ahead);
        let mut loader = Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(queue),
                work: Condvar::new(),
                ready: Condvar::new(),
            }),
            threads: Vec::new(),
            images_ahead,
        };
        for number in 0..count {
            let (shared, feed) = (Arc::clone(&loader.shared), feed.clone());
            // When a later thread cannot be started, dropping the loader ends the earlier ones.
            let thread = thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || shared.run(&feed))?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// Most images that are in memory at a time beside those that were taken.
    pub fn images_ahead(&self) -> usize {
        self.images_ahead
    }

    /// Ends and joins the threads; the first panic of one of them, if there is one.
    fn join(&mut self) -> thread::Result<()> {
        self.shared.lock().leave();
        self.shared.work.notify_all();
        let joined: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        joined.into_iter().collect()
    }
}

impl Iterator for Loader {
    type Item = Result<Loaded, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = {
            let mut queue = self.shared.lock();
            while !queue.panicked && !queue.is_ready() && !queue.is_over() {
                queue = self.shared.wait(&self.shared.ready, queue);
            }
            if queue.panicked { None } else { queue.pop() }
        };
        self.shared.work.notify_all();
        if next.is_none()
            && let Err(panic) = self.join()
        {
            std::panic::resume_unwind(panic);
        }
        next
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.join().is_err() {
            tracing::error!("a loader panicked after the last micro-batch was taken");
        }
    }
}

impl Shared {
    /// A thread: image after image, until there are no more.
    fn run(&self, feed: &Feed) {
        let _guard = PanicGuard(self);
        while let Some(task) = self.next_task() {
            let loaded = feed.sample(task.work, task.sample);
            // Bound to a name, so that the lock is not held while the micro-batch is put together.
            let complete = self.lock().put(task, loaded);
            if let Some((work, samples)) = complete {
                let loaded = samples.map(|samples| feed.finish(work, together(samples)));
                self.lock().finish(work, loaded);
                self.ready.notify_all();
            }
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut queue = self.lock();
        loop {
            if let Some(task) = queue.claim() {
                return Some(task);
            }
            if queue.is_exhausted() {
                // The others, and who waits for a micro-batch, may find the same.
                self.ready.notify_all();
                return None;
            }
            queue = self.wait(&self.work, queue);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A thread that panics with the lock says so through its guard.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, of: &Condvar, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        of.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the others when its thread panics, so that nobody waits for it.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().panicked = true;
            self.0.ready.notify_all();
        }
    }
}

/// One batch of its samples.
fn together(samples: Vec<(Vec<f32>, i64)>) -> Batch {
    let values = samples.first().map_or(0, |(image, _)| image.len());
    let mut batch = Batch {
        images: Vec::with_capacity(samples.len() * values),
        labels: Vec::with_capacity(samples.len()),
        mixed: None,
    };
    // Image by image, so that one is freed before the next is taken over.
    for (image, label) in samples {
        batch.images.extend_from_slice(&image);
        batch.labels.push(label);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_and_never_none() {
        assert_eq!(loaders(Some(5), 1), 5);
        assert_eq!(loaders(None, u32::MAX), 1);
        assert!(loaders(None, 1) >= 1);
    }
}
