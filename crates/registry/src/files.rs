use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

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

/// Hashes the next `length` bytes of a file; fails when there are fewer.
pub(crate) fn hash_prefix(file: &mut File, length: u64) -> io::Result<Sha256> {
    let mut hasher = Sha256::new();
    let mut left = length;
    let mut buffer = vec![0; 1 << 18];
    while left > 0 {
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(hasher)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
