//! What a guest's access does: quadrant, process table, tree, and the interrupt that the guest sees
//! (ISA "Radix Tree Translation", MSR\[HV\] = 0).
//!
//! Also the way from a process table in guest memory to any process's tree, for introspection. All
//! of it goes through the safe walker: it takes no lock, writes nothing, and believes no word.

use core::fmt;

use pgtable::format::{FirstStage, Format};
use pgtable::memory::ReadMemory;
use pgtable::walk::{TranslationOf, Walker};
use pgtable::{Access, Cause, Gpa, Gva, Level};

use super::descriptor::{ProcessTableWord, Prte};
use super::format::{ProcessScoped, entry_of};
use super::indexed::TableError;
use super::policy::{Quadrants, Strictness};
use super::process_table::ProcessTable;
use crate::interrupt::{Interrupt, Vector};
use crate::lpcr::{Lpcr, Translation, Unmodelled};

/// An interrupt that an access takes, with the address that goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFault {
    /// The vector, and what DSISR or SRR1 (HDSISR, HSRR1) says.
    pub interrupt: Interrupt,
    /// The effective address: what DAR or HDAR holds, or SRR0 or HSRR0.
    pub address: Gva,
    /// The access.
    pub access: Access,
    /// Why, in the words that all architectures share.
    pub cause: Cause,
    /// The level of the entry at which the walk ended; `None` if it did not begin.
    pub level: Option<Level>,
    /// The address of that entry, or of the process table entry; `None` if none was looked for.
    pub entry: Option<Gpa>,
}

impl GuestFault {
    /// What DAR (or HDAR) holds; `None` where the address is in SRR0 (or HSRR0), as for all fetches
    /// that do not report a table.
    #[must_use]
    pub const fn dar(&self) -> Option<Gva> {
        match self.interrupt.vector {
            Vector::DataStorage | Vector::DataSegment | Vector::HypervisorDataStorage => {
                Some(self.address)
            }
            Vector::InstructionStorage
            | Vector::InstructionSegment
            | Vector::HypervisorInstructionStorage => None,
        }
    }
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} {}", self.access, self.address, self.cause)?;
        match (self.level, self.entry) {
            (Some(level), Some(entry)) => write!(f, ", {level}, entry at {entry}")?,
            (None, Some(entry)) => write!(f, ", process table entry at {entry}")?,
            (_, None) => {}
        }
        write!(f, ": {}", self.interrupt)
    }
}

impl core::error::Error for GuestFault {}

/// A guest's side of translation: its process table, the process that runs, and how the hardware
/// behaves.
///
/// ```
/// use pgtable_ppc64::radix::{Granule, GuestMmu, ProcessScoped, ProcessTable, Prte, RcPolicy, Strictness, TableFault};
/// use core::sync::atomic::AtomicU64;
/// use pgtable::memory::DirectMap;
/// use pgtable::{Access, Gpa, Gva};
///
/// // 1 MiB of guest memory: a process table at 0xf0000, and an empty tree at 0x10000 for process 0.
/// let words: Vec<AtomicU64> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
/// let memory = DirectMap::new(&words, Gpa::new(0));
/// let processes = ProcessTable::new(Gpa::new(0xf_0000), 0).ok_or("aligned")?;
/// processes.write(&memory, 0, Prte::of_tree(0x1_0000).ok_or("aligned")?)?;
///
/// // As a guest of KVM-HV sees an emulated POWER9.
/// let format = ProcessScoped::new(Granule::K64)
///     .with_strictness(Strictness::Qemu)
///     .with_rc(RcPolicy::HardwareUpdate)
///     .with_table_fault(TableFault::Reflected);
/// let mmu = GuestMmu::new(processes.word(), 1, format);
///
/// let fault = mmu.translate_ea(&memory, Gva::new(0xc000_0000_0000_1000), Access::WRITE).unwrap_err();
/// assert_eq!(fault.interrupt.to_string(), "DSI 0x300, DSISR 0x42000000: no translation, store");
/// assert_eq!(fault.dar(), Some(Gva::new(0xc000_0000_0000_1000)));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GuestMmu {
    process_table: ProcessTableWord,
    pidr: u32,
    format: ProcessScoped,
}

/// Where a process's tree was lost.
struct Lost {
    cause: Cause,
    entry: Option<Gpa>,
}

impl GuestMmu {
    /// A guest whose process table `process_table` names, running process `pidr`. Of `format` the
    /// quadrants are not looked at: they follow from the process.
    #[must_use]
    pub const fn new(process_table: ProcessTableWord, pidr: u32, format: ProcessScoped) -> Self {
        Self { process_table, pidr, format }
    }

