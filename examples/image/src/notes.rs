//! What an image tells about the machine: the registers by which page tables are found, and what
//! the kernel says of itself.
//!
//! | note | writer | content |
//! | --- | --- | --- |
//! | `CORE` NT_PRSTATUS | QEMU, Linux | general registers: a CPU each, no root of any table |
//! | `QEMU` 0 | QEMU, of x86 | `QEMUCPUState` (`target/i386/arch_dump.c`): RFLAGS, CS, CR0, CR3, CR4 |
//! | `VBCPU` 0xb01 | VirtualBox | `DBGFCORECPU` (`VBox/vmm/dbgfcorefmt.h`): the same, and EFER |
//! | `VMCOREINFO` 0 | Linux (`kernel/vmcore_info.c`; QEMU with its vmcoreinfo device) | lines `KEY=VALUE` |
//!
//! Xen's section `.xen_prstatus` and VMware's group `cpu` have control registers too. QEMU's notes
//! of POWER have no register of the MMU.

use std::collections::BTreeMap;

use object::elf::{EM_386, EM_X86_64, NT_PRSTATUS};

/// The registers of an x86 CPU that say how it translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct X86Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER, where the image has it.
    pub efer: Option<u64>,
    /// RFLAGS, where the image has them.
    pub rflags: Option<u64>,
    /// Whether the instruction or stack pointer has more than 32 bits: a CPU in 64-bit mode alone
    /// has such.
    pub wide: bool,
    /// The selector in CS, whose low two bits are the privilege level, where the image has it.
    pub cs: Option<u16>,
}

/// The word of 64 bits at `at`, little-endian.
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Whether an address has more than 32 bits.
pub(crate) fn is_wide(address: u64) -> bool {
    address >> 32 != 0
}

impl X86Registers {
    /// Reads a `QEMUCPUState`; `None` if it is none: two words of 32 bits (version and size), 18
    /// registers of 64 bits, 10 segments of 24 bytes, CR0 to CR4.
    fn of_qemu(state: &[u8]) -> Option<Self> {
        const RSP: usize = 8 + 7 * 8;
        const RIP: usize = 8 + 16 * 8;
        const RFLAGS: usize = 8 + 17 * 8;
        const CS: usize = 8 + 18 * 8;
        const CR0: usize = CS + 10 * 24;
        let version = u32::from_le_bytes(state.get(..4)?.try_into().ok()?);
        let cr = |n: usize| word(state, CR0 + n * 8);
        let selector = u16::from_le_bytes(state.get(CS..CS + 2)?.try_into().ok()?);
        (version == 1).then_some(Self {
            cr0: cr(0)?,
            cr3: cr(3)?,
            cr4: cr(4)?,
            efer: None,
            rflags: word(state, RFLAGS),
            wide: [RSP, RIP].into_iter().filter_map(|at| word(state, at)).any(is_wide),
            cs: Some(selector),
        })
    }

    /// Reads a `DBGFCORECPU`: 18 registers of 64 bits, 6 segments of 24 bytes, CR0, CR2, CR3, CR4,
    /// 8 debug registers, two descriptors of 16 bytes, two segments, three words of SYSENTER, EFER.
    fn of_virtualbox(state: &[u8]) -> Option<Self> {
        const RSP: usize = 7 * 8;
        const RIP: usize = 16 * 8;
        const CS: usize = 18 * 8;
        const CR0: usize = CS + 6 * 24;
        const EFER: usize = CR0 + 4 * 8 + 8 * 8 + 2 * 16 + 2 * 24 + 3 * 8;
        let selector = u16::from_le_bytes(state.get(CS + 16..CS + 18)?.try_into().ok()?);
        Some(Self {
            cr0: word(state, CR0)?,
            cr3: word(state, CR0 + 16)?,
            cr4: word(state, CR0 + 24)?,
            efer: word(state, EFER),
            rflags: word(state, 17 * 8),
            wide: [RSP, RIP].into_iter().filter_map(|at| word(state, at)).any(is_wide),
            cs: Some(selector),
        })
    }

    /// Reads Xen's `vcpu_guest_context` of x86-64, of 5168 bytes: control registers at 4984,
    /// `cpu_user_regs` at 520 (`xen/include/public/arch-x86/xen.h`).
    pub(crate) fn of_xen(state: &[u8]) -> Option<Self> {
        const CONTROL: usize = 512 + 8 + 200 + 256 * 16 + 16 + 128 + 8 + 16;
        const USER: usize = 512 + 8;
        let cr = |n: usize| word(state, CONTROL + n * 8);
        Some(Self {
            cr0: cr(0)?,
            cr3: cr(3)?,
            cr4: cr(4)?,
            efer: None,
            rflags: word(state, USER + 18 * 8),
            wide: [USER + 16 * 8, USER + 19 * 8]
                .into_iter()
                .filter_map(|at| word(state, at))
                .any(is_wide),
            cs: word(state, USER + 17 * 8).map(|cs| cs as u16),
        })
    }
}

/// What Linux tells crash tools about itself, as keys and values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmcoreInfo(BTreeMap<String, String>);

