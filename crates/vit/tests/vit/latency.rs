//! Budgets of time.

use espalier_job::{Average, GateInput};
use espalier_vit::{
    Candidate, Cost, LatencyError, LatencyTable, Point, Probabilities, Sizes, Structure,
};
use tch::{Device, Kind, Tensor};

use crate::common::{dims, gates};

/// Times that are far from linear in the size.
fn table() -> LatencyTable {
    let points =
        |times: &[(i64, f64)]| times.iter().map(|&(size, ms)| Point { size, ms }).collect();
    LatencyTable {
        dims: dims(),
        gate_hidden: 8,
        batch: 8,
        threads: 1,
        device: "cpu: a test".to_owned(),
        fixed_ms: 0.5,
        gate_ms: 0.01,
        attn: points(&[(1, 1.0), (2, 1.1), (3, 1.9), (4, 2.0)]),
        ffn: points(&[(16, 0.4), (32, 0.5), (48, 1.3), (64, 1.6)]),
    }
}

fn cost() -> Cost {
    Cost::new(&dims(), Some(&gates(GateInput::Cls, Average::Logits))).in_time(table())
}

fn structure(sizes: [(i64, i64); 3]) -> Structure {
    let mut structure = Structure::full(&dims());
    for (block, (heads, neurons)) in structure.blocks.iter_mut().zip(sizes) {
        (block.heads, block.neurons) = (heads, neurons);
    }
    structure
}

#[test]
fn time_is_the_sum_over_the_table() {
    let structure = structure([(2, 48), (0, 16), (4, 0)]);
    let open = [0.5, 1.0, 1.0, 0.25, 1.0, 1.0];
    let expected = 0.5 + 0.5 * 1.1 + 1.3 + 0.25 * 0.4 + 2.0 + 4.0 * 0.01;
    let found = cost().effective(&structure, |m| open[m]);
    assert!((found - expected).abs() < 1e-12, "{found}");
    assert!((cost().dense() - (0.5 + 3.0 * 3.6)).abs() < 1e-12);
}

#[test]
fn soft_time_of_a_choice_is_its_hard_time() {
    let structure = structure([(2, 48), (0, 16), (4, 0)]);
    let open = [0.5, 1.0, 1.0, 0.25, 1.0, 1.0];
    let sizes = Sizes::of(&structure, Device::Cpu);
    let soft = cost().soft(&sizes, &Tensor::from_slice(&open));
    let hard = cost().effective(&structure, |m| open[m]);
    assert!((soft.double_value(&[]) / hard - 1.0).abs() < 1e-12);
}

#[test]
fn between_sizes_time_and_its_slope_are_of_the_straight_line() {
    let sizes = Sizes::of(&Structure::full(&dims()), Device::Cpu);
    let heads_L = Tensor::from_slice(&[2.25_f64, 1.5, 3.5]).set_requires_grad(true);
    let sizes = Sizes {
        heads_L: heads_L.shallow_clone(),
        ..sizes
    };
    let open_M = Tensor::ones([6], (Kind::Double, Device::Cpu));
    let soft = cost().soft(&sizes, &open_M);
    let expected = 0.5 + (1.1 + 0.25 * 0.8) + 1.05 + 1.95 + 3.0 * 1.6 + 6.0 * 0.01;
    assert!((soft.double_value(&[]) - expected).abs() < 1e-6);
    soft.backward();
    let slope = Vec::<f64>::try_from(heads_L.grad()).unwrap();
    for (slope, expected) in slope.iter().zip([0.8, 0.1, 0.1]) {
        assert!((slope - expected).abs() < 1e-6, "{slope}");
    }
}

#[test]
fn the_choice_meets_the_budget_in_time() {
    let candidates = |sizes: &[i64]| {
        let scored = sizes.iter().map(|&size| Candidate {
            size,
            score: size as f64 / 64.0,
        });
        scored.collect()
    };
    let modules = (0..6)
        .map(|m| candidates([&[0, 1, 2, 3, 4][..], &[0, 16, 32, 48, 64]][m % 2]))
        .collect();
    let choice = Probabilities { modules }.within(&cost(), 0.55..=0.6);
    let ratio = cost().static_macs(&choice.structure) / cost().dense();
    assert!(choice.within_budget, "{}", choice.reason);
    assert!((0.55..=0.6).contains(&ratio), "{ratio}");
    let macs = Cost::new(&dims(), None);
    let of_macs = macs.static_macs(&choice.structure) / macs.dense();
    assert!(
        (of_macs - ratio).abs() > 0.01,
        "time and MACs say the same: nothing is tested"
    );
}

#[test]
fn what_does_not_serve_is_named() {
    let refused = |change: fn(&mut LatencyTable)| {
        let mut table = table();
        change(&mut table);
        let checked = table
            .check()
            .and_then(|()| table.fits(&dims(), Some(8), &[16, 32, 48, 64]));
        checked.map_err(|error| error.to_string()).err()
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(
        refused(|table| table.attn[1].ms = 0.96),
        None,
        "noise is no fault"
    );
    for (change, field) in [
        (
            (|table| table.attn[1].ms = 0.9) as fn(&mut LatencyTable),
            "attn: size 2",
        ),
        (|table| table.ffn[0].ms = f64::NAN, "ffn: size 16"),
        (|table| table.ffn.swap(0, 1), "ffn: size 16"),
        (|table| table.attn.clear(), "attn: sizes"),
        (|table| table.gate_ms = -1.0, "gate_ms: "),
        (|table| table.attn.truncate(3), "attn: size 4 is missing"),
        (
            |table| table.ffn.retain(|point| point.size != 32),
            "ffn: size 32 is missing",
        ),
        (|table| table.gate_hidden = 9, "gate_hidden: "),
        (|table| table.dims.classes = 11, "dims: "),
    ] {
        let reason = refused(change).unwrap();
        assert!(reason.starts_with(field), "{reason}");
    }
}

#[test]
fn files_that_are_no_tables_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.json");
    assert!(matches!(
        LatencyTable::open(&path),
        Err(LatencyError::Read { .. })
    ));
    std::fs::write(&path, "{\"dims\": 3}").unwrap();
    let error = LatencyTable::open(&path).unwrap_err().to_string();
    assert!(error.contains("table.json: not a latency table"), "{error}");
    std::fs::write(&path, serde_json::to_vec(&table()).unwrap()).unwrap();
    assert_eq!(LatencyTable::open(&path).unwrap(), table());
}
