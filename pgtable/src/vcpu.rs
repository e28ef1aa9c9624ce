//! What an architecture's crate says of a vCPU: which tree its registers name, and what each
//! control bit does to translation.
//!
//! # Protocol
//! A vCPU's translation is a value, made of its registers whenever an access is to be translated:
//! a [`PagingState`]. It names the tree for an access, or says that translation is off, or refuses
//! the access. A [`PagingWalker`] is that value with the memory behind it, and translates,
//! [records](crate::bytes::Recording) or [debugs](crate::bytes::Debugger) by whatever tree is named
//! at that moment; nothing is remembered. A register value that an architecture's crate does not
//! model is refused by the name of the bit ([`ControlTable`]).
//!
//! [`build_boot_tables`] makes the first tables of a vCPU that starts with translation on, before
//! it runs; [`link_boot_table`] makes their root lead to itself, or to a table that is there.

pub use crate::boot::{BootError, BootMapping, build_boot_tables, link_boot_table};
pub use crate::control_bits::{ControlBits, ControlTable, Effect, RefusedBit};
pub use crate::paging_walker::{PagingState, PagingTranslation, PagingTree, PagingWalker, Walk};
