//! What the hypervisor in `hypervisor.S` reads and writes: an image of memory that begins with a
//! header, then tables, then records, all little-endian.

use std::error::Error;

use super::second::Machine;

/// Where the image stands.
pub const IMAGE: u64 = 0x200_0000;
/// Where the tables begin, and where they end: there the records begin.
pub const TABLES: (u64, u64) = (IMAGE + 0x1_0000, IMAGE + 0x80_0000);
/// The memory that is filled with blocks: where cases may write, and fetch from.
pub const DATA: (u64, u64) = (0x1000_0000, 0x1100_0000);
/// How many words a case may look at.
pub const WATCHES: usize = 39;
/// How many fields a case may write.
pub const FIELDS: usize = 12;

const SETUP: usize = 80 / 8;
const READ: usize = 2048 / 8;
const RECORD_WORDS: usize = 80;
const ANSWERS: usize = 72;
/// How many records there is room for, in a machine of 512 MiB.
pub const ROOM: usize = ((DATA.0 - TABLES.1) / (RECORD_WORDS as u64 * 8)) as usize;

/// What the records all have in common.
#[derive(Clone, Debug)]
pub struct Header {
    /// The machine has VMX; otherwise SVM.
    pub vmx: bool,
    /// The second stage has five levels.
    pub five_levels: bool,
    /// The fields that are written once: which, what, and 0 or an MSR that limits it.
    pub setup: Vec<(u64, u64, u64)>,
    /// The fields that are read after each case.
    pub read: Vec<u64>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// Words that are changed before, and their new content.
    pub patches: [(u64, u64); 2],
    /// Words that are looked at after, and restored.
    pub watches: Vec<u64>,
    /// The fields that are written before.
    pub fields: Vec<(u64, u64)>,
    /// RCX.
    pub rcx: u64,
    /// RAX.
    pub rax: u64,
    /// The hypervisor's own EFER.
    pub host_efer: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The watched words.
    pub watched: Vec<u64>,
    /// The fields that were read, in order.
    pub fields: [u64; 7],
    /// RAX.
    pub rax: u64,
}

/// What the machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// CPUID.80000008H:EAX bits 7:0.
    pub maxphyaddr: u8,
    /// `IA32_VMX_EPT_VPID_CAP`; 0 without VMX.
    pub ept_vpid_cap: u64,
    /// `IA32_VMX_PROCBASED_CTLS2`; 0 without VMX.
    pub secondary: u64,
}

impl Capabilities {
    /// Whether they are what is known of `machine`. EPT's 1-GiB pages and flags are bits 17 and 21
    /// (SDM §A.10).
    pub fn are_those_of(self, machine: &Machine) -> bool {
        let ept = |bit: u32| self.ept_vpid_cap >> bit & 1 != 0;
        let intel = ept(17) == machine.gib_pages && ept(21) == machine.ept_accessed_dirty && ept(0);
        self.maxphyaddr == machine.maxphyaddr && (machine.amd || intel)
    }
}

