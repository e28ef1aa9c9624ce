//! The entries of a walk, flag by flag.
//!
//! Sources: SDM §4.3 to §4.5 (32-bit and PAE paging, long mode), §29.3.2 (EPT); Power ISA v3.0B
//! Book III §5.7.10.1 (radix PDE and PTE); RISC-V Privileged Architecture, "Sv39" (PTE); DDI 0487,
//! "VMSAv8-64 translation table format descriptors"; of what Linux keeps in entries that are not
//! present, `arch/x86/include/asm/pgtable_64.h` and `pgtable-3level.h` (swap entries), and
//! `pgtable_types.h` (`_PAGE_PROTNONE`).

use serde::Serialize;

use super::range::Step;
use super::root::Arch;

/// What an entry's flags say, a line each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Flags(pub Vec<String>);

/// A flag: its bit, its name in the manual, what it means when it is set and when it is clear. An
/// empty meaning is not shown.
type Flag = (u32, &'static str, &'static str, &'static str);

const X86_TABLE: &[Flag] = &[
    (1, "R/W", "writes may be allowed below", "no writes below"),
    (2, "U/S", "user mode may be allowed below", "supervisor only below"),
    (3, "PWT", "the table is write-through", ""),
    (4, "PCD", "the table is uncached", ""),
    (5, "A", "used by a walk", "not used yet"),
    (63, "XD", "no instruction fetches below", ""),
];
const X86_LEAF: &[Flag] = &[
    (1, "R/W", "writable", "read-only"),
    (2, "U/S", "user", "supervisor"),
    (3, "PWT", "PAT index bit 0", ""),
    (4, "PCD", "PAT index bit 1", ""),
    (5, "A", "accessed", "not accessed"),
    (6, "D", "dirty", "not dirty"),
    (8, "G", "global", ""),
    (63, "XD", "no instruction fetches", "executable"),
];
/// A PDPTE of PAE paging, which restricts nothing.
const PAE_TOP: &[Flag] =
    &[(3, "PWT", "the table is write-through", ""), (4, "PCD", "the table is uncached", "")];
const EPT: &[Flag] = &[
    (0, "R", "readable", "not readable"),
    (1, "W", "writable", "not writable"),
    (2, "X", "executable (in supervisor mode, with mode-based execute)", "not executable"),
    (8, "A", "accessed", ""),
    (9, "D", "dirty", ""),
    (10, "XU", "executable in user mode, with mode-based execute", ""),
];
const EPT_LEAF: &[Flag] = &[(6, "IPAT", "the guest's PAT is ignored", "")];
const RADIX_LEAF: &[Flag] = &[
    (8, "R", "referenced", "not referenced"),
    (7, "C", "changed", "not changed"),
    (3, "EAA0", "privileged only", "problem state too"),
    (2, "EAA1", "readable", "not readable"),
    (1, "EAA2", "writable", "not writable"),
    (0, "EAA3", "executable", "not executable"),
];

const SV_LEAF: &[Flag] = &[
    (1, "R", "readable", "not readable"),
    (2, "W", "writable", "not writable"),
    (3, "X", "executable", "not executable"),
    (4, "U", "user", "supervisor"),
    (5, "G", "global", ""),
    (6, "A", "accessed", "not accessed"),
    (7, "D", "dirty", "not dirty"),
    (63, "N", "one of 16 entries of a page of 64 KiB", ""),
];
const SV_TABLE: &[Flag] = &[(5, "G", "all below is global", "")];

const VMSA_LEAF: &[Flag] = &[
    (6, "AP[1]", "EL0 too", "EL1 only"),
    (7, "AP[2]", "read-only", "writable"),
    (10, "AF", "accessed", "not accessed"),
    (11, "nG", "of one ASID", "global"),
    (50, "GP", "guarded", ""),
    (51, "DBM", "hardware that manages dirty state makes it writable", ""),
    (52, "Contiguous", "one of a set of contiguous entries", ""),
    (53, "PXN", "EL1 does not execute it", "EL1 executes it, unless EL0 writes it"),
    (54, "UXN", "EL0 does not execute it", "EL0 executes it"),
];
const VMSA_TABLE: &[Flag] = &[
    (59, "PXNTable", "EL1 executes nothing below", ""),
    (60, "UXNTable", "EL0 executes nothing below", ""),
    (61, "APTable[0]", "nothing below is EL0's", ""),
    (62, "APTable[1]", "all below is read-only", ""),
];
const STAGE2_LEAF: &[Flag] = &[
    (6, "S2AP[0]", "readable", "not readable"),
    (7, "S2AP[1]", "writable", "not writable"),
    (10, "AF", "accessed", "not accessed"),
    (51, "DBM", "hardware that manages dirty state makes it writable", ""),
    (52, "Contiguous", "one of a set of contiguous entries", ""),
];

fn spelled(flags: &[Flag], word: u64) -> Vec<String> {
    let line = |(bit, name, set, clear): &Flag| {
        let value = word >> bit & 1;
        let meaning = if value != 0 { set } else { clear };
        (!meaning.is_empty()).then(|| format!("{name}={value}: {meaning}"))
    };
    flags.iter().filter_map(line).collect()
}

/// What the flags of an entry say. `linux`: what Linux keeps in entries that are not present is
/// recognised.
#[must_use]
pub fn flags_of(arch: Arch, step: &Step, linux: bool) -> Flags {
    let Step { word, entry, level, .. } = *step;
    let leaf = entry == "leaf";
    let mut lines = match (arch, entry) {
        (_, "malformed") => {
            vec!["malformed: a reserved bit is set, or no entry of this level".into()]
        }
        (Arch::X86_32, "absent") => x86_32_absent(word, level, linux),
        (Arch::X86_64 | Arch::X86_64La57 | Arch::X86Pae, "absent") => {
            x86_absent(word, level, linux)
        }
        (Arch::X86Pae, "table") if level == 2 => spelled(PAE_TOP, word),
        // An entry of 4 bytes ends before XD.
        (Arch::X86_32, _) => {
            let flags = if leaf { X86_LEAF } else { X86_TABLE };
            spelled(&flags[..flags.len() - 1], word)
        }
        (Arch::X86_64 | Arch::X86_64La57 | Arch::X86Pae, _) => {
            spelled(if leaf { X86_LEAF } else { X86_TABLE }, word)
        }
        (Arch::Ept, "absent") => vec!["R, W and X are clear: not present".to_owned()],
        (Arch::Ept, _) => spelled(EPT, word),
        (Arch::Ppc64Radix, "absent") if word == 0 => vec!["V=0: empty".to_owned()],
        (Arch::Ppc64Radix, "absent") => {
            vec!["V=0: not valid; what it holds is the system's".into()]
        }
        (Arch::Ppc64Radix, "leaf") => spelled(RADIX_LEAF, word),
        (Arch::Ppc64Radix, _) => Vec::new(),
        (Arch::Ppc64Hash, _) => return Flags(hash(step)),
        (Arch::Aarch64 | Arch::Aarch64Upper | Arch::Aarch64Stage2, "absent") => {
            arm_absent(arch, word, linux)
        }
        (Arch::Aarch64Stage2, _) => spelled(if leaf { STAGE2_LEAF } else { &[] }, word),
        (Arch::Aarch64 | Arch::Aarch64Upper, _) => {
            spelled(if leaf { VMSA_LEAF } else { VMSA_TABLE }, word)
        }
        (Arch::Riscv64 | Arch::Riscv64Guest, "absent") => riscv_absent(word, linux),
        (Arch::Riscv64 | Arch::Riscv64Guest, _) => {
            spelled(if leaf { SV_LEAF } else { SV_TABLE }, word)
        }
    };
    match (arch, entry) {
        (Arch::X86_32 | Arch::X86Pae, "leaf") if level > 0 => {
            lines.push("PS=1: a page, and not a table".to_owned());
        }
        (Arch::X86_64 | Arch::X86_64La57, "leaf" | "table") => {
            let key = word >> 59 & 0xf;
            if leaf && key != 0 {
                lines.push(format!("protection key {key}, if keys are on"));
            }
            if leaf && level > 0 {
                lines.push("PS=1: a page, and not a table".to_owned());
            }
        }
        (Arch::Ept, "leaf") => {
            let names = [
                "uncacheable",
                "write-combining",
                "2",
                "3",
                "write-through",
                "write-protected",
                "write-back",
                "7",
            ];
            lines.push(format!("memory type {}", names[(word >> 3 & 7) as usize]));
            lines.extend(spelled(EPT_LEAF, word));
        }
        (Arch::Ppc64Radix, "leaf") => {
            let names = ["normal", "strong access order", "non-idempotent I/O", "tolerant I/O"];
            lines.push(format!("ATT: {}", names[(word >> 4 & 3) as usize]));
        }
        (Arch::Aarch64 | Arch::Aarch64Upper, "leaf") => {
            lines.push(format!("AttrIndx: {}, of MAIR_EL1", word >> 2 & 7));
        }
        (Arch::Aarch64Stage2, "leaf") => {
            let names = ["EL1 and EL0", "EL0 only", "neither", "EL1 only"];
            lines.push(format!("XN: executed by {}", names[(word >> 53 & 3) as usize]));
            lines.push(format!("MemAttr: {:#06b}", word >> 2 & 0xf));
        }
        (Arch::Riscv64 | Arch::Riscv64Guest, "leaf") => {
            let names = ["as the memory's attributes say", "non-cacheable", "I/O", "reserved"];
            lines.push(format!("PBMT: {}", names[(word >> 61 & 3) as usize]));
        }
        (Arch::Ppc64Radix, "table") => {
            lines.push(format!("leads to a table of 2^{} entries", word & 0x1f));
        }
        _ => {}
    }
    Flags(lines)
}

/// An entry of x86 whose P is clear.
fn x86_absent(word: u64, level: u8, linux: bool) -> Vec<String> {
    if word == 0 {
        return vec!["P=0: empty".to_owned()];
    }
    if !linux {
        return vec!["P=0: not present; what it holds is the system's".to_owned()];
    }
    // _PAGE_PROTNONE is the bit that is G in a present entry. Linux inverts the address of such
    // entries (against L1TF).
    if word >> 8 & 1 != 0 {
        return vec![
            "P=0: PROT_NONE, or waiting for a NUMA hinting fault; the page is there".to_owned(),
        ];
    }
    if level == 0 {
        return swapped(word >> 59, !word << 5 >> 14);
    }
    vec!["P=0: not present".to_owned()]
}

/// What Linux keeps of a page that is elsewhere.
fn swapped(area: u64, offset: u64) -> Vec<String> {
    vec![format!(
        "P=0: swapped out, to offset {offset:#x} of swap area {area} (the highest numbers are \
        pages that migrate, are poisoned, or belong to a device)"
    )]
}

/// An entry of 32-bit paging whose P is clear: of a swap entry bits 5:1 are the area, and 31:9 the
/// offset, as it is (`arch/x86/include/asm/pgtable-2level.h`).
fn x86_32_absent(word: u64, level: u8, linux: bool) -> Vec<String> {
    let is_swap = linux && level == 0 && word != 0 && word >> 8 & 1 == 0;
    if is_swap { swapped(word >> 1 & 0x1f, word >> 9) } else { x86_absent(word, level, linux) }
}

/// A descriptor of AArch64 that is not valid. Linux has PROT_NONE in bit 58 before 6.11, and since
/// then in bit 11, with bit 58 clear (`arch/arm64/include/asm/pgtable-prot.h`).
fn arm_absent(arch: Arch, word: u64, linux: bool) -> Vec<String> {
    let what = match word {
        0 => "empty",
        _ if word & 1 != 0 => "no block is at this level: a reserved encoding",
        _ if arch == Arch::Aarch64Stage2 || !linux => "not valid; what it holds is the system's",
        _ if word >> 58 & 1 != 0 || word >> 11 & 1 != 0 && word >> 10 & 1 != 0 => {
            "PROT_NONE, or waiting for a NUMA hinting fault; the page is there"
        }
        _ => "swapped out, or a page that migrates, is poisoned, or belongs to a device",
    };
    vec![format!("bits 1:0 are {:02b}: {what}", word & 3)]
}

/// An entry of RISC-V whose V is clear. Linux has PROT_NONE in the bit that is G in a valid entry;
/// of a swap entry bits 11:7 are the area, and 63:12 the offset
/// (`arch/riscv/include/asm/pgtable.h`).
fn riscv_absent(word: u64, linux: bool) -> Vec<String> {
    vec![match (word, linux) {
        (0, _) => "V=0: empty".to_owned(),
        (_, false) => "V=0: not valid; what it holds is the system's".to_owned(),
        (_, true) if word >> 5 & 1 != 0 => {
            "V=0: PROT_NONE, or waiting for a NUMA hinting fault; the page is there".to_owned()
        }
        (_, true) => format!(
            "V=0: swapped out, to offset {:#x} of swap area {} (the highest numbers are pages that \
            migrate, are poisoned, or belong to a device)",
            word >> 12,
            word >> 7 & 0x1f
        ),
    }]
}

/// A word of a hashed entry.
fn hash(step: &Step) -> Vec<String> {
    if step.name.ends_with('V') {
        return spelled(
            &[
                (0, "V", "valid", "not valid"),
                (1, "H", "in its secondary group", "in its primary group"),
                (2, "L", "a page larger than 4 KiB", "a page of 4 KiB"),
                (4, "SW", "bolted, in Linux's use of a software bit", ""),
            ],
            step.word,
        );
    }
    let word = step.word;
    let mut lines = spelled(
        &[
            (8, "R", "referenced", "not referenced"),
            (7, "C", "changed", "not changed"),
            (6, "W", "write-through", ""),
            (5, "I", "caching inhibited", ""),
            (4, "M", "coherent", ""),
            (3, "G", "guarded", ""),
            (2, "N", "no instruction fetches", "executable"),
        ],
        word,
    );
    let pp = word & 3 | word >> 61 & 4;
    let meaning = match pp {
        0 => "PP=000: key 0 reads and writes, key 1 nothing",
        1 => "PP=001: key 0 reads and writes, key 1 reads",
        2 => "PP=010: both keys read and write",
        3 => "PP=011: both keys read",
        6 => "PP=110: key 0 reads, key 1 nothing",
        _ => "PP: reserved, nothing is allowed",
    };
    lines.push(meaning.to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_keeps_in_entries_is_recognised() {
        let swap =
            |kind: u64, offset: u64| kind << 59 | (!offset << 14 >> 5 & ((1 << 59) - 1) & !0x1ff);
        for (arch, word, level, entry, part) in [
            (Arch::X86_64, 0, 0, "absent", "P=0: empty"),
            (Arch::X86_64, swap(2, 0x1234), 0, "absent", "offset 0x1234 of swap area 2"),
            (Arch::X86_64, 0x0000_0012_3456_7120, 0, "absent", "PROT_NONE"),
            (Arch::X86_64, 0x8000_0000_0000_0067, 0, "leaf", "XD=1: no instruction fetches"),
            (Arch::X86_64, 0xe7, 1, "leaf", "PS=1"),
            (Arch::X86_64, 0x65, 2, "table", "R/W=0: no writes below"),
            (Arch::X86_64, 0x81, 3, "malformed", "malformed"),
            (Arch::X86Pae, swap(3, 0x77), 0, "absent", "offset 0x77 of swap area 3"),
            (Arch::X86Pae, 0x1000_0009, 2, "table", "PWT=1"),
            (Arch::X86_32, 0x1234 << 9 | 2 << 1, 0, "absent", "offset 0x1234 of swap area 2"),
            (Arch::X86_32, 0x1120, 0, "absent", "PROT_NONE"),
            (Arch::X86_32, 0xe7, 1, "leaf", "PS=1"),
            (Arch::Ept, 0x37, 0, "leaf", "memory type write-back"),
            (Arch::Ept, 0x405, 0, "leaf", "XU=1"),
            (Arch::Ppc64Radix, 0xc000_0000_0000_018f, 0, "leaf", "EAA0=1: privileged only"),
            (Arch::Ppc64Radix, 0x8000_0000_0001_0009, 3, "table", "2^9 entries"),
            (Arch::Aarch64, 0x0020_0000_4000_0f43, 0, "leaf", "AP[1]=1: EL0 too"),
            (Arch::Aarch64, 0x0070_0000_4000_0fc7, 0, "leaf", "one of a set of contiguous entries"),
            (Arch::Aarch64Upper, 0x4000_0707, 0, "leaf", "AttrIndx: 1, of MAIR_EL1"),
            (Arch::Aarch64Upper, 0x6000_0000_4000_0003, 1, "table", "all below is read-only"),
            (Arch::Aarch64, 0x0400_0000_4000_0f42, 0, "absent", "PROT_NONE"),
            (Arch::Aarch64, 0x4000_0001, 3, "absent", "no block is at this level"),
            (Arch::Aarch64Stage2, 0x0060_0000_4000_07ff, 0, "leaf", "executed by EL1 only"),
            (Arch::Riscv64, 0x2000_00e7, 0, "leaf", "W=1: writable"),
            (Arch::Riscv64, 0xa000_0000_2000_20cf, 0, "leaf", "16 entries of a page of 64 KiB"),
            (Arch::Riscv64, 0xa000_0000_2000_20cf, 0, "leaf", "PBMT: non-cacheable"),
            (Arch::Riscv64, 0x2000_0020, 0, "absent", "PROT_NONE"),
            (Arch::Riscv64, 0x1234_0000 | 2 << 7, 0, "absent", "offset 0x12340 of swap area 2"),
            (Arch::Riscv64Guest, 0, 0, "absent", "V=0: empty"),
        ] {
            let step = Step { level, name: "entry", address: 0, word, entry };
            let Flags(lines) = flags_of(arch, &step, true);
            assert!(lines.iter().any(|line| line.contains(part)), "{word:#x}: {lines:?}");
        }
        let step = Step { level: 0, name: "PTE", address: 0, word: 0x1000, entry: "absent" };
        assert!(flags_of(Arch::X86_64, &step, false).0[0].contains("the system's"));
    }
}
