//! The dense model in eager PyTorch, in a Python process of its own that waits while others run.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use espalier_vit::{Routing, Vit};
use tch::Tensor;
use tempfile::TempDir;

use crate::turns::Lap;

/// The loader that is published for everyone's use.
const LOADER: &str = include_str!("../../../python/espalier_vit.py");
const SERVE: &str = include_str!("serve.py");

/// How long Python may take to start, and how long one forward pass may take.
const DEADLINE: Duration = Duration::from_secs(300);
/// How far apart class scores of the two may be, relative to the largest.
const TOLERANCE: f64 = 1e-3;

/// The process; it ends with this value.
pub(super) struct Peer {
    child: Child,
    commands: Option<ChildStdin>,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Peer {
    /// Starts `python` on the model and the images, and checks that it computes the same.
    ///
    /// # Errors
    /// A Python that cannot be run or has no PyTorch and safetensors, scores that differ.
    pub(super) fn start(python: &Path, dense: &Vit, x_BCHW: &Tensor) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let at = |name: &str| folder.path().join(name);
        dense.save(folder.path())?;
        Tensor::write_safetensors(&[("x", x_BCHW)], at("images.safetensors"))?;
        fs::write(at("espalier_vit.py"), LOADER)?;
        fs::write(at("serve.py"), SERVE)?;
        let mut child = Command::new(python)
            .arg(at("serve.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("--python {}: cannot run it", python.display()))?;
        let output = child.stdout.take().context("the output is piped")?;
        // One line is answered before the next is asked for.
        let (sender, lines) = sync_channel(1);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let peer = Self {
            commands: child.stdin.take(),
            child,
            lines,
            reader: Some(reader),
            _folder: folder,
        };
        peer.check(dense, x_BCHW)
            .with_context(|| format!("--python {}", python.display()))?;
        Ok(peer)
    }

    /// The scores of the first image, which are its first line.
    fn check(&self, dense: &Vit, x_BCHW: &Tensor) -> anyhow::Result<()> {
        let theirs: Vec<f32> = serde_json::from_str(&self.line()?)?;
        let ours_K = dense
            .forward(&x_BCHW.narrow(0, 0, 1), &Routing::PerSample)
            .logits_BK
            .squeeze_dim(0);
        let theirs_K = Tensor::from_slice(&theirs);
        ensure!(
            theirs_K.size() == ours_K.size(),
            "another number of classes"
        );
        let largest = ours_K.abs().max().double_value(&[]);
        let apart = (ours_K - theirs_K).abs().max().double_value(&[]);
        ensure!(
            apart <= TOLERANCE * largest,
            "its class scores are {apart} off ours, which reach {largest}"
        );
        Ok(())
    }

    /// One forward pass of the `index`th batch of `batch` images.
    pub(super) fn lap(&mut self, threads: u32, batch: u32, index: usize) -> anyhow::Result<Lap> {
        let commands = self.commands.as_mut().context("the input is piped")?;
        writeln!(commands, "{threads} {batch} {index}").context("asking Python")?;
        let line = self.line()?;
        let times: Vec<f64> = line
            .split(' ')
            .filter_map(|time| time.parse().ok())
            .collect();
        let [wall_ms, processor_ms] = times[..] else {
            bail!("Python answered {line:?}, not two times");
        };
        Ok(Lap {
            wall_ms,
            processor_ms,
        })
    }

    fn line(&self) -> anyhow::Result<String> {
        self.lines
            .recv_timeout(DEADLINE)
            .context("Python gave no answer; its own message, if any, is above")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            // A line that nobody takes any more would hold the reader.
            while self.lines.try_recv().is_ok() {}
            let _ = reader.join();
        }
    }
}
