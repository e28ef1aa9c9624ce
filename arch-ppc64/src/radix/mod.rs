//! Radix translation (Power ISA v3.0B Book III, "Radix Tree Translation"): a tree per process, a
//! tree per partition.
//!
//! ```text
//! PTCR → partition table → PATE ─┬→ partition-scoped tree (Gpa → Hpa)            [`PartitionScoped`]
//!                                └→ process table → PRTE → process-scoped tree   [`ProcessScoped`]
//!                                   (guest real)           (Gva → Gpa)
//! ```
//!
//! Where implementations differ (who sets R and C, what becomes of tables that the manual does not
//! allow, who hears of a table outside memory) the difference is a value: [`RcPolicy`],
//! [`Strictness`], [`TableFault`].

mod attributes;
mod descriptor;
mod entry;
mod format;
mod geometry;
mod guest;
pub mod guest_state;
mod hcall;
mod hypervisor;
mod indexed;
mod invalidation;
mod partition_table;
mod policy;
mod process_table;
mod scope;
mod tlbie;

pub use attributes::PageAttributes;
pub use descriptor::{Pate, ProcessTableWord, Prte, Ptcr, RadixRoot};
pub use entry::{Att, Eaa, Pde, Pte};
pub use format::{PartitionScoped, ProcessScoped, Radix};
pub use geometry::{ADDRESS_BITS, Granule, PageSize, RPDS, RTS};
pub use guest::{GuestFault, GuestMmu};
pub use hcall::{
    H_RPT_INVALIDATE, H_TLB_INVALIDATE, RptInvalidate, RptPages, RptTarget, RptType,
    h_tlb_invalidate,
};
pub use hypervisor::HypervisorFault;
pub use indexed::TableError;
pub use invalidation::{
    GLOBAL_CEILING, Invalidation, LOCAL_CEILING, Processor, Reach, Step, TLB_SETS,
};
pub use partition_table::PartitionTable;
pub use policy::{Amr, Iamr, Quadrants, RcPolicy, Strictness, TableFault};
pub use process_table::ProcessTable;
pub use scope::{ProcessControls, Scope};
pub use tlbie::{Rb, Ric, Rs, Tlbie};
