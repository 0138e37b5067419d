//! The hard budget is met, whatever the mode and the target: whole trainers on real images, of few steps, so
//! that gates are nearly constant, which is the hard case.

use espalier_collective::Solo;
use espalier_data::{Loader, Work};
use espalier_vit::{Cost, Structure};

use super::{
    Mode, Prepared, Trainer,
    measure::{Measured, measure},
    settle::settle,
    tests::{data, prepare},
};

/// Hard ratios may miss their targets by this share.
const BOUND: f64 = 0.01;
/// Validation images that are measured: what others settled must hold for them.
const MEASURED: usize = 3000;
/// Held-out training images that decisions are settled on: 5% of 60,000.
const SETTLED: usize = 3000;
/// Images that decide together, as shared mode is settled on.
const TOGETHER: usize = 32;

/// Four blocks whose heads and neurons come in steps that differ, so that sizes can meet a target.
fn spec(compress: &str) -> String {
    let data = data();
    format!(
        r#"
        name = "small"
        [model]
        image_size = 28
        patch_size = 7
        channels = 1
        classes = 10
        width = 32
        depth = 4
        heads = 4
        ffn = 64
        [data]
        format = "idx"
        train = "{data}"
        validation = "{data}"
        mean = [0.286]
        std = [0.353]
        [compress]
        {compress}
        search = {{ steps = 4, warmup = 0.25, ramp = 0.5 }}
        tune = {{ steps = 3 }}
        [train]
        global_batch = 64
        micro_batch = 64
        seed = 3
        optimizer = {{ lr = 2e-3 }}
        [publish]
        name = "small"
        onnx = false
        "#,
        data = data.display()
    )
}

/// Hard ratios of a finished model.
#[derive(Debug)]
struct Ratios {
    /// With every gate open.
    fixed: f64,
    /// In total, over the images that decisions were settled on.
    settled: f64,
    /// In total, over validation images.
    total: f64,
    /// Standard deviation of the difference of the two means, were all images alike.
    error: f64,
    /// As `total`, in shared mode.
    together: f64,
    /// As `error`, in shared mode.
    error_together: f64,
}

fn trained(prepared: &Prepared) -> Trainer<'_> {
    let mut trainer = Trainer::new(prepared).unwrap();
    let works = (1..=prepared.plan.total()).map(|step| Work {
        step,
        micro_batch: 0,
    });
    for loaded in Loader::start(prepared.feed(), works).unwrap() {
        trainer
            .advance(&[loaded.unwrap()], &Solo::default())
            .unwrap();
    }
    trainer
}

fn ratios(compress: &str) -> Ratios {
    let prepared = prepare(&spec(compress));
    let trainer = trained(&prepared);
    let cost = trainer.cost().clone();
    let mut model = trainer.into_model();
    let structure = model.config().structure.clone();
    let fixed = cost.static_macs(&structure) / cost.dense();
    if model.config().gate.is_none() {
        return Ratios {
            fixed,
            settled: fixed,
            total: fixed,
            error: 0.0,
            together: fixed,
            error_together: 0.0,
        };
    }
    let settled = settle(&prepared, &mut model, &cost).unwrap().ratio;
    let modes = [Mode::PerSample, Mode::Shared(TOGETHER)];
    let measured = measure(&model, prepared.validation(), MEASURED, &modes).unwrap();
    let (total, error) = mean(&of_samples(&measured[0], &structure, &cost), 1);
    let (together, error_together) = mean(&of_samples(&measured[1], &structure, &cost), TOGETHER);
    Ratios {
        fixed,
        settled,
        total,
        error,
        together,
        error_together,
    }
}

/// The mean, and the standard deviation of its difference from that over the images decisions were settled on,
/// were these alike and of independent groups of `group`.
fn mean(values: &[f64], group: usize) -> (f64, f64) {
    let of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mean = of(values);
    let squares: Vec<f64> = values.iter().map(|value| (value - mean).powi(2)).collect();
    let groups = |samples: usize| samples as f64 / group as f64;
    let error = (of(&squares) * (1.0 / groups(SETTLED) + 1.0 / groups(MEASURED))).sqrt();
    (mean, error)
}

