//! WebDataset shards: tar files in which the members `KEY.jpg` (or `.jpeg`, `.png`) and `KEY.cls` (or
//! `.json`) that follow each other are a sample.
//!
//! A shard is indexed once, when the set is opened: where every image starts, how long it is, and its
//! label. Nothing is ever written under a member's name, so a name may be what it likes.

mod members;

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::encoded::Store;
use super::pattern::files;
use super::runs::runs;
use super::section::Section;
use super::{Digest, picture};
use crate::{DataError, Shape};
use members::{Member, members};

#[derive(Debug)]
pub(super) struct Shards {
    root: PathBuf,
    shards: Vec<PathBuf>,
    samples: Vec<Sample>,
    digest: String,
}

#[derive(Debug)]
struct Sample {
    /// Which shard.
    shard: u32,
    label: u32,
    /// Where the image starts in the shard, and its length, in bytes.
    start: u64,
    length: u64,
    /// Of the image's member.
    name: Box<str>,
}

/// The members of a sample that were met so far.
#[derive(Default)]
struct Group {
    key: String,
    image: Option<Member>,
    /// From `.cls`, which counts before that of `.json`.
    class: Option<u32>,
    json: Option<u32>,
    /// The member a message can name.
    first: String,
}

impl Shards {
    /// Indexes the shards that `root` names.
    pub(super) fn open(root: &Path, shape: Shape, loaders: usize) -> Result<Self, DataError> {
        let shards = files(root, "tar")?;
        let samples = runs(shards.len(), loaders, |run| {
            let mut samples = Vec::new();
            for shard in run {
                index(&shards[shard], shard as u32, shape, &mut samples)?;
            }
            Ok(samples)
        })?;
        if samples.is_empty() {
            return Err(DataError::content(root, "no samples"));
        }
        let mut digest = Digest::default();
        for sample in &samples {
            digest.text(&sample.name);
            digest.text(&sample.length.to_string());
            digest.text(&sample.label.to_string());
        }
        Ok(Self {
            root: root.to_owned(),
            shards,
            samples,
            digest: digest.finish(),
        })
    }

    fn shard(&self, sample: &Sample) -> Result<(&Path, File), DataError> {
        let path = self.shards[sample.shard as usize].as_path();
        let file = File::open(path).map_err(DataError::read(path))?;
        Ok((path, file))
    }
}

/// Adds the samples of a shard.
fn index(
    path: &Path,
    shard: u32,
    shape: Shape,
    samples: &mut Vec<Sample>,
) -> Result<(), DataError> {
    let mut group = Group::default();
    members(path, |member, content| {
        let Some((key, extension)) = split(&member.name) else {
            return Ok(());
        };
        if key != group.key {
            samples.extend(std::mem::take(&mut group).sample(path, shard)?);
            key.clone_into(&mut group.key);
            group.first.clone_from(&member.name);
        }
        let place = place(path, &member.name);
        let twice = match extension.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "png" => group.image.replace(member).is_some(),
            "cls" => group
                .class
                .replace(class(&place, content()?, shape)?)
                .is_some(),
            "json" => match json(&place, &content()?, shape)? {
                Some(label) => group.json.replace(label).is_some(),
                None => false,
            },
            _ => false,
        };
        match twice {
            true => Err(DataError::content(place, "a second one of the same sample")),
            false => Ok(()),
        }
    })?;
    samples.extend(group.sample(path, shard)?);
    Ok(())
}

impl Group {
    fn sample(self, path: &Path, shard: u32) -> Result<Option<Sample>, DataError> {
        let key = &self.key;
        match (self.image, self.class.or(self.json)) {
            (None, None) => Ok(None),
            (Some(image), Some(label)) => Ok(Some(Sample {
                shard,
                label,
                start: image.start,
                length: image.length,
                name: image.name.into_boxed_str(),
            })),
            (Some(image), None) => {
                let reason = format!(
                    "no label: {key}.cls, or {key}.json with a number \"label\", is needed right after it"
                );
                Err(DataError::content(place(path, &image.name), reason))
            }
            (None, Some(_)) => {
                let reason =
                    format!("no image: {key}.jpg, .jpeg or .png is needed right beside it");
                Err(DataError::content(place(path, &self.first), reason))
            }
        }
    }
}

