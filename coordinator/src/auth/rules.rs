//! What each method needs: one table, and nothing else is let through.

use std::sync::Arc;

use espalier_auth::Verb;
use espalier_job::{Init, Job};
use espalier_proto::v1 as pb;
use prost::Message;
use prost::bytes::Bytes;

use super::refusal::Refusal;

/// A method, by its path.
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) rule: Rule,
    pub(super) note: Note,
}

/// Who may call a method.
pub(super) enum Rule {
    /// Everybody.
    Public,
    /// Whoever has a token.
    Known,
    /// Whoever may do one of these to anything. What is called has no names, or is checked later.
    Some(&'static [Verb]),
    /// It depends on the message, which is one.
    Asks(fn(Bytes) -> Result<Ask, Refusal>),
}

/// Whether a call is noted in the audit log; one that was refused always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It changes nothing.
    No,
    /// Once it is over.
    After,
    /// On the disk before it begins, and once it is over before it is answered.
    Around,
}

/// What a message asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ask {
    /// All of these are needed.
    pub(super) needs: Vec<Need>,
    /// To what, for the audit log.
    pub(super) target: String,
    /// The job that is submitted; it goes with the call, so that its file is parsed once.
    pub(super) job: Option<Arc<Job>>,
}

/// Something that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This, of the checkpoints of a name.
    Name(Verb, String),
    /// This, of all names.
    All(Verb),
    /// This, of whatever name.
    Some(Verb),
    /// This, of the name of the checkpoint that a reference means.
    Checkpoint(Verb, String),
    /// [`Verb::Read`] of the name of the checkpoint that a reference means. Workers read all: the jobs
    /// that they run name what they need.
    Pull(String),
    /// [`Verb::Jobs`], of the name under which a job publishes.
    Job(String),
    /// [`Verb::Worker`], of one of the workers of a job's gang, if this is its generation.
    Gang(String, u64),
}

use Rule::{Asks, Known, Public};
use Verb::{Admin, Jobs, Read, Worker, Write};

const fn method(path: &'static str, rule: Rule, note: Note) -> Method {
    Method { path, rule, note }
}

/// Any token that reads may look at jobs; so may whoever submits them.
const LOOK: Rule = Rule::Some(&[Read, Jobs]);

/// Chunks have no names: whoever knows the digest of one has seen a manifest that lists it.
const FETCH: Rule = Rule::Some(&[Read, Worker]);

const SEND: Rule = Rule::Some(&[Write, Worker]);

