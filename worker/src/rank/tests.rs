//! Whole trainers on real images: `make test` provides the files in `.cache/data`.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use espalier_collective::{Collective, Gloo, Membership, Rendezvous, Solo};
use espalier_job::DecideBy;
use espalier_vit::{Cost, LatencyTable, Point};
use tch::Tensor;

use super::{
    Assets, Observer, Prepared, ReportCard, Trainer, checkpoint, measure::measure, run_until, train,
};
use crate::{
    args::{EvalArgs, GateMode, Precision},
    eval::evaluate,
    ipc::{CheckpointKind, Metrics},
    rank::{Mode, TrainError},
};

pub(super) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/data/fashion-mnist")
}

/// A small job: 6 micro-batches of 16 a step.
pub(super) fn spec(compress: &str, train: &str) -> String {
    let data = data();
    format!(
        r#"
        name = "small"
        [model]
        image_size = 28
        patch_size = 7
        channels = 1
        classes = 10
        width = 16
        depth = 2
        heads = 2
        ffn = 64
        [data]
        format = "idx"
        train = "{data}"
        validation = "{data}"
        mean = [0.286]
        std = [0.353]
        augment = {{ flip = true, pad = 2 }}
        [compress]
        {compress}
        [train]
        global_batch = 96
        micro_batch = 16
        seed = 3
        metrics_every = 1
        optimizer = {{ lr = 2e-3 }}
        {train}
        [publish]
        name = "small"
        every = 4
        "#,
        data = data.display()
    )
}

pub(super) const UNIFIED: &str = r#"
        target = 0.6
        static_target = 0.8
        search = { steps = 6, warmup = 0.2, ramp = 0.3 }
        tune = { steps = 4 }
        gate = { input = "mean" }
        static = { rank_interval = 2 }
        "#;

/// Every switch of an inferred choice turned.
fn switched() -> String {
    UNIFIED.replace(
        "rank_interval = 2",
        "rank_interval = 3, importance = \"taylor\"",
    ) + "resource = \"hinge\"\n"
}

fn sequential() -> String {
    format!("mode = \"sequential\"\n{UNIFIED}")
}

/// Gates that see the budget.
fn budgets() -> String {
    UNIFIED.replace(
        "input = \"mean\"",
        "input = \"mean\", budgets = { lo = 0.5, hi = 0.75 }",
    )
}

pub(super) fn prepare(spec: &str) -> Prepared {
    tch::set_num_threads(1);
    Prepared::new("job-1", spec, &Assets::default(), 0).unwrap()
}

/// Keeps all it is told.
#[derive(Default)]
pub(super) struct Record {
    metrics: Vec<Metrics>,
    warnings: Vec<String>,
    pub(super) checkpoints: Vec<(u64, PathBuf, CheckpointKind)>,
    folder: PathBuf,
}

impl Observer for Record {
    fn metrics(&mut self, metrics: Metrics) -> Result<(), TrainError> {
        self.metrics.push(metrics);
        Ok(())
    }

    fn warning(&mut self, reason: String) -> Result<(), TrainError> {
        self.warnings.push(reason);
        Ok(())
    }

