use std::fs::File;
use std::io;
use std::path::Path;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `f` on a thread that may block. A runtime of one thread has nobody else to keep waiting: there
/// it runs in place, so that what happens in it has one order.
///
/// # Errors
/// Those of `f`.
pub async fn blocking<T, E>(f: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return f();
    }
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
