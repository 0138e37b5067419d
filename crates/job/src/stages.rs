use crate::{Search, Tune};

impl Search {
    /// Length of the stage in steps; 0 leaves the stage out.
    pub fn steps(&self, steps_per_epoch: u64) -> u64 {
        length(self.steps, self.epochs, steps_per_epoch)
    }
}

impl Tune {
    /// Length of the stage in steps; 0 leaves the stage out.
    pub fn steps(&self, steps_per_epoch: u64) -> u64 {
        length(self.steps, self.epochs, steps_per_epoch)
    }
}

fn length(steps: Option<u64>, epochs: Option<f64>, steps_per_epoch: u64) -> u64 {
    steps.unwrap_or_else(|| (epochs.unwrap_or(0.0) * steps_per_epoch as f64).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_round_to_whole_steps() {
        assert_eq!(length(Some(7), None, 100), 7);
        assert_eq!(length(None, Some(1.5), 235), 353);
        assert_eq!(length(None, Some(0.25), 10), 3);
        assert_eq!(length(None, None, 100), 0);
    }
}
