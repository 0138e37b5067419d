//! `espalier worker list`.

use espalier_proto::v1::{DeviceKind, ListWorkersRequest, Worker};
use serde_json::json;

use crate::args::Global;
use crate::connect;
use crate::exit::Failure;
use crate::output::{Listing, time};

pub(crate) async fn list(global: &Global) -> Result<(), Failure> {
    let workers = connect::workers(global)
        .await?
        .list_workers(connect::unary(ListWorkersRequest {}))
        .await
        .map_err(Failure::rpc("listing the workers"))?
        .into_inner()
        .workers;
    Listing {
        header: vec![
            "WORKER",
            "STATUS",
            "DEVICE",
            "SLOTS",
            "HOST",
            "LAST SEEN",
            "JOBS",
        ],
        rows: workers.iter().map(row).collect(),
        json: workers.iter().map(value).collect(),
    }
    .print(global.output)
}

fn device(worker: &Worker) -> &'static str {
    match worker.device() {
        DeviceKind::Unspecified => "unknown",
        DeviceKind::Cpu => "cpu",
        DeviceKind::Cuda => "cuda",
    }
}

fn row(worker: &Worker) -> Vec<String> {
    vec![
        worker.worker_id.clone(),
        if worker.connected {
            "connected"
        } else {
            "lost"
        }
        .to_owned(),
        device(worker).to_owned(),
        format!("{}/{}", worker.used, worker.slots),
        worker.rendezvous_host.clone(),
        time(worker.last_seen_time.as_ref()),
        worker.job_ids.join(" "),
    ]
}

fn value(worker: &Worker) -> serde_json::Value {
    json!({
        "worker_id": worker.worker_id,
        "connected": worker.connected,
        "device": device(worker),
        "slots": worker.slots,
        "used": worker.used,
        "rendezvous_host": worker.rendezvous_host,
        "version": worker.version,
        "last_seen_time": time(worker.last_seen_time.as_ref()),
        "job_ids": worker.job_ids,
    })
}
