//! What the hypervisor in `hypervisor.S` reads and writes: an image of memory that begins with a
//! header and records, all big-endian.

use std::error::Error;

/// Where the image stands.
pub const IMAGE: u64 = 0x200_0000;
/// Where the tables begin, and where they end: the end of the image.
pub const TABLES: (u64, u64) = (0x280_0000, 0x300_0000);
/// The memory that is filled with blocks: where cases may write, and fetch from.
pub const DATA: (u64, u64) = (0x1000_0000, 0x1100_0000);
/// The pages with the guest's own code: what it runs for loads, and for stores.
pub const STUBS: [u64; 2] = [0x3000, 0x3010];

const RECORDS: u64 = 256;
const RECORD_WORDS: u64 = 18;

/// What the records all have in common.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// PTCR.
    pub ptcr: u64,
    /// LPIDR.
    pub lpidr: u64,
    /// The operands RB and RS of the `tlbie` that drops the partition.
    pub tlbie: [u64; 2],
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Where the guest begins.
    pub pc: u64,
    /// R14.
    pub address: u64,
    /// R15.
    pub value: u64,
    /// A word that is changed before, and its new content.
    pub patch: (u64, u64),
    /// A word that is looked at after, and restored.
    pub leaf: u64,
    /// Another.
    pub data: u64,
    /// Words that are changed before, for good: where they begin in the list of such, how many.
    pub writes: (usize, usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The interrupt's vector.
    pub vector: u64,
    /// (H)SRR0.
    pub srr0: u64,
    /// (H)SRR1.
    pub srr1: u64,
    /// HDSISR.
    pub hdsisr: u64,
    /// HDAR.
    pub hdar: u64,
    /// ASDR.
    pub asdr: u64,
    /// R15.
    pub result: u64,
    /// The word at [`Order::leaf`].
    pub leaf: u64,
    /// The word at [`Order::data`].
    pub data: u64,
}

/// How many records there is room for.
pub const fn room() -> usize {
    ((TABLES.0 - IMAGE - RECORDS) / (RECORD_WORDS * 8)) as usize
}

/// The image, of which `tables` is the end; `writes` is the list of words, by their addresses,
/// that orders change for good.
///
/// # Errors
/// There is no room for so many.
pub fn write(
    header: Header,
    orders: &[Order],
    writes: &[(u64, u64)],
    tables: Vec<u64>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut words = vec![
        0,
        orders.len() as u64,
        header.ptcr,
        header.lpidr,
        header.tlbie[0],
        header.tlbie[1],
        DATA.0,
        DATA.1,
    ];
    words.resize((RECORDS / 8) as usize, 0);
    let list = IMAGE + RECORDS + orders.len() as u64 * RECORD_WORDS * 8;
    for order in orders {
        let Order { pc, address, value, patch, leaf, data, writes } = *order;
        words.extend([pc, address, value, patch.0, patch.1, leaf, data]);
        words.extend([0; 9]);
        words.extend([list + 16 * writes.0 as u64, writes.1 as u64]);
    }
    words.extend(writes.iter().flat_map(|&(at, word)| [at, word]));
    let room = ((TABLES.0 - IMAGE) / 8) as usize;
    if words.len() > room {
        return Err("no room for so many records".into());
    }
    words.resize(room, 0);
    words.extend(tables);
    words.resize(((TABLES.1 - IMAGE) / 8) as usize, 0);
    Ok(words.into_iter().flat_map(u64::to_be_bytes).collect())
}

/// The answers that the image holds afterwards.
pub fn read(image: &[u8], count: usize) -> Result<Vec<Answer>, Box<dyn Error>> {
    let word = |at: u64| {
        let bytes = image.get(at as usize..)?.first_chunk::<8>()?;
        Some(u64::from_be_bytes(*bytes))
    };
    if word(0) != Some(1) {
        return Err("the hypervisor did not come to its end".into());
    }
    let answer = |record: u64| {
        let mut words = [0; 9];
        for (at, to) in words.iter_mut().enumerate() {
            *to = word(RECORDS + 8 * (record * RECORD_WORDS + 7 + at as u64))?;
        }
        let [vector, srr0, srr1, hdsisr, hdar, asdr, result, leaf, data] = words;
        Some(Answer { vector, srr0, srr1, hdsisr, hdar, asdr, result, leaf, data })
    };
    (0..count as u64)
        .map(answer)
        .collect::<Option<_>>()
        .ok_or_else(|| "the image is too short".into())
}

/// What a load finds at the block in which `address` lies.
pub const fn block(address: u64) -> u64 {
    let number = address >> 4;
    (0x3de0_0000 | number >> 16) << 32 | 0x61ef_0000 | number & 0xffff
}
