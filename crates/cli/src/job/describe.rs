//! `espalier job describe`.

use anyhow::Context as _;
use espalier_proto::v1::{GetJobRequest, Job};

use crate::args::{Global, Output};
use crate::exit::Failure;
use crate::output::time;
use crate::{connect, output};

pub(super) async fn run(global: &Global, job_id: String) -> Result<(), Failure> {
    let operation = format!("looking up job {job_id}");
    let job = connect::jobs(global)
        .await?
        .get_job(connect::unary(GetJobRequest { job_id }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .job
        .context("the coordinator's answer holds no job")?;
    match global.output {
        Output::Json => output::json(&super::value(&job)),
        Output::Table => output::text(&sheet(&job)),
    }
}

/// Empty when there was none.
fn recoveries(job: &Job) -> String {
    match job.recoveries {
        0 => String::new(),
        count => format!("{count} in memory"),
    }
}

fn sheet(job: &Job) -> String {
    let restarts: Vec<String> = job
        .restarts
        .iter()
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    let rows = [
        ("job", job.job_id.clone()),
        ("name", job.name.clone()),
        ("state", super::state(job).to_owned()),
        ("reason", job.reason.clone()),
        ("queue", format!("{}, priority {}", job.queue, job.priority)),
        ("created", time(job.create_time.as_ref())),
        ("ended", time(job.end_time.as_ref())),
        (
            "durable step",
            format!("{} of {}", job.committed_step, job.total_steps),
        ),
        ("generation", job.generation.to_string()),
        ("workers", job.worker_ids.join(" ")),
        ("restarts", restarts.join(", ")),
        ("recoveries", recoveries(job)),
        ("last recovery", job.last_recovery.clone()),
        ("training checkpoint", job.checkpoint_digest.clone()),
        ("published", job.published_digest.clone()),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    format!(
        "{}\n\n{}",
        output::table(&["FIELD", "VALUE"], &rows),
        job.spec_toml.trim_end()
    )
}