fn of_samples(measured: &Measured, structure: &Structure, cost: &Cost) -> Vec<f64> {
    let rows = Vec::<Vec<f64>>::try_from(measured.decisions_BM.to_kind(tch::Kind::Double)).unwrap();
    rows.iter()
        .map(|row| cost.effective(structure, |module| row[module]) / cost.dense())
        .collect()
}

/// Asserts that every one of `tenths` is met as a target: where decisions are settled, and on other images
/// but for what their number cannot tell. `compress` is of target and static target.
#[track_caller]
fn meets(tenths: &[u8], compress: impl Fn(f64, f64) -> String) {
    let missed: Vec<String> = tenths
        .iter()
        .filter_map(|&tenths| {
            let target = f64::from(tenths) / 10.0;
            let most = f64::midpoint(target, 1.0);
            let asked = compress(target, most);
            let found = ratios(&asked);
            let met = (found.settled - target).abs() <= BOUND * target
                && (found.total - found.settled).abs() <= BOUND * target + 3.0 * found.error;
            let together = !asked.contains("mean")
                || (found.together - target).abs() <= BOUND * target + 3.0 * found.error_together;
            let pruned = !asked.contains("static_target")
                || (found.fixed <= most && found.fixed >= most * (1.0 - BOUND));
            (!met || !pruned || !together).then(|| format!("{target} and {most}: {found:?}"))
        })
        .collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

const ALL: [u8; 7] = [3, 4, 5, 6, 7, 8, 9];
const SOME: [u8; 3] = [3, 5, 9];

fn both(target: f64, most: f64, more: &str) -> String {
    format!("target = {target}\nstatic_target = {most}\n{more}")
}

#[test]
fn unified_by_the_input() {
    meets(&ALL, |target, most| {
        both(target, most, "gate = { input = \"mean\" }")
    });
    // Attention is dropped in the first blocks, so that the CLS token and its gates are constant there.
    meets(&[4, 6], |target, most| {
        both(target, most, "gate = { input = \"cls\" }")
    });
}

#[test]
fn unified_by_constants() {
    meets(&ALL, |target, most| {
        both(target, most, "gate = { decide = \"constant\" }")
    });
}

/// One model, each of its calibrated budgets; whether its gates see the budget or only their threshold moves.
#[test]
fn several_budgets_of_one_model() {
    for adapt in ["gates", "threshold"] {
        let prepared = prepare(&spec(&format!(
            "target = 0.6\nstatic_target = 0.9\n\
             gate = {{ input = \"mean\", budgets = {{ lo = 0.4, hi = 0.8, adapt = \"{adapt}\" }} }}"
        )));
        let trainer = trained(&prepared);
        let cost = trainer.cost().clone();
        let mut model = trainer.into_model();
        settle(&prepared, &mut model, &cost).unwrap();
        let structure = model.config().structure.clone();
        let table = model.config().budgets.clone();
        let asked: Vec<f64> = table.iter().map(|entry| entry.budget).collect();
        assert_eq!(asked, [0.4, 0.5, 0.6, 0.7, 0.8]);
        for budget in asked {
            model.run_at(budget).unwrap();
            let ratio = |dataset| {
                let measured = measure(&model, dataset, MEASURED, &[Mode::PerSample]).unwrap();
                mean(&of_samples(&measured[0], &structure, &cost), 1)
            };
            let (settled, _) = ratio(&prepared.splits.calibration);
            let (total, error) = ratio(prepared.validation());
            let met = (settled - budget).abs() <= BOUND * budget
                && (total - settled).abs() <= BOUND * budget + 3.0 * error;
            assert!(met, "{adapt}, {budget}: {settled}, {total} off {error}");
        }
    }
}

#[test]
fn sequential() {
    meets(&SOME, |target, most| {
        both(target, most, "mode = \"sequential\"")
    });
}

#[test]
fn either_part_alone() {
    meets(&ALL, |target, _| {
        format!("mode = \"static\"\ntarget = {target}")
    });
    meets(&SOME, |target, _| {
        format!("mode = \"dynamic\"\ntarget = {target}")
    });
    meets(&SOME, |target, _| {
        format!("mode = \"dynamic\"\ntarget = {target}\ngate = {{ decide = \"random\" }}")
    });
}
