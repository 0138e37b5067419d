//! Ranks that differ in what they have done end with the same state, bit for bit.

use std::{thread, time::Duration};

use espalier_collective::{Collective, Gloo, Membership, Rendezvous, Solo};
use tch::Tensor;

use super::{
    Prepared, TrainError, Trainer,
    heal::{Healing, heal},
    run_until,
    tests::{Record, UNIFIED, prepare, spec},
};

/// What one rank has after healing.
#[derive(Debug, PartialEq)]
struct Outcome {
    step: u64,
    tensors: Vec<Vec<f32>>,
    state: String,
    measured: Option<u64>,
    healer: u32,
    healed: Vec<u32>,
    /// Losses of the two steps that follow, on rank 0.
    losses: Vec<f64>,
}

fn trained<'a>(prepared: &'a Prepared, record: &mut Record, steps: u64) -> Trainer<'a> {
    let mut trainer = Trainer::new(prepared).unwrap();
    run_until(prepared, &mut trainer, &Solo::default(), record, steps).unwrap();
    trainer
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.reshape([-1])).unwrap()
}

/// A job that ranks by gradients, whose sums are part of the state too.
fn job() -> String {
    let taylor = UNIFIED.replace(
        "rank_interval = 2",
        "rank_interval = 3, importance = \"taylor\"",
    );
    spec(&taylor, "ema_decay = 0.9")
}

/// One rank, which has done `done` steps or is new.
fn rank(done: Option<u64>, world: &dyn Collective) -> Result<Outcome, TrainError> {
    let prepared = prepare(&job());
    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::at(folder.path());
    let mut trainer = done.map(|steps| trained(&prepared, &mut record, steps));
    let Healing {
        step,
        healer,
        healed,
    } = heal(&prepared, &mut trainer, world)?;
    let mut replica = trainer.unwrap();
    assert_eq!(replica.step(), step);
    let tensors = replica.moments().iter().map(floats).collect();
    let state = serde_json::to_string(&replica.state()).unwrap();
    let measured = replica.measured.as_ref().map(|measured| measured.step);
    let mut record = Record::at(folder.path());
    run_until(&prepared, &mut replica, world, &mut record, step + 2)?;
    Ok(Outcome {
        step,
        tensors,
        state,
        measured,
        healer,
        healed,
        losses: record.losses(),
    })
}

fn gang(done: &[Option<u64>]) -> Vec<Result<Outcome, String>> {
    let timeout = Duration::from_secs(60);
    let (host, port) = Rendezvous::host("127.0.0.1").unwrap();
    let mut host = Some(host);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..)
            .zip(done)
            .map(|(index, steps)| {
                let rendezvous = host.take();
                scope.spawn(move || {
                    let rendezvous = rendezvous.unwrap_or_else(|| {
                        Rendezvous::join(&format!("127.0.0.1:{port}"), timeout).unwrap()
                    });
                    let membership = Membership {
                        rank: index,
                        world_size: done.len() as u32,
                        prefix: "job-1/2".to_owned(),
                        host: "127.0.0.1".to_owned(),
                        timeout,
                    };
                    let world = Gloo::connect(rendezvous, membership).unwrap();
                    rank(*steps, &world).map_err(|error| error.to_string())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn laggards_and_newcomers_become_the_holder_of_the_highest_step() {
    let prepared = prepare(&job());
    let folder = tempfile::tempdir().unwrap();
    // In the search, after a new ranking; and across its end, which changes the shapes.
    for highest in [5, 6] {
        let mut record = Record::at(folder.path());
        let holder = trained(&prepared, &mut record, highest);
        let expected: Vec<Vec<f32>> = holder.moments().iter().map(floats).collect();
        let outcomes = gang(&[Some(highest - 1), None, Some(highest)]);
        for outcome in &outcomes {
            let outcome = outcome.as_ref().unwrap();
            assert_eq!((outcome.step, outcome.healer), (highest, 2));
            assert_eq!(outcome.healed, [0, 1]);
            assert_eq!(outcome.tensors, expected);
            assert_eq!(
                outcome.state,
                serde_json::to_string(&holder.state()).unwrap()
            );
            assert_eq!(outcome.measured, Some(highest));
        }
        let mut record = Record::at(folder.path());
        trained(&prepared, &mut record, highest + 2);
        let after = &outcomes[0].as_ref().unwrap().losses;
        for (one, other) in record.losses()[highest as usize..].iter().zip(after) {
            assert!((one - other).abs() <= 1e-9 * one.abs(), "{one} {other}");
        }
    }
}

#[test]
fn a_step_that_failed_leaves_nothing_behind() {
    let prepared = prepare(&job());
    let folder = tempfile::tempdir().unwrap();
    // The fourth step ranks anew before it is lost.
    let mut record = Record::at(folder.path());
    let mut trainer = trained(&prepared, &mut record, 3);
    let before: Vec<Vec<f32>> = trainer.moments().iter().map(floats).collect();
    let state = serde_json::to_string(&trainer.state()).unwrap();
    let lost = Solo::default();
    lost.abort("a test");
    run_until(&prepared, &mut trainer, &lost, &mut record, 4).unwrap_err();
    let after: Vec<Vec<f32>> = trainer.moments().iter().map(floats).collect();
    assert!(before == after);
    assert_eq!(state, serde_json::to_string(&trainer.state()).unwrap());
    run_until(&prepared, &mut trainer, &Solo::default(), &mut record, 5).unwrap();
    let mut straight = Record::at(folder.path());
    let holder = trained(&prepared, &mut straight, 5);
    assert!(floats(trainer.values()) == floats(holder.values()));
    assert_eq!(record.losses(), straight.losses());
}

#[test]
fn a_group_of_newcomers_has_nothing_to_go_on_from() {
    for outcome in gang(&[None, None]) {
        let error = outcome.unwrap_err();
        assert!(
            error.contains("no rank of the group holds a state"),
            "{error}"
        );
    }
}
