//! The keys of the coordinator in the store.

use crate::job::JobId;

/// Prefix of all jobs' records.
pub(crate) const JOBS: &str = "jobs/";

/// Prefix of all workers.
pub(crate) const WORKERS: &str = "workers/";

/// Prefix of all tokens.
pub(crate) const TOKENS: &str = "tokens/";

/// Prefix of what stands between workers and gangs.
pub(crate) const STANDINGS: &str = "standings/";

/// Prefix of all queues.
pub(crate) const QUEUES: &str = "queues/";

/// Number of the last job.
pub(crate) const JOB_COUNTER: &str = "counters/jobs";

/// Identity of the folder that holds the registry's blobs.
pub(crate) const FOLDER: &str = "folder";

/// A job's record.
pub(crate) fn job(id: &JobId) -> String {
    format!("{JOBS}{id}")
}

/// A job's current gang; its mod revision is the generation.
pub(crate) fn gang(id: &JobId) -> String {
    format!("gangs/{id}")
}

/// The answer to a submit.
pub(crate) fn request(request_id: &str) -> String {
    format!("requests/{request_id}")
}

/// A worker.
pub(crate) fn worker(id: &str) -> String {
    format!("{WORKERS}{id}")
}

/// A token.
pub(crate) fn token(name: &str) -> String {
    format!("{TOKENS}{name}")
}

/// What stands between a worker and gangs.
pub(crate) fn standing(worker_id: &str) -> String {
    format!("{STANDINGS}{worker_id}")
}

/// A queue.
pub(crate) fn queue(name: &str) -> String {
    format!("{QUEUES}{name}")
}

/// Highest report of a worker that is stored.
pub(crate) fn acknowledged(worker_id: &str) -> String {
    format!("acknowledged/{worker_id}")
}

/// Prefix of a job's feed.
pub(crate) fn feed(id: &JobId) -> String {
    format!("feeds/{id}/")
}

/// Cursor of the last entry of a job's feed.
pub(crate) fn feed_head(id: &JobId) -> String {
    format!("feed-heads/{id}")
}

/// Prefix of a job's log.
pub(crate) fn log(id: &JobId) -> String {
    format!("logs/{id}/")
}

/// Size of a job's log.
pub(crate) fn log_head(id: &JobId) -> String {
    format!("log-heads/{id}")
}

/// Key of a cursor under a prefix: sorts by number.
pub(crate) fn at(prefix: &str, cursor: u64) -> String {
    format!("{prefix}{cursor:020}")
}

/// Cursor of a key made by [`at`].
pub(crate) fn cursor(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_sort_as_numbers_and_are_read_back() {
        let prefix = feed(&JobId::numbered(7));
        assert!(at(&prefix, 9) < at(&prefix, 10));
        assert_eq!(cursor(&at(&prefix, 10)), Some(10));
        assert_eq!(cursor(&at(&prefix, u64::MAX)), Some(u64::MAX));
    }
}
