//! What a guest with a hashed page table has besides: hypercalls that the kernel carries out, and
//! an SLB.
//!
//! Give the VM a table (`KVM_PPC_ALLOCATE_HTAB`) before the first run. Interrupts and hypercalls
//! run in real mode, which such a guest has only through entries of its table, of the segment
//! `VRMA`: whoever does not want KVM's own, one for each page of memory, loads one for the guest's
//! code before the first run.

use std::io;

use pgtable::Gva;
use pgtable_ppc64::hash::{SLB_ENTRIES, Slb, SlbEsid, SlbVsid};

use super::{Outcome, ProbeGuest, msr};
use kvm_ppc::bindings::{KVM_CAP_PPC_ENABLE_HCALL, kvm_enable_cap, kvm_sregs, kvm_sregs_slb};

/// The two words of an SLB entry.
pub type SlbWords = (SlbEsid, SlbVsid);

impl ProbeGuest {
    /// Has the kernel carry out the hypercall `number`.
    ///
    /// # Errors
    /// `EINVAL`: the kernel does not know it.
    pub fn enable_hcall(&self, number: u64) -> io::Result<()> {
        let args = [number, 1, 0, 0];
        let cap = KVM_CAP_PPC_ENABLE_HCALL;
        self.vm().enable_cap(&kvm_enable_cap { cap, args, ..Default::default() })?;
        Ok(())
    }

    /// Has the guest make a hypercall in real mode, with these arguments in R4 to R12. Returns what
    /// R3 to R11 hold afterwards: one that the kernel leaves to the VMM gets `H_FUNCTION`.
    ///
    /// # Errors
    /// The outcome, if it did not come through. The OS error of running the vCPU.
    pub fn hcall(
        &mut self,
        number: u64,
        arguments: [u64; 9],
    ) -> io::Result<Result<[u64; 9], Outcome>> {
        let mut operands = [number; 10];
        operands[1..].copy_from_slice(&arguments);
        let report =
            self.run_at(self.image.stubs + self.image.entry.hcall, msr::REAL, &operands)?;
        Ok(report.answer.ok_or(report.outcome()))
    }

    /// Sets the SLB.
    ///
    /// # Errors
    /// The OS error.
    pub fn set_slb(&self, slb: &Slb) -> io::Result<()> {
        let mut registers = kvm_sregs { pvr: self.pvr()?, ..kvm_sregs::default() };
        let valid = (0_u16..).zip(0..SLB_ENTRIES).map(|(index, place)| (index, slb.entry(place)));
        let valid = valid.filter(|(_, (esid, _))| esid.v());
        for (place, (index, (esid, vsid))) in registers.s.ppc64.slb.iter_mut().zip(valid) {
            *place = kvm_sregs_slb { slbe: esid.with_index(index).into(), slbv: vsid.into() };
        }
        self.vcpu.set_sregs(&registers)?;
        Ok(())
    }

    /// The valid entries of the SLB.
    ///
    /// # Errors
    /// The OS error.
    pub fn slb(&self) -> io::Result<Vec<SlbWords>> {
        let slb = self.vcpu.get_sregs()?.s.ppc64.slb;
        let words = slb.map(|kvm_sregs_slb { slbe, slbv }| {
            (SlbEsid::from_bits(slbe), SlbVsid::from_bits(slbv))
        });
        Ok(words.into_iter().filter(|(esid, _)| esid.v()).collect())
    }

    /// Has the guest run `slbmte`.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn slbmte(&mut self, (rb, rs): SlbWords) -> io::Result<Outcome> {
        self.run_slb(self.image.entry.slbmte, &[rb.into(), 0, rs.into()])
    }

    /// Has the guest run `slbie`.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn slbie(&mut self, address: Gva) -> io::Result<Outcome> {
        self.run_slb(self.image.entry.slbie, &[address.get()])
    }

    /// Has the guest run `slbia` with IH = 0.
    ///
    /// # Errors
    /// The OS error of running the vCPU.
    pub fn slbia(&mut self) -> io::Result<Outcome> {
        self.run_slb(self.image.entry.slbia, &[])
    }

    /// In real mode: the stubs' own segment may be what is dropped.
    fn run_slb(&mut self, entry: u64, operands: &[u64]) -> io::Result<Outcome> {
        Ok(self.run_at(self.image.stubs + entry, msr::REAL, operands)?.outcome())
    }
}