/// Every method that is served.
pub(super) static METHODS: &[Method] = &[
    method(
        "/espalier.v1.JobService/SubmitJob",
        Asks(submit),
        Note::After,
    ),
    method("/espalier.v1.JobService/GetJob", LOOK, Note::No),
    method("/espalier.v1.JobService/ListJobs", LOOK, Note::No),
    method(
        "/espalier.v1.JobService/CancelJob",
        Asks(cancel),
        Note::After,
    ),
    method("/espalier.v1.JobService/PauseJob", Asks(pause), Note::After),
    method(
        "/espalier.v1.JobService/ResumeJob",
        Asks(resume),
        Note::After,
    ),
    method("/espalier.v1.JobService/ListQueues", LOOK, Note::No),
    method(
        "/espalier.v1.JobService/SetQueue",
        Asks(set_queue),
        Note::After,
    ),
    method(
        "/espalier.v1.JobService/DeleteQueue",
        Asks(delete_queue),
        Note::After,
    ),
    method("/espalier.v1.JobService/WatchJob", LOOK, Note::No),
    method("/espalier.v1.JobService/StreamLogs", LOOK, Note::No),
    // Which worker it is, is checked when it registers.
    method(
        "/espalier.v1.WorkerService/Session",
        Rule::Some(&[Worker]),
        Note::After,
    ),
    method("/espalier.v1.WorkerService/ListWorkers", Known, Note::No),
    method(
        "/espalier.v1.WorkerService/DrainWorker",
        Asks(drain_worker),
        Note::After,
    ),
    method(
        "/espalier.v1.WorkerService/ResumeWorker",
        Asks(resume_worker),
        Note::After,
    ),
    method(
        "/espalier.v1.RegistryService/FindMissingChunks",
        SEND,
        Note::No,
    ),
    method(
        "/espalier.v1.RegistryService/WriteChunks",
        SEND,
        Note::After,
    ),
    method("/espalier.v1.RegistryService/ReadChunks", FETCH, Note::No),
    method("/espalier.v1.RegistryService/ReleaseLease", Known, Note::No),
    method(
        "/espalier.v1.RegistryService/PublishCheckpoint",
        Asks(publish),
        Note::After,
    ),
    method(
        "/espalier.v1.RegistryService/GetCheckpoint",
        Asks(get),
        Note::No,
    ),
    // Those that it may not read are left out.
    method(
        "/espalier.v1.RegistryService/ListCheckpoints",
        Asks(list),
        Note::No,
    ),
    method(
        "/espalier.v1.RegistryService/UpdateCheckpoint",
        Asks(update),
        Note::After,
    ),
    method(
        "/espalier.v1.RegistryService/DeleteCheckpoint",
        Asks(delete),
        Note::Around,
    ),
    method(
        "/espalier.v1.RegistryService/UpdateAlias",
        Asks(alias),
        Note::Around,
    ),
    method(
        "/espalier.v1.RegistryService/ListAliasHistory",
        Asks(history),
        Note::No,
    ),
    method(
        "/espalier.v1.RegistryService/GetRetention",
        Asks(retention),
        Note::No,
    ),
    method(
        "/espalier.v1.RegistryService/SetRetention",
        Asks(set_retention),
        Note::Around,
    ),
    method(
        "/espalier.v1.RegistryService/CollectGarbage",
        Asks(everything),
        Note::After,
    ),
    // It puts damaged chunks aside.
    method(
        "/espalier.v1.RegistryService/CheckChunks",
        Asks(everything),
        Note::After,
    ),
    method("/espalier.v1.RegistryService/GetUsage", Known, Note::No),
    method(
        "/espalier.v1.TokenService/CreateToken",
        Asks(create_token),
        Note::Around,
    ),
    method(
        "/espalier.v1.TokenService/ListTokens",
        Asks(everything),
        Note::No,
    ),
    method(
        "/espalier.v1.TokenService/RevokeToken",
        Asks(revoke_token),
        Note::Around,
    ),
    // Whether it serves, and what the public interface is.
    method("/grpc.health.v1.Health/Check", Public, Note::No),
    method("/grpc.health.v1.Health/Watch", Public, Note::No),
    method(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Public,
        Note::No,
    ),
    method(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Public,
        Note::No,
    ),
];

/// The method of a path.
pub(super) fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

fn read<M: Message + Default>(bytes: Bytes) -> Result<M, Refusal> {
    M::decode(bytes).map_err(|_| Refusal::Unreadable("it is not of its type"))
}

fn one(need: Need, target: String) -> Result<Ask, Refusal> {
    Ok(Ask {
        needs: vec![need],
        target,
        ..Ask::default()
    })
}

/// A job publishes under its name, and its ranks read the checkpoints that it names.
fn submit(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::SubmitJobRequest = read(bytes)?;
    let Ok(job) = Job::parse(&request.spec_toml) else {
        // It is told what is wrong with it.
        return one(Need::Some(Jobs), String::new());
    };
    let name = job.publish.name.clone();
    let mut needs = vec![Need::Name(Jobs, name.clone())];
    if let Init::Checkpoint(reference) = &job.model.init {
        needs.push(Need::Checkpoint(Read, reference.clone()));
    }
    if let Some(distillation) = &job.train.distillation {
        needs.push(Need::Checkpoint(Read, distillation.teacher.clone()));
    }
    Ok(Ask {
        needs,
        target: name,
        job: Some(Arc::new(job)),
    })
}

/// Something is done to a job.
fn job(id: String) -> Result<Ask, Refusal> {
    one(Need::Job(id.clone()), id)
}

/// What is known of a name is read, or of every name that may be read if it is empty.
fn look(name: String) -> Result<Ask, Refusal> {
    let need = match name.as_str() {
        "" => Need::Some(Read),
        name => Need::Name(Read, name.to_owned()),
    };
    one(need, name)
}

