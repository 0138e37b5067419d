//! `espalier job submit`: checks the file here first, then submits it with absolute paths.

use std::path::Path;

use anyhow::Context as _;
use espalier_job::Job;
use espalier_proto::v1::SubmitJobRequest;
use serde_json::json;
use uuid::Uuid;

use crate::args::{Global, Output, SubmitArgs};
use crate::exit::Failure;
use crate::follow::{self, Show};
use crate::{connect, output};

pub(super) async fn run(global: &Global, args: SubmitArgs) -> Result<(), Failure> {
    let request = SubmitJobRequest {
        request_id: args
            .request_id
            .unwrap_or_else(|| Uuid::new_v4().to_string()),
        spec_toml: read(&args.file)?,
    };
    let job = connect::jobs(global)
        .await?
        .submit_job(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("submitting {}", args.file.display())))?
        .into_inner()
        .job
        .context("the coordinator's answer holds no job")?;
    match global.output {
        Output::Json => output::json(&json!({ "job_id": job.job_id }))?,
        Output::Table => output::text(&job.job_id)?,
    }
    if args.follow {
        follow::until_end(global, &job.job_id, Show::Progress).await?;
    }
    Ok(())
}

/// The job file, checked, with its paths made absolute from its own folder.
fn read(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::Usage(format!("job file {}: {e}", file.display())))?;
    let mut job = Job::parse(&text)
        .map_err(|problems| Failure::Usage(format!("job file {}:\n{problems}", file.display())))?;
    let folder = std::path::absolute(file)
        .with_context(|| format!("resolving {}", file.display()))?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    job.absolute_paths(&folder);
    Ok(job.to_toml().context("writing the checked job")?)
}
