//! Users: they submit jobs, again and again until that is acknowledged, and wait for their ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use espalier_auth::Access;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::{CancelJobRequest, GetJobRequest, Job, JobState, SubmitJobRequest};
use espalier_registry::Client as Registry;
use espalier_store::simulated::Memory;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::checks::Checks;
use crate::ledger::State;
use crate::net::{Life, Net};
use crate::outside::dial;
use crate::plan::JobPlan;
use crate::rank;

/// Longest wait for a connection and an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Time between two tries, and two looks.
const PAUSE: Duration = Duration::from_millis(700);

/// A user.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) net: Net,
    pub(crate) life: Arc<Life>,
    pub(crate) checks: Checks,
    pub(crate) memory: Memory,
    /// Addresses of the coordinators.
    pub(crate) coordinators: Vec<String>,
    /// The one that is asked.
    pub(crate) asked: String,
}

/// A job as its user knows it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) plan: JobPlan,
    pub(crate) request: String,
    pub(crate) seed: u64,
}

impl Order {
    /// The job file.
    pub(crate) fn spec(&self) -> String {
        let JobPlan {
            min_workers,
            max_workers,
            steps,
            every,
            ..
        } = self.plan;
        let search = steps / 2;
        let (tune, seed) = (steps - search, self.seed);
        format!(
            r#"name = "job-{seed}"

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
steps = {search}

[compress.tune]
steps = {tune}

[train]
global_batch = 64
micro_batch = 32
seed = {seed}

[resources.workers]
min = {min_workers}
max = {max_workers}

[publish]
name = "model-{seed}"
every = {every}
"#
        )
    }
}

impl User {
    /// From the submit to the end of the job.
    pub(crate) async fn follow(mut self, order: Order, start: Instant, dir: &Path) {
        sleep_until(start + order.plan.at).await;
        let mut other = self.clone();
        let twice = async {
            if order.plan.twice {
                other.submit(&order).await;
            }
        };
        let (job, ()) = tokio::join!(self.submit(&order), twice);
        let Some(job) = job else { return };
        if let Some(at) = order.plan.cancelled {
            sleep_until(start + at).await;
            self.cancel(&job).await;
        }
        let Some(ended) = self.wait(&job).await else {
            return;
        };
        match ended.state() {
            JobState::Succeeded => self.check_model(&order, &ended, dir).await,
            JobState::Cancelled if order.plan.cancelled.is_some() => {}
            state => self.checks.fail(format!(
                "job {job} ended as {}: {}",
                state.as_str_name(),
                ended.reason
            )),
        }
    }

    /// Again until it is acknowledged; gives the job's identity.
    async fn submit(&mut self, order: &Order) -> Option<String> {
        let request = SubmitJobRequest {
            request_id: order.request.clone(),
            spec_toml: order.spec(),
        };
        let answer = self
            .until_answered("submit", |mut jobs| {
                let request = request.clone();
                async move { jobs.submit_job(request).await }
            })
            .await?;
        let job = answer.job.unwrap_or_default().job_id;
        let entries = self.memory.entries();
        self.checks.acknowledged(&order.request, &job, &entries);
        Some(job)
    }

    async fn cancel(&mut self, job: &str) {
        let request = CancelJobRequest {
            job_id: job.to_owned(),
            reason: "not wanted any more".to_owned(),
        };
        self.until_answered("cancel", |mut jobs| {
            let request = request.clone();
            async move { jobs.cancel_job(request).await }
        })
        .await;
    }

    /// Until the job has ended.
    async fn wait(&mut self, job: &str) -> Option<Job> {
        loop {
            let request = GetJobRequest {
                job_id: job.to_owned(),
            };
            let answer = self
                .until_answered("look", |mut jobs| {
                    let request = request.clone();
                    async move { jobs.get_job(request).await }
                })
                .await?;
            let found = answer.job.unwrap_or_default();
            if matches!(
                found.state(),
                JobState::Succeeded | JobState::Failed | JobState::Cancelled
            ) {
                return Some(found);
            }
            sleep(PAUSE).await;
        }
    }

    /// The model is that of an undisturbed job.
    async fn check_model(&mut self, order: &Order, job: &Job, dir: &Path) {
        let dir = dir.join(&job.job_id);
        let digest = loop {
            let asked = format!("http://{}", self.asked);
            let pulled = async {
                let client = Registry::connect_by(&asked, &Access::default(), |endpoint| {
                    dial(&self.net, &self.life, endpoint)
                })
                .await?;
                let reference = format!("model-{}:latest", order.seed);
                client.pull(&reference, &dir, |_, _| {}).await
            };
            match pulled.await {
                Ok(pulled) => break pulled.digest,
                Err(error) => {
                    tracing::info!(job = job.job_id, %error, "the model is asked for again");
                    self.next();
                    sleep(PAUSE).await;
                }
            }
        };
        if digest != job.published_digest {
            let published = &job.published_digest;
            self.checks
                .fail(format!("the alias of {published} gives {digest}"));
        }
        let wanted = State::undisturbed(order.seed, order.plan.steps);
        match rank::read(&dir) {
            Ok(state) if state == wanted => {}
            Ok(state) => self.checks.fail(format!(
                "job {} came to {state:?}, undisturbed to {wanted:?}",
                job.job_id
            )),
            Err(problem) => self.checks.fail(problem),
        }
    }

    /// Asks one coordinator after the other. None, and a failure, if the answer is that the request is
    /// wrong.
    async fn until_answered<T, F>(
        &mut self,
        what: &str,
        ask: impl Fn(JobServiceClient<Channel>) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        loop {
            let failed = match timeout(PATIENCE, self.ask(&ask)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer"),
            };
            let leader = espalier_proto::not_leader(&failed);
            match failed.code() {
                Code::FailedPrecondition if leader.is_some() => {}
                Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::Internal => {
                    self.checks
                        .fail(format!("a {what} was answered with {failed}"));
                    return None;
                }
                _ => {}
            }
            match leader.flatten() {
                Some(leader) => self.asked = leader,
                None => self.next(),
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask<T, F>(&self, ask: impl Fn(JobServiceClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.asked)).map_err(unavailable)?;
        let channel = dial(&self.net, &self.life, endpoint)
            .await
            .map_err(unavailable)?;
        Ok(ask(JobServiceClient::new(channel)).await?.into_inner())
    }

    fn next(&mut self) {
        let at = self.coordinators.iter().position(|c| *c == self.asked);
        let next = at.map_or(0, |at| at + 1) % self.coordinators.len();
        self.asked = self.coordinators[next].clone();
    }
}

/// Time of a step of each job, by its seed.
pub(crate) fn steps(orders: &[Order]) -> BTreeMap<u64, Duration> {
    let of = |order: &Order| (order.seed, order.plan.step);
    orders.iter().map(of).collect()
}
