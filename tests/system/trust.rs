//! Tokens and encryption, by the programs: the command, the Python client, and workers that train.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use espalier_tests::{Cluster, Ran, TinyJob, program, repository};
use serde_json::{Value, json};

/// A registry that encrypts and asks for tokens.
struct Registry {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Of the same name as what it signs it would count as self-signed.
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "authority");
        let ca = authority.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let cert = rcgen::CertificateParams::new(names).unwrap();
        let cert = cert.signed_by(&key, &issuer).unwrap().pem();
        let texts = [("ca", ca), ("cert", cert), ("key", key.serialize_pem())];
        for (name, text) in texts {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new(program("espalier-coordinator"))
            .args(["--role", "registry", "--auth", "required"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args([
                "--data-dir",
                "data",
                "--tls-cert",
                "cert",
                "--tls-key",
                "key",
            ])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { dir, port, process };
        for _ in 0..600 {
            if registry.admin(&["registry", "usage"]).code == 0 {
                return registry;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(registry.file("log")).unwrap());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("espalier"));
        command
            .args(["--endpoint", &format!("https://127.0.0.1:{}", self.port)])
            .args(["--ca", self.file("ca").to_str().unwrap()]);
        command
    }

    /// By whoever may do everything.
    fn admin(&self, args: &[&str]) -> Ran {
        let file = self.file("data/admin-token");
        Ran::of(self.command().arg("--token-file").arg(file).args(args))
    }

    /// By whoever has the token.
    fn run(&self, token: &str, args: &[&str]) -> Ran {
        Ran::of(self.command().args(args).env("ESPALIER_TOKEN", token))
    }

    /// Makes a token.
    #[track_caller]
    fn token(&self, args: &[&str]) -> String {
        let ran = self.admin(&[&["token", "create"], args].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tokens_are_made_used_and_revoked_by_command_and_serve_python() {
    let registry = Registry::start();
    let model = registry.file("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("weights"), [7; 300_000]).unwrap();
    fs::write(model.join("report.json"), "{}").unwrap();
    let model = model.to_str().unwrap();

    let nobody = Ran::of(registry.command().args(["checkpoint", "list"]));
    assert_eq!(nobody.code, 4, "{}", nobody.stderr);
    assert!(
        nobody.stderr.contains("ESPALIER_TOKEN"),
        "{}",
        nobody.stderr
    );
    let writer = registry.token(&["--name", "ci", "--scope", "write:m", "--expires", "1h"]);
    let pushed = registry.run(
        &writer,
        &[
            "checkpoint",
            "push",
            model,
            "m:best",
            "--label",
            "team=vision",
        ],
    );
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let other = registry.run(&writer, &["checkpoint", "push", model, "n"]);
    assert_eq!(other.code, 4, "{}", other.stderr);
    assert!(other.stderr.contains("write:n"), "{}", other.stderr);

    let reader = registry.token(&["--name", "python", "--scope", "read:m"]);
    let ran = Ran::of(
        Command::new(repository().join(".cache/python/bin/python"))
            .arg(repository().join("python/tests/registry.py"))
            .args([&format!("127.0.0.1:{}", registry.port), model])
            .args([registry.file("ca").to_str().unwrap(), &reader]),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    let listed = registry.admin(&["token", "list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let names: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["name"])
        .collect();
    assert_eq!(names, ["ci", "python"]);
    assert_eq!(listed[0]["scopes"], json!(["write:m"]));
    assert_eq!(registry.admin(&["token", "revoke", "ci"]).code, 0);
    assert_eq!(registry.run(&writer, &["checkpoint", "list"]).code, 4);
    let wrong = registry.admin(&["token", "create", "--name", "x", "--scope", "all"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

#[test]
fn a_guarded_cluster_trains_with_tokens_that_allow_no_more_than_that() {
    let cluster = Cluster::start_guarded(&["jobs:*", "read:*"], 1);
    let job = TinyJob::new(&cluster.data());
    let job_id = cluster.submit(&job.toml());
    cluster.succeeded(&job_id);
    cluster.pull("tiny:latest", "pulled");
    let refused = cluster.cli(&["registry", "gc"]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let log = fs::read_to_string(cluster.dir().join("coordinator/audit.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let by = |who: &str, method: &str| {
        lines
            .iter()
            .filter(|l| l["who"] == who && l["method"] == method && l["outcome"] == "Ok")
            .count()
    };
    assert_eq!(by("user", "JobService/SubmitJob"), 1);
    assert!(
        by("worker-0", "RegistryService/PublishCheckpoint") >= 1,
        "{job_id}: {log}"
    );
    assert!(by("worker-0", "WorkerService/Session") >= 1, "{log}");
}