/// The key and the extension of a member: what is before and after the first dot of its file name.
fn split(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.').filter(|&dot| dot > 0)?;
    Some((&name[..dot], &name[dot + 1..]))
}

fn class(place: &Path, content: Vec<u8>, shape: Shape) -> Result<u32, DataError> {
    let text = String::from_utf8_lossy(&content);
    let text = text.trim();
    match text.parse() {
        Ok(label) => within(place, label, shape),
        Err(_) => {
            let reason = format!("{text:?} is not a label: a number from 0 on is needed");
            Err(DataError::content(place, reason))
        }
    }
}

/// The label in a JSON object, if it has one.
fn json(place: &Path, content: &[u8], shape: Shape) -> Result<Option<u32>, DataError> {
    let value: serde_json::Value = serde_json::from_slice(content)
        .map_err(|error| DataError::content(place, format!("not JSON: {error}")))?;
    match value.get("label").or_else(|| value.get("cls")) {
        None => Ok(None),
        Some(label) => match label.as_u64() {
            Some(label) => within(place, label, shape).map(Some),
            None => {
                let reason = format!("{label} is not a label: a number from 0 on is needed");
                Err(DataError::content(place, reason))
            }
        },
    }
}

fn within(place: &Path, label: u64, shape: Shape) -> Result<u32, DataError> {
    match u32::try_from(label)
        .ok()
        .filter(|&label| (label as usize) < shape.classes)
    {
        Some(label) => Ok(label),
        None => {
            let reason = format!("label {label}, model.classes is {}", shape.classes);
            Err(DataError::content(place, reason))
        }
    }
}

/// `shard.tar!member`, for people: what a terminal would obey is spelt out.
fn place(shard: &Path, name: &str) -> PathBuf {
    let spelt = |char: char| match char.is_control() {
        true => char.escape_default().collect::<String>(),
        false => char.to_string(),
    };
    let name: String = name.chars().map(spelt).collect();
    PathBuf::from(format!("{}!{name}", shard.display()))
}

impl Store for Shards {
    fn root(&self) -> &Path {
        &self.root
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.samples[index].label
    }

    fn classes(&self) -> Option<&[String]> {
        None
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn place(&self, index: usize) -> PathBuf {
        let sample = &self.samples[index];
        place(&self.shards[sample.shard as usize], &sample.name)
    }

    fn check(&self, index: usize) -> Result<(), DataError> {
        let sample = &self.samples[index];
        let (_, file) = self.shard(sample)?;
        let section = Section {
            file,
            start: sample.start,
            length: sample.length,
            position: 0,
        };
        picture::check(&self.place(index), BufReader::new(section))
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>, DataError> {
        let sample = &self.samples[index];
        let (path, file) = self.shard(sample)?;
        let mut bytes = vec![0; sample.length as usize];
        file.read_exact_at(&mut bytes, sample.start)
            .map_err(DataError::read(path))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_the_first_dot_of_its_last_part() {
        assert_eq!(split("a.b/c.left.jpg"), Some(("a.b/c", "left.jpg")));
        assert_eq!(split("../../x.cls"), Some(("../../x", "cls")));
        for none in ["a.b/c", "._c.jpg", "a/.jpg", ""] {
            assert_eq!(split(none), None, "{none}");
        }
    }

    #[test]
    fn a_place_obeys_no_member() {
        let shown = place(Path::new("s.tar"), "a\u{1b}[2J\nb.jpg");
        assert_eq!(shown, Path::new("s.tar!a\\u{1b}[2J\\nb.jpg"));
    }
}
