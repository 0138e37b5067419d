//! scratch
#![allow(missing_docs)]
use espalier_worker::ipc::{CheckpointKind, Metrics};
use espalier_worker::rank::*;
use std::path::{Path, PathBuf};
struct Rec(PathBuf, std::time::Instant);
impl Observer for Rec {
    fn metrics(&mut self, m: Metrics) -> Result<(), TrainError> {
        if m.step % 50 == 0 || m.eval_accuracy.is_some() {
            println!(
                "{:.1}s {} {} loss {:.3} ce {:.3} res {:.5} acc {:.3} soft {:.3} hard {:.3} lr {:.4} gn {:.2} sps {:.0} eval {:?}\n   {:?}",
                self.1.elapsed().as_secs_f64(),
                m.step,
                m.stage,
                m.loss,
                m.cross_entropy,
                m.resource,
                m.accuracy,
                m.macs_soft,
                m.macs_hard,
                m.lr,
                m.grad_norm,
                m.samples_per_second,
                m.eval_accuracy,
                m.gate_rates
                    .iter()
                    .map(|r| (r * 100.0).round() / 100.0)
                    .collect::<Vec<_>>()
            );
        }
        Ok(())
    }
    fn warning(&mut self, r: String) -> Result<(), TrainError> {
        println!("WARN {r}");
        Ok(())
    }
    fn checkpoint(&mut self, s: u64, d: PathBuf, k: CheckpointKind) -> Result<(), TrainError> {
        println!(
            "{:.1}s ckpt {s} {d:?} {k:?}",
            self.1.elapsed().as_secs_f64()
        );
        Ok(())
    }
    fn folder(&self) -> &Path {
        &self.0
    }
}
fn main() {
    tracing_subscriber::fmt().init();
    use_one_thread();
    let a: Vec<String> = std::env::args().collect();
    let spec = std::fs::read_to_string(&a[1]).unwrap();
    let t = std::time::Instant::now();
    let p = Prepared::new("job-x", &spec, &Assets::default(), 0).unwrap_or_else(|e| panic!("{e}"));
    println!("prepared {:?}", t.elapsed());
    let tr = Trainer::new(&p).unwrap();
    let mut r = Rec(PathBuf::from(&a[2]), t);
    train(&p, tr, &espalier_collective::Solo::default(), &mut r).unwrap();
    println!("total {:?}", t.elapsed());
}
