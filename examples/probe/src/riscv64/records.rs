//! What the hypervisor in `hypervisor.S` reads and writes: an image of memory that begins with a
//! header, then tables, then records, all little-endian.

use std::error::Error;

/// Where the image stands.
pub const IMAGE: u64 = 0x8200_0000;
/// Where the tables begin, and where they end: there the records begin.
pub const TABLES: (u64, u64) = (IMAGE + 0x1_0000, IMAGE + 0x100_0000);
/// The memory that is filled with blocks: where cases may write, and fetch from. Each block has
/// another number, of 20 bits.
pub const DATA: (u64, u64) = (0x8c00_0000, 0x8d00_0000);
/// From here on there is nothing: neither memory nor devices, on any of the machines.
pub const NOTHING: u64 = 1 << 40;
/// How many words a case may look at.
pub const WATCHES: usize = 40;

/// How many facts the hypervisor tells.
const FACTS: usize = 7;
const RECORD_WORDS: usize = 72;
/// How many records there is room for.
pub const ROOM: usize = ((DATA.0 - TABLES.1) / (RECORD_WORDS as u64 * 8)) as usize;

/// The CSRs that a case is carried out with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Csrs {
    pub satp: u64,
    pub vsatp: u64,
    pub hgatp: u64,
    pub menvcfg: u64,
    pub henvcfg: u64,
    pub senvcfg: u64,
    /// SUM, MXR and SPP of sstatus and of vsstatus, which are set or cleared.
    pub sstatus: u64,
    pub vsstatus: u64,
    /// SPV and SPVP.
    pub hstatus: u64,
    pub medeleg: u64,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// Words that are changed before, and their new content.
    pub patches: [(u64, u64); 2],
    /// Words that are looked at after, and restored.
    pub watches: Vec<u64>,
    pub csrs: Csrs,
    pub pc: u64,
    pub a1: u64,
    pub a2: u64,
}

/// How a case ended, as a handler finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// scause, or mcause with one stage; stval, htval, htinst likewise.
    pub cause: u64,
    pub tval: u64,
    pub tval2: u64,
    pub tinst: u64,
    pub hstatus: u64,
    pub epc: u64,
    pub a0: u64,
    /// 1: the handler in HS-mode, 3: that in M-mode.
    pub mode: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The watched words.
    pub watched: Vec<u64>,
    pub end: End,
}

/// What CSRs hold after all ones were stored (satp and hgatp: with mode Sv39; then mode Sv57 and
/// nothing else).
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub satp: u64,
    pub satp_sv57: u64,
    pub hgatp: u64,
    pub hgatp_sv57: u64,
    pub menvcfg: u64,
    pub henvcfg: u64,
    pub senvcfg: u64,
}