/// The image.
pub fn write(header: &Header, orders: &[Order], tables: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut words =
        vec![0, orders.len() as u64, header.vmx.into(), DATA.0, DATA.1, block(header.vmx, 0)];
    words.resize(SETUP - 1, 0);
    words.push(header.five_levels.into());
    words.push(header.setup.len() as u64);
    words.extend(header.setup.iter().flat_map(|&(field, value, limits)| [field, value, limits]));
    words.resize(READ, 0);
    words.push(header.read.len() as u64);
    words.extend(&header.read);
    words.resize(((TABLES.0 - IMAGE) / 8) as usize, 0);
    words.extend(tables);
    for order in orders {
        let Order { patches, watches, fields, rcx, rax, host_efer } = order;
        let begin = words.len();
        words.extend(patches.iter().flat_map(|&(address, word)| [address, word]));
        words.push(watches.len() as u64);
        words.extend(watches);
        words.resize(begin + 5 + WATCHES, 0);
        words.push(fields.len() as u64);
        words.extend(fields.iter().flat_map(|&(field, value)| [field, value]));
        words.resize(begin + 6 + WATCHES + 2 * FIELDS, 0);
        words.extend([*rcx, *rax, *host_efer]);
        words.resize(begin + RECORD_WORDS, 0);
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// An image that a machine left behind.
pub struct Seen(Vec<u64>);

impl Seen {
    /// Takes it apart.
    pub fn new(image: &[u8]) -> Result<Self, Box<dyn Error>> {
        let words: Vec<_> =
            image.chunks_exact(8).map_while(|bytes| bytes.first_chunk().copied()).collect();
        let words: Vec<_> = words.into_iter().map(u64::from_le_bytes).collect();
        match words.first() {
            Some(1) => Ok(Self(words)),
            _ => Err("the hypervisor did not come to its end".into()),
        }
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// What the machine can do.
    pub fn capabilities(&self) -> Capabilities {
        let maxphyaddr = (self.word(6) & 0xff) as u8;
        Capabilities { maxphyaddr, ept_vpid_cap: self.word(7), secondary: self.word(8) }
    }

    /// The words of the tables.
    pub fn tables(&self) -> impl Iterator<Item = (u64, u64)> {
        (TABLES.0..TABLES.1).step_by(8).map(|at| (at, self.word(((at - IMAGE) / 8) as usize)))
    }

    /// The answers to `orders`.
    pub fn answers<'s>(
        &'s self,
        orders: impl Iterator<Item = &'s Order>,
    ) -> impl Iterator<Item = Answer> {
        let first = ((TABLES.1 - IMAGE) / 8) as usize;
        orders.enumerate().map(move |(number, order)| {
            let at = first + number * RECORD_WORDS;
            let words = |from: usize, count: usize| (from..from + count).map(|at| self.word(at));
            let mut fields = [0; 7];
            fields.iter_mut().zip(words(at + ANSWERS, 7)).for_each(|(to, word)| *to = word);
            let watched = words(at + 5, order.watches.len()).collect();
            Answer { watched, fields, rax: self.word(at + RECORD_WORDS - 1) }
        })
    }
}

/// What a load finds at the block in which `address` lies: `mov $address/16, %eax`, and VMCALL or
/// VMMCALL.
pub const fn block(vmx: bool, address: u64) -> u64 {
    let call = if vmx { 0xc1_010f } else { 0xd9_010f };
    call << 40 | (address >> 4 & 0xffff_ffff) << 8 | 0xb8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets that `hypervisor.S` names.
    #[test]
    fn a_record_is_where_the_hypervisor_looks() {
        let order = Order {
            patches: [(0x10, 0x11), (0x12, 0x13)],
            watches: vec![0x20, 0x21],
            fields: vec![(0x30, 0x31)],
            rcx: 0x40,
            rax: 0x41,
            host_efer: 0x42,
        };
        let header =
            Header { vmx: false, five_levels: true, setup: vec![(1, 2, 3)], read: vec![4] };
        let mut image =
            write(&header, std::slice::from_ref(&order), (TABLES.0..TABLES.1).step_by(8));
        let at = |offset: u64| u64::from_le_bytes(*image[offset as usize..].first_chunk().unwrap());
        let record = TABLES.1 - IMAGE;
        for (offset, want) in [
            (8, 1),
            (24, DATA.0),
            (72, 1),
            (80, 1),
            (88, 1),
            (104, 3),
            (2048, 1),
            (2056, 4),
            (TABLES.0 - IMAGE, TABLES.0),
            (record + 24, 0x13),
            (record + 32, 2),
            (record + 40, 0x20),
            (record + 352, 1),
            (record + 360, 0x30),
            (record + 552, 0x40),
            (record + 560, 0x41),
            (record + 568, 0x42),
        ] {
            assert_eq!(at(offset), want, "{offset}");
        }
        assert_eq!(image.len() as u64, record + 640);
        for (offset, word) in
            [(0, 1_u64), (record + 40, 0x50), (record + 576, 0x51), (record + 632, 0x52)]
        {
            image[offset as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let seen = Seen::new(&image).unwrap();
        let answer = seen.answers([&order].into_iter()).next().unwrap();
        assert_eq!((answer.watched, answer.fields[0], answer.rax), (vec![0x50, 0x21], 0x51, 0x52));
    }
}
