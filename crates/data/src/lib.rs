//! espalier-data
