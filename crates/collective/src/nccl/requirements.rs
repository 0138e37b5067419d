//! What a machine needs before NCCL and the CUDA part of libtorch may be called: the bindings
//! panic on a library that is not there.

use crate::device;
use crate::error::CollectiveError;

/// Loads the CUDA part of libtorch and checks that this machine can run on a GPU. Call it before
/// the first CUDA tensor is made.
///
/// # Errors
/// [`CollectiveError::Unavailable`] saying which part is missing.
pub fn load_cuda() -> Result<(), CollectiveError> {
    // SAFETY: the check loads the driver's library and lets it go.
    let driver = unsafe { cudarc::driver::sys::is_culib_present() };
    // SAFETY: the check loads NCCL's library and lets it go.
    let nccl = unsafe { cudarc::nccl::sys::is_culib_present() };
    let libtorch = device::load_libtorch_cuda().map_err(|failure| failure.text);
    let gpus = libtorch.is_ok() && tch::Cuda::is_available();
    decide(driver, nccl, libtorch, gpus)
}

fn decide(
    driver: bool,
    nccl: bool,
    libtorch: Result<(), String>,
    gpus: bool,
) -> Result<(), CollectiveError> {
    let reason = match (driver, libtorch) {
        (false, _) => {
            "no CUDA driver on this machine: libcuda.so is not in the library path".to_owned()
        }
        (true, Err(reason)) => format!(
            "this libtorch has no CUDA: set LIBTORCH to a CUDA build of the same version ({reason})"
        ),
        (true, Ok(())) if !gpus => "libtorch sees no CUDA device on this machine".to_owned(),
        (true, Ok(())) if !nccl => "no NCCL on this machine: provide libnccl.so in the library \
             path, as a link to the libnccl.so.2 that comes with libtorch"
            .to_owned(),
        (true, Ok(())) => return Ok(()),
    };
    Err(CollectiveError::Unavailable {
        engine: "nccl",
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_part_is_named() {
        let missing = |driver, nccl, libtorch: Result<(), &str>, gpus| {
            decide(driver, nccl, libtorch.map_err(str::to_owned), gpus)
                .unwrap_err()
                .to_string()
        };
        assert!(missing(false, false, Err("no file"), false).contains("no CUDA driver"));
        assert!(missing(true, true, Err("no file"), false).contains("(no file)"));
        assert!(missing(true, true, Ok(()), false).contains("no CUDA device"));
        assert!(missing(true, false, Ok(()), true).contains("libnccl.so"));
        assert_eq!(decide(true, true, Ok(()), true), Ok(()));
    }
}
