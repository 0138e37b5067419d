use std::time::Duration;

use espalier_proto::v1::worker_service_server::WorkerService;
use espalier_proto::v1::{
    DrainWorkerRequest, DrainWorkerResponse, ListWorkersRequest, ListWorkersResponse,
    ResumeWorkerRequest, ResumeWorkerResponse, SessionRequest, SessionResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Admitted;
use crate::control::Handle;
use crate::role::Role;
use crate::sessions::OUTGOING;
use crate::standing::DRAIN;

/// `WorkerService`.
#[derive(Clone)]
pub(crate) struct Workers {
    role: Role,
    tasks: TaskTracker,
}

impl Workers {
    pub(crate) fn new(role: Role, tasks: TaskTracker) -> Self {
        Self { role, tasks }
    }
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let admitted = request.extensions().get::<Admitted>().cloned();
        let admitted = admitted.ok_or_else(|| Status::internal("the call passed no guard"))?;
        let sessions = self.role.leading().await?.sessions;
        let (sender, receiver) = mpsc::channel(OUTGOING);
        self.tasks
            .spawn(sessions.serve(request.into_inner(), admitted, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let workers = self
            .role
            .ask(|control| async move { control.workers().await })
            .await?;
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let DrainWorkerRequest {
            worker_id,
            reason,
            deadline_s,
        } = request.into_inner();
        let within = match deadline_s {
            0 => DRAIN,
            seconds => Duration::from_secs(seconds.into()),
        };
        let drain = |control: Handle| async move { control.drain(worker_id, reason, within).await };
        let worker = self.role.ask(drain).await?;
        Ok(Response::new(DrainWorkerResponse {
            worker: Some(worker),
        }))
    }

    async fn resume_worker(
        &self,
        request: Request<ResumeWorkerRequest>,
    ) -> Result<Response<ResumeWorkerResponse>, Status> {
        let id = request.into_inner().worker_id;
        let open = |control: Handle| async move { control.open(id).await };
        let worker = self.role.ask(open).await?;
        Ok(Response::new(ResumeWorkerResponse {
            worker: Some(worker),
        }))
    }
}
