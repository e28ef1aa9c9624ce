//! A shoot-down of one's own: two CPUs that cache translations, and an `Invalidate` that makes them
//! forget before anything is freed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_x86::{Controls, Levels, LongMode};

const PAGE: u64 = 4096;

/// What a CPU remembers: page → frame. A real one sends an interrupt and waits for the answer.
#[derive(Default)]
struct Cpu(Mutex<HashMap<u64, Gpa>>);

struct Cpus([Cpu; 2]);

impl Invalidate<Stage1> for Cpus {
    /// The process, as `INVPCID` names it.
    type Identity = u16;

    fn invalidate(&self, pcid: u16, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        for cpu in &self.0 {
            let mut tlb = cpu.0.lock().map_err(|_| InvalidateFailed)?;
            if stale.everything() {
                tlb.clear();
            }
            for range in stale.ranges() {
                println!("pcid {pcid}: {} pages from {} on", range.pages(), range.start);
                let last = range.last.get() + ((1 << range.shift) - 1);
                tlb.retain(|&page, _| page < range.start.get() || page > last);
            }
        }
        Ok(())
    }

    fn abandoned(&self, pcid: u16, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("pcid {pcid}: a gather was dropped, and {tables} tables are lost");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let frames = Frames::new(Region::new(memory, Gpa::new(0), 8, 16)?)?;
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let mut tree = PageTable::new(LongMode::new(Levels::Four, Controls::new()), memory, &tables)?;
    let at = Gva::new(0x40_0000);
    tree.map(at, Gpa::new(0x10_0000), 4 * PAGE, Prot::RW.into(), Leaves::Largest)?;

    let cpus = Cpus([Cpu::default(), Cpu::default()]);
    for cpu in &cpus.0 {
        let found = tree.translate(at, Access::READ)?.output;
        cpu.0.lock().map_err(|_| "a CPU panicked")?.insert(at.get(), found);
    }

    // The tables that become empty are in the gather; they are freed when both CPUs have answered.
    let mut gather = Gather::new(&cpus, 7);
    tree.unmap(at, 4 * PAGE, &mut gather)?;
    let finished = gather.finish(&tables)?;
    println!("{} tables are free again", finished.tables);
    for cpu in &cpus.0 {
        assert!(cpu.0.lock().map_err(|_| "a CPU panicked")?.is_empty());
    }
    tree.destroy(gather).map_err(|(_, error)| error)?;
    Ok(())
}
