use std::fs::File;
use std::io::{self, Read as _, Seek as _, Take};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use fastcdc::v2020::StreamCDC;
use prost::bytes::Bytes;
use rustix::fs::OFlags;

use super::{MAX_CHUNK, safetensors};

/// Neighbouring tensors below this are cut as one, so that biases and norms cost no chunk each. A larger
/// tensor begins a chunk of its own, whatever is before it.
const SMALL: u64 = 64 << 10;

/// Sizes of content-defined chunks: what the two ONNX files of a model share is found at these.
const CDC: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];

/// The chunks of a file, in order, one in memory at a time.
///
/// A safetensors file is cut at its tensors, larger ones every [`MAX_CHUNK`]; any other file where its
/// content says (FastCDC). The lengths of the chunks add up to what was read, whatever the file claims.
pub(crate) enum Cuts {
    Lengths {
        file: Take<File>,
        lengths: std::vec::IntoIter<u64>,
    },
    Content(Box<StreamCDC<Take<File>>>),
}

impl Cuts {
    /// Opens the file, which is no link: one may have taken its place since the folder was looked
    /// through. What is beyond `size` bytes is not read.
    pub(crate) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        let parts = match path.extension() {
            Some(extension) if extension == "safetensors" => safetensors::parts(&mut file, size)?,
            _ => None,
        };
        file.rewind()?;
        let file = file.take(size);
        Ok(match parts {
            Some(parts) => Self::Lengths {
                file,
                lengths: lengths(&parts).into_iter(),
            },
            None => {
                let [min, average, max] = CDC;
                Self::Content(Box::new(StreamCDC::new(file, min, average, max)))
            }
        })
    }
}

impl Iterator for Cuts {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Lengths { file, lengths } => {
                let length = lengths.next()?;
                let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
                match file.take(length).read_to_end(&mut bytes) {
                    Ok(0) => None,
                    Ok(_) => Some(Ok(bytes.into())),
                    Err(error) => Some(Err(error)),
                }
            }
            Self::Content(cuts) => {
                let cut = cuts.next()?;
                Some(cut.map(|chunk| chunk.data.into()).map_err(io::Error::from))
            }
        }
    }
}

/// Lengths of the chunks of a file with these parts.
fn lengths(parts: &[u64]) -> Vec<u64> {
    let max = MAX_CHUNK as u64;
    let mut lengths = Vec::new();
    let mut run = 0;
    for &part in parts {
        if run > 0 && (part >= SMALL || run + part > max) {
            lengths.push(std::mem::take(&mut run));
        }
        if part < SMALL {
            run += part;
            continue;
        }
        lengths.extend(std::iter::repeat_n(max, (part / max) as usize));
        lengths.extend(Some(part % max).filter(|&rest| rest > 0));
    }
    lengths.extend(Some(run).filter(|&rest| rest > 0));
    lengths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ChunkId;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn chunks(path: &Path) -> Vec<Bytes> {
        let size = std::fs::metadata(path).expect("there").len();
        let cuts = Cuts::open(path, size).expect("opens");
        cuts.collect::<io::Result<_>>().expect("reads")
    }

    #[test]
    fn a_link_is_not_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("file"), "secret").expect("writes");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("file"), &link).expect("links");
        assert!(Cuts::open(&link, 6).is_err());
    }

    #[test]
    fn large_tensors_begin_their_own_chunks_and_small_ones_share() {
        assert_eq!(lengths(&[]), [0_u64; 0]);
        assert_eq!(
            lengths(&[300, KIB, 9 * MIB, KIB, KIB, 64 * KIB, KIB]),
            [300 + KIB, 4 * MIB, 4 * MIB, MIB, 2 * KIB, 64 * KIB, KIB]
        );
        let many = vec![63 * KIB; 200];
        assert_eq!(lengths(&many).iter().sum::<u64>(), 200 * 63 * KIB);
    }

    #[test]
    fn a_changed_tensor_changes_its_own_chunk_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let tensors: Vec<Vec<u8>> = (0..6_u8).map(|i| vec![i; 100 << 10]).collect();
        let write = |name: &str, tensors: &[Vec<u8>]| {
            let members: Vec<String> = (0..6)
                .map(|i| {
                    format!(
                        r#""t{i}":{{"data_offsets":[{},{}]}}"#,
                        i * 102_400,
                        (i + 1) * 102_400
                    )
                })
                .collect();
            let header = format!("{{{}}}", members.join(","));
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(header.as_bytes());
            file.extend(tensors.concat());
            let path = dir.path().join(name);
            std::fs::write(&path, file).expect("writes");
            chunks(&path)
        };
        let before = write("a.safetensors", &tensors);
        assert_eq!(before.len(), 7);
        let mut changed = tensors;
        changed[3][7] = 99;
        let after = write("b.safetensors", &changed);
        let differ = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 1);
    }

    #[test]
    fn bytes_that_moved_are_found_again() {
        let mut random = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 56) as u8
        })
        .take(6 << 20)
        .collect();
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, &noise).expect("writes");
        let before: std::collections::HashSet<ChunkId> =
            chunks(&path).iter().map(|c| ChunkId::of(c)).collect();
        std::fs::write(&path, [&b"moved"[..], &noise].concat()).expect("writes");
        let new: usize = chunks(&path)
            .iter()
            .filter(|c| !before.contains(&ChunkId::of(c)))
            .map(|c| c.len())
            .sum();
        assert!(new < 1 << 20, "{new}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn chunks_are_the_file(data in prop::collection::vec(any::<u8>(), 0..300_000), safetensors in any::<bool>()) {
            let dir = tempfile::tempdir().expect("tempdir");
            let path = dir.path().join(if safetensors { "x.safetensors" } else { "x.bin" });
            std::fs::write(&path, &data).expect("writes");
            let chunks = chunks(&path);
            prop_assert!(chunks.iter().all(|c| !c.is_empty() && c.len() <= MAX_CHUNK));
            prop_assert_eq!(chunks.concat(), data);
        }

        #[test]
        fn lengths_add_up(parts in prop::collection::vec(prop_oneof![0..70_000_u64, 0..20_000_000_u64], 0..50)) {
            let lengths = lengths(&parts);
            prop_assert!(lengths.iter().all(|&l| l > 0 && l <= MAX_CHUNK as u64));
            prop_assert_eq!(lengths.iter().sum::<u64>(), parts.iter().sum::<u64>());
        }
    }
}
