use std::fmt;

/// A gang: a job under one generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GangKey {
    /// The job.
    pub(crate) job_id: String,
    /// Store revision of the gang's placement.
    pub(crate) generation: u64,
}

impl GangKey {
    pub(crate) fn new(job_id: &str, generation: u64) -> Self {
        Self {
            job_id: job_id.to_owned(),
            generation,
        }
    }
}

impl fmt::Display for GangKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.job_id, self.generation)
    }
}
