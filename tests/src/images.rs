use std::fs;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::repository;

/// Writes the first images of Fashion-MNIST, so many for training and validation, into `dir` as IDX.
pub fn subset(dir: &Path, train: u32, validation: u32) {
    fs::create_dir_all(dir).unwrap();
    for (part, count) in [("train", train), ("t10k", validation)] {
        cut(
            dir,
            &format!("{part}-images-idx3-ubyte"),
            16,
            28 * 28,
            count,
        );
        cut(dir, &format!("{part}-labels-idx1-ubyte"), 8, 1, count);
    }
}

/// The first `count` items of an IDX file: a header whose second word is the count, then items.
fn cut(dir: &Path, name: &str, header: usize, item: usize, count: u32) {
    let source = repository()
        .join(".cache/data/fashion-mnist")
        .join(format!("{name}.gz"));
    let file = fs::File::open(&source)
        .unwrap_or_else(|e| panic!("{}: {e}: `make setup` fetches it", source.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes.truncate(header + item * count as usize);
    bytes[4..8].copy_from_slice(&count.to_be_bytes());
    fs::write(dir.join(name), bytes).unwrap();
}
