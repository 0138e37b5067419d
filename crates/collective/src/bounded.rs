//! A limit on calls that have none of their own.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;
use std::{io, panic, thread};

/// How much longer than its own limit a call may take to say what went wrong.
const GRACE: Duration = Duration::from_secs(5);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no answer after {0:?}")]
    Late(Duration),
    #[error("could not start a thread: {0}")]
    Thread(io::Error),
}

/// Runs `call`, which ends by itself after `limit` unless the peer that it talks to is frozen in
/// the middle of an answer.
///
/// Such a call cannot be cancelled: its thread is given up, and ends when the peer's socket closes,
/// with the peer's process. A panic of `call` goes on in the caller.
pub(crate) fn bounded<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    within(limit + GRACE, call)
}

fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    let (sender, receiver) = sync_channel(1);
    let thread = thread::Builder::new()
        .name("collective call".to_owned())
        .spawn(move || {
            // The receiver is gone if the limit passed first; then nobody wants the result.
            sender.send(call()).ok();
        })
        .map_err(Unanswered::Thread)?;
    match receiver.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => Err(Unanswered::Late(limit)),
        answer => match (thread.join(), answer) {
            (Ok(()), Ok(value)) => Ok(value),
            (Err(payload), _) => panic::resume_unwind(payload),
            (Ok(()), Err(_)) => unreachable!("the thread sends its result unless it panics"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_comes_through() {
        assert_eq!(bounded(Duration::from_secs(20), || 7).unwrap(), 7);
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_goes_on_in_the_caller() {
        bounded(Duration::from_secs(20), || panic!("on purpose")).ok();
    }

    #[test]
    fn a_call_that_does_not_end_is_given_up() {
        let (release, held) = sync_channel::<()>(0);
        let late = within(Duration::ZERO, move || held.recv().ok());
        assert!(late.unwrap_err().to_string().starts_with("no answer after"));
        drop(release);
    }
}
