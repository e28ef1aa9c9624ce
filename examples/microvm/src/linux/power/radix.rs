//! A radix guest's tables: its registers name the process, its process table the tree.

use std::ops::ControlFlow;

use kvm_ppc::VcpuControl;
use kvm_ppc::bindings::KVM_REG_PPC_PID;
use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Attributes, Cause, Gpa, Gva, Translation};
use pgtable_ppc64::radix::{Granule, GuestMmu, ProcessScoped, ProcessTableWord, RcPolicy};

use super::host::register;
use crate::linux::compare::{Leaf, Tables};
use crate::linux::given::Statement;
use crate::linux::listing::each_leaf;
use crate::report::Failure;

/// The addresses of quadrant 0 (Power ISA v3.0B, book III 5.7.5.1): 2^52 bytes.
const USER: u64 = 1 << 52;

/// The trees of the kernel and of the process that runs.
pub struct Tree<'a> {
    memory: &'a GuestTables<'a, Gpa>,
    cpus: u32,
    mmu: GuestMmu,
    kernel: Walker<ProcessScoped, &'a GuestTables<'a, Gpa>>,
    user: Walker<ProcessScoped, &'a GuestTables<'a, Gpa>>,
}

impl<'a> Tree<'a> {
    /// The trees that `vcpu`, one of `cpus`, translates with, the process table being where the
    /// guest has said.
    pub fn new(
        memory: &'a GuestTables<'a, Gpa>,
        process_table: ProcessTableWord,
        cpus: u32,
        vcpu: &VcpuControl,
    ) -> Result<Self, Failure> {
        let pid = u32::try_from(register(vcpu, KVM_REG_PPC_PID)?)?;
        // KVM-HV's guests do not see R and C being set: the hypervisor does it, or the processor.
        let format = ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
        let mmu = GuestMmu::new(process_table, pid, format);
        let walker = |pid| {
            mmu.walker(memory, pid)
                .map_err(|cause: Cause| format!("the tree of process {pid} in the guest: {cause}"))
        };
        let (kernel, user) = (walker(0)?, walker(pid)?);
        println!(
            "linux: process table word {:#x}; /init is process {pid}, its root at {}, the kernel's at {}",
            process_table.into_bits(),
            user.root(),
            kernel.root()
        );
        Ok(Self { memory, cpus, mmu, kernel, user })
    }
}

fn leaf<A: Attributes>(va: Gva, found: Translation<Gpa, A>) -> Leaf {
    Leaf { va, gpa: found.output, shift: found.shift, prot: found.attributes.prot() }
}

impl Tables for Tree<'_> {
    fn user(&self, va: Gva) -> Option<Leaf> {
        self.user.query(va).ok().flatten().map(|found| leaf(va, found))
    }

    fn kernel(&self, va: Gva) -> Option<Leaf> {
        self.kernel.query(va).ok().flatten().map(|found| leaf(va, found))
    }

    fn allows(&self, va: Gva, access: Access) -> bool {
        self.mmu.translate_ea(self.memory, va, access).is_ok()
    }

    fn complete(&self) -> bool {
        true
    }

    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String> {
        each_leaf(&self.user, USER, visit)
    }

    fn symbol(&self, _: &Statement, va: u64) -> Option<Gpa> {
        super::symbol(va)
    }

    fn linear(&self) -> Gva {
        super::LINEAR
    }

    fn log(&self) -> Vec<String> {
        let sizes = [(12, 0), (16, 5), (21, 1), (30, 2)];
        let sizes =
            sizes.map(|(shift, ap)| format!("radix-mmu: Page size shift = {shift} AP=0x{ap:x}"));
        ["radix-mmu: Page sizes from device-tree:".to_owned()]
            .into_iter()
            .chain(sizes)
            .chain(super::log(self.cpus))
            .collect()
    }

    fn more(&self, statement: &Statement, mismatch: &mut dyn FnMut(String)) -> usize {
        // The kernel takes the right to execute away from what it needs no more: all from its
        // initial code on.
        let init =
            statement.symbol("_sinittext").and_then(super::symbol).map_or(u64::MAX, Gpa::get);
        let memory = statement.ram().map(|range| range.end).max().unwrap_or(0);
        let mut lines = 0;
        let mut end = 0;
        for line in statement.log.iter().filter(|line| line.contains("Mapped 0x")) {
            lines += 1;
            match Mapped::parse(line) {
                Some(mapped) if mapped.start == end && mapped.end <= memory => {
                    self.check(&mapped, line, init, mismatch);
                    end = mapped.end;
                }
                Some(_) => mismatch(format!(
                    "the kernel says \"{line}\", which does not go on where it ended, or beyond memory"
                )),
                None => mismatch(format!("the kernel says \"{line}\", which means nothing")),
            }
        }
        if end != memory {
            mismatch(format!("the kernel says that it mapped {end:#x} bytes, and has {memory:#x}"));
        }
        lines
    }
}

impl Tree<'_> {
    /// The kernel's line about its linear mapping holds for each leaf of it.
    fn check(&self, mapped: &Mapped, line: &str, init: u64, mismatch: &mut dyn FnMut(String)) {
        let mut gpa = mapped.start;
        while gpa < mapped.end {
            let va = Gva::new(super::LINEAR.get() + gpa);
            let found = self.kernel(va);
            let equal = found.is_some_and(|leaf| {
                let execute = mapped.execute && gpa.saturating_add(mapped.bytes) <= init;
                leaf.gpa.get() == gpa
                    && 1 << leaf.shift == mapped.bytes
                    && leaf.prot.execute() == execute
            });
            if !equal {
                mismatch(format!("the kernel says \"{line}\", and {va} leads to {found:x?}"));
                return;
            }
            gpa = gpa.saturating_add(mapped.bytes);
        }
    }
}

/// What the kernel says of a part of its linear mapping (Linux
/// `arch/powerpc/mm/book3s64/radix_pgtable.c`, `print_mapping`):
/// `radix-mmu: Mapped 0x0000000000000000-0x0000000002200000 with 2.00 MiB pages (exec)`.
#[derive(Debug, PartialEq, Eq)]
struct Mapped {
    start: u64,
    end: u64,
    bytes: u64,
    execute: bool,
}

impl Mapped {
    fn parse(line: &str) -> Option<Self> {
        let (_, told) = line.split_once("Mapped ")?;
        let mut words = told.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let (number_of, unit) =
            (words.nth(1)?.split_once('.')?.0.parse::<u64>().ok()?, words.next()?);
        let shift = match unit {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        let bytes = number_of.checked_shl(shift).filter(|it| it.is_power_of_two())?;
        Some(Self {
            start: number(start)?,
            end: number(end)?,
            bytes,
            execute: told.contains("(exec)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words() {
        let parse =
            |text: &str| Mapped::parse(text).map(|it| (it.start, it.end, it.bytes, it.execute));
        let line =
            "radix-mmu: Mapped 0x0000000000000000-0x0000000001400000 with 2.00 MiB pages (exec)";
        assert_eq!(parse(line), Some((0, 0x140_0000, 0x20_0000, true)));
        let line = "radix-mmu: Mapped 0x0000000001400000-0x0000000001410000 with 64.0 KiB pages";
        assert_eq!(parse(line), Some((0x140_0000, 0x141_0000, 0x1_0000, false)));
        for line in [
            "",
            "Mapped 0x0-",
            "Mapped 0x0-0x1 with 0.00 B pages",
            "Mapped 0x0-0x1 with 3.00 MiB pages",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
