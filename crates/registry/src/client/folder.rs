//! A folder on this side: what is in it, and what it must become.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ClientError;
use crate::failpoint::reach;
use crate::files::sync_dir;
use crate::rules::check_path;
use crate::{Digest, FileEntry, MAX_FILES, MAX_MANIFEST, Manifest};

/// File of a checkpoint that goes into its manifest too.
const REPORT: &str = "report.json";

pub(super) fn file_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ClientError {
    let path = path.to_owned();
    move |source| ClientError::File {
        action,
        path,
        source,
    }
}

pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> ClientError {
    ClientError::Folder {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// Relative paths of all files below a folder, sorted. Only plain files and folders are taken.
pub(super) fn walk(dir: &Path) -> Result<Vec<String>, ClientError> {
    let mut paths = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(file_error("read", &folder))? {
            let entry = entry.map_err(file_error("read", &folder))?;
            let kind = entry.file_type().map_err(file_error("read", &folder))?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(|n| format!("{prefix}{n}")) else {
                return Err(unusable(&path, "its name is not utf-8; rename it"));
            };
            if kind.is_dir() {
                folders.push((path, format!("{name}/")));
            } else if kind.is_file() {
                check_path(&name).map_err(|problem| unusable(dir, problem))?;
                paths.push(name);
            } else {
                let problem = "it is neither a file nor a folder; replace it by a copy";
                return Err(unusable(&path, problem));
            }
            if paths.len() + folders.len() > MAX_FILES {
                return Err(unusable(dir, format!("it has more than {MAX_FILES} files")));
            }
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// The files of a folder: (path, size), sorted.
pub(super) fn list(dir: &Path) -> Result<Vec<(String, u64)>, ClientError> {
    let paths = walk(dir)?;
    if paths.is_empty() {
        return Err(unusable(dir, "there are no files in it"));
    }
    let with_size = |path: String| {
        let full = dir.join(&path);
        let metadata = fs::metadata(&full).map_err(file_error("read", &full))?;
        Ok((path, metadata.len()))
    };
    paths.into_iter().map(with_size).collect()
}

/// The content of `report.json`, if there is one.
pub(super) fn report(dir: &Path) -> Result<Option<Value>, ClientError> {
    let path = dir.join(REPORT);
    match fs::metadata(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file_error("read", &path)(e)),
        Ok(metadata) if metadata.len() > MAX_MANIFEST as u64 => {
            let problem = format!("it has more than {MAX_MANIFEST} bytes, too many for a manifest");
            return Err(unusable(&path, problem));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(file_error("read", &path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| unusable(&path, format!("it is not json: {e}")))
}

/// Which chunks of a file are in their places in a file on this side; it may be shorter or longer.
pub(super) fn chunks_in_place(path: &Path, entry: &FileEntry) -> Result<Vec<bool>, ClientError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![false; entry.chunks.len()]),
        Err(e) => return Err(file_error("read", path)(e)),
    };
    let mut buffer = Vec::new();
    let mut in_place = Vec::with_capacity(entry.chunks.len());
    for chunk in &entry.chunks {
        buffer.clear();
        let mut piece = (&mut file).take(chunk.size);
        piece
            .read_to_end(&mut buffer)
            .map_err(file_error("read", path))?;
        in_place.push(buffer.len() as u64 == chunk.size && Digest::of(&buffer) == chunk.digest);
    }
    Ok(in_place)
}

/// What is wrong with a folder that should hold exactly this checkpoint; `None` when nothing is.
pub(super) fn difference(dir: &Path, manifest: &Manifest) -> Result<Option<String>, ClientError> {
    let paths = walk(dir)?;
    if let Some(extra) = paths
        .iter()
        .find(|path| !manifest.files.iter().any(|file| file.path == **path))
    {
        return Ok(Some(format!("`{extra}` does not belong to it")));
    }
    for file in &manifest.files {
        if !paths.contains(&file.path) {
            return Ok(Some(format!("`{}` is missing", file.path)));
        }
        let path = dir.join(&file.path);
        let size = fs::metadata(&path)
            .map_err(file_error("read", &path))?
            .len();
        if size != file.size || !chunks_in_place(&path, file)?.iter().all(|there| *there) {
            return Ok(Some(format!("`{}` is another", file.path)));
        }
    }
    Ok(None)
}

/// Whether a folder can become a checkpoint: it is not there, or there is nothing in it.
///
/// # Errors
/// A link to nothing or to an empty folder: what is put in place would replace the link.
pub(super) fn is_free(dir: &Path) -> Result<bool, ClientError> {
    let is_link = fs::symlink_metadata(dir).is_ok_and(|metadata| metadata.is_symlink());
    let is_empty = fs::read_dir(dir).map(|mut entries| entries.next().is_none());
    match is_empty {
        Ok(false) => Ok(false),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(file_error("read", dir)(e)),
        _ if is_link => Err(unusable(dir, "it is a link; name a folder to be made")),
        _ => Ok(true),
    }
}

/// Moves a folder that holds a whole checkpoint to its place, durably: files that do not belong to it
/// are removed, then one rename makes it appear.
pub(super) fn put_in_place(
    partial: &Path,
    dir: &Path,
    manifest: &Manifest,
) -> Result<(), ClientError> {
    for path in walk(partial)? {
        if !manifest.files.iter().any(|file| file.path == path) {
            let path = partial.join(path);
            fs::remove_file(&path).map_err(file_error("remove", &path))?;
        }
    }
    for folder in folders(partial, manifest) {
        sync_dir(&folder).map_err(file_error("sync", &folder))?;
    }
    fs::rename(partial, dir).map_err(file_error("rename to", dir))?;
    reach("folder in place");
    let parent = parent(dir);
    sync_dir(&parent).map_err(file_error("sync", &parent))
}

/// The folder that holds a path.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn folders(root: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = manifest
        .files
        .iter()
        .flat_map(|file| {
            Path::new(&file.path)
                .ancestors()
                .skip(1)
                .map(|folder| root.join(folder))
        })
        .collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

pub(super) fn media_type(path: &str) -> &'static str {
    match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("json") => "application/json",
        Some("md") => "text/markdown",
        Some("txt" | "log") => "text/plain",
        Some("toml") => "application/toml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_in_order() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(dir.path().join("b/c")).expect("makes");
        for path in ["z", "b/c/x.json", "b.json"] {
            fs::write(dir.path().join(path), path).expect("writes");
        }
        let files = list(dir.path()).expect("reads");
        let expected = [("b.json", 6), ("b/c/x.json", 10), ("z", 1)];
        assert_eq!(files, expected.map(|(path, size)| (path.to_owned(), size)));
        assert_eq!(media_type("b/c/x.json"), "application/json");
    }

    #[test]
    fn folders_that_make_no_checkpoint_are_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = list(dir.path()).expect_err("empty");
        assert!(error.to_string().contains("no files"), "{error}");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("links");
        let error = list(dir.path()).expect_err("link");
        assert!(error.to_string().contains("link: it is neither"), "{error}");
        fs::remove_file(dir.path().join("link")).expect("removes");
        fs::write(dir.path().join("a\\b"), "").expect("writes");
        let error = list(dir.path()).expect_err("backslash");
        assert!(error.to_string().contains("backslash"), "{error}");
        let error = list(&dir.path().join("none")).expect_err("absent");
        assert!(error.to_string().starts_with("cannot read"), "{error}");
    }

    #[test]
    fn a_report_that_is_not_json_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(report(dir.path()).expect("none"), None);
        fs::write(dir.path().join(REPORT), "{").expect("writes");
        let error = report(dir.path()).expect_err("not json");
        assert!(
            error.to_string().contains("report.json: it is not json"),
            "{error}"
        );
    }
}
