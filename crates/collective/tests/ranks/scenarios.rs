//! What a rank process does in each scenario.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use espalier_collective::{Collective, CollectiveError, Gloo, Membership, Rendezvous};
use tch::{Device, Kind, Tensor};

use crate::harness::{SCENARIO, hear, tell};

/// The groups' own limit: no test comes near it.
const LIMIT: Duration = Duration::from_secs(120);

/// Reads the scenario of this process and plays it; a process without one has nothing to do.
pub(crate) fn play() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    let (name, limit) = match scenario.split_once(' ') {
        Some((name, ms)) => (name, Duration::from_millis(ms.parse().unwrap())),
        None => (scenario.as_str(), LIMIT),
    };
    match name {
        "exchange" => exchange(&connect(LIMIT).unwrap()),
        "digest" => digest(&connect(LIMIT).unwrap()),
        "rounds" => tell_error(&rounds(&connect(LIMIT).unwrap(), limit)),
        "connect" => miss(limit),
        "abort" => abort(connect(LIMIT).unwrap()),
        "rebuild" => rebuild(),
        other => panic!("no scenario is named {other}"),
    }
    // A group with an operation that will not end is not waited for.
    std::process::exit(0);
}

fn connect(timeout: Duration) -> Result<Gloo, CollectiveError> {
    let (rendezvous, membership) = meet(timeout)?;
    Gloo::connect(rendezvous, membership)
}

/// Takes the place that the parent gives: `rank world_size address`, or `host` for the address.
fn meet(timeout: Duration) -> Result<(Rendezvous, Membership), CollectiveError> {
    let place = hear();
    let mut words = place.split(' ');
    let mut word = || words.next().unwrap();
    let rank = word().parse().unwrap();
    let world_size = word().parse().unwrap();
    let rendezvous = match word() {
        "host" => {
            let (rendezvous, port) = Rendezvous::host("127.0.0.1").unwrap();
            tell(&format!("127.0.0.1:{port}"));
            rendezvous
        }
        address => Rendezvous::join(address, timeout)?,
    };
    let membership = Membership {
        rank,
        world_size,
        prefix: format!("job/{world_size}"),
        host: "127.0.0.1".to_owned(),
        timeout,
    };
    Ok((rendezvous, membership))
}

fn tell_error(error: &CollectiveError) {
    let kind = match error {
        CollectiveError::PeerLost { .. } => "lost",
        CollectiveError::Timeout { .. } => "timeout",
        CollectiveError::Aborted { .. } => "aborted",
        _ => "other",
    };
    tell(&format!("{kind} {error}"));
}

/// `count` numbers of a rank that every kind holds exactly, and so do their sums.
fn numbers(rank: u32, count: i64, kind: Kind) -> Tensor {
    (Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(8) + i64::from(rank)).to_kind(kind)
}

fn exchange(gloo: &Gloo) {
    let (rank, world_size) = (gloo.rank(), gloo.world_size());
    let ranks = || 0..world_size;
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
        for count in [1, 7, 100_003] {
            let own = || numbers(rank, count, kind);

            let mut sum = own();
            gloo.all_reduce_sum(&mut sum).unwrap().wait(LIMIT).unwrap();
            let wanted: Tensor = ranks().map(|r| numbers(r, count, kind)).sum();
            assert_eq!(sum, wanted, "sum of {count} {kind:?}");

            for root in ranks() {
                let mut copy = own();
                gloo.broadcast(&mut copy, root)
                    .unwrap()
                    .wait(LIMIT)
                    .unwrap();
                assert_eq!(copy, numbers(root, count, kind), "copy of {root}");
            }

            let mut rows = Tensor::zeros([i64::from(world_size), count], (kind, Device::Cpu));
            gloo.all_gather(&own(), &mut rows)
                .unwrap()
                .wait(LIMIT)
                .unwrap();
            for r in ranks() {
                assert_eq!(rows.get(i64::from(r)), numbers(r, count, kind), "row {r}");
            }
        }
    }

    // Many in flight, waited for in the other order.
    let mut flying: Vec<Tensor> = (1..=8)
        .map(|n| numbers(rank, n * 1000, Kind::Float))
        .collect();
    let works: Vec<_> = flying
        .iter_mut()
        .map(|tensor| gloo.all_reduce_sum(tensor).unwrap())
        .collect();
    for work in works.into_iter().rev() {
        work.wait(LIMIT).unwrap();
    }
    for (tensor, n) in flying.iter().zip(1..) {
        let wanted: Tensor = ranks().map(|r| numbers(r, n * 1000, Kind::Float)).sum();
        assert_eq!(*tensor, wanted, "sum {n} of the flying");
    }

    // Misuse is refused and leaves the group as it was.
    let whole = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let refused = gloo
        .all_reduce_sum(&mut whole.transpose(0, 1))
        .err()
        .unwrap();
    assert!(
        matches!(refused, CollectiveError::Tensor { .. }),
        "{refused}"
    );
    gloo.barrier().unwrap().wait(LIMIT).unwrap();
    tell("exchanged");
    // Whoever leaves first breaks the connections of a peer that is still in the barrier.
    hear_or_end();
}

