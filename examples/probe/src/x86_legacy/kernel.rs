//! KVM_TRANSLATE, the kernel's own walker, on the same random trees: a supervisor's load in 32-bit
//! and PAE paging, by a vCPU that never runs.
//!
//! Each answer, and the accessed flags in all tables afterwards, must be what [`Paging`] makes of
//! the vCPU's registers: what a VMM has that calls this crate instead of the ioctl.

use std::error::Error;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_regs;
use kvm_ioctls::{Kvm, VcpuFd};
use kvm_x86::{Features, Slots};
use pgtable::bytes::{Recording, Translate};
use pgtable::{Access, Gpa, Gva};
use pgtable_x86::{Controls, Paging, Registers};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::records::{DATA, TABLES};
use super::scene::Mode;
use super::{Bench, Case, Known, Machine, cases};
use crate::Asked;
use crate::report::{Ended, Report};

const PAGE: usize = 0x1000;
/// EFLAGS.AC, and the bit that is always 1.
const AC: u64 = 1 << 18;
const ONE: u64 = 1 << 1;
/// KVM reserves the address bits of 4-MiB pages from here on, whatever MAXPHYADDR is
/// (`reset_rsvds_bits_mask`); processors have 40 (SDM table 4-4).
const PSE36_BITS: u8 = 36;

/// A vCPU, and the guest's memory.
struct Guest {
    vcpu: VcpuFd,
    slots: Slots,
    features: Features,
}

impl Guest {
    fn new(kvm: &Kvm) -> Result<Self, Box<dyn Error>> {
        let (features, cpuid) = Features::supported(kvm)?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(DATA.1)?)])?;
        let slots = Slots::new(kvm.create_vm()?, memory)?;
        let vcpu = slots.vm().create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid)?;
        Ok(Self { vcpu, slots, features })
    }

    /// Gives the vCPU these registers.
    fn set(&self, registers: Registers) -> Result<(), Box<dyn Error>> {
        let Registers { cr0, cr3, cr4, efer } = registers;
        let mut sregs = self.vcpu.get_sregs()?;
        (sregs.cr0, sregs.cr3) = (cr0.into_bits(), cr3.into_bits());
        (sregs.cr4, sregs.efer) = (cr4.into_bits(), efer.into_bits());
        Ok(self.vcpu.set_sregs(&sregs)?)
    }

    /// Whether the vCPU can have these registers. (`kvm_pvm` has no paging outside long mode, and
    /// clears CR0.PG without an error.)
    fn keeps(&self, registers: Registers) -> Result<bool, Box<dyn Error>> {
        self.set(registers)?;
        Ok(self.vcpu.get_sregs()?.cr0 == registers.cr0.into_bits())
    }

    /// Where KVM_TRANSLATE says that the address leads.
    fn translate(
        &self,
        registers: Registers,
        ac: bool,
        address: Gva,
    ) -> Result<Option<Gpa>, Box<dyn Error>> {
        self.set(registers)?;
        let rflags = ONE | if ac { AC } else { 0 };
        self.vcpu.set_regs(&kvm_regs { rflags, ..kvm_regs::default() })?;
        let answer = self.vcpu.translate_gva(address.get())?;
        Ok((answer.valid != 0).then(|| Gpa::new(answer.physical_address)))
    }
}

impl Case {
    /// The registers of a vCPU of this tree.
    fn registers(&self) -> Registers {
        let order = self.order();
        let words = [order.cr0, order.cr3, order.cr4, order.efer].map(u64::from);
        let [cr0, cr3, cr4, efer] = words;
        Registers::from_raw(cr0, cr3, cr4, efer)
    }
}

/// The case's kind, for the report.
fn kind(case: &Case) -> &'static str {
    match (case.tree.pae, case.controls.nxe, case.controls.pse) {
        (true, true, _) => "KVM_TRANSLATE, PAE, NXE",
        (true, false, _) => "KVM_TRANSLATE, PAE",
        (false, _, true) => "KVM_TRANSLATE, 32-bit, PSE",
        (false, _, false) => "KVM_TRANSLATE, 32-bit",
    }
}

