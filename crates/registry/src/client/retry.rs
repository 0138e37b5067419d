use tonic::Code;

/// Whether a call that failed so may succeed when it is made again.
pub(crate) fn is_transient(code: Code) -> bool {
    // UNKNOWN is what a stream cut by a lost keep-alive ends with.
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Cancelled
    )
}
