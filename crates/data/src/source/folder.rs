//! JPEG and PNG files, one folder per class.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::encoded::Store;
use super::{Digest, picture};
use crate::{DataError, Shape};

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Names of the class folders, sorted; the label of a class is its place.
    classes: Vec<String>,
    /// Label and file name of every image, by class, then by name.
    images: Vec<(u32, Box<str>)>,
    digest: String,
}

impl Folder {
    /// Lists the images.
    pub(super) fn open(root: &Path, shape: Shape) -> Result<Self, DataError> {
        let classes: Vec<String> = visible(root)?
            .into_iter()
            .filter(|name| root.join(name).is_dir())
            .collect();
        if classes.is_empty() {
            let reason = "no class folders: one folder of images per class is needed";
            return Err(DataError::content(root, reason));
        }
        if classes.len() > shape.classes {
            let (found, wanted) = (classes.len(), shape.classes);
            let reason = format!(
                "{wanted} is less than the {found} class folders of {}",
                root.display()
            );
            return Err(DataError::field("model.classes", reason));
        }
        let mut images = Vec::new();
        let mut digest = Digest::default();
        for (label, class) in classes.iter().enumerate() {
            let folder = root.join(class);
            let names = visible(&folder)?;
            if names.is_empty() {
                return Err(DataError::content(folder, "no images of this class"));
            }
            digest.text(class);
            for name in names {
                let path = folder.join(&name);
                let file = path.metadata().map_err(DataError::read(&path))?;
                if file.is_dir() {
                    let reason = "a folder inside a class folder: put its images beside it";
                    return Err(DataError::content(path, reason));
                }
                if file.len() > picture::MAX_BYTES {
                    let (length, limit) = (file.len(), picture::MAX_BYTES);
                    let reason = format!("{length} bytes are more than the limit, {limit}");
                    return Err(DataError::content(path, reason));
                }
                digest.text(&format!("{class}/{name}"));
                digest.text(&file.len().to_string());
                images.push((label as u32, name.into_boxed_str()));
            }
        }
        Ok(Self {
            root: root.to_owned(),
            classes,
            images,
            digest: digest.finish(),
        })
    }
}

impl Store for Folder {
    fn root(&self) -> &Path {
        &self.root
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.images[index].0
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.classes)
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn place(&self, index: usize) -> PathBuf {
        let (label, name) = &self.images[index];
        let class = &self.classes[*label as usize];
        self.root.join(class).join(&**name)
    }

    fn check(&self, index: usize) -> Result<(), DataError> {
        let path = self.place(index);
        let file = File::open(&path).map_err(DataError::read(&path))?;
        picture::check(&path, BufReader::new(file))
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let path = self.place(index);
        fs::read(&path).map_err(DataError::read(path))
    }
}

/// The names in a folder that do not start with a dot, sorted.
fn visible(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        let entry = entry.map_err(DataError::read(folder))?;
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with('.') => {}
            Ok(name) => names.push(name),
            Err(_) => return Err(DataError::content(entry.path(), "its name is not UTF-8")),
        }
    }
    names.sort_unstable();
    Ok(names)
}
