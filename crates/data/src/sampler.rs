use espalier_random::{SliceRandom as _, Stream, rng};

use crate::DataError;

/// Which samples each step trains on: in every epoch a new order of all samples, cut into steps.
///
/// Steps count from 1. The last samples of an epoch that do not fill a step are left out of it.
#[derive(Clone, Debug)]
pub struct Sampler {
    train_len: usize,
    global_batch: usize,
    seed: u64,
    /// The last epoch asked for and its order: steps are mostly asked for one after another.
    cached: Option<(u64, Vec<u32>)>,
}

impl Sampler {
    /// A sampler of `train_len` samples, `global_batch` a step.
    ///
    /// # Errors
    /// Fewer samples than one step needs.
    pub fn new(train_len: usize, global_batch: usize, seed: u64) -> Result<Self, DataError> {
        if global_batch == 0 || train_len < global_batch {
            let reason =
                format!("{train_len} training samples do not fill a step of {global_batch}");
            return Err(DataError::field("train.global_batch", reason));
        }
        Ok(Self {
            train_len,
            global_batch,
            seed,
            cached: None,
        })
    }

    /// Steps in an epoch, at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.train_len / self.global_batch) as u64
    }

    /// The samples of `step`, in order of the micro-batches: a pure function of
    /// (length, global batch, seed, step).
    ///
    /// # Panics
    /// If `step` is 0.
    pub fn step_samples(&mut self, step: u64) -> &[u32] {
        assert!(step > 0, "steps count from 1");
        let (epoch, step) = (
            (step - 1) / self.steps_per_epoch(),
            (step - 1) % self.steps_per_epoch(),
        );
        let order = match self.cached.take() {
            Some((cached, order)) if cached == epoch => order,
            _ => self.order(epoch),
        };
        let (_, order) = self.cached.insert((epoch, order));
        let first = step as usize * self.global_batch;
        &order[first..first + self.global_batch]
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.train_len as u32).collect();
        order.shuffle(&mut rng(self.seed, Stream::Shuffle, epoch, 0));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_epoch_has_each_sample_at_most_once(
            train_len in 1_usize..300, batch in 1_usize..40, seed: u64, epoch in 0_u64..50,
        ) {
            prop_assume!(train_len >= batch);
            let mut sampler = Sampler::new(train_len, batch, seed).unwrap();
            let steps = sampler.steps_per_epoch();
            let mut seen = Vec::new();
            for step in epoch * steps + 1..=(epoch + 1) * steps {
                let samples = sampler.step_samples(step);
                prop_assert_eq!(samples.len(), batch);
                seen.extend_from_slice(samples);
            }
            prop_assert!(train_len - seen.len() < batch);
            seen.sort_unstable();
            prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(seen.iter().all(|&sample| (sample as usize) < train_len));
        }

        #[test]
        fn a_step_does_not_depend_on_what_was_asked_before(
            seed: u64, steps in prop::collection::vec(1_u64..100, 1..20),
        ) {
            let mut one = Sampler::new(50, 7, seed).unwrap();
            for step in steps {
                let mut fresh = Sampler::new(50, 7, seed).unwrap();
                prop_assert_eq!(one.step_samples(step), fresh.step_samples(step));
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let samples = |seed, step| {
            Sampler::new(64, 64, seed)
                .unwrap()
                .step_samples(step)
                .to_vec()
        };
        assert_ne!(samples(1, 1), samples(1, 2));
        assert_ne!(samples(1, 1), samples(2, 1));
    }

    #[test]
    fn the_order_is_pinned() {
        // A change here changes the meaning of every job ever run.
        let mut sampler = Sampler::new(1000, 5, 7).unwrap();
        assert_eq!(sampler.step_samples(1), [68, 873, 865, 955, 136]);
    }

    #[test]
    fn too_few_samples_are_refused() {
        assert_eq!(
            Sampler::new(10, 16, 0).unwrap_err().to_string(),
            "train.global_batch: 10 training samples do not fill a step of 16"
        );
    }
}
