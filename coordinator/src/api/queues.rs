//! A queue as an operator asks for it.

use espalier_job::valid_name;
use espalier_proto::v1::SetQueueRequest;

use super::JobsError;
use crate::queue::{MAX_WEIGHT, Queue};

/// The name and the settings, checked.
pub(super) fn read(request: SetQueueRequest) -> Result<(String, Queue), JobsError> {
    let Some(queue) = request.queue else {
        return Err(JobsError::argument("queue", "is not set"));
    };
    if !valid_name(&queue.name) {
        return Err(JobsError::argument(
            "queue.name",
            "must be 1 to 63 of a-z, 0-9, -, _ and ., starting with a letter or digit",
        ));
    }
    if !(1..=MAX_WEIGHT).contains(&queue.weight) {
        let range = format!("must be 1 to {MAX_WEIGHT}");
        return Err(JobsError::argument("queue.weight", range));
    }
    let settings = Queue {
        weight: queue.weight,
        cpu: queue.cpu_quota,
        cuda: queue.cuda_quota,
    };
    Ok((queue.name, settings))
}
