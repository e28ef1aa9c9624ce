//! Debian as the source of everything that is not a crate: packages are fetched through an apt of
//! our own and unpacked. Nothing is installed, and the machine’s own apt is only read.

mod download;
mod index;
mod mirror;
mod plan;

pub use download::{fetch, room};
pub use index::{Index, Release, native_architecture};
pub use plan::Plan;
