//! `espalier queue ...`

use espalier_proto::v1::{DeleteQueueRequest, ListQueuesRequest, Queue, SetQueueRequest};
use serde_json::json;

use crate::args::{Device, Global, Output, QueueCommand};
use crate::exit::Failure;
use crate::output::Listing;
use crate::{connect, output};

pub(crate) async fn run(global: &Global, command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::List => list(global).await,
        QueueCommand::Set {
            queue,
            weight,
            quota,
        } => {
            // The last one counts.
            let of = |device| quota.iter().rev().find(|(of, _)| *of == device);
            let settings = Queue {
                name: queue,
                weight,
                cpu_quota: of(Device::Cpu).map(|(_, slots)| *slots),
                cuda_quota: of(Device::Cuda).map(|(_, slots)| *slots),
                ..Queue::default()
            };
            set(global, settings).await
        }
        QueueCommand::Delete { queue } => delete(global, queue).await,
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let queues = connect::jobs(global)
        .await?
        .list_queues(connect::unary(ListQueuesRequest {}))
        .await
        .map_err(Failure::rpc("listing the queues"))?
        .into_inner()
        .queues;
    Listing {
        header: vec!["QUEUE", "WEIGHT", "CPU", "CUDA", "WAITING", "RUNNING"],
        rows: queues.iter().map(row).collect(),
        json: queues.iter().map(value).collect(),
    }
    .print(global.output)
}

async fn set(global: &Global, queue: Queue) -> Result<(), Failure> {
    let operation = format!("setting queue {}", queue.name);
    let queue = connect::jobs(global)
        .await?
        .set_queue(connect::unary(SetQueueRequest { queue: Some(queue) }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .queue
        .unwrap_or_default();
    match global.output {
        Output::Json => output::json(&value(&queue)),
        Output::Table => output::text(&queue.name),
    }
}

async fn delete(global: &Global, name: String) -> Result<(), Failure> {
    let operation = format!("deleting queue {name}");
    connect::jobs(global)
        .await?
        .delete_queue(connect::unary(DeleteQueueRequest { name }))
        .await
        .map_err(Failure::rpc(operation))?;
    Ok(())
}

/// Slots in use, of the quota.
fn slots(used: u32, quota: Option<u32>) -> String {
    match quota {
        Some(quota) => format!("{used}/{quota}"),
        None => used.to_string(),
    }
}

fn row(queue: &Queue) -> Vec<String> {
    vec![
        queue.name.clone(),
        queue.weight.to_string(),
        slots(queue.cpu_used, queue.cpu_quota),
        slots(queue.cuda_used, queue.cuda_quota),
        queue.waiting.to_string(),
        queue.running.to_string(),
    ]
}

fn value(queue: &Queue) -> serde_json::Value {
    json!({
        "name": queue.name,
        "weight": queue.weight,
        "cpu_quota": queue.cpu_quota,
        "cuda_quota": queue.cuda_quota,
        "cpu_used": queue.cpu_used,
        "cuda_used": queue.cuda_used,
        "waiting": queue.waiting,
        "running": queue.running,
    })
}
