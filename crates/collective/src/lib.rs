//! espalier-collective
