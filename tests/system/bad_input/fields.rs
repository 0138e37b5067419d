//! Job files that are refused when they are submitted, by the command and by the coordinator.

use espalier_proto::v1::SubmitJobRequest;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_tests::{Cluster, TinyJob};
use tonic::Code;

/// What is replaced by what, and what the refusal names.
const CASES: &[(&str, &str, &str)] = &[
    (
        "name = \"tiny\"\n\n[model]",
        "name = \"Bad Name\"\n\n[model]",
        "name",
    ),
    ("name = \"tiny\"\n\n[model]", "[model]", "name"),
    ("image_size = 28", "image_size = 30", "model.patch_size"),
    ("patch_size = 7", "patch_size = 0", "model.patch_size"),
    ("channels = 1", "channels = -1", "model.channels"),
    ("classes = 10", "classes = 0", "model.classes"),
    ("classes = 10", "classes = \"ten\"", "model.classes"),
    ("width = 32", "width = 33", "model"),
    ("heads = 2", "heds = 2", "model.heds"),
    ("ffn = 64", "ffn = 65", "model.ffn"),
    ("depth = 2", "depth = 0", "model.depth"),
    ("format = \"idx\"", "format = \"tar\"", "data.format"),
    ("mean = [0.286]", "mean = []", "data.mean"),
    ("std = [0.353]", "std = [0.0]", "data.std"),
    ("std = [0.353]", "std = [0.1, 0.2]", "data.std"),
    ("pad = 2", "pad = -2", "data.augment.pad"),
    ("target = 0.6", "target = 1.5", "compress.target"),
    ("target = 0.6", "target = 0.0", "compress.target"),
    (
        "static_target = 0.8",
        "static_target = 0.3",
        "compress.static_target",
    ),
    (
        "search = { steps = 20 }",
        "search = { steps = 20, epochs = 1 }",
        "compress.search",
    ),
    ("input = \"mean\"", "input = \"max\"", "compress.gate.input"),
    ("weight = 0.7", "weight = -1", "compress.grouping"),
    ("{ uniform = 1 }", "{ uniform = 0 }", "compress.grouping"),
    ("global_batch = 64", "global_batch = 65", "train"),
    ("micro_batch = 16", "micro_batch = 0", "train.micro_batch"),
    ("lr = 2e-3", "lr = -1.0", "train.optimizer.lr"),
    ("lr = 2e-3", "lrr = 2e-3", "train.optimizer.lrr"),
    ("ema_decay = 0.9", "ema_decay = 1.5", "train.ema_decay"),
    (
        "{ min = 1, max = 1 }",
        "{ min = 2, max = 1 }",
        "resources.workers",
    ),
    ("every = 10", "every = 0", "publish.every"),
];

#[test]
fn the_command_names_every_wrong_field() {
    let cluster = Cluster::start(0);
    let good = TinyJob::new(&cluster.data()).toml();
    for (from, to, field) in CASES {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from:?} is not in the job file");
        let ran = cluster.try_submit(&bad);
        assert_eq!(ran.code, 2, "{to}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(field),
            "{to}: {field} is not in\n{}",
            ran.stderr
        );
    }
    let ran = cluster.try_submit("name = \"cut");
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(cluster.cli(&["job", "list", "-o", "json"]).stdout.trim() == "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_trusts_no_client() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(0))
        .await
        .unwrap();
    let good = TinyJob::new(&cluster.data()).toml();
    let mut client = JobServiceClient::connect(cluster.endpoint()).await.unwrap();
    for (index, (from, to, _)) in CASES.iter().enumerate() {
        let request = SubmitJobRequest {
            request_id: format!("case-{index}"),
            spec_toml: good.replacen(from, to, 1),
        };
        let refused = client.submit_job(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{to}: {refused}");
    }
    let relative = good.replacen(&cluster.data().display().to_string(), "images", 1);
    for (request_id, spec_toml) in [("", good.as_str()), ("relative", relative.as_str())] {
        let request = SubmitJobRequest {
            request_id: request_id.to_owned(),
            spec_toml: spec_toml.to_owned(),
        };
        let refused = client.submit_job(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}
