use std::{fs, io, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::Dims;

/// Measured times of the parts of a model, milliseconds for one image of a batch. [ours]
///
/// The model's time is taken to be the sum over its parts, as its MACs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Dimensions of the dense model.
    pub dims: Dims,
    /// Width of the gates' hidden layer.
    pub gate_hidden: i64,
    /// Images in a batch.
    pub batch: u32,
    /// Torch's threads.
    pub threads: u32,
    /// Where it was measured: the device, and what the system calls it.
    pub device: String,
    /// Stem and heads.
    pub fixed_ms: f64,
    /// One gate.
    pub gate_ms: f64,
    /// MHSA by the number of heads, norm and residual included; rising sizes.
    pub attn: Vec<Point>,
    /// FFN by the number of neurons, norm and residual included; rising sizes.
    pub ffn: Vec<Point>,
}

/// The time of a module of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Heads or neurons.
    pub size: i64,
    /// Milliseconds for one image.
    pub ms: f64,
}

/// Why a table cannot be a budget.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// The file cannot be read.
    #[error("{}: cannot read the latency table: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no table.
    #[error("{}: not a latency table: {source}; make one with `espalier-worker latency-table`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The table does not serve.
    #[error("{field}: {reason}")]
    Unfit {
        /// The table's field.
        field: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
}

/// A larger module may be this much faster than a smaller one, as a share: noise of the measurement.
const NOISE: f64 = 0.05;

impl LatencyTable {
    /// Reads a table and checks it.
    ///
    /// # Errors
    /// A file that is missing or damaged, times that make no sense.
    pub fn open(path: &Path) -> Result<Self, LatencyError> {
        let text = fs::read(path).map_err(|source| LatencyError::Read {
            path: path.to_owned(),
            source,
        })?;
        let table: Self = serde_json::from_slice(&text).map_err(|source| LatencyError::Parse {
            path: path.to_owned(),
            source,
        })?;
        table.check()?;
        Ok(table)
    }

    /// Whether times are times and grow with the size.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), LatencyError> {
        for (field, ms) in [("fixed_ms", self.fixed_ms), ("gate_ms", self.gate_ms)] {
            require(ms.is_finite() && ms >= 0.0, field, || {
                format!("{ms} is no time")
            })?;
        }
        for (field, points) in [("attn", &self.attn), ("ffn", &self.ffn)] {
            for point in points {
                require(point.ms.is_finite() && point.ms > 0.0, field, || {
                    format!("size {}: {} is no time", point.size, point.ms)
                })?;
            }
            require(
                points.first().is_some_and(|point| point.size > 0),
                field,
                || "sizes must be above 0, and one is needed at least".to_owned(),
            )?;
            for pair in points.windows(2) {
                let (small, large) = (pair[0], pair[1]);
                require(small.size < large.size, field, || {
                    format!("size {} comes after size {}", large.size, small.size)
                })?;
                require(large.ms >= small.ms * (1.0 - NOISE), field, || {
                    format!(
                        "size {} takes {} ms, less than the {} ms of size {}; measure again on a quiet machine",
                        large.size, large.ms, small.ms, small.size
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Whether the table is of these models: the same dimensions and, where there are gates, gates; all
    /// numbers of heads, and all of `neurons`.
    ///
    /// # Errors
    /// The first that is not.
    pub fn fits(
        &self,
        dims: &Dims,
        gate_hidden: Option<i64>,
        neurons: &[i64],
    ) -> Result<(), LatencyError> {
        require(self.dims == *dims, "dims", || {
            format!(
                "the table is of width {}, depth {} and {} tokens, with {} classes, or of another architecture; \
                 the job's model has width {}, depth {}, {} tokens and {} classes",
                self.dims.width,
                self.dims.depth,
                self.dims.tokens(),
                self.dims.classes,
                dims.width,
                dims.depth,
                dims.tokens(),
                dims.classes
            )
        })?;
        let same_gates = gate_hidden.is_none_or(|hidden| hidden == self.gate_hidden);
        require(same_gates, "gate_hidden", || {
            format!(
                "the table is of gates of width {}, the job's have {}",
                self.gate_hidden,
                gate_hidden.unwrap_or(0)
            )
        })?;
        let heads: Vec<i64> = (1..=dims.heads).collect();
        for (field, points, sizes) in [
            ("attn", &self.attn, heads.as_slice()),
            ("ffn", &self.ffn, neurons),
        ] {
            let missing = sizes
                .iter()
                .find(|&&size| points.iter().all(|point| point.size != size));
            require(missing.is_none(), field, || {
                format!(
                    "size {} is missing; measure with the job's number of candidates",
                    missing.unwrap_or(&0)
                )
            })?;
        }
        Ok(())
    }
}

fn require(
    holds: bool,
    field: &'static str,
    reason: impl FnOnce() -> String,
) -> Result<(), LatencyError> {
    if holds {
        Ok(())
    } else {
        Err(LatencyError::Unfit {
            field,
            reason: reason(),
        })
    }
}

/// Time of `size`: straight lines through nothing at 0 and the points.
pub(crate) fn at(points: &[Point], size: f64) -> f64 {
    segments(points)
        .map(|segment| segment.slope * (size - segment.from).clamp(0.0, segment.length))
        .sum()
}

/// As [`at`], of f64 sizes of any shape, differentiable.
pub(crate) fn at_each(points: &[Point], size: &Tensor) -> Tensor {
    segments(points)
        .map(|segment| (size - segment.from).clamp(0.0, segment.length) * segment.slope)
        .reduce(|sum, part| sum + part)
        .unwrap_or_else(|| size.zeros_like().to_kind(Kind::Double))
}

/// A straight piece of the curve.
struct Segment {
    from: f64,
    length: f64,
    /// Milliseconds for one more head or neuron.
    slope: f64,
}

fn segments(points: &[Point]) -> impl Iterator<Item = Segment> {
    let start = Point { size: 0, ms: 0.0 };
    let ends = std::iter::once(&start).chain(points);
    let pairs: Vec<(Point, Point)> = ends.zip(points).map(|(from, to)| (*from, *to)).collect();
    pairs.into_iter().map(|(from, to)| {
        let length = (to.size - from.size) as f64;
        Segment {
            from: from.size as f64,
            length,
            slope: (to.ms - from.ms) / length,
        }
    })
}
