//! The cargo that started this program, run again in the workspace.

use std::env;

use duct::{Expression, cmd};

use crate::xtask::Xtask;

/// `cargo ARGUMENTS…` in the workspace’s folder.
pub fn cargo<'a>(xtask: &Xtask, arguments: impl IntoIterator<Item = &'a str>) -> Expression {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cmd(program, arguments).dir(xtask.root())
}
