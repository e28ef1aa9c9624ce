//! What a page's attributes say, in the words of its architecture.

use pgtable::format::Format;
use pgtable::{Attributes as _, Memory};
use pgtable_aarch64::{
    Shareability, Stage1Attributes, Stage2Attributes, Stage2Execute, Stage2Memory, VmsaStage1,
    VmsaStage2,
};
use pgtable_ppc64::radix::{Att, PageAttributes as RadixAttributes, ProcessScoped};
use pgtable_riscv64::{LeafAttributes, Sv, SvX4};
use pgtable_x86::{
    Attributes32, Ept, EptAttributes, LongMode, MemoryType, Pae, PageAttributes, Paging32,
};

/// What helps to name things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// The tables are those of Linux, which loads the PAT with types of its own.
    pub linux: bool,
}

/// A format whose attributes can be told in words.
pub trait Describe: Format {
    /// Bytes of the frames that an operating system cuts tables from: 64 KiB on POWER, a page
    /// elsewhere.
    const FRAME: u64;

    /// What `attributes` say besides the rights, words with spaces between.
    fn describe(attributes: &Self::Attributes, names: Names) -> String;

    /// What the manual calls an entry of this level.
    fn level_name(level: u8) -> &'static str;
}

/// The memory type that an index into the PAT selects: as after reset (SDM §12.12.4), as Linux
/// loads it (`arch/x86/mm/pat/memtype.c`). Write-back is not named.
fn pat(index: u8, names: Names) -> Option<&'static str> {
    let (reset, linux) = match index & 7 {
        0 | 4 => return None,
        1 => ("pat1:write-through-unless-changed", "write-combining"),
        2 | 6 => ("uncached-minus", "uncached-minus"),
        3 => ("uncached", "uncached"),
        5 => ("pat5:write-through-unless-changed", "write-protected"),
        _ => ("pat7:uncached-unless-changed", "write-through"),
    };
    Some(if names.linux { linux } else { reset })
}

/// The words whose condition holds, and whatever else there is to say.
fn words(words: &[(bool, &str)], others: impl IntoIterator<Item = String>) -> String {
    let mut text = String::with_capacity(32);
    let mut push = |word: &str| {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    };
    words.iter().filter(|(said, _)| *said).for_each(|(_, word)| push(word));
    others.into_iter().for_each(|word| push(&word));
    text
}

/// `name=value` unless the value is zero.
fn field(name: &str, value: u16) -> Option<String> {
    (value != 0).then(|| format!("{name}={value:#x}"))
}

impl Describe for LongMode {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        ["PTE", "PDE", "PDPTE", "PML4E", "PML5E"].get(usize::from(level)).unwrap_or(&"entry")
    }

    fn describe(attributes: &PageAttributes, names: Names) -> String {
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.global(), "global"),
        ];
        let pat = pat(attributes.pat(), names).map(str::to_owned);
        let key = field("key", attributes.protection_key().into());
        words(&flags, [pat, key, field("software", attributes.software())].into_iter().flatten())
    }
}

impl Describe for Pae {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        LongMode::level_name(level)
    }

    fn describe(attributes: &PageAttributes, names: Names) -> String {
        LongMode::describe(attributes, names)
    }
}

impl Describe for Paging32 {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        LongMode::level_name(level)
    }

    fn describe(attributes: &Attributes32, names: Names) -> String {
        LongMode::describe(&attributes.page(), names)
    }
}

impl Describe for Ept {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        let names = ["EPT PTE", "EPT PDE", "EPT PDPTE", "EPT PML4E", "EPT PML5E"];
        names.get(usize::from(level)).unwrap_or(&"EPT entry")
    }

    fn describe(attributes: &EptAttributes, _: Names) -> String {
        let memory = match attributes.memory_type() {
            MemoryType::Uncacheable => "uncacheable",
            MemoryType::WriteCombining => "write-combining",
            MemoryType::WriteThrough => "write-through",
            MemoryType::WriteProtected => "write-protected",
            MemoryType::WriteBack => "write-back",
        };
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.ignore_pat(), "ignore-pat"),
            (attributes.user_execute(), "user-execute"),
            (true, memory),
        ];
        words(&flags, field("software", attributes.software().into()))
    }
}

impl Describe for ProcessScoped {
    const FRAME: u64 = 0x1_0000;

