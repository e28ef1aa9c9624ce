//! Cases by hand: what L1 hears, hostile tables, and the traps that an alias sets.

mod faults;
mod hcalls;
mod hostile;
mod restrictions;

use core::sync::atomic::AtomicU64;

use pgtable::memory::DirectMap;
use pgtable::second_stage::MemorySlot;
use pgtable::{AccessKind, Gpa, Gva, Hpa, Prot};
use pgtable_ppc64::radix::{Granule, HypervisorFault, PageAttributes, PartitionScoped};
use pgtable_ppc64::second_stage::{HostPage, SecondStage};
use pgtable_ppc64::shadow::{Nested, Outcome, Restriction};
use pgtable_ppc64::{Interrupt, Status, Vector};

use crate::host::{Tables, Tlb, direct, leaves, memory};
use crate::l1::{self, Calls, L1, L2S};

type Shadows<'m> = Nested<DirectMap<'m, Hpa>, &'m Tables<'m>>;
type Stage<'m> = SecondStage<DirectMap<'m, Hpa>, &'m Tables<'m>>;

struct Case<'m> {
    nested: Shadows<'m>,
    host: Stage<'m>,
    l1: L1<'m>,
    l1_memory: DirectMap<'m, Gpa>,
    l1_words: &'m [AtomicU64],
    tlb: &'m Tlb,
    ptcr: u64,
}

const L2: u32 = L2S[0];
const EA: u64 = 0xc000_0000_0000_0678;

fn slot(gpa: Gpa) -> Option<MemorySlot> {
    let memory =
        MemorySlot { gpa: Gpa::new(0), bytes: 1 << 30, hva: 0, read_only: false, logged: false };
    // The same memory once more, read-only.
    let alias = MemorySlot { gpa: Gpa::new(1 << 30), read_only: true, ..memory };
    [memory, alias].into_iter().find(|slot| slot.contains(gpa))
}

impl Case<'_> {
    fn fault_status(&mut self, vector: Vector, status: u32, asdr: u64) -> Outcome {
        let interrupt = Interrupt { vector, status: Status::from_bits(status) };
        let fault = HypervisorFault { interrupt, hdar: Gva::new(EA), asdr: Gpa::new(asdr) };
        self.nested.fault(L2, &fault, &self.l1_memory, &mut self.host, slot, self.tlb).unwrap()
    }

    fn fault_in(&mut self, gpa: u64, shift: u8) {
        let kind = if slot(Gpa::new(gpa)).unwrap().read_only {
            AccessKind::Read
        } else {
            AccessKind::Write
        };
        let mut gather = self.host.gather(self.tlb);
        let (ticket, slot) = (self.host.ticket(), slot(Gpa::new(gpa)).unwrap());
        let hva = slot.host_address(Gpa::new(gpa)).unwrap();
        let page = HostPage {
            frame: Hpa::new(hva >> shift << shift | 1 << 44),
            shift,
            attributes: PageAttributes::from(Prot::RWX.for_user()),
        };
        self.host.fault_in(ticket, Gpa::new(gpa), kind, &slot, page, &mut gather, |_| ()).unwrap();
        self.host.finish(&mut gather).unwrap();
    }

    fn restrict(&mut self, gpa: u64, bytes: u64, what: Restriction) {
        let Self { nested, host, tlb, .. } = self;
        nested.restrict(host, Gpa::new(gpa), bytes, what, *tlb).unwrap();
    }

    fn shadows(&self) -> Vec<(u64, u64, u8)> {
        let shadow = self.nested.shadow(L2).unwrap();
        leaves(shadow)
            .iter()
            .map(|leaf| (leaf.input.get(), leaf.output.get(), leaf.shift))
            .collect()
    }
}

fn with_case(test: impl FnOnce(Case<'_>)) {
    let (words, tlb) = (memory(), Tlb::default());
    let frames = Tables::frames(&words);
    let [host_tables, tables] = [1, 100].map(|lpid| Tables::new(&frames, &tlb, lpid));
    let stage = |tables, granule, lpid| {
        SecondStage::new(PartitionScoped::new(granule), direct(&words), tables, lpid).unwrap()
    };
    let host = stage(&host_tables, Granule::K64, 1);
    let mut nested = Nested::new();
    assert!(nested.insert(L2, stage(&tables, Granule::K4, 100)).is_ok());
    let l1_words = l1::memory();
    let l1_memory = l1::direct(&l1_words);
    let l1_tables = l1::bump();
    let calls = Calls { calls: Default::default(), rpt: Default::default() };
    let (l1, ptcr) = L1::boot(&l1_memory, &l1_tables, &calls);
    nested.h_set_partition_table(ptcr, |_| true).unwrap();
    test(Case { nested, host, l1, l1_memory, l1_words: &l1_words, tlb: &tlb, ptcr });
}

fn rwx() -> PageAttributes {
    PageAttributes::from(Prot::RWX)
}
