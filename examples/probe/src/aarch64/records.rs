//! What the hypervisor in `hypervisor.S` reads and writes: an image of memory that begins with a
//! header and records.

use std::error::Error;

/// Where the image stands.
pub const IMAGE: u64 = 0x5000_0000;
/// The page with the guest's own code, of the largest granule: vectors, and what it runs for loads
/// and for stores.
pub const CODE: u64 = 0x51ff_0000;
/// Where the tables begin, and where they end at most: the end of the image.
pub const TABLES: (u64, u64) = (0x5200_0000, 0x5600_0000);
/// The memory that is filled with blocks: where cases may write, and fetch from.
pub const DATA: (u64, u64) = (0x7000_0000, 0x7080_0000);
/// Memory: all of it.
pub const MEMORY: (u64, u64) = (0x4000_0000, 0x8000_0000);
/// Offsets in the page with code: the vectors of EL1, a load, a store.
pub const VECTORS: u64 = 0x800;
pub const LOAD: u64 = 0;
pub const STORE: u64 = 0x10;

const RECORDS: u64 = 256;
const RECORD_WORDS: usize = 40;
const HVC0: u32 = 0xd400_0002;
const HVC1: u32 = 0xd400_0022;

/// What is to be done: the words of a record, in their order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// Whose registers follow: 0 of EL1, 1 of EL2.
    pub mode: u64,
    pub hcr: u64,
    pub vtcr: u64,
    pub vttbr: u64,
    pub tcr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
    pub sctlr: u64,
    pub mair: u64,
    pub spsr: u64,
    pub pc: u64,
    /// X0.
    pub address: u64,
    /// X1.
    pub value: u64,
    /// A word that is changed before, and its new content.
    pub patch: (u64, u64),
    /// Words that are looked at after, and restored.
    pub leaves: [u64; 2],
    pub data: u64,
    /// Which translation instruction, by its place in the hypervisor's list.
    pub at: u64,
    pub vbar: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The offset of EL2's vector.
    pub vector: u64,
    pub esr2: u64,
    pub far2: u64,
    pub hpfar: u64,
    pub elr2: u64,
    pub esr1: u64,
    pub far1: u64,
    /// X2.
    pub result: u64,
    pub par: u64,
    pub leaves: [u64; 2],
    pub patch: u64,
    pub data: u64,
}

/// How many records there is room for.
pub const fn room() -> usize {
    (CODE - IMAGE - RECORDS) as usize / (RECORD_WORDS * 8)
}

/// The image, of which `tables` is the end.
pub fn write(orders: &[Order], tables: &[u64]) -> Vec<u8> {
    let mut words = vec![0, orders.len() as u64, DATA.0, DATA.1];
    words.resize((RECORDS / 8) as usize, 0);
    for o in orders {
        let start = words.len();
        words.extend([o.mode, o.hcr, o.vtcr, o.vttbr, o.tcr, o.ttbr0, o.ttbr1, o.sctlr, o.mair]);
        words.extend([o.spsr, o.pc, o.address, o.value, o.patch.0, o.patch.1]);
        words.extend([o.leaves[0], o.leaves[1], o.data, o.at]);
        words.resize(start + 32, 0);
        words.push(o.vbar);
        words.resize(start + RECORD_WORDS, 0);
    }
    words.resize(((CODE - IMAGE) / 8) as usize, 0);
    let mut code = vec![0u32; 0x1_0000 / 4];
    let mut put = |at: u64, instructions: &[u32]| {
        code[(at / 4) as usize..][..instructions.len()].copy_from_slice(instructions);
    };
    put(LOAD, &[0xf940_0002, HVC0]); // ldr x2, [x0]
    put(STORE, &[0xf900_0001, HVC0]); // str x1, [x0]
    (VECTORS..VECTORS + 0x800).step_by(0x80).for_each(|at| put(at, &[HVC1]));
    words.extend(code.chunks(2).map(|pair| u64::from(pair[1]) << 32 | u64::from(pair[0])));
    words.iter().chain(tables).flat_map(|word| word.to_le_bytes()).collect()
}

/// The answers that the image holds afterwards, and the ID registers of the machine.
pub fn read(image: &[u8], count: usize) -> Result<([u64; 5], Vec<Answer>), Box<dyn Error>> {
    let word = |at: usize| {
        let bytes = image.get(8 * at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    if word(0) != Some(1) {
        return Err("the hypervisor did not come to its end".into());
    }
    let answer = |record: usize| {
        let mut w = [0; 13];
        for (at, to) in w.iter_mut().enumerate() {
            *to = word(RECORDS as usize / 8 + record * RECORD_WORDS + 19 + at)?;
        }
        let [vector, esr2, far2, hpfar, elr2, esr1, far1, result, par, leaf1, leaf2, patch, data] =
            w;
        let leaves = [leaf1, leaf2];
        Some(Answer {
            vector,
            esr2,
            far2,
            hpfar,
            elr2,
            esr1,
            far1,
            result,
            par,
            leaves,
            patch,
            data,
        })
    };
    let answers = (0..count).map(answer).collect::<Option<_>>();
    let mut id = [0; 5];
    for (at, to) in id.iter_mut().enumerate() {
        *to = word(4 + at).ok_or("the image is too short")?;
    }
    Ok((id, answers.ok_or("the image is too short")?))
}

/// What a load finds at the block in which `address` lies.
pub const fn block(address: u64) -> u64 {
    let number = address >> 4;
    (0xf2a0_0002 | number >> 16 << 5) << 32 | 0xd280_0002 | (number & 0xffff) << 5
}
