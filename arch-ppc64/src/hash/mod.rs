//! Hashed translation (Power ISA v3.0B Book III 5.7.7 to 5.7.9): segments, and one table of entries
//! that an address is hashed into.
//!
//! ```text
//! effective address ─ SLB ─→ segment ─→ virtual page ─ hash ─┬→ primary group   (8 entries)
//!                  [`Slb`]  [`Segment`] [`VirtualPage`]      └→ secondary group (8 entries)   [`Hpt`]
//! ```
//!
//! | to do this | there is |
//! | --- | --- |
//! | translate as a processor does | [`HashMmu`] |
//! | keep a guest's table for it, by hypercalls | [`Hcalls`] |
//! | give a table another size | [`rehash`], and [`Resize`] for the guest's hypercalls |
//! | bring a table to another host, or see it | [`StreamReader`], [`load`], [`Hpt::listing`] |
//! | keep an address space of one's own, with the table as a cache of it | [`HashedSpace`] |

mod authority;
mod checked;
mod group;
mod hcall;
mod hpte;
mod listing;
mod mmu;
mod order;
mod page_size;
mod resize;
mod return_code;
mod search;
mod segment;
mod slb;
mod slot;
mod space;
mod stream;
#[cfg(all(feature = "kvm", target_os = "linux"))]
mod supported;
mod table;
mod tlbie;
mod virtual_page;
mod word;
mod writers;

pub use authority::{Authority, judge, protection};
pub use group::{Group, Pattern};
pub use hcall::{
    Answer, BulkAnswer, BulkKind, BulkRequest, Dialect, Hcall, HcallFlags, Hcalls, Partition,
    Refused, Storage,
};
pub use hpte::{Hpte, HpteR, HpteR3, HpteV, HpteV3, Layout};
pub use listing::{ListedEntry, Listing};
pub use mmu::{HashFault, HashMmu, HashTranslation};
pub use order::{GROUP_ENTRIES, Hidx, HptOrder, PageHash};
pub use page_size::{PageSize, PageSizes};
pub use resize::{Action, Keep, Rehashed, Resize, ResizeError, rehash};
pub use return_code::ReturnCode;
pub use segment::{Segment, SegmentSize, SlbEsid, SlbVsid};
pub use slb::{NoSegment, SLB_ENTRIES, Slb, SlbError};
pub use slot::{Busy, Hidden, Locked, Slot};
pub use space::{
    Context, Fragments, HashAttributes, HashedSpace, MOST_TLBIES, Pages, Pte4K, Pte64K,
    SoftwareTree,
};
pub use stream::{
    Chunk, ChunkEntry, ChunkHeader, Chunks, Loaded, Pass, StreamError, StreamReader, chunks, load,
};
#[cfg(all(feature = "kvm", target_os = "linux"))]
pub use supported::Supported;
pub use table::{Found, Hpt, HptError};
pub use tlbie::HashTlbie;
pub use virtual_page::VirtualPage;
pub use word::Word;
pub use writers::Alone;
