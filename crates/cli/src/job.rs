//! `espalier job ...`

mod describe;
mod logs;
mod submit;

use espalier_proto::v1::{
    CancelJobRequest, Job, JobState, ListJobsRequest, PauseJobRequest, ResumeJobRequest,
};
use serde_json::{Value, json};

use crate::args::{Global, JobCommand};
use crate::connect;
use crate::exit::Failure;
use crate::follow::{self, Show};
use crate::output::{self, Listing, time};

pub(crate) async fn run(global: &Global, command: JobCommand) -> Result<(), Failure> {
    match command {
        JobCommand::Submit(args) => submit::run(global, args).await,
        JobCommand::List { limit } => list(global, limit).await,
        JobCommand::Describe { job } => describe::run(global, job).await,
        JobCommand::Logs { job, follow } => logs::run(global, job, follow).await,
        JobCommand::Cancel { job, reason } => cancel(global, job, reason).await,
        JobCommand::Pause { job, reason } => pause(global, job, reason).await,
        JobCommand::Resume { job } => resume(global, job).await,
        JobCommand::Wait { job, timeout } => {
            let ended = follow::until_end(global, &job, Show::Nothing);
            match timeout {
                None => ended.await,
                Some(limit) => tokio::time::timeout(limit, ended)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Failure::TimedOut(format!(
                            "job {job} has not ended after {} s",
                            limit.as_secs()
                        )))
                    }),
            }
        }
        JobCommand::Follow { job } => follow::until_end(global, &job, Show::Progress).await,
    }
}

async fn list(global: &Global, limit: u32) -> Result<(), Failure> {
    let mut client = connect::jobs(global).await?;
    let mut jobs: Vec<Job> = Vec::new();
    let mut page_token = String::new();
    while jobs.len() < limit as usize {
        let request = ListJobsRequest {
            page_size: limit - jobs.len() as u32,
            page_token,
        };
        let page = client
            .list_jobs(connect::unary(request))
            .await
            .map_err(Failure::rpc("listing the jobs"))?
            .into_inner();
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Listing {
        header: vec!["JOB", "NAME", "STATE", "STEP", "CREATED", "REASON"],
        rows: jobs.iter().map(row).collect(),
        json: jobs.iter().map(value).collect(),
    }
    .print(global.output)
}

async fn cancel(global: &Global, job_id: String, reason: String) -> Result<(), Failure> {
    let operation = format!("cancelling job {job_id}");
    let job = connect::jobs(global)
        .await?
        .cancel_job(connect::unary(CancelJobRequest { job_id, reason }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .job;
    show(global, &job.unwrap_or_default())
}

async fn pause(global: &Global, job_id: String, reason: String) -> Result<(), Failure> {
    let operation = format!("pausing job {job_id}");
    let job = connect::jobs(global)
        .await?
        .pause_job(connect::unary(PauseJobRequest { job_id, reason }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .job;
    show(global, &job.unwrap_or_default())
}

async fn resume(global: &Global, job_id: String) -> Result<(), Failure> {
    let operation = format!("resuming job {job_id}");
    let job = connect::jobs(global)
        .await?
        .resume_job(connect::unary(ResumeJobRequest { job_id }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner()
        .job;
    show(global, &job.unwrap_or_default())
}

/// A job after something was asked of it.
fn show(global: &Global, job: &Job) -> Result<(), Failure> {
    match global.output {
        crate::args::Output::Json => output::json(&value(job)),
        crate::args::Output::Table => output::text(&format!("{} {}", job.job_id, state(job))),
    }
}

/// The state's name without its prefix: `RUNNING`.
pub(crate) fn state_name(state: JobState) -> &'static str {
    state.as_str_name().trim_start_matches("JOB_STATE_")
}

fn state(job: &Job) -> &'static str {
    state_name(job.state())
}

fn row(job: &Job) -> Vec<String> {
    vec![
        job.job_id.clone(),
        job.name.clone(),
        state(job).to_owned(),
        format!("{}/{}", job.committed_step, job.total_steps),
        time(job.create_time.as_ref()),
        job.reason.clone(),
    ]
}

fn value(job: &Job) -> Value {
    json!({
        "job_id": job.job_id,
        "name": job.name,
        "state": state(job),
        "reason": job.reason,
        "create_time": time(job.create_time.as_ref()),
        "end_time": time(job.end_time.as_ref()),
        "generation": job.generation,
        "committed_step": job.committed_step,
        "total_steps": job.total_steps,
        "worker_ids": job.worker_ids,
        "checkpoint_digest": job.checkpoint_digest,
        "published_digest": job.published_digest,
        "restarts": job.restarts,
        "recoveries": job.recoveries,
        "last_recovery": job.last_recovery,
        "queue": job.queue,
        "priority": job.priority,
        "spec_toml": job.spec_toml,
    })
}
