//! The gRPC services: thin, they check what comes in and hand it on.

mod errors;
mod follow;
mod jobs;
mod pages;
mod queues;
mod workers;

pub(crate) use errors::{DOMAIN, JobsError, WorkersError, bad_request, status};
pub(crate) use jobs::Jobs;
pub(crate) use workers::Workers;
