use std::collections::VecDeque;
use std::fmt;

use crate::{DataError, Feed, Loaded, Work};

/// An image to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) work: Work,
    pub(super) sample: u32,
    /// Its place in the micro-batch.
    place: usize,
}

/// An image, CHW, and its label.
type Sample = (Vec<f32>, i64);

/// The micro-batches that are loaded or wait to be taken, in the order of the work.
pub(super) struct Queue {
    feed: Feed,
    work: Box<dyn Iterator<Item = Work> + Send>,
    /// Most micro-batches at a time.
    ahead: usize,
    pending: VecDeque<Pending>,
    /// No more work will be started.
    ended: bool,
    /// A thread is gone with what it had claimed.
    pub(super) panicked: bool,
}

/// A micro-batch on its way.
struct Pending {
    work: Work,
    samples: Vec<u32>,
    /// Samples that are claimed: the first ones.
    claimed: usize,
    /// Samples that are claimed and not yet loaded.
    flying: usize,
    loaded: Vec<Option<Sample>>,
    /// The error of the first sample that has one, and its place.
    error: Option<(usize, DataError)>,
    /// A sample had an error: no more are claimed.
    failed: bool,
    result: Option<Result<Loaded, DataError>>,
}

impl Queue {
    pub(super) fn new(
        feed: Feed,
        work: Box<dyn Iterator<Item = Work> + Send>,
        ahead: usize,
    ) -> Self {
        Self {
            feed,
            work,
            ahead,
            pending: VecDeque::new(),
            ended: false,
            panicked: false,
        }
    }

    /// The next image to load, if there is one now.
    pub(super) fn claim(&mut self) -> Option<Task> {
        if self.panicked {
            return None;
        }
        loop {
            // What comes after an error is never taken.
            for pending in self
                .pending
                .iter_mut()
                .take_while(|pending| !pending.failed)
            {
                if let Some(task) = pending.claim() {
                    return Some(task);
                }
            }
            if self.ended || self.pending.len() >= self.ahead {
                return None;
            }
            match self.work.next() {
                None => self.ended = true,
                Some(work) => {
                    let samples = self.feed.samples(work);
                    self.pending.push_back(Pending::new(work, samples));
                }
            }
        }
    }

    /// Takes a loaded image over; gives all of its micro-batch when it was the last one.
    pub(super) fn put(
        &mut self,
        task: Task,
        loaded: Result<Sample, DataError>,
    ) -> Option<(Work, Result<Vec<Sample>, DataError>)> {
        // Gone when the loader was left.
        let pending = self.find(task.work)?;
        let complete = pending.put(task.place, loaded)?;
        self.ended |= complete.is_err();
        Some((task.work, complete))
    }

    /// Makes a micro-batch ready to be taken.
    pub(super) fn finish(&mut self, work: Work, loaded: Result<Loaded, DataError>) {
        if let Some(pending) = self.find(work) {
            pending.result = Some(loaded);
        }
    }

    /// Takes the first micro-batch if it is ready; an error is the last.
    pub(super) fn pop(&mut self) -> Option<Result<Loaded, DataError>> {
        let result = self.pending.front_mut()?.result.take()?;
        self.pending.pop_front();
        if result.is_err() {
            self.leave();
        }
        Some(result)
    }

    /// Drops what nobody will take.
    pub(super) fn leave(&mut self) {
        self.ended = true;
        self.pending.clear();
    }

    pub(super) fn is_ready(&self) -> bool {
        self.pending
            .front()
            .is_some_and(|first| first.result.is_some())
    }

    /// Nothing will ever be ready again.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    /// Nothing will ever be claimed again.
    pub(super) fn is_exhausted(&self) -> bool {
        let mut whole = self.pending.iter().take_while(|pending| !pending.failed);
        self.panicked || (self.ended && whole.all(Pending::is_claimed))
    }

    /// A work is never in the queue twice: steps and micro-batches only grow.
    fn find(&mut self, work: Work) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.work == work)
    }
}

impl Pending {
    fn new(work: Work, samples: Vec<u32>) -> Self {
        Self {
            work,
            claimed: 0,
            flying: 0,
            loaded: samples.iter().map(|_| None).collect(),
            error: None,
            failed: false,
            result: None,
            samples,
        }
    }

    fn claim(&mut self) -> Option<Task> {
        let task = Task {
            work: self.work,
            sample: *self.samples.get(self.claimed)?,
            place: self.claimed,
        };
        self.claimed += 1;
        self.flying += 1;
        Some(task)
    }

    fn put(
        &mut self,
        place: usize,
        loaded: Result<Sample, DataError>,
    ) -> Option<Result<Vec<Sample>, DataError>> {
        self.flying -= 1;
        match loaded {
            Ok(sample) => self.loaded[place] = Some(sample),
            Err(error) => {
                self.failed = true;
                if self.error.as_ref().is_none_or(|(first, _)| place < *first) {
                    self.error = Some((place, error));
                }
            }
        }
        // Samples are claimed in order: when none is flying, no earlier one can fail any more.
        if self.flying > 0 {
            return None;
        }
        if let Some((_, error)) = self.error.take() {
            return Some(Err(error));
        }
        let complete = self.is_claimed() && !self.failed;
        complete.then(|| Ok(self.loaded.drain(..).flatten().collect()))
    }

    fn is_claimed(&self) -> bool {
        self.claimed == self.samples.len()
    }
}

/// Without the images, which are too many to read.
impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("pending", &self.pending.len())
            .field("ended", &self.ended)
            .field("panicked", &self.panicked)
            .finish_non_exhaustive()
    }
}
