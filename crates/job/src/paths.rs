use std::path::Path;

use crate::{Init, Job};

impl Job {
    /// Puts every relative path of the job below `base`, an absolute folder: the job file's own.
    pub fn absolute_paths(&mut self, base: &Path) {
        for (_, path) in self.paths_mut() {
            // Joining an absolute path gives that path.
            *path = base.join(&*path).to_string_lossy().into_owned();
        }
    }

    /// The fields that hold a relative path, which only the job file's author can resolve.
    pub fn relative_paths(&self) -> Vec<&'static str> {
        self.paths()
            .into_iter()
            .filter(|(_, path)| Path::new(path).is_relative())
            .map(|(field, _)| field)
            .collect()
    }

    fn paths(&self) -> Vec<(&'static str, &str)> {
        let mut paths = vec![
            ("data.train", self.data.train.as_str()),
            ("data.validation", self.data.validation.as_str()),
        ];
        match &self.model.init {
            Init::Safetensors(path) => paths.push(("model.init.safetensors", path)),
            Init::Pth(path) => paths.push(("model.init.pth", path)),
            Init::Scratch | Init::Checkpoint(_) => {}
        }
        paths
    }

    fn paths_mut(&mut self) -> Vec<(&'static str, &mut String)> {
        let mut paths = vec![
            ("data.train", &mut self.data.train),
            ("data.validation", &mut self.data.validation),
        ];
        match &mut self.model.init {
            Init::Safetensors(path) => paths.push(("model.init.safetensors", path)),
            Init::Pth(path) => paths.push(("model.init.pth", path)),
            Init::Scratch | Init::Checkpoint(_) => {}
        }
        paths
    }
}
