//! The peers: each crate behind [`PageTables`](crate::work::PageTables), called as its own documentation says.

pub mod x86_64;
