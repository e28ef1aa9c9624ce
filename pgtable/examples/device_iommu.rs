//! An emulated device (vhost-user, virtio) behind an IOMMU: its reads and writes go through a tree,
//! and an unmap waits until the device has left the page.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::iommu::TableIommu;
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Hpa, Leaves, Prot, Stage2};
use pgtable_x86::{Ept, EptControls, Levels};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, IommuMemory};

type Iommu<'m> = TableIommu<Ept, DirectMap<'m, Hpa>>;

/// Devices forget what they translated, and have left it, before anything is freed.
struct Devices<'d, 'm>(&'d Iommu<'m>);

impl Invalidate<Stage2> for Devices<'_, '_> {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        self.0.forget();
        Ok(())
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("{tables} tables are lost");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const MIB: u64 = 1 << 20;
    // The driver's memory; the IOMMU's tables stand in the VMM's own.
    let memory =
        GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), 4 * MIB as usize)])?;
    let words: Vec<_> = (0..1 << 16).map(|_| AtomicU64::new(0)).collect();
    let words = DirectMap::new(&words, Hpa::new(0));
    let frames = Frames::new(Region::new(words, Hpa::new(0), 8, 16)?)?;
    let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let format = Ept::new(Levels::Four, EptControls::new());
    let mut tree = PageTable::new(format, words, &tables)?;

    // The driver maps a buffer of two pages at I/O address 0x10_0000.
    let iova = Gpa::new(0x10_0000);
    tree.map(iova, Hpa::new(0x8000), 0x2000, Prot::RW.into(), Leaves::Largest)?;

    let iommu = TableIommu::new(format, words, tree.root());
    let page = NonZeroUsize::new(4096).ok_or("a page has bytes")?;
    let seen = AtomicBitmap::new(2 * MIB as usize, page);
    let device = IommuMemory::new(memory.clone(), iommu, true, seen);
    device.write_slice(b"across two pages", GuestAddress(0x10_0ff8))?;
    let mut text = [0; 16];
    memory.read_slice(&mut text, GuestAddress(0x8ff8))?;
    println!("{:?} at guest address 0x8ff8", std::str::from_utf8(&text)?);

    let devices = Devices(device.iommu());
    let mut gather = Gather::new(&devices, ());
    tree.unmap(iova, 0x2000, &mut gather)?;
    gather.finish(&tables)?;
    println!("{}", device.write_obj(1_u64, GuestAddress(0x10_0000)).expect_err("not allowed"));
    tree.destroy(gather).map_err(|(_, error)| error)?;
    Ok(())
}
