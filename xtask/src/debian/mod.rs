//! Debian as the source of everything that is not a crate: packages of this machine, and packages
//! of the emulated host’s architecture.

mod archive;
mod mirror;
mod packages;

pub use archive::Archive;
pub use packages::{ensure_installed, version};
