use std::collections::BTreeMap;
use std::io::{Read, Seek};

use tch::{Device, Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::PthError;
use super::value::{Storage, Strided};
use crate::Tensors;

/// Largest pickle, in bytes: that of a large model has some 100 KiB.
const LARGEST_PICKLE: u64 = 64 << 20;

/// The zip archive of `torch.save`.
pub(super) struct Archive<R> {
    zip: ZipArchive<R>,
    /// Bytes of the file; nothing in it can be larger, since nothing is compressed.
    length: u64,
    /// Folder of all entries, with its slash.
    root: String,
}

impl<R: Read + Seek> Archive<R> {
    pub(super) fn open(file: R, length: u64) -> Result<Self, PthError> {
        let zip = ZipArchive::new(file)?;
        let root = zip
            .file_names()
            .find_map(|name| name.strip_suffix("data.pkl"))
            .filter(|root| root.ends_with('/'))
            .map(str::to_owned);
        let root = root.ok_or_else(|| PthError::Entry {
            name: "data.pkl".to_owned(),
            reason: "missing, so this is no archive of torch.save".to_owned(),
        })?;
        let mut archive = Self { zip, length, root };
        archive.require_little_endian()?;
        Ok(archive)
    }

    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, PthError> {
        self.entry("data.pkl", LARGEST_PICKLE)
    }

    /// The tensors, as f32 on `device`. Every storage is read once.
    pub(super) fn tensors(
        &mut self,
        parts: Vec<(String, Strided)>,
        device: Device,
    ) -> Result<Tensors, PthError> {
        let mut by_storage: BTreeMap<String, Vec<(String, Strided)>> = BTreeMap::new();
        // Views may share storages, but weights do not: together they are not larger than the file.
        let mut left = self.length;
        for (name, tensor) in parts {
            left = within(&tensor, left).map_err(|reason| PthError::Tensor {
                name: name.clone(),
                reason,
            })?;
            let key = tensor.storage.key.clone();
            by_storage.entry(key).or_default().push((name, tensor));
        }
        let mut tensors = Tensors::new();
        for (key, parts) in by_storage {
            let bytes = self.entry(&format!("data/{key}"), self.length)?;
            for (name, tensor) in parts {
                let cut = cut(&bytes, &tensor).map_err(|reason| PthError::Tensor {
                    name: name.clone(),
                    reason,
                })?;
                tensors.insert(name, cut.to_device(device));
            }
        }
        Ok(tensors)
    }

    /// The bytes of an entry; the archive's checksum is verified.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, PthError> {
        let limit = limit.min(self.length);
        let name = format!("{}{name}", self.root);
        let refused = |reason: String| PthError::Entry {
            name: name.clone(),
            reason,
        };
        let mut entry = self
            .zip
            .by_name(&name)
            .map_err(|error| refused(error.to_string()))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(refused(
                "compressed, which torch.save never does".to_owned(),
            ));
        }
        let size = entry.size();
        if size > limit {
            return Err(refused(format!("{size} bytes are more than {limit}")));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        entry
            .read_to_end(&mut bytes)
            .map_err(|error| refused(error.to_string()))?;
        Ok(bytes)
    }

    fn require_little_endian(&mut self) -> Result<(), PthError> {
        let name = "byteorder";
        let full = format!("{}{name}", self.root);
        // Older files do not say.
        if !self.zip.file_names().any(|entry| entry == full) {
            return Ok(());
        }
        let order = self.entry(name, 16)?;
        if order == b"little" {
            return Ok(());
        }
        Err(PthError::Entry {
            name: full,
            reason: "only little-endian files can be read".to_owned(),
        })
    }
}

/// What is left of `left` bytes after the tensor.
fn within(tensor: &Strided, left: u64) -> Result<u64, String> {
    let kind = kind(&tensor.storage)?;
    let count = tensor.count().and_then(|count| u64::try_from(count).ok());
    let bytes = count.and_then(|count| count.checked_mul(kind.elt_size_in_bytes() as u64));
    bytes
        .and_then(|bytes| left.checked_sub(bytes))
        .ok_or_else(|| format!("{:?} is more than the file holds", tensor.shape))
}

fn kind(storage: &Storage) -> Result<Kind, String> {
    storage.kind().ok_or_else(|| {
        format!(
            "it is of type {}; only f32, f16, bf16 and f64 can be loaded",
            storage.class
        )
    })
}

/// The tensor's elements out of its storage's bytes, as f32.
fn cut(bytes: &[u8], tensor: &Strided) -> Result<Tensor, String> {
    let kind = kind(&tensor.storage)?;
    let elements = (bytes.len() / kind.elt_size_in_bytes()) as i64;
    if tensor.reach().is_none_or(|reach| reach > elements) {
        return Err(format!(
            "{:?} with strides {:?} from element {} is not within its storage of {elements}",
            tensor.shape, tensor.strides, tensor.offset
        ));
    }
    let whole = &bytes[..elements as usize * kind.elt_size_in_bytes()];
    let storage = Tensor::from_data_size(whole, &[elements], kind);
    storage
        .f_as_strided(&tensor.shape, &tensor.strides, tensor.offset)
        .map(|strided| strided.contiguous().to_kind(Kind::Float))
        .map_err(|error| error.to_string())
}
