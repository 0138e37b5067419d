//! Encrypted connections, with real certificates.

use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_auth::{Access, AccessArgs};
use espalier_coordinator::{AuthOptions, Options, TlsFiles};
use espalier_proto::v1::GetUsageRequest;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use serde_json::Value;

use crate::bench::{Bench, PATIENCE};

/// An authority that signs certificates.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// Writes a certificate of this machine and its key into a folder.
    fn sign(&self, dir: &Path, name: &str) -> [PathBuf; 2] {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let cert = leaf.signed_by(&key, &self.issuer).unwrap().pem();
        let [cert_file, key_file] =
            ["cert", "key"].map(|kind| dir.join(format!("{name}-{kind}.pem")));
        std::fs::write(&cert_file, cert).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        [cert_file, key_file]
    }

    fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let file = dir.join(format!("{name}-ca.pem"));
        std::fs::write(&file, &self.pem).unwrap();
        file
    }
}

fn options(cert: &[PathBuf; 2], client_ca: Option<PathBuf>) -> Options {
    Options {
        auth: AuthOptions {
            tls: Some(TlsFiles {
                cert: cert[0].clone(),
                key: cert[1].clone(),
                client_ca,
                look_every: Duration::from_millis(50),
            }),
            ..AuthOptions::default()
        },
        ..Options::default()
    }
}

fn access(ca: &Path, cert: Option<&[PathBuf; 2]>) -> Access {
    Access::new(AccessArgs {
        ca: Some(ca.to_owned()),
        cert: cert.map(|[cert, _]| cert.clone()),
        key: cert.map(|[_, key]| key.clone()),
        ..AccessArgs::default()
    })
    .unwrap()
}

async fn answers(bench: &Bench, access: &Access) -> bool {
    let endpoint = access.endpoint(bench.endpoint()).unwrap();
    let Ok(channel) = endpoint.connect().await else {
        return false;
    };
    let mut rpc = RegistryServiceClient::new(channel);
    rpc.get_usage(GetUsageRequest {}).await.is_ok()
}

#[tokio::test]
async fn who_is_not_trusted_is_not_spoken_to() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, other_ca) = (
        authority.write(dir.path(), "a"),
        other.write(dir.path(), "b"),
    );
    let server = authority.sign(dir.path(), "server");
    let client = authority.sign(dir.path(), "client");
    let foreign = other.sign(dir.path(), "foreign");

    let bench = Bench::with(options(&server, None)).await;
    assert!(answers(&bench, &access(&ca, None)).await);
    assert!(!answers(&bench, &access(&other_ca, None)).await);
    let plain = bench.endpoint().replace("https", "http");
    let channel = Access::default().endpoint(&plain).unwrap().connect_lazy();
    let mut rpc = RegistryServiceClient::new(channel);
    rpc.get_usage(GetUsageRequest {}).await.unwrap_err();

    let bench = Bench::with(options(&server, Some(ca.clone()))).await;
    assert!(answers(&bench, &access(&ca, Some(&client))).await);
    assert!(!answers(&bench, &access(&ca, None)).await);
    assert!(!answers(&bench, &access(&ca, Some(&foreign))).await);
}

#[tokio::test]
async fn checkpoints_move_encrypted_and_the_log_names_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = authority.write(dir.path(), "a");
    let server = authority.sign(dir.path(), "server");
    let client = authority.sign(dir.path(), "client");
    let bench = Bench::with(options(&server, Some(ca.clone()))).await;
    let folder = dir.path().join("checkpoint");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("weights"), vec![7; 9 << 20]).unwrap();
    let access = access(&ca, Some(&client));
    let mover = espalier_registry::Client::connect_as(bench.endpoint(), &access);
    let mover = mover.await.unwrap();
    let request = espalier_registry::PublishRequest::new("demo", espalier_registry::Kind::Model);
    let digest = mover.push(&folder, &request, |_, _| {}).await.unwrap();
    let target = dir.path().join("pulled");
    mover.pull(&digest, &target, |_, _| {}).await.unwrap();
    assert_eq!(
        std::fs::read(folder.join("weights")).unwrap(),
        std::fs::read(target.join("weights")).unwrap()
    );
    let text = std::fs::read_to_string(bench.data_dir().join("audit.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(
        last["certificate"].as_str().unwrap().starts_with("sha256:"),
        "{last}"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_damaged_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let (old_ca, new_ca) = (old.write(dir.path(), "a"), new.write(dir.path(), "b"));
    let server = old.sign(dir.path(), "server");
    let bench = Bench::with(options(&server, None)).await;
    assert!(answers(&bench, &access(&old_ca, None)).await);
    std::fs::write(&server[0], "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(answers(&bench, &access(&old_ca, None)).await);
    new.sign(dir.path(), "server");
    let taken = async {
        while !answers(&bench, &access(&new_ca, None)).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert!(!answers(&bench, &access(&old_ca, None)).await);
}
