use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

/// Damaged images that are named one by one; the rest is counted.
const LISTED: usize = 20;

/// What is wrong with the data of a job.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file or folder, or what is in it: `shard.tar!member`, `file.parquet!row`.
        path: PathBuf,
        /// What is wrong with it and, where it helps, what to do.
        reason: String,
    },
    /// An image that cannot be decoded.
    #[error("{0}")]
    Image(BadImage),
    /// Several images that cannot be decoded.
    #[error("{}", list(first, *count))]
    Images {
        /// The first ones.
        first: Vec<BadImage>,
        /// All of them.
        count: usize,
    },
    /// A field of the job does not fit the data.
    #[error("{field}: {reason}")]
    Field {
        /// The field, as `model.image_size`.
        field: &'static str,
        /// What does not fit.
        reason: String,
    },
}

/// An image that cannot be decoded, as opposed to a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", place.display())]
pub struct BadImage {
    /// Its path, `shard.tar!member` or `file.parquet!row`.
    pub place: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

fn list(first: &[BadImage], count: usize) -> String {
    let mut text = format!("{count} images are damaged (data.damaged = \"skip\" leaves them out)");
    for image in first {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {image}");
    }
    if count > first.len() {
        let _ = write!(text, "; and {} more", count - first.len());
    }
    text
}

impl DataError {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn content(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Content {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field {
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn image(place: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Image(BadImage {
            place: place.into(),
            reason: reason.into(),
        })
    }

    /// Of at least one image.
    pub(crate) fn images(mut bad: Vec<BadImage>) -> Self {
        let count = bad.len();
        bad.truncate(LISTED);
        match (count, bad.pop()) {
            (1, Some(only)) => Self::Image(only),
            (_, last) => {
                bad.extend(last);
                Self::Images { first: bad, count }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_ends_with_a_count() {
        let bad = |count: usize| -> Vec<BadImage> {
            (0..count)
                .map(|index| BadImage {
                    place: format!("{index}.png").into(),
                    reason: "cut off".to_owned(),
                })
                .collect()
        };
        assert_eq!(DataError::images(bad(1)).to_string(), "0.png: cut off");
        assert_eq!(
            DataError::images(bad(2)).to_string(),
            "2 images are damaged (data.damaged = \"skip\" leaves them out); 0.png: cut off; 1.png: cut off"
        );
        let many = DataError::images(bad(25)).to_string();
        assert!(
            many.starts_with("25 images") && many.ends_with("19.png: cut off; and 5 more"),
            "{many}"
        );
    }
}
