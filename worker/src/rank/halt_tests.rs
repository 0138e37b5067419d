//! A rank 0 that is told to halt.

use std::path::{Path, PathBuf};

use espalier_collective::Solo;

use super::{
    Observer, Trainer, run_until,
    tests::{Record, UNIFIED, floats, prepare, spec},
};
use crate::{
    ipc::{CheckpointKind, Metrics},
    rank::TrainError,
};

/// Is to halt once so many steps are done.
struct Halts {
    record: Record,
    after: u64,
    done: u64,
    halted: bool,
}

impl Observer for Halts {
    fn metrics(&mut self, metrics: Metrics) -> Result<(), TrainError> {
        self.record.metrics(metrics)
    }

    fn warning(&mut self, reason: String) -> Result<(), TrainError> {
        self.record.warning(reason)
    }

    fn checkpoint(
        &mut self,
        step: u64,
        dir: PathBuf,
        kind: CheckpointKind,
    ) -> Result<(), TrainError> {
        self.record.checkpoint(step, dir, kind)
    }

    fn folder(&self) -> &Path {
        self.record.folder()
    }

    fn stepped(&mut self, step: u64, _: usize) -> Result<(), TrainError> {
        self.done = step;
        Ok(())
    }

    fn leaves(&self) -> bool {
        self.halted
    }

    fn halts(&self) -> bool {
        self.done >= self.after
    }

    fn keeps(&self, step: u64) -> bool {
        let last = self.record.checkpoints.last();
        last.map_or(0, |(step, ..)| *step) >= step
    }

    fn halted(&mut self) -> Result<(), TrainError> {
        self.halted = true;
        Ok(())
    }
}

#[test]
fn a_rank_that_halts_makes_durable_what_is_done_and_runs_no_step_more() {
    let prepared = prepare(&spec(UNIFIED, "ema_decay = 0.9"));
    for (after, expected) in [(0, &[][..]), (3, &[3]), (4, &[4]), (5, &[4, 5])] {
        let folder = tempfile::tempdir().unwrap();
        let mut halts = Halts {
            record: Record::at(folder.path()),
            after,
            done: 0,
            halted: false,
        };
        let mut trainer = Trainer::new(&prepared).unwrap();
        run_until(&prepared, &mut trainer, &Solo::default(), &mut halts, 10).unwrap();
        assert!(halts.halted);
        assert_eq!(trainer.step(), after);
        let checkpoints = &halts.record.checkpoints;
        let steps: Vec<u64> = checkpoints.iter().map(|(step, ..)| *step).collect();
        assert_eq!(steps, expected);
        let Some((_, dir, _)) = checkpoints.last() else {
            continue;
        };
        let resumed = Trainer::resume(&prepared, dir).unwrap();
        assert_eq!(floats(resumed.values()), floats(trainer.values()));
    }
}
