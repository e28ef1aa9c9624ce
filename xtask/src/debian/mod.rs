//! Debian as the source of everything that is not a crate: packages that get installed on this
//! machine, and packages that are only unpacked.

mod archive;
mod mirror;
mod packages;
mod private_root;

pub use archive::{Archive, without_libc};
pub use packages::ensure_installed;
