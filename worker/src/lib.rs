//! espalier-worker
