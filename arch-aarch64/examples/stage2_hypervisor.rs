//! A hypervisor's second stage: maps a guest's memory and a device, and prints the
//! registers, what a fault says, and the TLBI operations that an unmap owes.

use core::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Attributes, Gpa, Hpa, Leaves, Memory, Prot, Stage2};
use pgtable_aarch64::{
    Barrier, Granule, Processor, Stage2Controls, Tlbi, TlbiFeatures, VmsaStage2, hpfar, tlbi_stage2,
};

/// Where a bare hypervisor executes what is printed here.
struct Print;

impl Invalidate<Stage2> for Print {
    type Identity = u16;

    fn invalidate(&self, vmid: u16, stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        let features = TlbiFeatures { ttl: true, ..TlbiFeatures::new(Granule::K4) };
        let (by_address, combined) = tlbi_stage2(stale, features);
        println!("VMID {vmid}: {:?}", Barrier::BEFORE);
        by_address.for_each(|operation: Tlbi| println!("  {operation:x?}"));
        println!("  {:?}, {combined:?}, {:?}", Barrier::BETWEEN, Barrier::AFTER);
        Ok(())
    }

    fn abandoned(&self, vmid: u16, tables: usize, _: Result<(), InvalidateFailed>) {
        println!("VMID {vmid}: a gather was dropped with {tables} tables");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // On hardware: Processor::from_id with the ID registers.
    let processor = Processor { physical_bits: 48, ..Processor::MAX };
    let controls = Stage2Controls::new().on(&processor);
    let format = VmsaStage2::new(controls)?;

    let words: Vec<_> = (0..64 * 4096 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0x8000_0000));
    let frames = Frames::new(Region::new(memory, Hpa::new(0x8000_0000), 32, 13)?)?;
    let tables = Cache::new(&frames, Owner(7), Kind::User, Policy::Reuse);
    let mut tree = PageTable::new(format, memory, &tables)?;

    let ram = Gpa::new(0x4000_0000);
    tree.map(ram, Hpa::new(0x1_0000_0000), 64 << 20, Prot::RWX.into(), Leaves::Largest)?;
    let uart = pgtable_aarch64::Stage2Attributes::from(Prot::RW).with_memory(Memory::Device);
    tree.map(Gpa::new(0x900_0000), Hpa::new(0x900_0000), 0x1000, uart, Leaves::Largest)?;
    println!("VTCR_EL2 {:#x}", format.vtcr().into_bits());
    println!("VTTBR_EL2 {:#x}", format.vttbr(tree.root(), 7).into_bits());

    println!("{}", tree.translate(Gpa::new(0x4012_3456), Access::WRITE)?.output);
    if let Err(fault) = tree.translate(Gpa::new(0xa00_0000), Access::READ) {
        println!("{fault}; HPFAR_EL2 {:#x}", hpfar(fault.address));
    }
    let mut gather = Gather::new(&Print, 7);
    tree.unmap(Gpa::new(0x4020_0000), 4 << 20, &mut gather)?;
    gather.finish(&tables)?;
    Ok(())
}
