//! A hashed guest's table, as KVM's HTAB file descriptor gives it, and the segments of the CPU that
//! runs the process.
//!
//! The table is a cache of what Linux has mapped: entries may lack. Which virtual segment an
//! address is in, only the SLB says; it has an entry for each segment that the process has touched
//! lately.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;

use kvm_ppc::{VcpuControl, VmFd};
use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva, Hpa, Prot};
use pgtable_ppc64::hash::{
    Authority, GROUP_ENTRIES, HashMmu, HashTranslation, Hpt, HptOrder, Hpte, Layout, PageSize,
    SLB_ENTRIES, Segment, Slb, SlbEsid, SlbVsid, VirtualPage, load, protection,
};
use pgtable_ppc64::kvm::{PpcMmu, kvm_get_htab_fd};

use crate::linux::compare::{Leaf, Tables};
use crate::linux::given::Statement;
use crate::report::Failure;

/// A copy of the table, and the segments.
pub struct Table {
    words: Vec<AtomicU64>,
    order: HptOrder,
    /// The largest page that the host takes into it.
    largest: PageSize,
    cpus: u32,
    slb: Slb,
}

impl Table {
    /// Copies the table of the VM, and the segments of `vcpu`, one of `cpus`.
    pub fn new(
        vm: &VmFd,
        (order, largest): (HptOrder, PageSize),
        cpus: u32,
        vcpu: &VcpuControl,
    ) -> Result<Self, Failure> {
        let words = (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        let mut slb = Slb::new();
        for entry in vcpu.get_sregs()?.s.ppc64.slb {
            let rb = SlbEsid::from_bits(entry.slbe);
            if rb.v() {
                slb.slbmte(rb, SlbVsid::from_bits(entry.slbv))?;
            }
        }
        let table = Self { words, order, largest, cpus, slb };
        let mut stream = vm.get_htab_fd(&kvm_get_htab_fd::default())?;
        let mut buffer = vec![0; 1 << 20];
        let mut entries = 0;
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            entries += load(&table.hpt()?, &buffer[..length])?.stored;
        }
        println!(
            "linux: the hashed page table has {} places and {entries} entries",
            order.entries()
        );
        for (esid, segment) in table.segments() {
            let shift = segment.size.shift();
            println!(
                "linux: segment {esid:#x} of 2^{shift} bytes is virtual segment {:#x}",
                segment.vsid
            );
        }
        Ok(table)
    }

    fn hpt(&self) -> Result<Hpt<Hpa, DirectMap<'_, Hpa>>, Failure> {
        Ok(Hpt::new(DirectMap::new(&self.words, Hpa::new(0)), Hpa::new(0), self.order, Layout::V3)?)
    }

    /// The segments, each with its first address.
    fn segments(&self) -> impl Iterator<Item = (u64, Segment)> + '_ {
        (0..SLB_ENTRIES).filter_map(|index| {
            let (esid, vsid) = self.slb.entry(index);
            let segment = Segment::of_slb(vsid).filter(|_| esid.v())?;
            let first = esid.esid() << 28 >> segment.size.shift() << segment.size.shift();
            Some((first, segment))
        })
    }

    fn translate(&self, va: Gva, access: Access) -> Option<HashTranslation> {
        let hpt = self.hpt().ok()?;
        let authority = Authority::default();
        HashMmu { slb: &self.slb, hpt: &hpt, authority }.translate(va, access).ok()
    }
}

fn leaf(va: Gva, found: HashTranslation) -> Leaf {
    Leaf {
        va,
        gpa: Gpa::new(found.real),
        shift: found.sizes.actual().shift(),
        prot: prot(found.hpte),
    }
}

/// What an entry allows to problem state, whose storage key is 1.
fn prot(hpte: Hpte) -> Prot {
    let prot = protection(hpte.r.protection(), true);
    prot.with_execute(prot.execute() && !hpte.r.n())
}

impl Tables for Table {
    fn user(&self, va: Gva) -> Option<Leaf> {
        // A page that is mapped for the process but not for its own reading does not exist here.
        self.translate(va, Access::READ.by_user()).map(|found| leaf(va, found))
    }

    fn kernel(&self, va: Gva) -> Option<Leaf> {
        self.translate(va, Access::READ).map(|found| leaf(va, found))
    }

    fn allows(&self, va: Gva, access: Access) -> bool {
        self.translate(va, access).is_some()
    }

    fn complete(&self) -> bool {
        false
    }

    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String> {
        let hpt = self.hpt().map_err(|error| error.to_string())?;
        let users: Vec<_> = self.segments().filter(|(first, _)| first >> 63 == 0).collect();
        let mut leaves = Vec::new();
        for (ptex, hpte) in hpt.entries(0) {
            let group = ptex / GROUP_ENTRIES as u64;
            let Some((page, sizes)) =
                VirtualPage::of_entry(hpte, group, self.order).zip(hpte.sizes())
            else {
                return Err(format!("entry {ptex:#x} names no page"));
            };
            let same =
                |segment: &Segment| segment.vsid == page.vsid && segment.size == page.segment;
            if let Some((first, _)) = users.iter().find(|(_, segment)| same(segment)) {
                let gpa = Gpa::new(hpte.r.page(sizes));
                let (va, shift) = (Gva::new(first + page.offset), sizes.actual().shift());
                leaves.push(Leaf { va, gpa, shift, prot: prot(hpte) });
            }
        }
        // In the table they stand by their hashes.
        leaves.sort_unstable_by_key(|leaf| leaf.va.get());
        let _ = leaves.into_iter().try_for_each(visit);
        Ok(())
    }

    fn symbol(&self, _: &Statement, va: u64) -> Option<Gpa> {
        super::symbol(va)
    }

    fn linear(&self) -> Gva {
        super::LINEAR
    }

    fn log(&self) -> Vec<String> {
        // In the order in which the kernel says them.
        let mut lines = vec![
            "hash-mmu: Page sizes from device-tree:",
            "hash-mmu: base_shift=12: shift=12, sllp=0x0000, avpnm=0x00000000, tlbiel=1, penc=0",
        ];
        if self.largest >= PageSize::K64 {
            lines.push(
                "hash-mmu: base_shift=16: shift=16, sllp=0x0110, avpnm=0x00000000, tlbiel=1, penc=1",
            );
        }
        lines.push("Using 1TB segments");
        lines.into_iter().map(str::to_owned).chain(super::log(self.cpus)).collect()
    }
}
