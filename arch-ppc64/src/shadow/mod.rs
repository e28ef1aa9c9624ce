//! Nested guests: the shadow tables by which hardware runs a guest's guest.
//!
//! Three levels: we (L0) run a guest (L1), which is a hypervisor and runs a guest of its own (L2).
//! L1 keeps a partition table, and in it a tree for each L2, as if it ran on the bare machine.
//! Hardware walks neither: what L1 calls host real addresses are its own guest real addresses. So
//! there is a *shadow* tree for each L2, `n_gpa → hpa`, with an LPID of ours:
//!
//! ```text
//! n_gpa (L2 real) ──L1's tree──▶ gpa (L1 real) ──our second stage──▶ hpa
//!        └───────────────────── shadow ─────────────────────────────▲
//! ```
//!
//! In the types, L2's real addresses are [`Gpa`] where the shadow or L1's tree is walked, and what
//! L1 calls host real is read through [`L1Memory`], the one place that says "L1's host real is our
//! guest real".
//!
//! # Protocol
//! A shadow is a cache, as a TLB is one, and as honest:
//! - an entry is made by a fault ([`Nested::fault`]), from what both trees say at that moment,
//!   never beyond either: permissions are the intersection, the size the smaller one. The memory
//!   type is ours; of L1's only that nothing is fetched from non-idempotent storage counts;
//! - L1's invalidations ([`Nested::h_tlb_invalidate`], [`Nested::h_rpt_invalidate`]) remove
//!   entries. Until then L1 may see old ones, as on hardware;
//! - whatever we take away in our own second stage is taken away here before its gather is
//!   finished: [`Nested::lost`], [`Nested::restrict`]. The reverse map finds the entries that were
//!   made through a guest page;
//! - **C is never ahead**: an entry has C only if our own leaf has it, so that our dirty log misses
//!   no store of L2's; and only if L1's has it. R likewise, until we age our leaf. Where hardware
//!   sets C by itself, an entry therefore allows stores only once C is set everywhere.
//!
//! An entry may be dropped at any time; L2 faults, and it is made again.
//!
//! Everything that L1 wrote is read through the safe walker: no word of it can make us read outside
//! L1's memory, loop, or panic. Source of the rules: Linux `arch/powerpc/kvm/book3s_hv_nested.c`
//! (the first version of the interface).

mod error;
mod fault;
mod hcall;
mod host;
mod l1;
mod reverse_map;

use hashbrown::HashMap;
use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Gather, Invalidate};
use pgtable::memory::{ReadMemory, TableMemory};
use pgtable::{Gpa, Hpa, Stage2};

use crate::radix::{ADDRESS_BITS, PartitionTable, Pate, ProcessTableWord, Ptcr, Strictness};
use crate::second_stage::SecondStage;

pub use error::{Error, HcallError};
pub use fault::Outcome;
pub use hcall::{H_SET_PARTITION_TABLE, TlbInvalidation};
pub use host::Restriction;
pub use l1::L1Memory;

use reverse_map::ReverseMap;

/// log2 of the partitions that L1 may have.
const LPID_BITS: u8 = 12;

/// One L2.
#[derive(Debug)]
struct Partition<M, A> {
    /// Its shadow.
    shadow: SecondStage<M, A>,
    /// What L1's partition table said of it when it was last read; all zero if it said nothing that
    /// can be used.
    pate: Pate,
}

/// All nested guests of one guest, and the reverse map from that guest's pages to their shadows.
///
/// `M` and `A` are where the shadows' tables stand and come from.
#[derive(Debug)]
pub struct Nested<M, A> {
    table: Option<PartitionTable>,
    partitions: HashMap<u32, Partition<M, A>>,
    links: ReverseMap,
}

