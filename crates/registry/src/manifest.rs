use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rules::{check_folders, check_name, check_path, check_request_id, check_shown};
use crate::{ChunkId, Digest, MAX_CHUNK};

/// Version of the manifest that is written and understood.
const VERSION: u64 = 2;

/// Largest manifest, in bytes.
pub const MAX_MANIFEST: usize = 1 << 20;

/// Most files in a checkpoint.
pub const MAX_FILES: usize = 10_000;

/// Longest media type, in bytes.
const MAX_MEDIA_TYPE: usize = 127;

/// What a checkpoint is.
///
/// Its bytes are canonical JSON: UTF-8, no space between tokens, the members of every object sorted by
/// name, strings with the shortest escapes, numbers in the shortest form that reads back the same.
/// Only such bytes are taken, so that one checkpoint has one digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(rename = "espalier")]
    version: u64,
    /// What it is for.
    pub kind: Kind,
    /// Name under which it is published.
    pub name: String,
    /// Sorted by path, no path twice.
    pub files: Vec<FileEntry>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// What its report card says (the content of `report.json`), if it has one.
    pub report: Option<Value>,
}

/// What a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To be used.
    Model,
    /// For its job to go on from.
    Training,
}

impl Kind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Training => "training",
        }
    }
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub media_type: String,
    /// One after the other they are the file; an empty file has none. They alone say what it is: a
    /// digest of the whole beside them could contradict them.
    pub chunks: Vec<ChunkId>,
}

/// Where a checkpoint comes from. What does not apply is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The job.
    pub job: Option<String>,
    /// Generation of the gang.
    pub generation: Option<u64>,
    /// Steps of the job that are in it.
    pub step: Option<u64>,
    /// Checkpoint from which it was trained.
    pub parent: Option<Digest>,
    /// Checkpoint that taught it.
    pub teacher: Option<Digest>,
    /// Seed of the job.
    pub seed: Option<u64>,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too large.
    #[error("the manifest has {0} bytes, more than {MAX_MANIFEST}")]
    TooLarge(usize),
    /// Not JSON of this shape.
    #[error("the manifest is not what it should be: {0}")]
    Shape(#[from] serde_json::Error),
    /// Of another version.
    #[error(
        "the manifest is of version {0}, this program knows version {VERSION}: use the program that wrote it, or push the folder again with this one"
    )]
    Version(Value),
    /// A field is wrong.
    #[error("{field}: {problem}")]
    Field {
        /// Such as `files[3].path`.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// Right, but not in the canonical form.
    #[error("the manifest is not in canonical form (members sorted, no spaces, shortest numbers)")]
    NotCanonical,
}

impl Manifest {
    /// A manifest of these files, sorted here.
    ///
    /// # Errors
    /// [`ManifestError::Field`], [`ManifestError::TooLarge`].
    pub fn new(
        kind: Kind,
        name: impl Into<String>,
        mut files: Vec<FileEntry>,
        lineage: Lineage,
        report: Option<Value>,
    ) -> Result<Self, ManifestError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self {
            version: VERSION,
            kind,
            name: name.into(),
            files,
            lineage,
            // A report that says nothing is none: both are written null.
            report: report.filter(|report| !report.is_null()),
        };
        manifest.check()?;
        let size = manifest.to_bytes()?.len();
        if size > MAX_MANIFEST {
            return Err(ManifestError::TooLarge(size));
        }
        Ok(manifest)
    }

    /// Reads a manifest strictly: only the bytes that [`Manifest::to_bytes`] would write.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let value: Value = serde_json::from_slice(bytes)?;
        match value.get("espalier") {
            Some(version) if *version != VERSION => {
                return Err(ManifestError::Version(version.clone()));
            }
            _ => {}
        }
        let manifest: Self = serde_json::from_value(value)?;
        manifest.check()?;
        if manifest.to_bytes()? != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// [`ManifestError::Shape`], which a manifest that was read or made here never gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        let mut value = serde_json::to_value(self)?;
        sort(&mut value);
        Ok(serde_json::to_vec(&value)?)
    }

    /// Its chunks, each once, in the order of their digests.
    pub fn chunks(&self) -> Vec<ChunkId> {
        let all = self.files.iter().flat_map(|file| &file.chunks);
        let unique: BTreeSet<ChunkId> = all.copied().collect();
        unique.into_iter().collect()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |field: String| move |problem: String| ManifestError::Field { field, problem };
        check_name(&self.name).map_err(wrong("name".to_owned()))?;
        if let Some(job) = &self.lineage.job {
            check_request_id(job).map_err(wrong("lineage.job".to_owned()))?;
        }
        if self.files.is_empty() || self.files.len() > MAX_FILES {
            return Err(wrong("files".to_owned())(format!(
                "a checkpoint has 1 to {MAX_FILES} files, not {}",
                self.files.len()
            )));
        }
        for (i, file) in self.files.iter().enumerate() {
            check_path(&file.path).map_err(wrong(format!("files[{i}].path")))?;
            check_shown(&file.media_type, MAX_MEDIA_TYPE)
                .map_err(wrong(format!("files[{i}].media_type")))?;
            check_chunks(file).map_err(wrong(format!("files[{i}].chunks")))?;
            if i > 0 && self.files[i - 1].path >= file.path {
                return Err(wrong(format!("files[{i}].path"))(format!(
                    "{:?} is not after {:?}: files are sorted by path, each once",
                    file.path,
                    self.files[i - 1].path
                )));
            }
        }
        let paths: BTreeSet<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        check_folders(&paths).map_err(wrong("files".to_owned()))
    }
}

/// Chunks are of a possible size each, and of the file's size together.
fn check_chunks(file: &FileEntry) -> Result<(), String> {
    let mut sum = 0_u64;
    for (i, chunk) in file.chunks.iter().enumerate() {
        if chunk.size == 0 || chunk.size > MAX_CHUNK as u64 {
            return Err(format!(
                "[{i}] has {} bytes, not 1 to {MAX_CHUNK}",
                chunk.size
            ));
        }
        // At most MAX_MANIFEST of them: no overflow.
        sum += chunk.size;
    }
    if sum != file.size {
        return Err(format!(
            "they have {sum} bytes together, the file {}",
            file.size
        ));
    }
    Ok(())
}

/// Sorts the members of every object, whatever order the map of this build keeps.
fn sort(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<(String, Value)> = std::mem::take(members).into_iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            for (_, member) in &mut sorted {
                sort(member);
            }
            members.extend(sorted);
        }
        Value::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