/// Fails to connect, and stays: the others still ask rank 0 who is missing.
fn miss(limit: Duration) {
    let (rendezvous, membership) = meet(LIMIT).unwrap();
    let membership = Membership {
        timeout: limit,
        ..membership
    };
    let error = Gloo::connect(rendezvous.clone(), membership).unwrap_err();
    tell_error(&error);
    hear_or_end();
    drop(rendezvous);
}

fn digest(gloo: &Gloo) {
    tch::manual_seed(i64::from(gloo.rank()));
    let mut tensor = Tensor::randn([300_007], (Kind::Float, Device::Cpu));
    for _ in 0..5 {
        gloo.all_reduce_sum(&mut tensor)
            .unwrap()
            .wait(LIMIT)
            .unwrap();
        tensor *= 0.37;
    }
    let bits = tensor.view_dtype(Kind::Int).to_kind(Kind::Int64);
    let places = Tensor::arange(300_007, (Kind::Int64, Device::Cpu)) * 2 + 1;
    tell(&format!(
        "digest {}",
        (bits * places).sum(Kind::Int64).int64_value(&[])
    ));
    hear_or_end();
}

/// All-reduces without end; returns what ended them.
fn rounds(gloo: &Gloo, deadline: Duration) -> CollectiveError {
    for round in 0.. {
        let mut tensor = Tensor::ones([1_000_000], (Kind::Float, Device::Cpu));
        let result = gloo
            .all_reduce_sum(&mut tensor)
            .and_then(|work| work.wait(deadline));
        if let Err(error) = result {
            return error;
        }
        if round == 3 {
            tell("turning");
        }
    }
    unreachable!("the rounds have no end")
}

fn abort(gloo: Gloo) {
    if gloo.rank() == 1 {
        // Stays away from the sum.
        hear_or_end();
        return;
    }
    let gloo = Arc::new(gloo);
    let other = Arc::clone(&gloo);
    let aborter = thread::spawn(move || {
        hear();
        other.abort("revoked");
        other.abort("something later");
    });
    let mut tensor = Tensor::ones([1000], (Kind::Float, Device::Cpu));
    let work = gloo.all_reduce_sum(&mut tensor).unwrap();
    tell("waiting");
    tell_error(&work.wait(LIMIT).unwrap_err());
    aborter.join().unwrap();
    tell_error(&gloo.barrier().err().unwrap());
}

fn rebuild() {
    let gloo = connect(LIMIT).unwrap();
    let lost = rounds(&gloo, LIMIT);
    drop(gloo);
    tell_error(&lost);
    let gloo = connect(LIMIT).unwrap();
    let mut tensor = Tensor::from(f64::from(gloo.rank() + 1)).reshape([1]);
    gloo.all_reduce_sum(&mut tensor)
        .unwrap()
        .wait(LIMIT)
        .unwrap();
    tell(&format!("sum {}", tensor.double_value(&[0])));
    hear_or_end();
}

/// Stays until the parent kills this process or closes its input.
fn hear_or_end() {
    std::io::stdin().read_line(&mut String::new()).ok();
}
