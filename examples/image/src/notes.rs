//! What a core's notes tell about the machine: the registers by which page tables are found, and
//! what the kernel says of itself.
//!
//! | note | who writes it | what it has |
//! | --- | --- | --- |
//! | `CORE` NT_PRSTATUS | QEMU, Linux | general registers: a CPU each, no root of any table |
//! | `QEMU` 0 | QEMU, of x86 | `QEMUCPUState` (`target/i386/arch_dump.c`): CR0, CR3, CR4 |
//! | `VMCOREINFO` 0 | Linux (`kernel/crash_core.c`; QEMU with its vmcoreinfo device) | lines `KEY=VALUE` |
//!
//! QEMU's notes of POWER have no register of the MMU.

use std::collections::BTreeMap;

use object::elf::NT_PRSTATUS;

/// The control registers of an x86-64 CPU that say how it translates.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct X86Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
}

impl X86Registers {
    /// The version of `QEMUCPUState` that is understood.
    const VERSION: u32 = 1;
    /// Where `cr[0]` is in it: two words of 32 bits, 18 registers of 64 bits, 10 segments of 24
    /// bytes.
    const CR0: usize = 8 + 18 * 8 + 10 * 24;

    /// Reads a `QEMUCPUState`, which is little-endian; `None` if it is none.
    fn of_qemu(state: &[u8]) -> Option<Self> {
        let version = u32::from_le_bytes(state.get(..4)?.try_into().ok()?);
        let cr = |n: usize| {
            let at = Self::CR0 + n * 8;
            Some(u64::from_le_bytes(state.get(at..at + 8)?.try_into().ok()?))
        };
        (version == Self::VERSION).then_some(Self { cr0: cr(0)?, cr3: cr(3)?, cr4: cr(4)? })
    }
}

/// What Linux tells crash tools about itself, as keys and values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VmcoreInfo(BTreeMap<String, String>);

impl VmcoreInfo {
    fn of_text(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let pairs = text.lines().filter_map(|line| line.trim_matches('\0').split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The address of the symbol `name`.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok()
    }

    /// The number `name`.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.get(&format!("NUMBER({name})"))?.parse().ok()
    }
}

/// What a core's notes tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notes {
    /// How many CPUs there are.
    pub cpus: usize,
    /// The control registers of each CPU that has them.
    pub x86: Vec<X86Registers>,
    /// What Linux tells, if it does.
    pub vmcoreinfo: Option<VmcoreInfo>,
}

impl Notes {
    /// Takes in one note; unknown ones are passed over.
    pub(super) fn take(&mut self, name: &[u8], kind: u32, description: &[u8]) {
        match (name, kind) {
            (b"CORE", NT_PRSTATUS) => self.cpus += 1,
            (b"QEMU", 0) => self.x86.extend(X86Registers::of_qemu(description)),
            (b"VMCOREINFO", 0) => self.vmcoreinfo = Some(VmcoreInfo::of_text(description)),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn qemus_cpu_state() {
        let mut state = vec![0; 440];
        state[0] = 1;
        for (n, value) in [(0, 0x8005_0033_u64), (3, 0x1234_5000), (4, 0x1020)] {
            state[392 + n * 8..400 + n * 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut notes = Notes::default();
        notes.take(b"QEMU", 0, &state);
        notes.take(b"QEMU", 0, &state[..420]);
        state[0] = 2;
        notes.take(b"QEMU", 0, &state);
        assert_eq!(notes.x86, [X86Registers { cr0: 0x8005_0033, cr3: 0x1234_5000, cr4: 0x1020 }]);
    }

    #[test]
    fn what_linux_tells() {
        let mut notes = Notes::default();
        notes.take(
            b"VMCOREINFO",
            0,
            b"OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffffff82a0c000\nNUMBER(phys_base)=-4096\n\0",
        );
        let info = notes.vmcoreinfo.unwrap();
        assert_eq!(info.get("OSRELEASE"), Some("6.1.0"));
        assert_eq!(info.symbol("swapper_pg_dir"), Some(0xffff_ffff_82a0_c000));
        assert_eq!((info.number("phys_base"), info.number("none")), (Some(-4096), None));
    }
}
