//! Keys and aliases as JSON Lines: `export`, `import`, and the lines between them. See `docs/cli.md`.

pub(crate) mod export;
pub(crate) mod import;
mod line;
mod place;