impl VmcoreInfo {
    /// Reads the lines of a note.
    #[must_use]
    pub fn of_text(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let pairs = text.lines().filter_map(|line| line.trim_matches('\0').split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The address of the symbol `name`.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// The number `name`. (Bits beyond 63 are given as a negative number by some kernels, as a
    /// positive one by others.)
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        let unsigned = || text.parse::<u64>().ok().map(|it| it as i64);
        let hexadecimal = || {
            let digits = text.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok().map(|it| it as i64)
        };
        text.parse().ok().or_else(unsigned).or_else(hexadecimal)
    }

    /// The offset of a field, as `OFFSET(task_struct.pid)`.
    #[must_use]
    pub fn offset(&self, field: &str) -> Option<u64> {
        self.get(&format!("OFFSET({field})"))?.parse().ok()
    }

    /// The kernel's release, as major and minor number.
    #[must_use]
    pub fn release(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("OSRELEASE")?.split(|letter: char| !letter.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// What an image tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notes {
    /// How many CPUs there are.
    pub cpus: usize,
    /// The control registers of each CPU that has them.
    pub x86: Vec<X86Registers>,
    /// What Linux tells; more than one if there are several such notes that differ.
    pub vmcoreinfo: Vec<VmcoreInfo>,
    /// Bytes of the first CPU's NT_PRSTATUS.
    status: usize,
}

impl Notes {
    /// Takes in one note; unknown ones are passed over.
    pub(crate) fn take(&mut self, name: &[u8], kind: u32, description: &[u8]) {
        match (name, kind) {
            (b"CORE", NT_PRSTATUS) => {
                if self.cpus == 0 {
                    self.status = description.len();
                }
                self.cpus += 1;
            }
            (b"QEMU", 0) => self.x86.extend(X86Registers::of_qemu(description)),
            (b"VBCPU", 0xb01) => self.x86.extend(X86Registers::of_virtualbox(description)),
            (b"VMCOREINFO", 0) => self.take_vmcoreinfo(description),
            _ => {}
        }
    }

    /// `e_machine` of an x86 machine, by the size of its general registers' notes: 144 bytes with
    /// registers of 32 bits, 336 with those of 64 (`x86_elf_prstatus`, `x86_64_elf_prstatus` of
    /// QEMU's `target/i386/arch_dump.c`). QEMU writes the former unless the first CPU is in long
    /// mode.
    pub(crate) fn x86_machine(&self) -> Option<u16> {
        match (self.x86.is_empty(), self.status) {
            (false, 144) => Some(EM_386),
            (false, 336) => Some(EM_X86_64),
            _ => None,
        }
    }

    /// Takes in the text of a VMCOREINFO note. (Of more than a few that differ none is taken for
    /// the right one.)
    pub(crate) fn take_vmcoreinfo(&mut self, text: &[u8]) {
        const MOST: usize = 16;
        if self.vmcoreinfo.len() == MOST {
            return;
        }
        let info = VmcoreInfo::of_text(text);
        if info != VmcoreInfo::default() && !self.vmcoreinfo.contains(&info) {
            self.vmcoreinfo.push(info);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn cpu_states() {
        let mut state = vec![0; 440];
        state[0] = 1;
        let fields = [(144, 0x246_u64), (152, 0x33), (392, 0x8005_0033), (416, 0x1234_5000)];
        for (at, value) in fields.into_iter().chain([(424, 0x1020)]) {
            state[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut notes = Notes::default();
        notes.take(b"QEMU", 0, &state);
        notes.take(b"QEMU", 0, &state[..420]);
        state[0] = 2;
        notes.take(b"QEMU", 0, &state);
        let want = X86Registers {
            cr0: 0x8005_0033,
            cr3: 0x1234_5000,
            cr4: 0x1020,
            efer: None,
            rflags: Some(0x246),
            wide: false,
            cs: Some(0x33),
        };
        assert_eq!(notes.x86, [want]);

        let mut state = vec![0; 4096];
        for (at, value) in
            [(136, 0x246_u64), (160, 0x33), (288, 0x8005_0033), (304, 0x1234_5000), (312, 0x1020)]
        {
            state[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        state[488..496].copy_from_slice(&0xd01_u64.to_le_bytes());
        notes.take(b"VBCPU", 0xb01, &state);
        assert_eq!(notes.x86[1], X86Registers { efer: Some(0xd01), ..want });

        let mut state = vec![0; 5168];
        for (n, value) in [(0, 0x8005_0033_u64), (3, 0x1234_5000), (4, 0x1020)] {
            state[4984 + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        state[520 + 17 * 8..][..8].copy_from_slice(&0x33_u64.to_le_bytes());
        state[520 + 18 * 8..][..8].copy_from_slice(&0x246_u64.to_le_bytes());
        assert_eq!(X86Registers::of_xen(&state), Some(want));
    }

    #[test]
    fn what_linux_tells() {
        let mut notes = Notes::default();
        let text = b"OSRELEASE=6.1.0-30-amd64\nSYMBOL(swapper_pg_dir)=ffffffff82a0c000\n\
            NUMBER(phys_base)=-4096\nNUMBER(sme_mask)=9223372036854775808\nOFFSET(list_head.next)=0\n\0";
        notes.take(b"VMCOREINFO", 0, text);
        notes.take(b"VMCOREINFO", 0, text);
        let [info] = &notes.vmcoreinfo[..] else { panic!("{:?}", notes.vmcoreinfo) };
        assert_eq!(info.release(), Some((6, 1)));
        assert_eq!(info.symbol("swapper_pg_dir"), Some(0xffff_ffff_82a0_c000));
        assert_eq!((info.number("phys_base"), info.number("none")), (Some(-4096), None));
        assert_eq!(info.number("sme_mask"), Some(i64::MIN));
        assert_eq!(info.offset("list_head.next"), Some(0));
        notes.take(b"VMCOREINFO", 0, b"OSRELEASE=5.10.0");
        assert_eq!(notes.vmcoreinfo.len(), 2, "another one is another one");
    }
}
