//! The second stage of one guest: [`Stage2Tree`] over a partition-scoped radix tree, and what to do
//! about the storage interrupts that it raises.
//!
//! # Protocol
//! That of [`pgtable::second_stage`], with the LPID as the guest's name.
//! [`Invalidation::of_partition`](crate::radix::Invalidation::of_partition) makes the instructions
//! of a gather. [`Pate::of_tree`](crate::radix::Pate::of_tree) makes the partition table entry by
//! which hardware finds the tree.
//!
//! [`StorageFault`] says what an interrupt asks for. What [`Nested`](crate::shadow::Nested) keeps
//! for the guest's own guests follows the second stage: each leaf that goes is
//! [`lost`](crate::shadow::Nested::lost) there, and what is cleared here is
//! [restricted](crate::shadow::Nested::restrict) there.
//!
//! Linux's counterpart is `arch/powerpc/kvm/book3s_64_mmu_radix.c`. Ours differs where the address
//! that an entry is *for* matters: the guest address is carried down with each entry, never rebuilt
//! from what the entry maps.

mod fault;

use pgtable::second_stage::Stage2Tree;
use pgtable::walk::LeafOf;

use crate::radix::{PageAttributes, PartitionScoped};

pub use fault::{Action, HDSISR_CANARY, Reason, StorageFault};

/// A guest's second stage; the guest is named by its LPID.
pub type SecondStage<M, A> = Stage2Tree<PartitionScoped, M, A, u32>;
/// A leaf of a second stage: a guest page, where it is, and with what attributes.
pub type Leaf = LeafOf<PartitionScoped>;
/// A page of the host, to be faulted in.
pub type HostPage = pgtable::second_stage::HostPage<PageAttributes>;
