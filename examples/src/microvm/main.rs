//! A microVM whose guest translates through tables that this workspace built.
fn main() {}
