//! What the program on the bare machine (`program.S`) is told, and what it notes: the image of
//! memory, as both know it.

use std::error::Error;

/// Where the image stands.
pub const IMAGE: u64 = 0x200_0000;
/// Offset of the records, and bytes of one.
const RECORDS: usize = 0x1000;
const RECORD: usize = 64;
/// The tables.
pub const TABLES: (u64, u64) = (IMAGE + 0x40_0000, IMAGE + 0x240_0000);
/// What leaves lead to: two pages of 4 MiB.
pub const DATA: (u64, u64) = (TABLES.1, TABLES.1 + 0x80_0000);
/// How many records there is room for.
pub const ROOM: usize = (TABLES.0 - IMAGE) as usize / RECORD - RECORDS / RECORD;

/// `int 0x80`: what was to be done is done.
pub const SAID: u32 = 0x80;

/// What a load from the block at `address` finds.
pub const fn block(address: u64) -> u32 {
    0xb8 | ((address >> 4) as u32) << 8
}

/// What code in the block at `address` says.
pub const fn number(address: u64) -> u32 {
    (address >> 4) as u32
}

/// One access.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
    pub efer: u32,
    pub address: u32,
    /// 0 load, 1 store, 2 fetch.
    pub kind: u32,
    pub user: bool,
    pub ac: bool,
    /// What is stored.
    pub value: u32,
}

impl Order {
    fn words(&self) -> [u32; RECORD / 4] {
        let Self { cr0, cr3, cr4, efer, address, kind, user, ac, value } = *self;
        let what = kind | u32::from(user) << 8 | u32::from(ac) << 9;
        let mut words = [0; RECORD / 4];
        words[..7].copy_from_slice(&[cr3, cr4, cr0, efer, address, what, value]);
        words
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exception's number, or [`SAID`].
    pub vector: u32,
    /// The error code.
    pub code: u32,
    /// CR2.
    pub cr2: u32,
    /// EAX.
    pub value: u32,
}

/// The image for the machine. `tables` are the words from the first table on.
pub fn write(orders: &[Order], tables: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut image = vec![0; (DATA.1 - IMAGE) as usize];
    let mut put = |at: usize, word: u32| image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(8, orders.len() as u32);
    put(16, DATA.0 as u32);
    put(20, DATA.1 as u32);
    put(24, DATA.1 as u32);
    for (index, order) in orders.iter().enumerate() {
        for (field, word) in order.words().into_iter().enumerate() {
            put(RECORDS + index * RECORD + field * 4, word);
        }
    }
    for (index, word) in tables.enumerate() {
        let at = (TABLES.0 - IMAGE) as usize + index * 8;
        image[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    image
}

/// The image that the machine left behind.
pub struct Seen(Vec<u8>);

impl Seen {
    pub fn new(image: Vec<u8>) -> Result<Self, Box<dyn Error>> {
        if image.len() as u64 != DATA.1 - IMAGE || image[..8] != 1u64.to_le_bytes() {
            return Err("the machine was not done".into());
        }
        Ok(Self(image))
    }

    fn word(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }

    /// What came of order `index`.
    pub fn answer(&self, index: usize) -> Answer {
        let field = |n: usize| self.word(RECORDS + index * RECORD + n * 4);
        Answer { vector: field(7), code: field(8), cr2: field(9), value: field(10) }
    }

    /// The 32-bit word at `address`.
    pub fn at(&self, address: u64) -> u32 {
        self.word((address - IMAGE) as usize)
    }
}
