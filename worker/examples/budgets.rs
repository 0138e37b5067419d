//! Trains a job at several targets and prints what its report cards say about the budget, as a table:
//!
//! ```text
//! cargo run --release -p espalier-worker --example budgets -- examples/fashion-mnist.toml \
//!     'search.epochs=0.2 tune.epochs=0.6' 0.3/0.45 0.5/0.6
//! ```
//!
//! A target is `target/static_target`, or `target` alone. A teacher is left out: it comes from a registry.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use espalier_collective::Solo;
use espalier_job::Job;
use espalier_worker::ipc::{CheckpointKind, Metrics};
use espalier_worker::rank::{
    Assets, Observer, Prepared, ReportCard, TrainError, Trainer, train, use_one_thread,
};

fn main() -> anyhow::Result<()> {
    use_one_thread();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, changes, targets @ ..] = arguments.as_slice() else {
        bail!("usage: budgets JOB.toml 'FIELD=NUMBER ..' TARGET[/STATIC] ..");
    };
    let file = Path::new(file);
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let mut job = Job::parse(&text)?;
    let folder = fs::canonicalize(file)?;
    job.absolute_paths(folder.parent().unwrap_or(Path::new("/")));
    job.train.distillation = None;
    for change in changes.split_whitespace() {
        apply(&mut job, change)?;
    }
    println!(
        "| target | hard | off | static target | static | off | shared 8 | 64 | 256 | accuracy | paths |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for target in targets {
        let (total, pruned) = match target.split_once('/') {
            Some((total, pruned)) => (total, Some(pruned.parse::<f64>()?)),
            None => (target.as_str(), None),
        };
        job.compress.target = total.parse()?;
        job.compress.static_target = pruned;
        println!("{}", row(&job, &run(&job)?));
    }
    Ok(())
}

/// Changes a stage's length.
fn apply(job: &mut Job, change: &str) -> anyhow::Result<()> {
    let (field, value) = change.split_once('=').context("FIELD=NUMBER")?;
    let epochs = Some(value.parse::<f64>()?);
    match field {
        "search.epochs" => job.compress.search.epochs = epochs,
        "tune.epochs" => job.compress.tune.epochs = epochs,
        other => bail!("{other}: search.epochs and tune.epochs can be changed"),
    }
    Ok(())
}

fn run(job: &Job) -> anyhow::Result<ReportCard> {
    let folder = tempfile::tempdir()?;
    let mut quiet = Quiet {
        folder: folder.path().to_owned(),
        model: None,
    };
    let prepared = Prepared::new("budgets", &job.to_toml()?, &Assets::default(), 0)?;
    let trainer = Trainer::new(&prepared)?;
    train(&prepared, trainer, &Solo::default(), &mut quiet)?;
    let model = quiet.model.context("the job ended without a model")?;
    Ok(serde_json::from_slice(&fs::read(
        model.join("report.json"),
    )?)?)
}

fn row(job: &Job, card: &ReportCard) -> String {
    let off = |found: f64, asked: f64| format!("{:+.2}%", (found / asked - 1.0) * 100.0);
    let macs = &card.macs;
    let shared = |batch: &str| {
        let effective = macs.by_batch.get(batch);
        effective.map_or("-".to_owned(), |macs_| format!("{:.4}", macs_ / macs.dense))
    };
    let pruned = job.compress.static_target;
    format!(
        "| {} | {:.4} | {} | {} | {:.4} | {} | {} | {} | {} | {:.2}% | {} |",
        job.compress.target,
        macs.effective_ratio,
        off(macs.effective_ratio, job.compress.target),
        pruned.map_or("-".to_owned(), |pruned| pruned.to_string()),
        macs.static_ratio,
        pruned.map_or("-".to_owned(), |pruned| off(macs.static_ratio, pruned)),
        shared("8"),
        shared("64"),
        shared("256"),
        card.accuracy.per_sample * 100.0,
        card.gates.distinct_paths,
    )
}

/// Prints warnings, and keeps the finished model's folder.
struct Quiet {
    folder: PathBuf,
    model: Option<PathBuf>,
}

impl Observer for Quiet {
    fn metrics(&mut self, _: Metrics) -> Result<(), TrainError> {
        Ok(())
    }

    fn warning(&mut self, reason: String) -> Result<(), TrainError> {
        eprintln!("warning: {reason}");
        Ok(())
    }

    fn checkpoint(&mut self, _: u64, dir: PathBuf, kind: CheckpointKind) -> Result<(), TrainError> {
        if kind == CheckpointKind::Model {
            self.model = Some(dir);
        }
        Ok(())
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}
