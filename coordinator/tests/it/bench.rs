use std::path::Path;
use std::time::Duration;

use espalier_auth::{Access, Bearer};
use espalier_coordinator::{Options, ServeError, run};
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::v1::{
    DeviceKind, GetJobRequest, Halt, Heartbeat, Job, JobEvent, JobState, RankReport, RankState,
    Recruit, Register, RunningGang, SessionRequest, SessionResponse, StartGang, StepCommit,
    SubmitJobRequest, WatchJobRequest, session_response,
};
use espalier_registry::{Alias, Client, ClientError, Expected, Kind, PublishRequest};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longest wait for anything that must happen; only a broken build waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A channel of somebody.
pub(crate) type Caller = InterceptedService<Channel, Bearer>;

/// A coordinator that can be stopped and started again on the same folder.
pub(crate) struct Bench {
    dir: TempDir,
    options: Options,
    endpoint: String,
    /// Who calls.
    pub(crate) access: Access,
    stop: CancellationToken,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let mut bench = Self {
            options: Options {
                data_dir: dir.path().join("data"),
                ..options
            },
            dir,
            endpoint: String::new(),
            access: Access::default(),
            stop: CancellationToken::new(),
            server: None,
        };
        bench.launch().await;
        bench
    }

    async fn launch(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = match self.options.auth.tls {
            Some(_) => "https",
            None => "http",
        };
        self.endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        self.stop = CancellationToken::new();
        let served = run(self.options.clone(), listener, self.stop.clone());
        self.server = Some(tokio::spawn(served));
    }

    /// Stops the coordinator and starts another on its folder, at another port.
    pub(crate) async fn restart(&mut self) {
        self.stop.cancel();
        self.server.take().unwrap().await.unwrap().unwrap();
        self.launch().await;
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = self.access.endpoint(&self.endpoint).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A channel that shows who calls.
    pub(crate) async fn caller(&self) -> Caller {
        InterceptedService::new(self.channel().await, self.access.bearer().unwrap())
    }

    pub(crate) async fn jobs(&self) -> JobServiceClient<Caller> {
        JobServiceClient::new(self.caller().await)
    }

    pub(crate) async fn workers(&self) -> WorkerServiceClient<Caller> {
        WorkerServiceClient::new(self.caller().await)
    }

    pub(crate) async fn submit(&self, request_id: &str, spec: &str) -> Result<Job, Status> {
        let request = SubmitJobRequest {
            request_id: request_id.to_owned(),
            spec_toml: spec.to_owned(),
        };
        let answer = self.jobs().await.submit_job(request).await?;
        Ok(answer.into_inner().job.unwrap())
    }

    pub(crate) async fn job(&self, id: &str) -> Job {
        let request = GetJobRequest {
            job_id: id.to_owned(),
        };
        let answer = self.jobs().await.get_job(request).await.unwrap();
        answer.into_inner().job.unwrap()
    }

    /// Waits until the job is in a state.
    pub(crate) async fn reach(&self, id: &str, state: JobState) -> Job {
        let mut last = None;
        let reached = tokio::time::timeout(PATIENCE, async {
            loop {
                let job = self.job(id).await;
                if job.state() == state {
                    return job;
                }
                last = Some(job);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        reached.unwrap_or_else(|_| panic!("the job did not reach {state:?}: {last:?}"))
    }

    /// All events of a job that has ended, from a cursor on, with their cursors.
    pub(crate) async fn feed(&self, id: &str, after_cursor: u64) -> Vec<(u64, Entry)> {
        let request = WatchJobRequest {
            job_id: id.to_owned(),
            after_cursor,
        };
        let mut stream = self
            .jobs()
            .await
            .watch_job(request)
            .await
            .unwrap()
            .into_inner();
        let mut found = Vec::new();
        let read = async {
            while let Some(entry) = stream.message().await.unwrap() {
                found.push((entry.cursor, entry.entry.unwrap()));
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap();
        found
    }

    /// Pushes a checkpoint as rank 0's agent does.
    pub(crate) async fn push(
        &self,
        job: &str,
        generation: u64,
        step: u64,
        last: bool,
    ) -> Result<String, ClientError> {
        let dir = TempDir::new().unwrap();
        std::fs::write(
            dir.path().join("model.safetensors"),
            format!("{job} {generation} {step}"),
        )
        .unwrap();
        let (name, kind, alias) = if last {
            ("small".to_owned(), Kind::Model, "best")
        } else {
            (format!("job-{job}"), Kind::Training, "latest")
        };
        let mut request = PublishRequest::new(name, kind);
        request.alias = Some(Alias {
            name: alias.to_owned(),
            expected: Expected::Any,
            reason: "test".to_owned(),
        });
        request.commit = Some(StepCommit {
            job_id: job.to_owned(),
            generation,
            step,
            r#final: last,
        });
        let client = Client::connect_as(&self.endpoint, &self.access).await?;
        let digest = client.push(dir.path(), &request, |_, _| {}).await?;
        Ok(digest)
    }
}

/// Events among the entries of a feed.
pub(crate) fn events(feed: &[(u64, Entry)]) -> Vec<&JobEvent> {
    feed.iter()
        .filter_map(|(_, entry)| match entry {
            Entry::Event(event) => Some(event),
            Entry::Metrics(_) => None,
        })
        .collect()
}

/// A worker's session, driven by the test.
pub(crate) struct Worker {
    id: String,
    sender: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
    sequence: u64,
}

impl Worker {
    /// Registers and reads the answer.
    pub(crate) async fn join(
        bench: &Bench,
        id: &str,
        incarnation: &str,
        running: &[(&str, u64)],
    ) -> Self {
        let mut worker = Self::open(bench, id, incarnation, running).await;
        match worker.next().await {
            session_response::Message::Registered(_) => worker,
            other => panic!("registered with {other:?}"),
        }
    }

    pub(crate) async fn open(
        bench: &Bench,
        id: &str,
        incarnation: &str,
        running: &[(&str, u64)],
    ) -> Self {
        let register = Register {
            worker_id: id.to_owned(),
            incarnation: incarnation.to_owned(),
            rendezvous_host: "127.0.0.1".to_owned(),
            device: DeviceKind::Cpu.into(),
            slots: 1,
            version: "test".to_owned(),
            running: running
                .iter()
                .map(|(job, generation)| RunningGang {
                    job_id: (*job).to_owned(),
                    generation: *generation,
                })
                .collect(),
        };
        Self::say_first(bench, id, Message::Register(register)).await
    }

    pub(crate) async fn say_first(bench: &Bench, id: &str, message: Message) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let mut worker = Self {
            id: id.to_owned(),
            sender: sender.clone(),
            responses: bench
                .workers()
                .await
                .session(ReceiverStream::new(receiver))
                .await
                .unwrap()
                .into_inner(),
            sequence: 0,
        };
        worker.say(message).await;
        worker
    }

    pub(crate) async fn say(&mut self, message: Message) {
        let request = SessionRequest {
            message: Some(message),
        };
        self.sender.send(request).await.unwrap();
    }

    /// Keeps the lease alive for as long as it is polled; ends with the session.
    pub(crate) fn beats(&self) -> impl Future<Output = ()> + use<> {
        let sender = self.sender.clone();
        async move {
            let heartbeat = SessionRequest {
                message: Some(Message::Heartbeat(Heartbeat::default())),
            };
            while sender.send(heartbeat.clone()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    pub(crate) async fn message(&mut self) -> Result<Option<SessionResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .unwrap_or_else(|_| panic!("worker {} was told nothing", self.id))
    }

    pub(crate) async fn next(&mut self) -> session_response::Message {
        self.message()
            .await
            .unwrap()
            .expect("the session ended")
            .message
            .unwrap()
    }

    /// The next start, over acknowledgements.
    pub(crate) async fn started(&mut self) -> StartGang {
        loop {
            match self.next().await {
                session_response::Message::StartGang(start) => return start,
                session_response::Message::Ack(_) => {}
                other => panic!("expected a start, got {other:?}"),
            }
        }
    }

    /// The next order for recruits, over acknowledgements.
    pub(crate) async fn recruited(&mut self) -> Recruit {
        loop {
            match self.next().await {
                session_response::Message::Recruit(recruit) => return recruit,
                session_response::Message::Ack(_) => {}
                other => panic!("expected recruits, got {other:?}"),
            }
        }
    }

    /// The next order to halt, over acknowledgements.
    pub(crate) async fn told_to_halt(&mut self) -> Halt {
        loop {
            match self.next().await {
                session_response::Message::Halt(halt) => return halt,
                session_response::Message::Ack(_) => {}
                other => panic!("expected to be told to halt, got {other:?}"),
            }
        }
    }

    /// Reports of a seat of a gang.
    pub(crate) async fn report_seat(
        &mut self,
        job_id: &str,
        generation: u64,
        seat: u64,
        state: RankState,
    ) {
        let report = RankReport {
            sequence: self.number(),
            job_id: job_id.to_owned(),
            generation,
            seat,
            state: state.into(),
            total_steps: 20,
            ..RankReport::default()
        };
        self.say(Message::RankReport(report)).await;
    }

    /// Generation of the next revoke, over acknowledgements.
    pub(crate) async fn revoked(&mut self) -> (u64, String) {
        loop {
            match self.next().await {
                session_response::Message::Revoke(revoke) => {
                    return (revoke.generation, revoke.reason);
                }
                session_response::Message::Ack(_) => {}
                other => panic!("expected a revoke, got {other:?}"),
            }
        }
    }

    pub(crate) async fn acked(&mut self, sequence: u64) {
        loop {
            match self.next().await {
                session_response::Message::Ack(ack) if ack.sequence >= sequence => return,
                session_response::Message::Ack(_) => {}
                other => panic!("expected an ack, got {other:?}"),
            }
        }
    }

    /// Number for the next report.
    pub(crate) fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Reports a rank of a start.
    pub(crate) async fn report(&mut self, start: &StartGang, state: RankState) {
        self.report_with(start, |report| report.set_state(state))
            .await;
    }

    pub(crate) async fn report_with(
        &mut self,
        start: &StartGang,
        change: impl FnOnce(&mut RankReport),
    ) {
        let mut report = RankReport {
            sequence: self.number(),
            job_id: start.job_id.clone(),
            generation: start.generation,
            rank: start.first_rank,
            seat: start.seats[0],
            total_steps: 20,
            ..RankReport::default()
        };
        change(&mut report);
        self.say(Message::RankReport(report)).await;
    }
}

/// As [`spec`], with further lines of `[resources]`.
pub(crate) fn spec_with(min: u32, max: u32, resources: &str) -> String {
    let table = format!("[resources]\n{resources}\n\n[resources.workers]");
    spec(min, max).replace("[resources.workers]", &table)
}

/// A job file that takes one or two workers.
pub(crate) fn spec(min: u32, max: u32) -> String {
    format!(
        r#"name = "test"

[model]
image_size = 28
patch_size = 7
channels = 1
classes = 10
width = 64
depth = 2
heads = 4
ffn = 128

[data]
format = "idx"
train = "/data/train"
validation = "/data/validation"
mean = [0.5]
std = [0.5]

[compress.search]
steps = 10

[compress.tune]
steps = 10

[train]
global_batch = 64
micro_batch = 32

[resources.workers]
min = {min}
max = {max}

[publish]
name = "small"
"#
    )
}
