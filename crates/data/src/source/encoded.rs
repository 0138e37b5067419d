//! Encoded images, wherever they lie: checked when the set is opened, decoded when they are used.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use espalier_job::{Damaged, Data};

use super::picture;
use super::runs::runs;
use crate::picture::Picture;
use crate::{BadImage, DataError};

/// Damaged images that are logged one by one when a set is opened; the rest is counted.
const LOGGED: usize = 20;
/// Damaged images that a message names.
const NAMED: usize = 3;

/// Labels and encoded images in files.
pub(super) trait Store: Debug + Send + Sync {
    /// What the job calls it.
    fn root(&self) -> &Path;
    /// Number of images.
    fn len(&self) -> usize;
    /// Below the model's number of classes.
    fn label(&self, index: usize) -> u32;
    /// Names of the classes, by label, where the files tell them.
    fn classes(&self) -> Option<&[String]>;
    /// Of the files, as `sha256:...`.
    fn digest(&self) -> &str;
    /// Where the image is: its path, `shard.tar!member` or `file.parquet!row`.
    fn place(&self, index: usize) -> PathBuf;
    /// Checks the header and the end of the image.
    fn check(&self, index: usize) -> Result<(), DataError>;
    /// The encoded image.
    fn bytes(&self, index: usize) -> Result<Vec<u8>, DataError>;
}

/// A store and what is known of its damaged images.
#[derive(Debug)]
pub(crate) struct Encoded {
    store: Box<dyn Store>,
    /// The images that are left when some are skipped.
    kept: Option<Vec<u32>>,
    damaged: Damaged,
    /// Largest share of damaged images that is skipped.
    most: f64,
    /// Images of the store that were found damaged.
    found: Mutex<BTreeSet<u32>>,
}

impl Encoded {
    /// Checks every image, and refuses or leaves out the damaged ones.
    pub(super) fn open(
        store: Box<dyn Store>,
        data: &Data,
        loaders: usize,
    ) -> Result<Self, DataError> {
        let bad = bad_images(&*store, loaders)?;
        if data.damaged == Damaged::Refuse && !bad.is_empty() {
            return Err(DataError::images(
                bad.into_iter().map(|(_, bad)| bad).collect(),
            ));
        }
        for (_, bad) in bad.iter().take(LOGGED) {
            tracing::warn!(image = %bad.place.display(), reason = bad.reason, "skipped a damaged image");
        }
        let found: BTreeSet<u32> = bad.into_iter().map(|(index, _)| index).collect();
        if !found.is_empty() {
            tracing::warn!(
                count = found.len(),
                of = store.len(),
                set = %store.root().display(),
                "skipped damaged images"
            );
        }
        let kept = (!found.is_empty()).then(|| {
            (0..store.len() as u32)
                .filter(|index| !found.contains(index))
                .collect::<Vec<_>>()
        });
        if kept.as_ref().is_some_and(Vec::is_empty) {
            return Err(DataError::content(store.root(), "all images are damaged"));
        }
        let opened = Self {
            store,
            kept,
            damaged: data.damaged,
            most: data.damaged_most,
            found: Mutex::new(found),
        };
        opened.within_limit()?;
        Ok(opened)
    }

    pub(super) fn len(&self) -> usize {
        self.kept.as_ref().map_or(self.store.len(), Vec::len)
    }

    pub(super) fn label(&self, index: usize) -> u32 {
        self.store.label(self.position(index))
    }

    pub(super) fn digest(&self) -> &str {
        self.store.digest()
    }

    pub(super) fn picture(&self, index: usize, channels: usize) -> Result<Picture, DataError> {
        let position = self.position(index);
        let bytes = self.store.bytes(position)?;
        picture::decode(&self.store.place(position), &bytes, channels)
    }

    /// Takes note of an image that turned out to be damaged, so that another one takes its place.
    ///
    /// # Errors
    /// The image, where damaged ones are refused; too many of them, where they are skipped.
    pub(super) fn skip(&self, index: usize, bad: BadImage) -> Result<(), DataError> {
        if self.damaged == Damaged::Refuse {
            return Err(DataError::Image(bad));
        }
        let position = self.position(index) as u32;
        let new = {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.insert(position)
        };
        if new {
            tracing::warn!(
                image = %bad.place.display(),
                reason = bad.reason,
                "a damaged image: the next one is used in its place"
            );
        }
        self.within_limit()
    }

    /// How many images are known to be damaged, of how many, and the first of them; none if none are.
    pub(super) fn damaged(&self) -> Option<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        (!found.is_empty()).then(|| self.described(&found))
    }

    fn described(&self, found: &BTreeSet<u32>) -> String {
        let place = |&index: &u32| self.store.place(index as usize).display().to_string();
        let mut first: Vec<String> = found.iter().take(NAMED).map(place).collect();
        if found.len() > NAMED {
            first.push("...".to_owned());
        }
        format!(
            "{} of the {} images of {} are damaged ({})",
            found.len(),
            self.store.len(),
            self.store.root().display(),
            first.join(", ")
        )
    }

    fn within_limit(&self) -> Result<(), DataError> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() as f64 <= self.most * self.store.len() as f64 {
            return Ok(());
        }
        Err(DataError::field(
            "data.damaged_most",
            format!(
                "{}, more than the share {} that may be skipped: mend them or raise it",
                self.described(&found),
                self.most
            ),
        ))
    }

    /// Checks that labels mean the same here and in `validation`.
    pub(super) fn agrees_with(&self, validation: &Self) -> Result<(), DataError> {
        let (train, validation) = (&*self.store, &*validation.store);
        let Some((ours, theirs)) = train.classes().zip(validation.classes()) else {
            return Ok(());
        };
        let missing = |(here, names): (&dyn Store, &[String]),
                       (there, others): (&dyn Store, &[String])| {
            let class = names.iter().find(|class| !others.contains(class))?;
            let reason = format!("no class {class}, which {} has", here.root().display());
            Some(DataError::content(there.root(), reason))
        };
        let (ours, theirs) = ((train, ours), (validation, theirs));
        if let Some(error) = missing(ours, theirs).or_else(|| missing(theirs, ours)) {
            return Err(error);
        }
        match ours.1.iter().zip(theirs.1).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(label) => {
                let reason = format!(
                    "label {label} is {} here and {} in {}",
                    theirs.1[label],
                    ours.1[label],
                    train.root().display()
                );
                Err(DataError::content(validation.root(), reason))
            }
        }
    }

    fn position(&self, index: usize) -> usize {
        self.kept
            .as_ref()
            .map_or(index, |kept| kept[index] as usize)
    }
}

/// Checks every image on `loaders` threads: the damaged ones, in order.
fn bad_images(store: &dyn Store, loaders: usize) -> Result<Vec<(u32, BadImage)>, DataError> {
    runs(store.len(), loaders, |run| {
        let mut bad = Vec::new();
        for index in run {
            match store.check(index) {
                Ok(()) => {}
                Err(DataError::Image(image)) => bad.push((index as u32, image)),
                Err(other) => return Err(other),
            }
        }
        Ok(bad)
    })
}
