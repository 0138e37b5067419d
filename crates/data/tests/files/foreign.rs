//! Sets that other tools wrote (`reference/sets.py`).

use std::path::Path;

use crate::written::data;
use espalier_data::{Dataset, Shape, load_batch};
use espalier_job::DataFormat;

#[test]
fn sets_of_pyarrow_and_tarfile_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference");
    let shape = Shape {
        channels: 3,
        image_size: 4,
        classes: 3,
    };
    for (format, name) in [
        (DataFormat::Parquet, "hugging-face.parquet"),
        (DataFormat::WebDataset, "webdataset.tar"),
    ] {
        let path = folder.join(name);
        let set = Dataset::validation(&data(format, &path, &path), shape, 2).unwrap();
        let batch = load_batch(&set, &[7, 0, 1, 2, 3, 4, 5, 6], None).unwrap();
        assert_eq!(batch.labels, [1, 0, 1, 2, 0, 1, 2, 0], "{name}");
        for (image, number) in batch
            .images
            .chunks(shape.values())
            .zip([7, 0, 1, 2, 3, 4, 5, 6])
        {
            let pixel = (image[0] * 255.0).round() as u32;
            assert_eq!(pixel, 30 * number, "{name}");
        }
    }
}
