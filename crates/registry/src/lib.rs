//! espalier-registry