    fn checkpoint(
        &mut self,
        step: u64,
        dir: PathBuf,
        kind: CheckpointKind,
    ) -> Result<(), TrainError> {
        self.checkpoints.push((step, dir, kind));
        Ok(())
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Record {
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn losses(&self) -> Vec<f64> {
        self.metrics.iter().map(|metrics| metrics.loss).collect()
    }
}

pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

/// Parameters after `last` steps and the losses of all, of one rank.
fn run(spec: &str, last: u64, world: &dyn Collective) -> (Vec<f32>, Vec<f64>) {
    let prepared = prepare(spec);
    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::at(folder.path());
    let mut trainer = Trainer::new(&prepared).unwrap();
    run_until(&prepared, &mut trainer, world, &mut record, last).unwrap();
    (floats(trainer.values()), record.losses())
}

/// As [`run`], of every rank of `world_size`, each a thread with a Gloo group.
fn run_gang(spec: &str, last: u64, world_size: u32) -> Vec<(Vec<f32>, Vec<f64>)> {
    let timeout = Duration::from_secs(60);
    let (host, port) = Rendezvous::host("127.0.0.1").unwrap();
    let mut host = Some(host);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| {
                let rendezvous = host.take();
                scope.spawn(move || {
                    let rendezvous = rendezvous.unwrap_or_else(|| {
                        Rendezvous::join(&format!("127.0.0.1:{port}"), timeout).unwrap()
                    });
                    let membership = Membership {
                        rank,
                        world_size,
                        prefix: "job-1/1".to_owned(),
                        host: "127.0.0.1".to_owned(),
                        timeout,
                    };
                    run(spec, last, &Gloo::connect(rendezvous, membership).unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// With every change to images and labels that there is.
fn changed(spec: &str) -> String {
    let plain = "augment = { flip = true, pad = 2 }";
    let all = "augment = { flip = true, pad = 2, crop = {}, rand = {}, erase = {} }\nloaders = 3";
    assert!(spec.contains(plain));
    spec.replacen(plain, all, 1)
}

#[test]
fn the_number_of_ranks_changes_nothing() {
    // 4 ranks have 1 or 2 of the 6 micro-batches each.
    let random = UNIFIED.replace("input =", "decide = \"random\", input =");
    let random = spec(&random, "").replace("every = 4", "every = 4\nonnx = false");
    let mixed = "mix = { mode = \"elem\" }\nlabel_smoothing = 0.1";
    same_on_ranks(&changed(&spec(UNIFIED, mixed)), &[2]);
    same_on_ranks(&spec(&switched(), ""), &[2, 4]);
    same_on_ranks(&spec(&sequential(), ""), &[4]);
    same_on_ranks(&random, &[4]);
    same_on_ranks(&spec(&budgets(), ""), &[4]);
}

fn same_on_ranks(spec: &str, worlds: &[u32]) {
    let (alone, losses) = run(spec, 8, &Solo::default());
    assert_eq!(losses.len(), 8);
    for &world_size in worlds {
        let gang = run_gang(spec, 8, world_size);
        for (values, _) in &gang {
            assert_eq!(values, &gang[0].0, "replicas differ");
        }
        let furthest = alone
            .iter()
            .zip(&gang[0].0)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(furthest <= 1e-6, "{world_size} ranks: {furthest}");
        for (one, many) in losses.iter().zip(&gang[0].1) {
            assert!((one - many).abs() <= 1e-9 * one.abs(), "{one} {many}");
        }
    }
}

#[test]
fn going_on_from_a_checkpoint_is_never_having_stopped() {
    resumes_as_if_never_stopped(&changed(&spec(UNIFIED, "ema_decay = 0.9\nmix = {}")));
    for compress in [&sequential(), &switched(), &budgets()] {
        resumes_as_if_never_stopped(&spec(compress, "ema_decay = 0.9"));
    }
}

fn resumes_as_if_never_stopped(spec: &str) {
    let prepared = prepare(spec);
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Record::at(folder.path());
    let mut straight = Trainer::new(&prepared).unwrap();
    run_until(&prepared, &mut straight, &Solo::default(), &mut whole, 10).unwrap();
    let steps: Vec<u64> = whole.checkpoints.iter().map(|(step, ..)| *step).collect();
    // Every 4 steps, and after the search; the last step is the model's.
    assert_eq!(steps, [4, 6, 8]);
    for (step, dir, _) in &whole.checkpoints {
        let mut rest = Record::at(folder.path());
        let mut resumed = Trainer::resume(&prepared, dir).unwrap();
        assert_eq!(resumed.step(), *step);
        run_until(&prepared, &mut resumed, &Solo::default(), &mut rest, 10).unwrap();
        assert_eq!(rest.losses(), whole.losses()[*step as usize..]);
        assert_eq!(floats(resumed.values()), floats(straight.values()));
    }
}

#[test]
fn a_checkpoint_of_another_job_or_a_damaged_one_is_refused() {
    let first = prepare(&spec(UNIFIED, ""));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint-0");
    Trainer::new(&first).unwrap().save(&dir).unwrap();
    let other = prepare(&spec(UNIFIED, "label_smoothing = 0.1"));
    let error = Trainer::resume(&other, &dir).unwrap_err().to_string();
    assert!(error.ends_with("it is of another job document"), "{error}");

    let optimizer = dir.join("optimizer.safetensors");
    let bytes = std::fs::read(&optimizer).unwrap();
    std::fs::write(&optimizer, &bytes[..bytes.len() / 2]).unwrap();
    let error = Trainer::resume(&first, &dir).unwrap_err().to_string();
    assert!(error.contains("optimizer.safetensors: "), "{error}");
    std::fs::remove_file(dir.join("state.json")).unwrap();
    let error = checkpoint::load_state(&dir).unwrap_err().to_string();
    assert!(error.contains("state.json: "), "{error}");
}

/// Trains a job to its end and gives its model's folder, card and evaluations.
fn finished(compress: &str) -> (tempfile::TempDir, PathBuf, ReportCard, Record) {
    finish_spec(&spec(compress, ""))
}

fn finish_spec(spec: &str) -> (tempfile::TempDir, PathBuf, ReportCard, Record) {
    let prepared = prepare(spec);
    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::at(folder.path());
    let trainer = Trainer::new(&prepared).unwrap();
    train(&prepared, trainer, &Solo::default(), &mut record).unwrap();
    let (step, dir, kind) = record.checkpoints.pop().unwrap();
    assert_eq!((step, kind), (10, CheckpointKind::Model));
    let card = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    (folder, dir, card, record)
}

#[test]
fn the_published_model_gives_the_figures_of_its_card() {
    let (_folder, dir, card, _) = finished(UNIFIED);
    assert!(card.macs.effective <= card.macs.static_part);
    assert!(card.macs.static_ratio <= 0.8 && card.macs.static_ratio >= 0.6);
    assert!(card.params.compressed < card.params.dense);
    assert!(card.bytes < card.bytes_dense);
    assert_eq!(card.dataset.samples, 10_000);
    let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
    for file in ["model.onnx", "model-masked.onnx"] {
        assert!(dir.join(file).is_file(), "{file} is missing");
        assert!(readme.contains(file), "{readme}");
    }
    assert_eq!(card.accuracy.shared["1"], card.accuracy.per_sample);
    let args = |mode, batch| EvalArgs {
        dir: dir.clone(),
        data: None,
        format: None,
        batch,
        mode,
        budget: None,
        precision: Precision::F32,
        json: true,
    };
    let per_sample = evaluate(&args(GateMode::PerSample, 64)).unwrap();
    assert_eq!(per_sample.against_f32, None);
    assert_eq!(per_sample.accuracy, card.accuracy.per_sample);
    assert_eq!(per_sample.macs.effective, card.macs.effective);
    let shared = evaluate(&args(GateMode::Shared, 8)).unwrap();
    assert_eq!(shared.accuracy, card.accuracy.shared["8"]);
    assert_eq!(shared.macs.effective, card.macs.by_batch["8"]);
}

#[test]
fn a_model_of_several_budgets_gives_the_figures_of_its_card_at_each() {
    let (_folder, dir, card, _) = finished(&budgets());
    let asked: Vec<f64> = card.frontier.iter().map(|at| at.budget).collect();
    assert_eq!(asked, [0.5, 0.5625, 0.6, 0.625, 0.6875, 0.75]);
    let own = &card.frontier[2];
    assert_eq!(own.accuracy, card.accuracy.per_sample);
    assert_eq!(own.effective_ratio, card.macs.effective_ratio);
    assert_eq!(own.shared_accuracy, card.accuracy.shared["64"]);
    let args = |budget| EvalArgs {
        dir: dir.clone(),
        data: None,
        format: None,
        batch: 64,
        mode: GateMode::PerSample,
        budget,
        precision: Precision::F32,
        json: true,
    };
    let untold = evaluate(&args(None)).unwrap();
    assert_eq!(untold.macs.effective_ratio, own.effective_ratio);
    for at in [&card.frontier[0], &card.frontier[5]] {
        let found = evaluate(&args(Some(at.budget))).unwrap();
        assert_eq!(found.accuracy, at.accuracy);
        assert_eq!(found.macs.effective_ratio, at.effective_ratio);
    }
    let refused = format!("{:#}", evaluate(&args(Some(0.9))).unwrap_err());
    assert!(
        refused.ends_with("0.9 is not one of the model's budgets, 0.5 to 0.75"),
        "{refused}"
    );
    let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(readme.contains("any budget from 0.5 to 0.75"), "{readme}");

    let onnx = |budget| {
        let out = tempfile::tempdir().unwrap();
        let written = espalier_onnx::export(&dir, out.path(), budget).unwrap();
        std::fs::read(&written[0]).unwrap()
    };
    assert_eq!(onnx(None), onnx(Some(0.6)));
    assert_ne!(onnx(None), onnx(Some(0.5)));
}

#[test]
fn every_mode_runs_through_the_same_code() {
    let steps = "search = { steps = 6 }\ntune = { steps = 4 }";
    let (_a, _, pruned, record) = finished(&format!("mode = \"static\"\ntarget = 0.6\n{steps}"));
    // Within one candidate: 8 neurons are 3.2% of this small model.
    assert!(
        (pruned.macs.effective_ratio - 0.6).abs() <= 0.032,
        "{pruned:?}"
    );
    assert!(pruned.gates.constant && pruned.gates.rate.iter().all(|r| r.attn.is_none()));
    assert_eq!(record.metrics.len(), 10);
    let (_b, _, gated, _) = finished(&format!("mode = \"dynamic\"\ntarget = 0.6\n{steps}"));
    assert!(gated.params.compressed > gated.params.dense);
    let sequential = "mode = \"sequential\"\ntarget = 0.6\nstatic_target = 0.8";
    let (_d, dir, both, record) = finished(&format!("{sequential}\n{steps}"));
    assert!(both.params.compressed < both.params.dense);
    assert!(both.macs.static_ratio <= 0.8 && both.macs.effective < both.macs.static_part);
    assert!(
        record.metrics[..6]
            .iter()
            .all(|m| m.stage == "search" && m.gate_rates == [1.0; 4])
    );
    assert!(dir.join("model-masked.onnx").is_file());
    let (_c, _, dense, record) = finished(&format!("mode = \"dense\"\n{steps}"));
    assert_eq!(dense.macs.effective, dense.macs.dense);
    assert_eq!(dense.bytes, dense.bytes_dense);
    assert!(
        record
            .metrics
            .iter()
            .all(|m| m.stage == "dense" && m.resource == 0.0)
    );
}

/// The control and the baseline of gates, with the budget of `UNIFIED`.
#[test]
fn what_decides_is_on_the_card_and_in_the_folder() {
    let gate = |decide| UNIFIED.replace("input = \"mean\"", &format!("decide = \"{decide}\""));
    let (_a, dir, constant, _) = finished(&gate("constant"));
    assert_eq!(constant.gates.decide, Some(DecideBy::Constant));
    assert!(constant.gates.constant && constant.macs.effective < constant.macs.static_part);
    let shared = &constant.macs.by_batch;
    assert!(shared.values().all(|&macs| macs == constant.macs.effective));
    assert!(dir.join("model.onnx").is_file() && dir.join("model-masked.onnx").is_file());

    let random = spec(&gate("random"), "").replace("every = 4", "every = 4\nonnx = false");
    let (_b, dir, random, _) = finish_spec(&random);
    assert_eq!(random.gates.decide, Some(DecideBy::Random));
    assert!(random.gates.distinct_paths > 8, "{:?}", random.gates);
    let again = evaluate(&EvalArgs {
        dir: dir.clone(),
        data: None,
        format: None,
        batch: 8,
        mode: GateMode::Shared,
        budget: None,
        precision: Precision::F32,
        json: true,
    });
    assert_eq!(again.unwrap().macs.effective, random.macs.by_batch["8"]);
    let refused = espalier_onnx::export(&dir, &dir, None)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("gate.decide: random gates"), "{refused}");
}

#[test]
fn grouped_decisions_are_those_of_real_batches() {
    let prepared = prepare(&spec(UNIFIED, ""));
    let mut model = prepared.first_model().unwrap();
    let validation = prepared.validation().clone();
    // In the middle of the margins of untrained gates, so that they differ from batch to batch.
    let (threshold, all) = (0..2000)
        .find_map(|step| {
            let threshold = 2.9 + 1e-4 * f64::from(step);
            model.set_threshold(threshold);
            let all = measure(&model, &validation, 64, &[Mode::Shared(8)]).unwrap();
            let mixed = all[0].rates().iter().any(|&rate| rate > 0.0 && rate < 1.0);
            mixed.then_some((threshold, all))
        })
        .unwrap();
    model.set_threshold(threshold);
    for batch in 0..8_u32 {
        let samples: Vec<u32> = (8 * batch..8 * batch + 8).collect();
        let loaded = espalier_data::load_batch(&validation, &samples, None).unwrap();
        let (x_BCHW, _) = super::step::tensors(&loaded, &model, tch::Device::Cpu);
        let real = tch::no_grad(|| model.forward(&x_BCHW, &espalier_vit::Routing::Shared));
        let grouped = all[0].decisions_BM.narrow(0, i64::from(8 * batch), 8);
        assert_eq!(real.decisions_BM, grouped);
    }
}

#[test]
fn what_the_job_gets_wrong_is_said_before_any_step() {
    let good = spec(UNIFIED, "");
    let cases = [
        (good.replace("classes = 10", "classes = 9"), "label"),
        (good.replace("/fashion-mnist", "/absent"), "absent"),
        (
            good.replace("channels = 1", "channels = 3"),
            "model.channels",
        ),
        (good.replace("depth = 2", "depht = 2"), "depth"),
        (
            good.replace(
                "ffn = 64",
                "ffn = 64\ninit = { safetensors = \"/absent.safetensors\" }",
            ),
            "model.init.safetensors: /absent.safetensors",
        ),
    ];
    for (spec, expected) in cases {
        let begun = Prepared::new("job-1", &spec, &Assets::default(), 0)
            .and_then(|prepared| Trainer::new(&prepared).map(drop));
        let error = begun.unwrap_err();
        assert_eq!(error.fault(), crate::ipc::Fault::User, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_budget_of_time_is_met_by_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.json");
    let points = |count: i64, step: i64, ms: fn(f64) -> f64| {
        (1..=count)
            .map(|k| Point {
                size: step * k,
                ms: ms(k as f64 / count as f64),
            })
            .collect()
    };
    let table = LatencyTable {
        dims: prepare(&spec(UNIFIED, "")).config.dims,
        gate_hidden: 2,
        batch: 8,
        threads: 1,
        device: "cpu: a test".to_owned(),
        fixed_ms: 0.1,
        gate_ms: 0.001,
        // FFNs take most of the time here, MHSAs most of the MACs of their share.
        attn: points(2, 1, |share| 0.2 + 0.1 * share),
        ffn: points(8, 8, |share| 0.2 + 2.0 * share),
    };
    let asked = format!("{UNIFIED}\ncost = {{ latency = \"{}\" }}", path.display());
    let refusal = |spec: &str| {
        Prepared::new("job-1", spec, &Assets::default(), 0)
            .unwrap_err()
            .to_string()
    };
    let missing = refusal(&spec(&asked, ""));
    assert!(missing.starts_with("compress.cost.latency: "), "{missing}");
    assert!(missing.contains("table.json"), "{missing}");

    std::fs::write(&path, serde_json::to_vec(&table).unwrap()).unwrap();
    let (_folder, dir, card, _) = finished(&asked);
    let model = espalier_vit::Vit::open(&dir, tch::Device::Cpu).unwrap();
    let config = model.config();
    let mut expected = table.fixed_ms;
    for (block, rate) in config.structure.blocks.iter().zip(&card.gates.rate) {
        let parts = [
            (block.heads, &table.attn, rate.attn),
            (block.neurons, &table.ffn, rate.ffn),
        ];
        for (size, points, rate) in parts {
            if let Some(point) = points.iter().find(|point| point.size == size) {
                expected += rate.unwrap() * point.ms + table.gate_ms;
            }
        }
    }
    let budget = card.budget.unwrap();
    assert_eq!((budget.unit.as_str(), budget.target), ("milliseconds", 0.6));
    assert!(
        (budget.effective / expected - 1.0).abs() < 1e-9,
        "{budget:?}"
    );
    let cost = Cost::new(&config.dims, config.gate.as_ref()).in_time(table);
    let static_ratio = cost.static_macs(&config.structure) / cost.dense();
    assert!((0.6..=0.8).contains(&static_ratio), "{static_ratio}");
    assert_eq!(card.macs.dense, Cost::new(&config.dims, None).dense());
}