    /// As [`new`](Self::new), for a guest that runs under this LPCR.
    ///
    /// # Errors
    /// [`Unmodelled`]: a field says that its addresses are translated in another way.
    pub fn under(
        lpcr: Lpcr,
        process_table: ProcessTableWord,
        pidr: u32,
        format: ProcessScoped,
    ) -> Result<Self, Unmodelled> {
        match lpcr.translation()? {
            Translation::Radix => Ok(Self::new(process_table, pidr, format)),
            Translation::Hash => Err(Unmodelled { field: "HR" }),
        }
    }

    /// The format of the tree of process `pid`, reached from the quadrants that lead to it.
    #[must_use]
    pub const fn format(&self, pid: u32) -> ProcessScoped {
        self.format.with_quadrants(match (pid, self.pidr) {
            (0, 0) => Quadrants::ZeroAndThree,
            (0, _) => Quadrants::Three,
            _ => Quadrants::Zero,
        })
    }

    /// The process whose tree translates `address`; `None` for quadrants 1 and 2, which are the
    /// hypervisor's.
    #[must_use]
    pub const fn process(&self, address: Gva) -> Option<u32> {
        match address.get() >> 62 {
            0 => Some(self.pidr),
            3 => Some(0),
            _ => None,
        }
    }

    /// A walker of the tree of process `pid`, running or not.
    ///
    /// # Errors
    /// As [`ProcessTable::root`] says; [`Cause::Malformed`] for a process table that is not aligned
    /// to its size, but for [`Strictness::Kvm`].
    pub fn walker<M: ReadMemory<Gpa>>(
        &self,
        memory: M,
        pid: u32,
    ) -> Result<Walker<ProcessScoped, M>, Cause> {
        let table = self.table().ok_or(Cause::Malformed)?;
        let root = table.root(&memory, pid, self.format.strictness())?;
        Ok(Walker::new(self.format(pid), memory, root))
    }

    /// Translates one access with relocation on: all that hardware does for it but the second
    /// stage.
    ///
    /// # Errors
    /// The interrupt that the guest takes; or, for a table outside memory, the one that the
    /// format's [`TableFault`](super::TableFault) names.
    pub fn translate_ea<M: ReadMemory<Gpa>>(
        &self,
        memory: &M,
        address: Gva,
        access: Access,
    ) -> Result<TranslationOf<ProcessScoped>, GuestFault> {
        let fault = |cause, level, entry| GuestFault {
            interrupt: self.format.fault(cause, access, None, 0),
            address,
            access,
            cause,
            level,
            entry,
        };
        let pid = self.process(address).ok_or_else(|| fault(Cause::Address, None, None))?;
        let format = self.format(pid);
        let offset = format.offset(address).ok_or_else(|| fault(Cause::Address, None, None))?;
        let root =
            self.root(memory, pid, offset).map_err(|lost| fault(lost.cause, None, lost.entry))?;
        let walker = Walker::new(format, memory, root);
        walker.translate(address, access).map_err(|stop| match stop.cause {
            Cause::Malformed if self.size_comes_late(memory, &walker, address, offset) => {
                fault(Cause::TableAccess, stop.at.map(|at| at.level), stop.entry)
            }
            _ => GuestFault {
                interrupt: stop.arch,
                ..fault(stop.cause, stop.at.map(|at| at.level), stop.entry)
            },
        })
    }

    fn table(&self) -> Option<ProcessTable> {
        ProcessTable::of_word_as(self.process_table, self.format.strictness())
    }

    /// From the process table to a root, with the checks in hardware's order.
    fn root<M: ReadMemory<Gpa>>(&self, memory: &M, pid: u32, offset: u64) -> Result<Gpa, Lost> {
        let lost = |cause, entry| Lost { cause, entry };
        let table = self.table().ok_or(lost(Cause::Malformed, None))?;
        let at = table.entry(pid).ok();
        let strictness = self.format.strictness();
        match table.read(memory, pid) {
            Err(TableError::Beyond { .. }) => Err(lost(Cause::NotPresent, None)),
            Err(TableError::Memory(_)) => Err(lost(Cause::TableAccess, at)),
            Ok(entry) => match entry.root(strictness) {
                Some(root) => Ok(Gpa::new(root)),
                None if strictness == Strictness::Qemu
                    && root_is_outside(memory, entry, offset) =>
                {
                    Err(lost(Cause::TableAccess, at))
                }
                None => Err(lost(Cause::Malformed, at)),
            },
        }
    }

