//! The registry on its own, by its command: push, search, compare, roll back, mend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use espalier_random::{Rng as _, Stream, rng};
use espalier_tests::{Etcd, Ran, S3, program, repository};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// A registry without jobs, and the command against it.
struct Registry {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Registry {
    fn start() -> Self {
        Self::with(&[], &[])
    }

    /// Alone, with further arguments and settings.
    fn with(args: &[&str], settings: &[(String, String)]) -> Self {
        Self::launched(&[&["--role", "registry"], args].concat(), settings)
    }

    fn launched(args: &[&str], settings: &[(String, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = launch(dir.path(), port, args, settings);
        let registry = Self { dir, port, process };
        registry.ready();
        registry
    }

    /// Kills it with SIGKILL.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on what it had stored.
    fn restart(&mut self, args: &[&str], settings: &[(String, String)]) {
        let args = [&["--role", "registry"], args].concat();
        self.process = launch(self.dir.path(), self.port, &args, settings);
        self.ready();
    }

    #[track_caller]
    fn ready(&self) {
        for _ in 0..600 {
            if self.run(&["registry", "usage"]).code == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(
            Command::new(program("espalier"))
                .args(["--endpoint", &self.endpoint()])
                .args(args),
        )
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["-o", "json"]].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// A folder with a model of so many heads and such an accuracy.
    fn model(&self, name: &str, heads: u64, accuracy: f64) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let write =
            |file: &str, value: Value| fs::write(dir.join(file), value.to_string()).unwrap();
        write(
            "config.json",
            json!({"structure": {"blocks": [{"heads": heads}]}}),
        );
        write("report.json", json!({"accuracy": {"per_sample": accuracy}}));
        let tensors = [
            ("kept", 1.0_f32, 100_000),
            ("changed", heads as f32, 100_000),
        ];
        let bytes = tensors.map(|(name, value, count)| {
            let bytes: Vec<u8> = (0..count)
                .flat_map(|i| (value + i as f32).to_le_bytes())
                .collect();
            (name, count, bytes)
        });
        let views = bytes.iter().map(|(name, count, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![*count], bytes);
            (*name, view.unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        fs::write(dir.join("model.safetensors"), file).unwrap();
        dir
    }
}

fn launch(dir: &Path, port: u16, args: &[&str], settings: &[(String, String)]) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let listen = format!("127.0.0.1:{port}");
    Command::new(program("espalier-coordinator"))
        .args(["--listen", &listen, "--data-dir"])
        .arg(dir.join("data"))
        .args(args)
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_registry_alone_is_used_by_its_command() {
    let registry = Registry::start();
    let (one, two) = (
        registry.model("one", 4, 0.8),
        registry.model("two", 3, 0.95),
    );
    let first = registry.json(&[
        "checkpoint",
        "push",
        text(&one),
        "m:best",
        "--reason",
        "first",
    ]);
    let second = registry.json(&[
        "checkpoint",
        "push",
        text(&two),
        "m:best",
        "--label",
        "team=vision",
    ]);
    let (first_digest, second_digest) = (
        first["digest"].as_str().unwrap(),
        second["digest"].as_str().unwrap(),
    );
    // The tensor that both have is sent once.
    let moved = |pushed: &Value| pushed["transfer"]["moved_bytes"].as_u64().unwrap();
    assert!(moved(&second) < moved(&first) * 3 / 4, "{first} {second}");
    let again = registry.json(&["checkpoint", "push", text(&two), "m:best"]);
    assert_eq!(again["transfer"]["moved_chunks"], 0);

    for condition in ["accuracy.per_sample > 0.9", "label.team = vision"] {
        let found = registry.json(&["checkpoint", "list", "--where", condition]);
        assert_eq!(found.as_array().unwrap().len(), 1, "{condition}");
        assert_eq!(found[0]["digest"], second_digest);
    }
    let diff = registry.json(&["checkpoint", "diff", first_digest, "m:best"]);
    assert_eq!(
        diff["structure"],
        json!([{"name": "structure.blocks.0.heads", "a": "4", "b": "3", "change": "-25.00%"}])
    );
    assert_eq!(diff["tensors"].as_array().unwrap().len(), 1);
    assert_eq!(diff["tensors"][0]["name"], "changed");
    assert_eq!(diff["report"][0]["name"], "accuracy.per_sample");

    let back = registry.json(&["checkpoint", "alias", "rollback", "m:best"]);
    assert_eq!(back["digest"], first_digest);
    let history = registry.json(&["checkpoint", "alias", "history", "m:best"]);
    assert_eq!(history.as_array().unwrap().len(), 3);
    assert!(
        history[0]["actor"].as_str().unwrap().contains('@'),
        "{history}"
    );
    registry.json(&["checkpoint", "alias", "set", "m:best", "--protect"]);
    let refused = registry.run(&["checkpoint", "alias", "set", "m:best", second_digest]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("protected"), "{}", refused.stderr);

    let pulled = registry.dir.path().join("pulled");
    registry.json(&["checkpoint", "pull", "m:best", text(&pulled)]);
    registry.json(&["checkpoint", "verify", "m:best", text(&pulled)]);
    fs::write(pulled.join("config.json"), "{}").unwrap();
    let differs = registry.run(&["checkpoint", "verify", "m:best", text(&pulled)]);
    assert_eq!(differs.code, 1);
    assert!(
        differs.stderr.contains("`config.json` is another"),
        "{}",
        differs.stderr
    );

    registry.json(&["checkpoint", "rm", second_digest]);
    let kept = registry.run(&["checkpoint", "rm", first_digest]);
    assert!(kept.stderr.contains("m:best"), "{}", kept.stderr);
    let dry = registry.json(&["registry", "gc", "--dry-run"]);
    assert_eq!(dry["retired_count"], 0);
}

#[test]
fn what_is_damaged_is_named_and_mended_from_a_folder_or_another_registry() {
    let (registry, mirror) = (Registry::start(), Registry::start());
    let model = registry.model("model", 4, 0.8);
    for each in [&registry, &mirror] {
        each.json(&["checkpoint", "push", text(&model), "m:best"]);
    }
    let described = registry.json(&["checkpoint", "describe", "m:best"]);
    let files = described["manifest"]["files"].as_array().unwrap();
    let weights = files
        .iter()
        .find(|file| file["path"] == "model.safetensors")
        .unwrap();
    let digest = weights["chunks"][1]["digest"].as_str().unwrap();
    let hex = digest.trim_start_matches("sha256:");
    let chunk = registry
        .dir
        .path()
        .join("data/blobs/chunks")
        .join(&hex[..1])
        .join(hex);
    let endpoint = mirror.endpoint();
    for repair in [endpoint.as_str(), text(&model)] {
        let mut bytes = fs::read(&chunk).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&chunk, bytes).unwrap();
        let found = registry.run(&["registry", "fsck"]);
        assert_eq!(found.code, 1);
        assert!(found.stdout.contains(digest), "{}", found.stdout);
        assert!(
            found.stdout.contains("model.safetensors"),
            "{}",
            found.stdout
        );
        let mended = registry.json(&["registry", "fsck", "--repair", repair]);
        assert_eq!(mended[0]["repaired"], true, "{mended}");
        assert_eq!(registry.json(&["registry", "fsck"]), json!([]));
    }
}

#[test]
fn the_python_client_finds_and_pulls() {
    let registry = Registry::start();
    let model = registry.model("model", 4, 0.8);
    registry.json(&[
        "checkpoint",
        "push",
        text(&model),
        "m:best",
        "--label",
        "team=vision",
    ]);
    let interpreter = repository().join(".cache/python/bin/python");
    let address = format!("127.0.0.1:{}", registry.port);
    let ran = Ran::of(
        Command::new(&interpreter)
            .arg(repository().join("python/tests/registry.py"))
            .args([address.as_str(), text(&model)]),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_registry_in_a_bucket_outlives_its_process() {
    let Some(s3) = S3::shared() else { return };
    let (bucket, settings) = (s3.bucket(), s3.settings());
    let url = format!("s3://{bucket}/models");
    let args = ["--blobs", &url];
    let mut registry = Registry::with(&args, &settings);
    let (one, two) = (
        registry.model("one", 4, 0.8),
        registry.model("two", 3, 0.95),
    );
    registry.json(&["checkpoint", "push", text(&one), "m:best"]);
    // Ended in the middle of a push: what was sent is there, and the push goes on.
    let mut push = Command::new(program("espalier"))
        .args(["--endpoint", &registry.endpoint()])
        .args(["checkpoint", "push", text(&two), "m:next"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let before = s3.list(&bucket).len();
    while s3.list(&bucket).len() == before && push.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    registry.kill();
    registry.restart(&args, &settings);
    assert!(push.wait().unwrap().success(), "{}", registry.log());
    let second = registry.json(&["checkpoint", "push", text(&two), "m:next"]);
    assert_eq!(second["transfer"]["moved_chunks"], 0);
    for (reference, model) in [("m:best", &one), ("m:next", &two)] {
        let pulled = registry.dir.path().join(reference.replace(':', "-"));
        registry.json(&["checkpoint", "pull", reference, text(&pulled)]);
        registry.json(&["checkpoint", "verify", reference, text(model)]);
    }
    assert_eq!(registry.json(&["registry", "fsck"]), json!([]));

    // A chunk that nothing refers to waits for its time; nothing else would go.
    registry.json(&["checkpoint", "alias", "rm", "m:next"]);
    registry.json(&["checkpoint", "rm", second["digest"].as_str().unwrap()]);
    let dry = registry.json(&["registry", "gc", "--dry-run"]);
    let chunks = dry["chunks"].as_u64().unwrap();
    let stored = s3.list(&bucket);
    let is_chunk = |key: &&String| key.starts_with("models/chunks/");
    assert_eq!(stored.iter().filter(is_chunk).count() as u64, chunks);
    let gone = registry.json(&["registry", "gc"]);
    assert_eq!(gone["swept_chunks"], 0);

    // Another deployment is kept out: its collections would take these chunks for garbage.
    let other = tempfile::tempdir().unwrap();
    let refused = Ran::of(
        Command::new(program("espalier-coordinator"))
            .args([
                "--role",
                "registry",
                "--listen",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(other.path())
            .args(args)
            .envs(settings),
    );
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains(&url), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("another deployment"),
        "{}",
        refused.stderr
    );
}

#[test]
fn two_coordinators_share_a_bucket_and_no_folder() {
    let (Some(s3), Some(etcd)) = (S3::shared(), Etcd::start(1, &[])) else {
        return;
    };
    let url = format!("s3://{}/models", s3.bucket());
    let store = etcd.url();
    let args = ["--store", &store, "--blobs", &url];
    let mut first = Registry::launched(&args, &s3.settings());
    let second = Registry::launched(&args, &s3.settings());
    let model = first.model("model", 4, 0.8);
    // Whoever leads takes it.
    second.json(&["checkpoint", "push", text(&model), "m:best"]);
    first.kill();
    second.ready();
    second.json(&["checkpoint", "verify", "m:best", text(&model)]);
    let pulled = second.dir.path().join("pulled");
    second.json(&["checkpoint", "pull", "m:best", text(&pulled)]);
    assert_eq!(second.json(&["registry", "fsck"]), json!([]));
    // One with another bucket is not let in.
    let other = format!("s3://{}/models", s3.bucket());
    let dir = tempfile::tempdir().unwrap();
    let refused = Ran::of(
        Command::new(program("espalier-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1"])
            .args(["--store", &store, "--blobs", &other, "--data-dir"])
            .arg(dir.path())
            .envs(s3.settings()),
    );
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("--blobs"), "{}", refused.stderr);
}

#[test]
fn a_mirror_serves_what_it_knows_while_its_registry_is_away() {
    let mut registry = Registry::start();
    let model = registry.model("model", 4, 0.8);
    registry.json(&["checkpoint", "push", text(&model), "m:best"]);
    let endpoint = registry.endpoint();
    let mirror = Registry::with(&["--mirror-of", &endpoint, "--mirror-fresh-s", "0"], &[]);
    let pull = |name: &str| {
        let dir = mirror.dir.path().join(name);
        mirror.run(&["checkpoint", "pull", "m:best", text(&dir)])
    };
    let first = pull("first");
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(!first.stderr.contains("warning"), "{}", first.stderr);
    let refused = mirror.run(&["checkpoint", "push", text(&model), "m:other"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains(&endpoint), "{}", refused.stderr);

    registry.kill();
    let second = pull("second");
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert_eq!(first.stdout, second.stdout);
    assert!(
        second.stderr.contains("warning: the mirror cannot reach"),
        "{}",
        second.stderr
    );
    assert!(
        mirror.log().contains("upstream is away"),
        "{}",
        mirror.log()
    );
    assert_eq!(
        fs::read(mirror.dir.path().join("first/model.safetensors")).unwrap(),
        fs::read(mirror.dir.path().join("second/model.safetensors")).unwrap()
    );
}

/// MB that a registry may have had at most: its base, the batches that have a place, and what a debug build and
/// the allocator add. Without places the pulls of the test take three times as much.
const MOST_MEMORY: u64 = 256;

#[test]
fn memory_does_not_grow_with_the_number_of_pulls_at_once() {
    const PULLS: usize = 48;
    let registry = Registry::start();
    let dir = registry.dir.path().join("large");
    fs::create_dir(&dir).unwrap();
    // It has no pattern, so it is stored and sent as it is.
    let mut bytes = vec![0; 16 << 20];
    rng(7, Stream::Shuffle, 0, 0).fill(&mut bytes[..]);
    let shape = vec![bytes.len()];
    let view = TensorView::new(Dtype::U8, shape, &bytes).unwrap();
    let file = safetensors::serialize([("weights", view)], None).unwrap();
    fs::write(dir.join("model.safetensors"), file).unwrap();
    registry.json(&["checkpoint", "push", text(&dir), "large:latest"]);

    let pull = |number: usize| {
        let target = registry.dir.path().join(format!("pulled-{number}"));
        let pulled = registry.run(&["checkpoint", "pull", "large:latest", text(&target)]);
        assert_eq!(pulled.code, 0, "{}", pulled.stderr);
        fs::remove_dir_all(target).unwrap();
    };
    std::thread::scope(|scope| {
        for number in 0..PULLS {
            let pull = &pull;
            scope.spawn(move || pull(number));
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", registry.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let peak = peak.expect("in KiB") * 1024 / 1_000_000;
    println!("peak memory of the registry: {peak} MB");
    assert!(peak < MOST_MEMORY, "{peak} MB");
}
