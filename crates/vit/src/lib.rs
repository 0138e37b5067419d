//! espalier-vit
