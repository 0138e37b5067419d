use std::sync::Arc;
use std::time::Duration;

use espalier_job::Job;
use espalier_proto::v1::job_service_server::JobService;
use espalier_proto::v1::{
    CancelJobRequest, CancelJobResponse, DeleteQueueRequest, DeleteQueueResponse, GetJobRequest,
    GetJobResponse, ListJobsRequest, ListJobsResponse, ListQueuesRequest, ListQueuesResponse,
    PauseJobRequest, PauseJobResponse, ResumeJobRequest, ResumeJobResponse, SetQueueRequest,
    SetQueueResponse, StreamLogsRequest, StreamLogsResponse, SubmitJobRequest, SubmitJobResponse,
    WatchJobRequest, WatchJobResponse,
};
use espalier_store::{Range, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::follow::{self, Sink};
use super::{JobsError, pages, queues};
use crate::control::Handle;
use crate::error::Error;
use crate::job::{JobId, Snapshot};
use crate::keys;
use crate::role::Role;

/// Longest time for a unary call.
const DEADLINE: Duration = Duration::from_secs(10);

/// Streams open at a time.
const STREAMS: usize = 1024;

/// Items of a stream that wait for the client.
const BUFFER: usize = 64;

/// Most jobs read for a page before it is cut short: a job file has up to 256 KiB, a message 2 MiB.
const PAGE_BYTES: usize = 1 << 20;

/// Longest reason of a cancel, in bytes.
const MAX_REASON: usize = 1024;

/// `JobService`. What only reads is answered by every coordinator, from the store they share.
#[derive(Clone)]
pub(crate) struct Jobs {
    store: Store,
    role: Role,
    streams: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Jobs {
    pub(crate) fn new(
        store: Store,
        role: Role,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            role,
            streams: Arc::new(Semaphore::new(STREAMS)),
            tasks,
            stop,
        }
    }

    /// `read` is the job of the request's file, where it was parsed already.
    async fn submit(
        &self,
        request: SubmitJobRequest,
        read: Option<Arc<Job>>,
    ) -> Result<SubmitJobResponse, JobsError> {
        let id = &request.request_id;
        if !(1..=128).contains(&id.len())
            || !id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(JobsError::argument(
                "request_id",
                "must be 1 to 128 letters, digits, `-`, `_` or `.`, such as a UUID",
            ));
        }
        let spec = match read {
            Some(spec) => spec,
            None => Job::parse(&request.spec_toml)
                .map(Arc::new)
                .map_err(|problems| JobsError::Spec { problems })?,
        };
        let relative = spec.relative_paths();
        if !relative.is_empty() {
            return Err(JobsError::RelativePaths(relative));
        }
        let SubmitJobRequest {
            request_id,
            spec_toml,
        } = request;
        let submit =
            |control: Handle| async move { control.submit(request_id, spec, spec_toml).await };
        let job = self.role.ask(submit).await?;
        Ok(SubmitJobResponse {
            job: Some(job.wire()),
        })
    }

    async fn list(&self, request: ListJobsRequest) -> Result<ListJobsResponse, JobsError> {
        let after = pages::parse(&request.page_token).map_err(|()| {
            JobsError::argument("page_token", "is not a next_page_token of this list")
        })?;
        let mut range = Range::prefix(keys::JOBS)
            .reverse()
            .limit(pages::size(request.page_size));
        if let Some(job) = after {
            range = range.after(keys::job(&job));
        }
        let page = self.store.range(range).await.map_err(Error::from)?;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for entry in &page.entries {
            bytes += entry.value.len();
            if bytes > PAGE_BYTES && !jobs.is_empty() {
                break;
            }
            jobs.push(Snapshot::with_gang(&self.store, entry).await?);
        }
        let more = page.more || jobs.len() < page.entries.len();
        let next_page_token = match jobs.last() {
            Some(last) if more => pages::token(&last.record.job_id),
            _ => String::new(),
        };
        Ok(ListJobsResponse {
            jobs: jobs.iter().map(Snapshot::wire).collect(),
            next_page_token,
        })
    }

    async fn load(&self, job_id: &str) -> Result<Snapshot, JobsError> {
        if job_id.is_empty() {
            return Err(JobsError::argument("job_id", "is not set"));
        }
        let id = JobId::new(job_id);
        let job = Snapshot::load(&self.store, &id).await?;
        Ok(job.ok_or(Error::NoSuchJob(id))?)
    }

    /// Runs a stream's task, which ends with the stream or with the coordinator.
    fn stream<T, F>(
        &self,
        task: impl FnOnce(Sink<T>) -> F,
    ) -> Result<ReceiverStream<Result<T, Status>>, JobsError>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| JobsError::TooManyStreams(STREAMS))?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let (task, stop) = (task(sender.clone()), self.stop.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            let ended = tokio::select! {
                ended = task => ended,
                () = stop.cancelled() => Err(Error::Stopping),
            };
            if let Err(error) = ended {
                // A full buffer means a client that does not read; it sees the stream's end.
                let _ = sender.try_send(Err(error.into()));
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn submit_job(
        &self,
        mut request: Request<SubmitJobRequest>,
    ) -> Result<Response<SubmitJobResponse>, Status> {
        let read = request.extensions_mut().remove::<Arc<Job>>();
        bounded(self.submit(request.into_inner(), read)).await
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        bounded(async {
            let job = self.load(&request.get_ref().job_id).await?;
            Ok(GetJobResponse {
                job: Some(job.wire()),
            })
        })
        .await
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        bounded(self.list(request.into_inner())).await
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let CancelJobRequest { job_id, reason } = request.into_inner();
        bounded(async {
            if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
                let problem = format!("has control characters or more than {MAX_REASON} bytes");
                return Err(JobsError::argument("reason", problem));
            }
            let id = self.load(&job_id).await?.record.job_id;
            let cancel = |control: Handle| async move { control.cancel(id, reason).await };
            let job = self.role.ask(cancel).await?;
            Ok(CancelJobResponse {
                job: Some(job.wire()),
            })
        })
        .await
    }

    async fn pause_job(
        &self,
        request: Request<PauseJobRequest>,
    ) -> Result<Response<PauseJobResponse>, Status> {
        let PauseJobRequest { job_id, reason } = request.into_inner();
        bounded(async {
            let id = self.load(&job_id).await?.record.job_id;
            let pause = |control: Handle| async move { control.pause(id, reason).await };
            let job = self.role.ask(pause).await?;
            Ok(PauseJobResponse {
                job: Some(job.wire()),
            })
        })
        .await
    }

    async fn resume_job(
        &self,
        request: Request<ResumeJobRequest>,
    ) -> Result<Response<ResumeJobResponse>, Status> {
        bounded(async {
            let id = self.load(&request.get_ref().job_id).await?.record.job_id;
            let resume = |control: Handle| async move { control.resume(id).await };
            let job = self.role.ask(resume).await?;
            Ok(ResumeJobResponse {
                job: Some(job.wire()),
            })
        })
        .await
    }

    async fn list_queues(
        &self,
        _: Request<ListQueuesRequest>,
    ) -> Result<Response<ListQueuesResponse>, Status> {
        bounded(async {
            let list = |control: Handle| async move { control.queues().await };
            let queues = self.role.ask(list).await?;
            Ok(ListQueuesResponse { queues })
        })
        .await
    }

    async fn set_queue(
        &self,
        request: Request<SetQueueRequest>,
    ) -> Result<Response<SetQueueResponse>, Status> {
        bounded(async {
            let (name, queue) = queues::read(request.into_inner())?;
            let set = |control: Handle| async move { control.set_queue(name, queue).await };
            let queue = self.role.ask(set).await?;
            Ok(SetQueueResponse { queue: Some(queue) })
        })
        .await
    }

    async fn delete_queue(
        &self,
        request: Request<DeleteQueueRequest>,
    ) -> Result<Response<DeleteQueueResponse>, Status> {
        let name = request.into_inner().name;
        bounded(async {
            let delete = |control: Handle| async move { control.delete_queue(name).await };
            self.role.ask(delete).await?;
            Ok(DeleteQueueResponse {})
        })
        .await
    }

    type WatchJobStream = ReceiverStream<Result<WatchJobResponse, Status>>;

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let WatchJobRequest {
            job_id,
            after_cursor,
        } = request.into_inner();
        bounded(async {
            let id = self.load(&job_id).await?.record.job_id;
            let store = self.store.clone();
            self.stream(|sink| follow::feed(store, id, after_cursor, sink))
        })
        .await
    }

    type StreamLogsStream = ReceiverStream<Result<StreamLogsResponse, Status>>;

    async fn stream_logs(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let StreamLogsRequest {
            job_id,
            after_cursor,
            follow,
        } = request.into_inner();
        bounded(async {
            let id = self.load(&job_id).await?.record.job_id;
            let store = self.store.clone();
            self.stream(|sink| follow::log(store, id, after_cursor, follow, sink))
        })
        .await
    }
}

/// Bounds a call, and turns what it gives into what tonic takes.
async fn bounded<T>(
    call: impl Future<Output = Result<T, JobsError>>,
) -> Result<Response<T>, Status> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(Response::new(value)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::Busy.into()),
    }
}
