//! Follows a job's feed to its end, over restarts of the coordinator.

use std::time::Duration;

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{GetJobRequest, Job, JobState, WatchJobRequest};
use tonic::{Code, Request};

use crate::args::Global;
use crate::connect::{self, Leader};
use crate::exit::Failure;
use crate::job::state_name;
use crate::progress::Progress;

/// What to show on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// A progress bar, and a line for each event.
    Progress,
    /// Nothing.
    Nothing,
}

/// How long a lost coordinator is waited for before giving up.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    failures: u32,
}

impl Patience {
    /// With the pause of [`Self::wait_or`], about five minutes.
    const MOST_FAILURES: u32 = 150;
    const PAUSE: Duration = Duration::from_secs(2);

    /// No try has failed since the last progress.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `failure` itself, when another try cannot help or too many failed in a row.
    pub(crate) async fn wait_or(&mut self, failure: Failure) -> Result<(), Failure> {
        let lost = match &failure {
            Failure::Rpc { status, .. } => matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Internal | Code::DeadlineExceeded
            ),
            Failure::Other(_) => self.failures > 0,
            _ => false,
        };
        self.failures += 1;
        if !lost || self.failures > Self::MOST_FAILURES {
            return Err(failure);
        }
        tokio::time::sleep(Self::PAUSE).await;
        Ok(())
    }
}

/// Returns when the job has succeeded.
///
/// # Errors
/// [`Failure::JobNotSuccessful`] when it ended otherwise; [`Failure::Rpc`] when there is no such job.
pub(crate) async fn until_end(global: &Global, job_id: &str, show: Show) -> Result<(), Failure> {
    let mut progress = (show == Show::Progress).then(Progress::new);
    let mut cursor = 0;
    let mut patience = Patience::default();
    let job = loop {
        let seen = cursor;
        match watch(global, job_id, &mut cursor, progress.as_mut()).await {
            Ok(job) => break job,
            Err(failure) => {
                if cursor > seen {
                    patience = Patience::default();
                }
                if let Some(progress) = &progress
                    && patience.is_fresh()
                {
                    progress.note("connection to the coordinator lost, trying again");
                }
                patience.wait_or(failure).await?;
            }
        }
    };
    if let Some(progress) = progress {
        progress.finish();
    }
    match job.state() {
        JobState::Succeeded => Ok(()),
        state => Err(Failure::JobNotSuccessful(format!(
            "job {job_id} ended {}: {}",
            state_name(state),
            job.reason
        ))),
    }
}

/// Reads the feed until it ends, which it does after the terminal event; returns the job then.
async fn watch(
    global: &Global,
    job_id: &str,
    cursor: &mut u64,
    mut progress: Option<&mut Progress>,
) -> Result<Job, Failure> {
    let mut client = connect::jobs(global).await?;
    loop {
        let operation = || format!("watching job {job_id}");
        let request = WatchJobRequest {
            job_id: job_id.to_owned(),
            after_cursor: *cursor,
        };
        let mut feed = client
            .watch_job(Request::new(request))
            .await
            .map_err(Failure::rpc(operation()))?
            .into_inner();
        while let Some(item) = feed.message().await.map_err(Failure::rpc(operation()))? {
            *cursor = item.cursor;
            match (item.entry, progress.as_deref_mut()) {
                (Some(Entry::Event(event)), Some(progress)) => progress.event(&event),
                (Some(Entry::Metrics(metrics)), Some(progress)) => progress.metrics(&metrics),
                _ => {}
            }
        }
        let job = current(&mut client, job_id).await?;
        if is_terminal(job.state()) {
            return Ok(job);
        }
        // A server that shuts down may end the stream early: ask again, without haste.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn current(client: &mut JobServiceClient<Leader>, job_id: &str) -> Result<Job, Failure> {
    let request = GetJobRequest {
        job_id: job_id.to_owned(),
    };
    let answer = client
        .get_job(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("looking up job {job_id}")))?;
    Ok(answer.into_inner().job.unwrap_or_default())
}

fn is_terminal(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled
    )
}
