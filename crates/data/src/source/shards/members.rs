//! The members of a tar file, checked to be whole.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use tar::{Archive, EntryType};

use super::{picture, place};
use crate::DataError;

/// What members and the archive are padded to.
const BLOCK: u64 = 512;
/// Longest content that is read while a shard is indexed: a label.
const MAX_LABEL: u64 = 1 << 20;
/// Zeros that may follow the last member: writers fill up to a record, mostly of 10 KiB.
const MAX_PADDING: u64 = 1 << 20;

/// A regular file in the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its content starts in the archive, and its length, in bytes.
    pub(super) start: u64,
    pub(super) length: u64,
}

/// Gives every regular file to `take`, in order, with a function that reads its content.
pub(super) fn members(
    path: &Path,
    mut take: impl FnMut(
        Member,
        &mut dyn FnMut() -> Result<Vec<u8>, DataError>,
    ) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let size = file.metadata().map_err(DataError::read(path))?.len();
    let mut archive = Archive::new(BufReader::new(file));
    let mut end = 0;
    let damaged = |error: io::Error| match error.raw_os_error() {
        Some(_) => DataError::read(path)(error),
        None => DataError::content(path, format!("not a whole tar file: {error}")),
    };
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let (start, length) = (entry.raw_file_position(), entry.size());
        end = start.saturating_add(length).next_multiple_of(BLOCK);
        if start.saturating_add(length) > size {
            let reason =
                format!("cut off: {length} bytes from {start} on are beyond the end of the shard");
            return Err(DataError::content(place(path, &name), reason));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => {
                let reason =
                    "a link or special file: images and labels must be files in the shard itself";
                return Err(DataError::content(place(path, &name), reason));
            }
        }
        if length > picture::MAX_BYTES {
            let reason = format!(
                "{length} bytes are more than the limit, {}",
                picture::MAX_BYTES
            );
            return Err(DataError::content(place(path, &name), reason));
        }
        let shown = place(path, &name);
        let mut content = || {
            if length > MAX_LABEL {
                let reason = format!("{length} bytes are more than a label may have, {MAX_LABEL}");
                return Err(DataError::content(&shown, reason));
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(damaged)?;
            Ok(bytes)
        };
        let member = Member {
            name,
            start,
            length,
        };
        take(member, &mut content)?;
    }
    ends(path, archive.into_inner(), end, size)
}

/// Checks that nothing but zeros, and some of them, follow the last member.
fn ends(path: &Path, mut file: BufReader<File>, end: u64, size: u64) -> Result<(), DataError> {
    if size < end.saturating_add(BLOCK) {
        return Err(DataError::content(
            path,
            "cut off: the end of the archive is missing",
        ));
    }
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(end))
        .map_err(DataError::read(path))?;
    file.take(MAX_PADDING)
        .read_to_end(&mut rest)
        .map_err(DataError::read(path))?;
    if size - end > MAX_PADDING || rest.iter().any(|&byte| byte != 0) {
        let reason = format!(
            "it goes on after its end, at {end} of {size} bytes: two archives in one file?"
        );
        return Err(DataError::content(path, reason));
    }
    Ok(())
}