    /// Whether the walk to `address` ended at a directory entry whose table has an unsupported
    /// size, stands outside memory, and would have been looked for before its size was judged: as
    /// QEMU's MMU does.
    #[cold]
    fn size_comes_late<M: ReadMemory<Gpa>>(
        &self,
        memory: &M,
        walker: &Walker<ProcessScoped, &M>,
        address: Gva,
        offset: u64,
    ) -> bool {
        let trace = walker.trace(address);
        let looked_for = trace
            .last()
            .and_then(|last| walker.format().looked_for_before_judged(last.word, last.at, offset));
        looked_for.is_some_and(|entry| memory.load(entry).is_err())
    }
}

fn root_is_outside<M: ReadMemory<Gpa>>(memory: &M, entry: Prte, offset: u64) -> bool {
    let tree = entry.tree;
    let at = entry_of(tree.base(), tree.rpds(), tree.address_bits(), offset);
    memory.load(Gpa::new(at)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::Granule;
    use core::sync::atomic::AtomicU64;
    use pgtable::memory::DirectMap;
    extern crate std;
    use std::string::ToString;
    use std::vec::Vec;

    const PROCESS_TABLE: u64 = 0x2_0000;
    const ROOT: u64 = 0x1_0000;

    fn memory() -> Vec<AtomicU64> {
        let words: Vec<_> = (0..0x3_0000 / 8).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Gpa::new(0));
        let table = ProcessTable::new(Gpa::new(PROCESS_TABLE), 0).unwrap();
        table.write(&memory, 0, Prte::of_tree(ROOT).unwrap()).unwrap();
        words
    }

    fn mmu(pidr: u32) -> GuestMmu {
        let word = ProcessTableWord::from_bits(1 << 63 | PROCESS_TABLE);
        GuestMmu::new(word, pidr, ProcessScoped::new(Granule::K64))
    }

    #[test]
    fn a_person_understands_it() {
        let words = memory();
        let memory = DirectMap::new(&words, Gpa::new(0));
        for (pidr, address, access, text) in [
            (
                1,
                0xc000_0080_0000_0000,
                Access::WRITE,
                "supervisor write at gva 0xc000008000000000 is not mapped, level 3, entry at gpa 0x10008: DSI 0x300, DSISR 0x42000000: no translation, store",
            ),
            (
                1,
                0x1000,
                Access::READ.by_user(),
                "user read at gva 0x1000 meets a malformed entry, process table entry at gpa 0x20010: DSI 0x300, DSISR 0x00080000: unsupported radix configuration",
            ),
            (
                256,
                0x1000,
                Access::FETCH,
                "supervisor fetch at gva 0x1000 is not mapped: ISI 0x400, SRR1 0x40000000: no translation",
            ),
            (
                1,
                0x4000_0000_0000_0000,
                Access::FETCH,
                "supervisor fetch at gva 0x4000000000000000 is no address of this space: ISEG 0x480",
            ),
        ] {
            let fault = mmu(pidr).translate_ea(&memory, Gva::new(address), access).unwrap_err();
            assert_eq!(fault.to_string(), text);
            assert_eq!(fault.dar().is_some(), access.kind != pgtable::AccessKind::Fetch);
        }
    }

    #[test]
    fn only_what_radix_translates() {
        let word = ProcessTableWord::from_bits(1 << 63 | PROCESS_TABLE);
        let under = |lpcr: u64| {
            let format = ProcessScoped::new(Granule::K64);
            GuestMmu::under(lpcr.into(), word, 1, format).err().map(|error| error.field)
        };
        let radix = 0x0040_0000_0054_f41f_u64;
        for (lpcr, want) in [
            (radix, None),
            (radix & !(1 << 20), Some("UPRT")),
            (radix & !(1 << 22), Some("HR")),
            (0x4040_0000_0004_f01f, Some("HR")),
            (radix | 1 << 19, Some("reserved 44")),
        ] {
            assert_eq!(under(lpcr), want, "{lpcr:#x}");
        }
    }

    #[test]
    fn introspection_reaches_any_process() {
        let words = memory();
        let memory = DirectMap::new(&words, Gpa::new(0));
        for (pidr, pid, want) in [
            (1, 0, Ok(Gpa::new(ROOT))),
            (0, 0, Ok(Gpa::new(ROOT))),
            (1, 2, Err(Cause::Malformed)),
            (1, 256, Err(Cause::NotPresent)),
        ] {
            assert_eq!(
                mmu(pidr).walker(&memory, pid).map(|walker| walker.root()),
                want,
                "{pidr} {pid}"
            );
        }
        // Process 0 is reached from quadrant 0 only while it runs.
        let low = |pidr| {
            mmu(pidr)
                .walker(&memory, 0)
                .unwrap()
                .translate(Gva::new(0), Access::READ)
                .unwrap_err()
                .cause
        };
        assert_eq!((low(0), low(1)), (Cause::NotPresent, Cause::Address));
    }
}
