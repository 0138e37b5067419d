//! espalier-store
