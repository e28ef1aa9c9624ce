//! What must not compile. Each refusal stands beside a twin that compiles, which differs from it in
//! the one line that is wrong; so none is refused for another reason.
//!
//! # A table is not freed before the invalidation
//! What left the tree is in the gather, and the only way out is
//! [`finish`](crate::invalidate::Gather::finish), which invalidates first:
//! ```
//! use pgtable::allocator::TableAllocator;
//! use pgtable::invalidate::{Gather, Unused};
//! use pgtable::{Hpa, Stage2};
//! fn free(mut gather: Gather<'_, Stage2, Unused>, tables: &impl TableAllocator<Hpa>) -> usize {
//!     gather.finish(tables).map_or(0, |finished| finished.tables)
//! }
//! ```
//! It gives out no table,
//! ```compile_fail
//! use pgtable::allocator::TableAllocator;
//! use pgtable::invalidate::{Gather, Unused};
//! use pgtable::{Hpa, Stage2};
//! fn free(mut gather: Gather<'_, Stage2, Unused>, tables: &impl TableAllocator<Hpa>) -> usize {
//!     gather.retired.iter().filter(|it| tables.free(it.table, it.layout, it.contents).is_ok()).count()
//! }
//! ```
//! and none can be freed past it, not even by taking it apart:
//! ```compile_fail
//! use pgtable::allocator::TableAllocator;
//! use pgtable::invalidate::{Gather, Unused};
//! use pgtable::{Hpa, Stage2};
//! fn free(mut gather: Gather<'_, Stage2, Unused>, tables: &impl TableAllocator<Hpa>) -> usize {
//!     let Gather { retired, .. } = gather; retired.len()
//! }
//! ```
//!
//! # A gather is not overlooked
//! ```
//! #![deny(unused_must_use)]
//! use pgtable::invalidate::{Gather, Unused};
//! use pgtable::Stage2;
//! fn make(by: &Unused) -> Gather<'_, Stage2, Unused> { Gather::new(by, ()) }
//! fn drops(by: &Unused) { let _gather = make(by); }
//! ```
//! ```compile_fail
//! #![deny(unused_must_use)]
//! use pgtable::invalidate::{Gather, Unused};
//! use pgtable::Stage2;
//! fn make(by: &Unused) -> Gather<'_, Stage2, Unused> { Gather::new(by, ()) }
//! fn drops(by: &Unused) { make(by); }
//! ```
//! Nor is it overlooked that finishing it failed:
//! ```
//! #![deny(unused_must_use)]
//! use pgtable::allocator::TableAllocator;
//! use pgtable::invalidate::{Gather, GatherError, Unused};
//! use pgtable::{Hpa, Stage2};
//! fn end(mut gather: Gather<'_, Stage2, Unused>, tables: &impl TableAllocator<Hpa>) -> Result<(), GatherError> {
//!     gather.finish(tables)?; Ok(())
//! }
//! ```
//! ```compile_fail
//! #![deny(unused_must_use)]
//! use pgtable::allocator::TableAllocator;
//! use pgtable::invalidate::{Gather, GatherError, Unused};
//! use pgtable::{Hpa, Stage2};
//! fn end(mut gather: Gather<'_, Stage2, Unused>, tables: &impl TableAllocator<Hpa>) -> Result<(), GatherError> {
//!     gather.finish(tables); Ok(())
//! }
//! ```
//!
//! # A shared tree's readers are its allocator's (case_b16)
//! ```
//! use pgtable::format::{Format, Output};
//! use pgtable::memory::TableMemory;
//! use pgtable::shared::{DeferringAllocator, SharedPageTable};
//! use pgtable::tree::PageTable;
//! fn share<F: Format, M: TableMemory<Output<F>>, A>(tree: PageTable<F, M, A>) -> SharedPageTable<F, M, A>
//! where A: DeferringAllocator<Output<F>> {
//!     tree.into()
//! }
//! ```
//! An allocator that hands tables out again at once has no readers to give:
//! ```compile_fail,E0277
//! use pgtable::allocator::TableAllocator;
//! use pgtable::format::{Format, Output};
//! use pgtable::memory::TableMemory;
//! use pgtable::shared::SharedPageTable;
//! use pgtable::tree::PageTable;
//! fn share<F: Format, M: TableMemory<Output<F>>, A>(tree: PageTable<F, M, A>) -> SharedPageTable<F, M, A>
//! where A: TableAllocator<Output<F>> {
//!     tree.into()
//! }
//! ```
//!
//! # A tree has one writer
//! ```
//! use pgtable::allocator::TableAllocator;
//! use pgtable::format::{Format, Output};
//! use pgtable::memory::TableMemory;
//! use pgtable::tree::PageTable;
//! fn two<F: Format, M: TableMemory<Output<F>>, A: TableAllocator<Output<F>>>(tree: &mut PageTable<F, M, A>, at: pgtable::format::Input<F>, bytes: u64, gather: &mut pgtable::invalidate::Gather<'_, F::Stage, pgtable::invalidate::Unused>) {
//!     let _ = tree.promote(at, bytes, gather);
//!     let _ = tree.walker().query(at);
//! }
//! ```
//! ```compile_fail
//! use pgtable::allocator::TableAllocator;
//! use pgtable::format::{Format, Output};
//! use pgtable::memory::TableMemory;
//! use pgtable::tree::PageTable;
//! fn two<F: Format, M: TableMemory<Output<F>>, A: TableAllocator<Output<F>>>(tree: &mut PageTable<F, M, A>, at: pgtable::format::Input<F>, bytes: u64, gather: &mut pgtable::invalidate::Gather<'_, F::Stage, pgtable::invalidate::Unused>) {
//!     let walker = tree.walker();
//!     let _ = tree.promote(at, bytes, gather);
//!     let _ = walker.query(at);
//! }
//! ```
