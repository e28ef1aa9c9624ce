//! QEMU, and which version it is.

use std::path::PathBuf;

use anyhow::{Context, Result};
use duct::cmd;

use crate::command;

/// One of QEMU’s programs.
#[derive(Debug)]
pub struct Qemu {
    pub program: PathBuf,
    /// As it says itself: `10.0.13`.
    pub version: String,
}

impl Qemu {
    /// Asks the program for its version.
    pub fn ask(program: PathBuf) -> Result<Self> {
        let said = command::quiet("QEMU’s version", &cmd!(&program, "--version"))?;
        let version = version(&said)
            .with_context(|| format!("{} does not say its version: {said}", program.display()))?;
        Ok(Self { version: version.to_owned(), program })
    }

    /// Major and minor number; zeros for what is no number.
    pub fn release(&self) -> [u32; 2] {
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
    }
}

fn version(said: &str) -> Option<&str> {
    said.strip_prefix("QEMU emulator version ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read() {
        let said = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright\n";
        assert_eq!(version(said), Some("10.0.13"));
        assert_eq!(version("qemu 1.0"), None);
        let of = |version: &str| Qemu { program: PathBuf::new(), version: version.to_owned() };
        assert_eq!(of("10.0.13").release(), [10, 0]);
        assert!(of("7.2.22").release() < [10, 0]);
    }
}
