//! `espalier worker ...`

use std::time::Duration;

use espalier_proto::v1::{
    DeviceKind, DrainWorkerRequest, ListWorkersRequest, ResumeWorkerRequest, Standing, Worker,
};
use serde_json::json;

use crate::args::{Global, Output, WorkerCommand};
use crate::exit::Failure;
use crate::output::{Listing, time};
use crate::{connect, output};

pub(crate) async fn run(global: &Global, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::List => list(global).await,
        WorkerCommand::Drain {
            worker,
            deadline,
            reason,
        } => drain(global, worker, deadline, reason).await,
        WorkerCommand::Resume { worker } => resume(global, worker).await,
    }
}

async fn drain(
    global: &Global,
    worker_id: String,
    deadline: Duration,
    reason: String,
) -> Result<(), Failure> {
    let operation = format!("draining worker {worker_id}");
    let request = DrainWorkerRequest {
        worker_id,
        reason,
        // At once is as good as after a second; 0 would be the coordinator's default.
        deadline_s: u32::try_from(deadline.as_secs().max(1)).unwrap_or(u32::MAX),
    };
    let worker = connect::workers(global)
        .await?
        .drain_worker(connect::unary(request))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .worker;
    show(global, &worker.unwrap_or_default())
}

async fn resume(global: &Global, worker_id: String) -> Result<(), Failure> {
    let operation = format!("resuming worker {worker_id}");
    let worker = connect::workers(global)
        .await?
        .resume_worker(connect::unary(ResumeWorkerRequest { worker_id }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .worker;
    show(global, &worker.unwrap_or_default())
}

fn show(global: &Global, worker: &Worker) -> Result<(), Failure> {
    match global.output {
        Output::Json => output::json(&value(worker)),
        Output::Table => output::text(&format!("{} {}", worker.worker_id, status(worker))),
    }
}

/// Whether it is there, and whether it takes gangs.
fn status(worker: &Worker) -> String {
    let there = if worker.connected {
        "connected"
    } else {
        "lost"
    };
    match standing(worker) {
        "open" => there.to_owned(),
        closed => format!("{there}, {closed}"),
    }
}

fn standing(worker: &Worker) -> &'static str {
    match worker.standing() {
        Standing::Unspecified | Standing::Open => "open",
        Standing::Draining => "draining",
        Standing::Drained => "drained",
        Standing::Excluded => "excluded",
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
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
            "WHY",
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
        status(worker),
        device(worker).to_owned(),
        format!("{}/{}", worker.used, worker.slots),
        worker.rendezvous_host.clone(),
        time(worker.last_seen_time.as_ref()),
        worker.job_ids.join(" "),
        worker.standing_reason.clone(),
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
        "standing": standing(worker),
        "standing_reason": worker.standing_reason,
        "faults": worker.faults,
    })
}