/// The image.
pub fn write(orders: &[Order], tables: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut words = vec![0, orders.len() as u64, DATA.0, DATA.1, block(DATA.0)];
    words.resize(((TABLES.0 - IMAGE) / 8) as usize, 0);
    words.extend(tables);
    for Order { patches, watches, csrs, pc, a1, a2 } in orders {
        let begin = words.len();
        words.extend(patches.iter().flat_map(|&(address, word)| [address, word]));
        words.push(watches.len() as u64);
        words.extend(watches);
        words.resize(begin + 5 + WATCHES, 0);
        let Csrs { satp, vsatp, hgatp, menvcfg, henvcfg, senvcfg, .. } = *csrs;
        let Csrs { sstatus, vsstatus, hstatus, medeleg, .. } = *csrs;
        words.extend([satp, vsatp, hgatp, menvcfg, henvcfg, senvcfg]);
        words.extend([sstatus, vsstatus, hstatus, medeleg, *pc, *a1, *a2]);
        words.resize(begin + RECORD_WORDS, 0);
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// An image that a machine left behind.
pub struct Seen(Vec<u64>);

impl Seen {
    /// Takes it apart.
    pub fn new(image: &[u8]) -> Result<Self, Box<dyn Error>> {
        let words = image.chunks_exact(8).map_while(|bytes| bytes.first_chunk().copied());
        let words: Vec<_> = words.map(u64::from_le_bytes).collect();
        match words.first() {
            Some(1) => Ok(Self(words)),
            _ => Err("the hypervisor did not come to its end".into()),
        }
    }

    fn words<const N: usize>(&self, at: usize) -> [u64; N] {
        std::array::from_fn(|offset| self.0.get(at + offset).copied().unwrap_or_default())
    }

    /// What the machine can do.
    pub fn facts(&self) -> Facts {
        let [satp, satp_sv57, hgatp, hgatp_sv57, menvcfg, henvcfg, senvcfg] =
            self.words::<FACTS>(5);
        Facts { satp, satp_sv57, hgatp, hgatp_sv57, menvcfg, henvcfg, senvcfg }
    }

    /// The words of the tables.
    pub fn tables(&self) -> impl Iterator<Item = (u64, u64)> {
        let begin = ((TABLES.0 - IMAGE) / 8) as usize;
        (TABLES.0..TABLES.1).step_by(8).zip(self.0.iter().skip(begin).copied())
    }

    /// The answers to `orders`.
    pub fn answers<'s>(
        &'s self,
        orders: impl Iterator<Item = &'s Order>,
    ) -> impl Iterator<Item = Answer> {
        let first = ((TABLES.1 - IMAGE) / 8) as usize;
        orders.enumerate().map(move |(number, order)| {
            let at = first + number * RECORD_WORDS;
            let watched = self.words::<WATCHES>(at + 5)[..order.watches.len()].to_vec();
            let [cause, tval, tval2, tinst, hstatus, epc, a0, mode] =
                self.words(at + 5 + WATCHES + 13);
            let end = End { cause, tval, tval2, tinst, hstatus, epc, a0, mode };
            Answer { watched, end }
        })
    }
}

/// What a load finds at the block in which `address` lies: LUI of its number into a0, and ECALL.
pub const fn block(address: u64) -> u64 {
    0x73 << 32 | number(address) << 12 | 0x537
}

/// What the code of that block leaves in a0.
pub const fn run(address: u64) -> u64 {
    (number(address) << 12) as u32 as i32 as u64
}

const fn number(address: u64) -> u64 {
    address >> 4 & 0xf_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets that `hypervisor.S` names.
    #[test]
    fn a_record_is_where_the_hypervisor_looks() {
        let csrs = Csrs {
            satp: 0x30,
            vsatp: 0x31,
            hgatp: 0x32,
            menvcfg: 0x33,
            henvcfg: 0x34,
            senvcfg: 0x35,
            sstatus: 0x36,
            vsstatus: 0x37,
            hstatus: 0x38,
            medeleg: 0x39,
        };
        let order = Order {
            patches: [(0x10, 0x11), (0x12, 0x13)],
            watches: vec![0x20, 0x21],
            csrs,
            pc: 0x40,
            a1: 0x41,
            a2: 0x42,
        };
        let mut image = write(std::slice::from_ref(&order), (TABLES.0..TABLES.1).step_by(8));
        let at = |offset: u64| u64::from_le_bytes(*image[offset as usize..].first_chunk().unwrap());
        let record = TABLES.1 - IMAGE;
        assert_eq!(record, 0x100_0000);
        for (offset, want) in [
            (8, 1),
            (16, DATA.0),
            (24, DATA.1),
            (32, block(DATA.0)),
            (TABLES.0 - IMAGE, TABLES.0),
            (record + 24, 0x13),
            (record + 32, 2),
            (record + 40, 0x20),
            (record + 360, 0x30),
            (record + 384, 0x33),
            (record + 408, 0x36),
            (record + 432, 0x39),
            (record + 440, 0x40),
            (record + 456, 0x42),
        ] {
            assert_eq!(at(offset), want, "{offset}");
        }
        assert_eq!(image.len() as u64, record + 576);
        for (offset, word) in
            [(0, 1_u64), (40, 7), (record + 40, 0x50), (record + 464, 0x51), (record + 520, 0x58)]
        {
            image[offset as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let seen = Seen::new(&image).unwrap();
        let answer = seen.answers([&order].into_iter()).next().unwrap();
        assert_eq!(answer.watched, [0x50, 0x21]);
        assert_eq!((answer.end.cause, answer.end.mode, seen.facts().satp), (0x51, 0x58, 7));
    }

    /// Each block of the data has another number, and a0 tells it.
    #[test]
    fn blocks_are_told_apart() {
        assert_eq!(block(0x8c00_0010), 0x73_0000_1537);
        assert_eq!(run(0x8c00_0010), 0x1000);
        assert_eq!(run(DATA.1 - 16), 0xffff_ffff_ffff_f000);
    }
}