impl<M, A> Default for Nested<M, A> {
    fn default() -> Self {
        Self { table: None, partitions: HashMap::new(), links: ReverseMap::default() }
    }
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Nested<M, A> {
    /// No partition table, no nested guest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `H_SET_PARTITION_TABLE`: L1 says where its partition table is. `visible` says whether there
    /// is memory at an address of L1's.
    ///
    /// # Errors
    /// [`HcallError::Parameter`] for a table of more than 4096 entries, misaligned, or where there
    /// is no memory.
    pub fn h_set_partition_table(
        &mut self,
        ptcr: u64,
        visible: impl FnOnce(Gpa) -> bool,
    ) -> Result<(), HcallError> {
        let table = PartitionTable::of_ptcr(Ptcr::from_bits(ptcr)).ok_or(HcallError::Parameter)?;
        if table.entries() > 1 << LPID_BITS || !visible(Gpa::new(table.base().get())) {
            return Err(HcallError::Parameter);
        }
        self.table = Some(table);
        Ok(())
    }

    /// Gives L1's partition `l2` a shadow: an empty second stage with an LPID of ours that nobody
    /// else has.
    ///
    /// # Errors
    /// The second stage is given back if `l2` is no number of a partition, or has a shadow already.
    pub fn insert(&mut self, l2: u32, shadow: SecondStage<M, A>) -> Result<(), SecondStage<M, A>> {
        if l2 >> LPID_BITS != 0 || self.partitions.contains_key(&l2) {
            return Err(shadow);
        }
        self.partitions.insert(l2, Partition { shadow, pate: Pate::default() });
        Ok(())
    }

    /// Takes the shadow of L1's partition `l2` out, for [`SecondStage::destroy`].
    pub fn remove(&mut self, l2: u32) -> Option<SecondStage<M, A>> {
        let partition = self.partitions.remove(&l2)?;
        self.links.forget(l2);
        Some(partition.shadow)
    }

    /// The shadow of L1's partition `l2`.
    pub fn shadow(&self, l2: u32) -> Option<&SecondStage<M, A>> {
        self.partitions.get(&l2).map(|partition| &partition.shadow)
    }

    /// How many shadow entries there are, over all nested guests.
    pub fn entries(&self) -> usize {
        self.links.len()
    }

    /// Where L1 said that partition `l2` has its process table, for the partition table entry of
    /// the shadow ([`Pate::of_tree`]); reads L1's partition table if that has not been done.
    /// `None` if L1's entry cannot be used, or there is no shadow.
    pub fn process_table<G: ReadMemory<Gpa>>(
        &mut self,
        l2: u32,
        l1: &G,
    ) -> Option<ProcessTableWord> {
        let table = self.table;
        let partition = self.partitions.get_mut(&l2)?;
        partition.root(table, l2, l1).map(|_| partition.pate.process_table)
    }

    /// Removes what is shadowed in the `bytes` bytes of L2's memory from `n_gpa` on, and makes it
    /// unreachable.
    fn drop_entries<I: Invalidate<Stage2, Identity = u32>>(
        partition: &mut Partition<M, A>,
        links: &mut ReverseMap,
        l2: u32,
        (n_gpa, bytes): (Gpa, u64),
        by: &I,
    ) -> Result<(), Error> {
        // L2 may ask for any address; beyond the tree there is nothing.
        let room = (1u64 << ADDRESS_BITS).saturating_sub(n_gpa.get());
        partition.change(by, |shadow, gather| {
            if room > 0 {
                shadow.unmap(n_gpa, bytes.min(room), gather, |gone| {
                    links.remove(l2, gone.leaf.input, gone.leaf.shift);
                })?;
            }
            Ok(())
        })
    }
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Partition<M, A> {
    /// Makes a change to the shadow, and makes what it left behind unreachable, whether the change
    /// succeeded or not.
    fn change<T, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        by: &I,
        change: impl FnOnce(&mut SecondStage<M, A>, &mut Gather<'_, Stage2, I>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut gather = self.shadow.gather(by);
        let changed = change(&mut self.shadow, &mut gather);
        self.shadow.finish(&mut gather)?;
        changed
    }

    /// The root of L1's tree, in L1's words; read from L1's partition table if it is not known.
    fn root<G: ReadMemory<Gpa>>(
        &mut self,
        table: Option<PartitionTable>,
        l2: u32,
        l1: &G,
    ) -> Option<Hpa> {
        if self.pate.root(Strictness::Kvm).is_none() {
            self.reload(table, l2, l1);
        }
        self.pate.root(Strictness::Kvm).map(Hpa::new)
    }

    /// Reads L1's partition table.
    fn reload<G: ReadMemory<Gpa>>(&mut self, table: Option<PartitionTable>, l2: u32, l1: &G) {
        self.pate = table.and_then(|table| table.read(&L1Memory(l1), l2).ok()).unwrap_or_default();
    }
}
