//! The RISC-V IOMMU's words that refer to our trees, as data: device contexts, process contexts,
//! directory entries, the pointer to the directory, and invalidation commands.
//!
//! "RISC-V IOMMU Architecture Specification" 1.0, chapter "Data Structures";
//! "Device-directory-table pointer (ddtp)"; "IOMMU Page-Table cache invalidation commands". The
//! IOMMU walks trees of [`Sv`] and [`SvX4`] as harts do.

use bitfield_struct::bitfield;
use pgtable::invalidate::{Flush, Stale};
use pgtable::{Address, Gpa, Gva, Hpa, low_bits};

use crate::fence::reach;
use crate::format::PAGE_SHIFT;
use crate::format::{Sv, SvX4};
use crate::registers::Satp;

/// Translation control: the first word of a device context.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TranslationControl {
    /// V: the context is valid.
    pub valid: bool,
    /// EN_ATS: address translation services.
    pub en_ats: bool,
    /// EN_PRI: page requests.
    pub en_pri: bool,
    /// T2GPA: translation requests are answered with guest-physical addresses.
    pub t2gpa: bool,
    /// DTF: translation faults are not reported.
    pub dtf: bool,
    /// PDTV: the fourth word is the pointer to a process directory.
    pub pdtv: bool,
    /// PRPR: responses to page requests need a PASID.
    pub prpr: bool,
    /// GADE: A and D are set by hardware in the second stage.
    pub gade: bool,
    /// SADE: A and D are set by hardware in the first stage.
    pub sade: bool,
    /// DPE: requests without a process are of process 0.
    pub dpe: bool,
    /// SBE: the process directory and the first stage's tables are big-endian.
    pub sbe: bool,
    /// SXL: 32-bit modes.
    pub sxl: bool,
    #[bits(12)]
    __: u16,
    /// For custom use.
    pub custom: u8,
    __: u32,
}

/// iohgatp: the second word of a device context.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iohgatp {
    /// Bits 55:12 of the root table's address, of which bits 13:12 are zero.
    #[bits(44)]
    pub ppn: u64,
    /// Guest soft-context identifier: what [`IommuInvalidation`] names.
    pub gscid: u16,
    /// [`Mode::code`](crate::Mode::code), or 0: Bare.
    #[bits(4)]
    pub mode: u8,
}

/// How many levels a process directory has: `pdtp.MODE`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ProcessDirectory {
    /// PD8: one level, 256 processes.
    Pd8 = 1,
    /// PD17: two levels.
    Pd17 = 2,
    /// PD20: three levels.
    Pd20 = 3,
}

/// A device context: four words, or eight in the extended format (where the IOMMU has
/// `capabilities.MSI_FLAT`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeviceContext {
    /// Translation control.
    pub control: TranslationControl,
    /// The second stage.
    pub iohgatp: Iohgatp,
    /// Translation attributes: PSCID in bits 31:12.
    pub attributes: u64,
    /// First-stage context: iosatp, or pdtp.
    pub first_stage: u64,
}

/// PSCID in the words `ta`.
const fn pscid_field(pscid: u32) -> u64 {
    (pscid as u64 & low_bits(20)) << 12
}

impl DeviceContext {
    /// A valid context without translation (both stages Bare).
    #[must_use]
    pub const fn new() -> Self {
        Self {
            control: TranslationControl::new().with_valid(true),
            iohgatp: Iohgatp::new(),
            attributes: 0,
            first_stage: 0,
        }
    }

    /// The same with the tree of `format` at `root` as second stage. Devices with the same tree
    /// have the same `gscid`.
    #[must_use]
    pub const fn with_second_stage(self, format: &SvX4, root: Hpa, gscid: u16) -> Self {
        let hgatp = format.hgatp(root, 0);
        let control = self.control.with_gade(format.controls().extensions.adue);
        let iohgatp =
            Iohgatp::new().with_ppn(hgatp.ppn()).with_gscid(gscid).with_mode(hgatp.mode());
        Self { control, iohgatp, ..self }
    }

    /// The same with the tree of `format` at `root` as first stage; a host address if there is no
    /// second one. All accesses are a user's. Bits of `pscid` beyond 19:0 do not count.
    #[must_use]
    pub const fn with_first_stage(self, format: &Sv, root: Gpa, pscid: u32) -> Self {
        Self {
            control: self.control.with_pdtv(false).with_sade(format.controls().extensions.adue),
            attributes: pscid_field(pscid),
            first_stage: format.satp(root, 0).into_bits(),
            ..self
        }
    }

    /// The same with a process directory whose root stands at `root`; `adue`: A and D are set by
    /// hardware in the processes' trees.
    #[must_use]
    pub const fn with_processes(self, directory: ProcessDirectory, root: Gpa, adue: bool) -> Self {
        let ppn = root.get() >> PAGE_SHIFT & low_bits(44);
        Self {
            control: self.control.with_pdtv(true).with_sade(adue),
            attributes: 0,
            first_stage: Satp::new().with_ppn(ppn).with_mode(directory as u8).into_bits(),
            ..self
        }
    }

    /// The base format's words. The IOMMU reads them in any order: store the first, which has V,
    /// last.
    #[must_use]
    pub const fn words(self) -> [u64; 4] {
        [self.control.into_bits(), self.iohgatp.into_bits(), self.attributes, self.first_stage]
    }

