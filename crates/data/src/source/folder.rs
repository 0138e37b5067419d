//! JPEG and PNG files, one folder per class.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Digest, picture};
use crate::{DataError, Shape};

#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Names of the class folders, sorted; the label of a class is its place.
    classes: Vec<String>,
    /// Label and file name of every image, by class, then by name.
    images: Vec<(u32, Box<str>)>,
    digest: String,
}

impl Folder {
    /// Lists the images and checks the header and the end of every one.
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
                picture::check(&path)?;
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

    pub(super) fn agrees_with(&self, validation: &Self) -> Result<(), DataError> {
        let missing = |here: &Self, there: &Self| {
            let class = here
                .classes
                .iter()
                .find(|class| !there.classes.contains(class));
            class.map(|class| {
                let reason = format!("no class folder {class}, which {} has", here.root.display());
                DataError::content(&there.root, reason)
            })
        };
        match missing(self, validation).or_else(|| missing(validation, self)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    pub(super) fn label(&self, index: usize) -> u32 {
        self.images[index].0
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn pixels(&self, index: usize, shape: Shape) -> Result<Vec<u8>, DataError> {
        let (label, name) = &self.images[index];
        let path = self.root.join(&self.classes[*label as usize]).join(&**name);
        picture::pixels(&path, shape)
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
