//! Files that strangers wrote: whatever their bytes are, they are a data set or an error.

use std::fs;
use std::path::Path;

use espalier_data::{Dataset, load_batch};
use espalier_job::DataFormat;
use proptest::prelude::*;
use tempfile::tempdir;

use crate::written::{COLOUR, TINY, data, write_idx, write_shards};

/// Damages a file in one place.
fn damage(path: &Path, place: usize, cut: usize, put: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let place = place % (bytes.len() + 1);
    let end = (place + cut).min(bytes.len());
    bytes.splice(place..end, put.iter().copied());
    fs::write(path, bytes).unwrap();
}

/// Reads all of a data set, if it is one.
fn read(section: &espalier_job::Data, shape: espalier_data::Shape) {
    let Ok(set) = Dataset::validation(section, shape, 1) else {
        return;
    };
    let samples: Vec<u32> = (0..set.len() as u32).collect();
    if let Ok(batch) = load_batch(&set, &samples, None) {
        assert!(
            batch
                .labels
                .iter()
                .all(|&label| (0..shape.classes as i64).contains(&label))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn damaged_idx_files_are_a_data_set_or_an_error(
        labels in any::<bool>(), place in any::<usize>(), cut in 0..6_usize,
        put in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let folder = tempdir().unwrap();
        write_idx(folder.path());
        // Uncompressed, so that it is their headers that are damaged.
        for name in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
            let from = folder.path().join(format!("train-{name}"));
            fs::rename(from, folder.path().join(format!("t10k-{name}"))).unwrap();
            fs::remove_file(folder.path().join(format!("t10k-{name}.gz"))).unwrap();
        }
        let name = if labels { "t10k-labels-idx1-ubyte" } else { "t10k-images-idx3-ubyte" };
        damage(&folder.path().join(name), place, cut, &put);
        read(&data(DataFormat::Idx, folder.path(), folder.path()), TINY);
    }

    #[test]
    fn idx_headers_that_claim_much_take_no_memory(dimensions in prop::array::uniform3(any::<u32>())) {
        let folder = tempdir().unwrap();
        let file = crate::written::idx(0x0803, &dimensions, &[0; 16]);
        fs::write(folder.path().join("t10k-images-idx3-ubyte"), file).unwrap();
        fs::write(
            folder.path().join("t10k-labels-idx1-ubyte"),
            crate::written::idx(0x0801, &dimensions[..1], &[0; 4]),
        )
        .unwrap();
        read(&data(DataFormat::Idx, folder.path(), folder.path()), TINY);
    }

    #[test]
    fn damaged_shards_are_a_data_set_or_an_error(
        place in any::<usize>(), cut in 0..600_usize, put in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let folder = tempdir().unwrap();
        write_shards(folder.path());
        let shard = folder.path().join("validation.tar");
        damage(&shard, place, cut, &put);
        let train = folder.path().join("train-000.tar");
        read(&data(DataFormat::WebDataset, &train, &shard), COLOUR);
    }
}