    fn level_name(level: u8) -> &'static str {
        let names = ["PTE", "level-1 PDE", "level-2 PDE", "level-3 PDE"];
        names.get(usize::from(level)).unwrap_or(&"entry")
    }

    fn describe(attributes: &RadixAttributes, _: Names) -> String {
        let storage = match attributes.att() {
            Att::Normal => None,
            Att::StrongAccessOrder => Some("strong-order"),
            Att::NonIdempotent => Some("non-idempotent"),
            Att::Tolerant => Some("tolerant-io"),
        };
        let flags = [(attributes.r(), "referenced"), (attributes.c(), "changed")];
        let others = [storage.map(str::to_owned), field("software", attributes.software().into())];
        words(&flags, others.into_iter().flatten())
    }
}

/// What a leaf of RISC-V says; `global` of a first stage.
fn sv<const GUEST: bool>(attributes: &LeafAttributes<GUEST>, global: bool) -> String {
    let memory = match attributes.memory() {
        Memory::Normal => None,
        Memory::Uncached => Some("non-cacheable"),
        Memory::Device => Some("io"),
    };
    let flags =
        [(attributes.accessed(), "accessed"), (attributes.dirty(), "dirty"), (global, "global")];
    let others = [memory.map(str::to_owned), field("software", attributes.software().into())];
    words(&flags, others.into_iter().flatten())
}

impl Describe for Sv {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        let names = ["level-0 PTE", "level-1 PTE", "level-2 PTE", "level-3 PTE", "level-4 PTE"];
        names.get(usize::from(level)).unwrap_or(&"PTE")
    }

    fn describe(attributes: &Self::Attributes, _: Names) -> String {
        sv(attributes, attributes.global())
    }
}

impl Describe for SvX4 {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        Sv::level_name(level)
    }

    fn describe(attributes: &Self::Attributes, _: Names) -> String {
        sv(attributes, false)
    }
}

/// The levels of AArch64, in Arm's numbers.
fn vmsa_level(level: u8) -> &'static str {
    let names = ["level 3", "level 2", "level 1", "level 0", "level -1"];
    names.get(usize::from(level)).unwrap_or(&"level")
}

/// What is not inner-shareable.
fn shareability(shareability: Shareability) -> Option<String> {
    match shareability {
        Shareability::None => Some("non-shareable".to_owned()),
        Shareability::Outer => Some("outer-shareable".to_owned()),
        Shareability::Inner => None,
    }
}

impl Describe for VmsaStage1 {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        vmsa_level(level)
    }

    /// Memory types are Linux's (`arch/arm64/include/asm/memory.h`): else their indices are told.
    fn describe(attributes: &Stage1Attributes, names: Names) -> String {
        let index = attributes.attr_index();
        let linux = ["", "tagged", "non-cacheable", "device-nGnRnE", "device-nGnRE"];
        let memory = match linux.get(usize::from(index)).filter(|_| names.linux) {
            Some(name) => (!name.is_empty()).then(|| (*name).to_owned()),
            None => Some(format!("attr{index}")),
        };
        let user = attributes.prot().user();
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.global(), "global"),
            (attributes.guarded(), "guarded"),
            (!user && attributes.user_execute(), "executable-by-el0"),
            (user && attributes.privileged_execute(), "executable-by-el1"),
        ];
        let others =
            [memory, shareability(attributes.shareability()), software(attributes.software())];
        words(&flags, others.into_iter().flatten())
    }
}

fn software(bits: u8) -> Option<String> {
    field("software", bits.into())
}

impl Describe for VmsaStage2 {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        vmsa_level(level)
    }

    fn describe(attributes: &Stage2Attributes, _: Names) -> String {
        let memory = match attributes.memory_type() {
            Stage2Memory::WriteBack | Stage2Memory::Stage1 => None,
            Stage2Memory::WriteThrough => Some("write-through"),
            Stage2Memory::NonCacheable => Some("non-cacheable"),
            Stage2Memory::DeviceNgnrne => Some("device-nGnRnE"),
            Stage2Memory::DeviceNgnre => Some("device-nGnRE"),
            Stage2Memory::DeviceNgre => Some("device-nGRE"),
            Stage2Memory::DeviceGre => Some("device-GRE"),
            Stage2Memory::Other(_) => Some("other-memory"),
        };
        let execute = match attributes.execute() {
            Stage2Execute::El0 => Some("executable-by-el0-only"),
            Stage2Execute::El1 => Some("executable-by-el1-only"),
            Stage2Execute::All | Stage2Execute::None => None,
        };
        let flags = [(attributes.accessed(), "accessed"), (attributes.dirty(), "dirty")];
        let others = [
            memory.map(str::to_owned),
            execute.map(str::to_owned),
            shareability(attributes.shareability()),
            software(attributes.software()),
        ];
        words(&flags, others.into_iter().flatten())
    }
}
