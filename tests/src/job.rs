use std::path::{Path, PathBuf};

/// A job that is done in seconds: a vision transformer of two blocks, pruned and gated.
#[derive(Clone, Debug)]
pub struct TinyJob {
    /// Folder of the images.
    pub data: PathBuf,
    /// Steps of the search stage.
    pub search: u64,
    /// Steps of the tune stage.
    pub tune: u64,
    /// Workers, no more, and no less unless `min_workers` says so.
    pub workers: u32,
    /// Fewest workers, if they are fewer than `workers`.
    pub min_workers: Option<u32>,
    /// Steps between checkpoints.
    pub every: u64,
    /// Name of the published model.
    pub name: String,
    /// `compress.mode`.
    pub mode: &'static str,
    /// `model.init`, as it is written in the file.
    pub init: String,
}

impl TinyJob {
    /// 50 steps on one worker over the images in `data`.
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_path_buf(),
            search: 20,
            tune: 30,
            workers: 1,
            min_workers: None,
            every: 10,
            name: "tiny".to_owned(),
            mode: "unified",
            init: "\"scratch\"".to_owned(),
        }
    }

    /// The job file. Four micro-batches a step, so that three ranks run unequal shares.
    pub fn toml(&self) -> String {
        let Self {
            data,
            search,
            tune,
            workers,
            min_workers,
            every,
            name,
            mode,
            init,
        } = self;
        let data = data.display();
        let min = min_workers.unwrap_or(*workers);
        format!(
            r#"
name = "{name}"

[model]
image_size = 28
patch_size = 7
channels = 1
classes = 10
width = 32
depth = 2
heads = 2
ffn = 64
init = {init}

[data]
format = "idx"
train = "{data}"
validation = "{data}"
mean = [0.286]
std = [0.353]
augment = {{ flip = true, pad = 2 }}

[compress]
mode = "{mode}"
target = 0.6
static_target = 0.8
search = {{ steps = {search} }}
tune = {{ steps = {tune} }}
gate = {{ input = "mean" }}
grouping = [
    {{ policy = "recursive", weight = 0.7 }},
    {{ policy = {{ uniform = 1 }}, weight = 0.3 }},
]

[train]
global_batch = 64
micro_batch = 16
seed = 11
metrics_every = 1
optimizer = {{ lr = 2e-3 }}
ema_decay = 0.9

[resources]
workers = {{ min = {min}, max = {workers} }}

[publish]
name = "{name}"
every = {every}
"#
        )
    }
}
