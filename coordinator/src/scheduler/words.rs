//! Reasons, for people.

use espalier_job::Device;

use super::room::Room;
use super::usage::Usage;
use super::view::{Running, Waiting};

pub(super) fn name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    }
}

pub(super) fn plural(n: usize, noun: &str) -> String {
    if n == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}

pub(super) fn count(n: u32, noun: &str) -> String {
    format!("{n} {}", plural(n as usize, noun))
}

/// What a job needs.
pub(super) fn needs(job: &Waiting) -> String {
    format!(
        "waits for {} with {} free",
        count(job.min_workers, &format!("{} worker", name(job.device))),
        count(job.ranks_per_worker, "slot"),
    )
}

/// What the cluster lacks now.
pub(super) fn missing(job: &Waiting, room: &mut Room<'_>) -> String {
    let device = name(job.device);
    let need = needs(job);
    match room.of_kind(job.device) {
        0 => format!("{need}; no {device} worker is open"),
        n if room.fits(job) < job.min_workers as usize => format!(
            "{need}; of {n} open {} that many slots at all",
            match room.fits(job) {
                0 => "none has".to_owned(),
                1 => "only 1 has".to_owned(),
                fits => format!("only {fits} have"),
            }
        ),
        n => format!(
            "{need}; {} of {n} open can take it now",
            room.able(job.device, job.ranks_per_worker)
        ),
    }
}

/// Its queue's quota is used up.
pub(super) fn at_quota(job: &Waiting, quota: u32, usage: &Usage<'_>) -> String {
    let device = name(job.device);
    let used = usage.used(&job.queue, job.device);
    format!(
        "queue {} is at its quota of {quota} {device} slots: {used} are in use, the job needs {}",
        job.queue,
        job.least()
    )
}

/// Its queue's quota is too small for it.
pub(super) fn over_quota(job: &Waiting, quota: u32) -> String {
    format!(
        "needs {} {} slots at least, more than the quota of its queue {}, {quota}",
        job.least(),
        name(job.device),
        job.queue,
    )
}

/// Why a job may take from a gang.
pub(super) fn claim(job: &Waiting, gang: &Running) -> String {
    let id = &job.job_id;
    if gang.guest_of.as_ref() == Some(id) {
        format!("job {id}, which it was placed past, can start now")
    } else if gang.queue != job.queue {
        format!(
            "job {id}: its queue {} is below its fair share, queue {} above",
            job.queue, gang.queue
        )
    } else if gang.priority < job.priority {
        format!(
            "job {id} has a higher priority ({} over {})",
            job.priority, gang.priority
        )
    } else {
        format!("job {id} waits for what is above the fewest workers of this one")
    }
}