    /// The extended format's words, without a table for message-signalled interrupts (its mode is
    /// Off).
    #[must_use]
    pub const fn extended_words(self) -> [u64; 8] {
        let [control, iohgatp, attributes, first_stage] = self.words();
        [control, iohgatp, attributes, first_stage, 0, 0, 0, 0]
    }
}

/// The two words of a process context: the tree of `format` at `root` for the process's accesses.
/// A supervisor's accesses are allowed if `supervisor` (ENS), under the format's SUM.
#[must_use]
pub const fn process_context(format: &Sv, root: Gpa, pscid: u32, supervisor: bool) -> [u64; 2] {
    let sum = supervisor && format.controls().sum;
    let attributes = 1 | (supervisor as u64) << 1 | (sum as u64) << 2 | pscid_field(pscid);
    [attributes, format.satp(root, 0).into_bits()]
}

/// An entry of a directory of devices or of processes that refers to the next table.
#[must_use]
pub const fn directory_entry(table: Hpa) -> u64 {
    (table.get() >> PAGE_SHIFT & low_bits(44)) << 10 | 1
}

/// The register `ddtp` for a device directory of `levels` levels (1 to 3) whose root stands at
/// `root`. `None`: another number of levels.
#[must_use]
pub const fn ddtp(root: Hpa, levels: u8) -> Option<u64> {
    match levels {
        1..=3 => Some(directory_entry(root) & !1 | (levels as u64 + 1)),
        _ => None,
    }
}

/// The indices of `device`'s entries in the directory, by level, from the last one on: the last one
/// counts contexts, others words. `extended`: the format of the contexts.
#[must_use]
pub const fn device_indices(device: u32, extended: bool) -> [u16; 3] {
    if extended { indices(device, [6, 9, 9]) } else { indices(device, [7, 9, 8]) }
}

/// The indices of `process`'s entries in its directory, by level, from the last one on: the last
/// one counts contexts, others words.
#[must_use]
pub const fn process_indices(process: u32) -> [u16; 3] {
    indices(process, [8, 9, 3])
}

const fn indices(number: u32, [a, b, c]: [u8; 3]) -> [u16; 3] {
    let [first, second, third] = [number, number >> a, number >> (a + b)];
    [
        (first as u64 & low_bits(a)) as u16,
        (second as u64 & low_bits(b)) as u16,
        (third as u64 & low_bits(c)) as u16,
    ]
}

/// An IOTINVAL command of the command queue.
#[bitfield(u128)]
#[derive(PartialEq, Eq, Hash)]
pub struct IommuInvalidation {
    #[bits(7, default = 1)]
    opcode: u8,
    /// func3: 0 for first-stage tables (VMA), 1 for second-stage tables (GVMA).
    #[bits(3)]
    pub function: u8,
    /// AV: only the translation of `page`.
    pub of_page: bool,
    __: bool,
    /// The address space, where `of_pscid`.
    #[bits(20)]
    pub pscid: u32,
    /// PSCV: only those of `pscid`, global ones excepted.
    pub of_pscid: bool,
    /// GV: those of the VM `gscid`; otherwise, of the host (VMA) or of all VMs (GVMA).
    pub of_gscid: bool,
    #[bits(10)]
    __: u16,
    /// The VM, where `of_gscid`.
    pub gscid: u16,
    #[bits(14)]
    __: u16,
    /// Bits 63:12 of the address, where `of_page`.
    #[bits(52)]
    pub page: u64,
    #[bits(2)]
    __: u8,
}

fn commands<A: Address>(
    stale: &Stale<A>,
    whole: IommuInvalidation,
    by_page: bool,
    ceiling: u64,
) -> impl Iterator<Item = IommuInvalidation> {
    let of_page = move |page: A| whole.with_of_page(true).with_page(page.get() >> PAGE_SHIFT);
    let pages_are_enough = by_page && !stale.tables();
    Flush::in_parts(stale, ceiling, reach).operands(pages_are_enough, of_page, whole)
}

/// The commands that make `stale` first-stage translations unreachable: of `pscid` (`None`: all,
/// and global ones), of the VM `gscid` (`None`: of devices without a second stage). An
/// IOFENCE.C after them tells when they are done.
pub fn iotinval_vma(
    stale: &Stale<Gva>,
    pscid: Option<u32>,
    gscid: Option<u16>,
    ceiling: u64,
) -> impl Iterator<Item = IommuInvalidation> {
    let whole = IommuInvalidation::new()
        .with_of_pscid(pscid.is_some())
        .with_pscid(pscid.unwrap_or(0) & low_bits(20) as u32)
        .with_of_gscid(gscid.is_some())
        .with_gscid(gscid.unwrap_or(0));
    commands(stale, whole, true, ceiling)
}

/// The commands that make `stale` second-stage translations of the VM `gscid` (`None`: of all)
/// unreachable.
pub fn iotinval_gvma(
    stale: &Stale<Gpa>,
    gscid: Option<u16>,
    ceiling: u64,
) -> impl Iterator<Item = IommuInvalidation> {
    let whole = IommuInvalidation::new()
        .with_function(1)
        .with_of_gscid(gscid.is_some())
        .with_gscid(gscid.unwrap_or(0));
    // Without a VM, the address is ignored.
    commands(stale, whole, gscid.is_some(), ceiling)
}
