use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("tests/ lies in the repository").to_path_buf()
}

/// A program built by the same profile as the running test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is missing: `make test` builds it, or `cargo build --workspace --bins`",
        path.display()
    );
    path
}