/// Every table in which something stands, and its address.
fn tables(bench: &Bench) -> impl Iterator<Item = ([u8; PAGE], GuestAddress)> + '_ {
    let tables = bench.words.chunks_exact(PAGE / 8).zip((TABLES.0..TABLES.1).step_by(PAGE));
    let filled = tables.map(|(words, address)| {
        let mut table = [0; PAGE];
        for (bytes, word) in table.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        (table, GuestAddress(address))
    });
    filled.filter(|(table, _)| table.iter().any(|byte| *byte != 0))
}

/// A table's entries.
fn words(table: &[u8; PAGE]) -> impl Iterator<Item = u64> + '_ {
    table
        .chunks_exact(8)
        .map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// Asks KVM_TRANSLATE about as many addresses as are asked for.
pub fn run(kvm: &Kvm, asked: &Asked, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let guest = Guest::new(kvm)?;
    let Features { maxphyaddr, smap, smep, nx, .. } = guest.features;
    let machine = Machine { maxphyaddr, smap, known: Known::default() };
    let bench = Bench::new();
    let all = cases(&bench, &machine, asked)?;
    let memory = guest.slots.memory();
    for (table, address) in tables(&bench) {
        memory.write_slice(&table, address)?;
    }
    if !guest.keeps(all.first().ok_or("no cases")?.registers())? {
        let why = "this KVM has no paging outside long mode";
        report.fact("not covered", format!("KVM_TRANSLATE of 32-bit and PAE paging: {why}"));
        return Ok(());
    }
    let mut refused = 0;
    for case in &all {
        let controls = Controls {
            smep: case.controls.smep && smep,
            nxe: case.controls.nxe && nx,
            ..case.controls
        };
        let case = Case { controls, ..*case };
        let registers = case.registers();
        let processor = match case.tree.pae {
            true => controls,
            false => Controls { maxphyaddr: maxphyaddr.min(PSE36_BITS), ..controls },
        };
        let mut paging = Paging::of(registers, processor)?;
        if let Mode::Pae(format) = case.tree.mode(processor) {
            // KVM_SET_SREGS loads them as a MOV to CR3 does; what that refuses, it leaves out.
            let Ok(pdptes) = format.load_pdptes(bench.memory(), case.tree.root) else {
                refused += 1;
                continue;
            };
            paging = paging.with_pdptes(pdptes)?;
        }
        let address = Gva::new(case.address.into());
        let walker = Recording(paging.walker(bench.memory()));
        let wanted = walker.translate(address, Access::READ).ok().map(|found| found.output);
        let seen = guest.translate(registers, controls.ac, address)?;
        let ended = if wanted.is_some() { Ended::Done } else { Ended::Refused };
        let mismatch = (seen != wanted).then(|| {
            format!(
                "  address   {address}, root {}\n  controls  {controls:?}\n  \
                 expected  {wanted:?}\n  seen      {seen:?}",
                case.tree.root
            )
        });
        report.case(kind(&case), ended, mismatch.as_deref());
    }
    let mut strays = String::new();
    for (table, address) in tables(&bench) {
        let mut seen = [0; PAGE];
        memory.read_slice(&mut seen, address)?;
        for (index, (seen, wanted)) in words(&seen).zip(words(&table)).enumerate() {
            if seen != wanted {
                let place = address.0 + index as u64 * 8;
                writeln!(strays, "  {place:#x}: {seen:#018x}, expected {wanted:#018x}")?;
            }
        }
    }
    report.comparison("KVM_TRANSLATE, all tables afterwards", &strays);
    println!();
    report.fact("KVM_TRANSLATE", format!("asked {} times, 32-bit and PAE", all.len() - refused));
    report.fact("left out", format!("{refused} addresses behind PDPTEs with reserved bits"));
    report.fact("known", format!("4-MiB pages have {PSE36_BITS} address bits for KVM"));
    Ok(())
}
