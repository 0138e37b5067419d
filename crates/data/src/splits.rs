use espalier_job::Data;
use espalier_random::{SliceRandom as _, Stream, rng};

use crate::source::{Digest, Role, Source};
use crate::{DataError, Dataset, Shape};

/// The data of a job.
#[derive(Clone, Debug)]
pub struct Splits {
    /// What is trained on.
    pub train: Dataset,
    /// The part of the training files held out to calibrate the gates' threshold.
    pub calibration: Dataset,
    /// What the report card is measured on.
    pub validation: Dataset,
}

impl Splits {
    /// Opens and checks all the files of a job's data section for a model of `shape`, on `loaders`
    /// threads, which also load its batches.
    ///
    /// # Errors
    /// Files that are missing or damaged, fields that do not fit them, and validation data that is
    /// the training data.
    pub fn open(data: &Data, shape: Shape, loaders: usize) -> Result<Self, DataError> {
        let all = Dataset::open(data, Role::Train, shape, loaders)?;
        let validation = Dataset::validation(data, shape, loaders)?;
        all.source().agrees_with(validation.source())?;
        if all.digest() == validation.digest() {
            let reason = "these are the files of data.train: a model cannot be judged by what it was trained on";
            return Err(DataError::field("data.validation", reason));
        }
        let (train, calibration) = hold_out(all.len(), data.calibration)?;
        Ok(Self {
            train: all.only(train),
            calibration: all.only(calibration),
            validation,
        })
    }

    /// What this process knows of damaged images that are skipped, for people; empty if there are none.
    pub fn damaged(&self) -> Vec<String> {
        let sources = [self.train.source(), self.validation.source()];
        sources.into_iter().filter_map(Source::damaged).collect()
    }

    /// The digest of all the data, as `sha256:...`.
    pub fn digest(&self) -> String {
        let mut digest = Digest::default();
        digest.text(self.train.digest());
        digest.text(self.validation.digest());
        digest.finish()
    }
}

/// What is trained on and what is held out of `count` samples: the same for every job, so that the
/// calibration data of a checkpoint was never trained on by another job either.
fn hold_out(count: usize, share: f64) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let held = ((count as f64 * share).round() as usize).max(1);
    if held >= count {
        let reason = format!("a share of {share} leaves nothing of {count} samples to train on");
        return Err(DataError::field("data.calibration", reason));
    }
    let mut calibration: Vec<u32> = (0..count as u32).collect();
    calibration.shuffle(&mut rng(0, Stream::Calibration, 0, 0));
    let mut train = calibration.split_off(held);
    calibration.sort_unstable();
    train.sort_unstable();
    Ok((train, calibration))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sample_is_on_one_side(count in 2_usize..2000, share in 0.001..0.5) {
            let (train, calibration) = hold_out(count, share).unwrap();
            let held = (count as f64 * share).round().max(1.0) as usize;
            prop_assert_eq!(calibration.len(), held);
            let mut all = [train, calibration].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_held_out_samples_are_pinned() {
        // A change here lets new jobs train on what older checkpoints were calibrated on.
        let (_, calibration) = hold_out(100, 0.05).unwrap();
        assert_eq!(calibration, [17, 19, 41, 70, 92]);
    }

    #[test]
    fn too_few_samples_are_refused() {
        assert_eq!(
            hold_out(1, 0.05).unwrap_err().to_string(),
            "data.calibration: a share of 0.05 leaves nothing of 1 samples to train on"
        );
    }
}