fn cancel(bytes: Bytes) -> Result<Ask, Refusal> {
    job(read::<pb::CancelJobRequest>(bytes)?.job_id)
}

fn publish(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::PublishCheckpointRequest = read(bytes)?;
    let digest = espalier_registry::Digest::of(&request.manifest);
    let target = match request.alias.as_str() {
        "" => format!("{}@{digest}", request.name),
        alias => format!("{}:{alias}@{digest}", request.name),
    };
    let needs = match request.commit {
        // The job's right, under its generation: the ledger sees to name and steps.
        Some(commit) => vec![Need::Gang(commit.job_id, commit.generation)],
        None => {
            let verb = if request.force { Admin } else { Write };
            vec![Need::Name(verb, request.name)]
        }
    };
    Ok(Ask {
        needs,
        target,
        ..Ask::default()
    })
}

fn get(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::GetCheckpointRequest = read(bytes)?;
    let reference = request.reference;
    one(Need::Pull(reference.clone()), reference)
}

fn list(bytes: Bytes) -> Result<Ask, Refusal> {
    look(read::<pb::ListCheckpointsRequest>(bytes)?.name)
}

fn update(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::UpdateCheckpointRequest = read(bytes)?;
    let reference = request.reference;
    one(Need::Checkpoint(Write, reference.clone()), reference)
}

fn delete(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::DeleteCheckpointRequest = read(bytes)?;
    let reference = request.reference;
    one(Need::Checkpoint(Admin, reference.clone()), reference)
}

fn alias(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::UpdateAliasRequest = read(bytes)?;
    let verb = if request.force || request.protect.is_some() {
        Admin
    } else {
        Write
    };
    let target = format!("{}:{}", request.name, request.alias);
    one(Need::Name(verb, request.name), target)
}

fn history(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::ListAliasHistoryRequest = read(bytes)?;
    one(Need::Name(Read, request.name.clone()), request.name)
}

fn retention(bytes: Bytes) -> Result<Ask, Refusal> {
    look(read::<pb::GetRetentionRequest>(bytes)?.name)
}

fn set_retention(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::SetRetentionRequest = read(bytes)?;
    let need = match request.name.as_str() {
        "" => Need::All(Admin),
        name => Need::Name(Admin, name.to_owned()),
    };
    one(need, request.name)
}

fn create_token(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::CreateTokenRequest = read(bytes)?;
    let target = format!("{} {}", request.name, request.scopes.join(" "));
    one(Need::All(Admin), target)
}

fn revoke_token(bytes: Bytes) -> Result<Ask, Refusal> {
    one(
        Need::All(Admin),
        read::<pb::RevokeTokenRequest>(bytes)?.name,
    )
}

fn pause(bytes: Bytes) -> Result<Ask, Refusal> {
    job(read::<pb::PauseJobRequest>(bytes)?.job_id)
}

fn resume(bytes: Bytes) -> Result<Ask, Refusal> {
    job(read::<pb::ResumeJobRequest>(bytes)?.job_id)
}

fn set_queue(bytes: Bytes) -> Result<Ask, Refusal> {
    let request: pb::SetQueueRequest = read(bytes)?;
    let target = request.queue.unwrap_or_default().name;
    one(Need::All(Admin), target)
}

fn delete_queue(bytes: Bytes) -> Result<Ask, Refusal> {
    one(
        Need::All(Admin),
        read::<pb::DeleteQueueRequest>(bytes)?.name,
    )
}

fn drain_worker(bytes: Bytes) -> Result<Ask, Refusal> {
    one(
        Need::All(Admin),
        read::<pb::DrainWorkerRequest>(bytes)?.worker_id,
    )
}

fn resume_worker(bytes: Bytes) -> Result<Ask, Refusal> {
    one(
        Need::All(Admin),
        read::<pb::ResumeWorkerRequest>(bytes)?.worker_id,
    )
}

fn everything(_: Bytes) -> Result<Ask, Refusal> {
    one(Need::All(Admin), String::new())
}

#[cfg(test)]
mod tests;
