//! The plots.

use std::path::Path;

use crate::peer::Answer;
use crate::samples::Row;

/// Draws all.
pub fn draw(_folder: &Path, _rows: &[Row]) -> Answer<()> {
    Ok(())
}
