//! espalier-tests
