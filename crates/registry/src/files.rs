use std::fs::File;
use std::io;
use std::path::Path;

/// Runs `f` on a thread that may block.
pub(crate) async fn blocking<T, E>(
    f: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        // The runtime cancels blocking tasks only before they start, when it shuts down, and then
        // nobody is left to be answered; so this is a panic of `f`, which goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
