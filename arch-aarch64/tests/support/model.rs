//! VMSAv8-64 as one reads it in DDI 0487, D8: a straight-line walker over single bits, in Arm's
//! numbering of levels. It shares no code with the crate.

use std::cell::Cell;

use pgtable::{Access, AccessKind, Privilege};

/// A walk's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    pub stage2: bool,
    /// EL2 with one privilege.
    pub el2: bool,
    pub upper: bool,
    /// 12, 14 or 16.
    pub granule: u32,
    pub input_bits: u32,
    pub start: i32,
    pub output_bits: u32,
    pub lpa: bool,
    pub ds: bool,
    pub contiguous: bool,
    pub ha: bool,
    pub hd: bool,
    pub hpd: bool,
    pub tbi: bool,
    pub wxn: bool,
    pub pan: bool,
    pub epan: bool,
    pub xnx: bool,
    pub fwb: bool,
}

/// Output address and log2 of the page size, or the six bits of the fault status.
pub type Outcome = Result<(u64, u32), u8>;

const fn bit(word: u64, n: u32) -> bool {
    word >> n & 1 == 1
}

/// Bits `high` to `low` of `word`.
const fn field(word: u64, high: u32, low: u32) -> u64 {
    word << (63 - high) >> (63 - high + low)
}

fn level_bits(class: u8, level: i32) -> u8 {
    match (class, level) {
        (0b0000, -1) => 0b10_1001,
        (0b0100, -1) => 0b10_1011,
        (0b01_0100, -1) => 0b01_0011,
        (class, level) => class | level as u8,
    }
}

/// The start level of stage 1, by the tables of D8.2.8 to D8.2.10.
pub fn stage1_start(granule: u32, bits: u32) -> i32 {
    let rows: &[(u32, i32)] = match granule {
        12 => &[(49, -1), (40, 0), (31, 1), (22, 2), (0, 3)],
        14 => &[(48, 0), (37, 1), (26, 2), (0, 3)],
        _ => &[(43, 1), (30, 2), (0, 3)],
    };
    rows.iter().find(|(least, _)| bits >= *least).map_or(3, |(_, level)| *level)
}

/// The fewest and the most input bits of a stage-2 walk that starts at `level` (D8.2.8 to D8.2.10).
pub fn stage2_limits(granule: u32, level: i32) -> (u32, u32) {
    match (granule, level) {
        (12, -1) => (49, 52),
        (12, 0) => (40, 52),
        (12, 1) => (31, 43),
        (12, 2) => (22, 34),
        (12, _) => (13, 25),
        (14, 0) => (48, 52),
        (14, 1) => (37, 51),
        (14, 2) => (26, 40),
        (14, _) => (15, 29),
        (_, 1) => (43, 52),
        (_, 2) => (30, 46),
        (_, _) => (17, 33),
    }
}

/// Walks as `access` to `input`; `load` reads a word, if there is memory.
pub fn walk(
    p: &Params,
    root: u64,
    input: u64,
    access: Access,
    load: impl Fn(u64) -> Option<u64>,
) -> Outcome {
    let top = if p.stage2 || !p.tbi { 63 } else { 55 };
    let unused = field(input, top, p.input_bits);
    let want = if p.upper { field(u64::MAX, top, p.input_bits) } else { 0 };
    if unused != want {
        return Err(level_bits(0b0100, 0));
    }
    let stride = p.granule - 3;
    let mut table = root;
    let mut limits = 0;
    let mut level = p.start;
    loop {
        let low = p.granule + stride * (3 - level) as u32;
        let high = if level == p.start { p.input_bits - 1 } else { low + stride - 1 };
        let at = table + 8 * field(input, high, low);
        let Some(word) = load(at) else { return Err(level_bits(0b01_0100, level)) };
        let block = match (p.granule, level) {
            (12, 0) => p.ds,
            (12, 1 | 2) => true,
            (14, 1) => p.ds,
            (14, 2) => true,
            (16, 1) => p.lpa,
            (16, 2) => true,
            _ => false,
        };
        let is_table = level < 3 && field(word, 1, 0) == 3;
        let is_leaf =
            if level == 3 { field(word, 1, 0) == 3 } else { field(word, 1, 0) == 1 && block };
        if !is_table && !is_leaf {
            return Err(level_bits(0b0100, level));
        }
        // The address: D8.3.1.
        let base = if is_table { p.granule } else { low };
        let mut address = if p.ds && p.granule < 16 {
            field(word, 49, base) << base | field(word, 9, 8) << 50
        } else {
            field(word, 47, base) << base
        };
        if p.lpa && p.granule == 16 {
            address |= field(word, 15, 12) << 48;
        }
        let size = if p.ds && p.granule < 16 || p.lpa && p.granule == 16 { 52 } else { 48 };
        if address >> p.output_bits.min(size) != 0 {
            return Err(level_bits(0b0000, level));
        }
        if is_table {
            if !p.hpd && !p.stage2 {
                limits |= field(word, 62, 59);
            }
            table = address;
            level += 1;
            continue;
        }
        if !bit(word, 10) && !p.ha {
            return Err(level_bits(0b1000, level));
        }
        let allowed =
            if p.stage2 { second(p, word, access) } else { first(p, word, limits, access) };
        if !allowed {
            return Err(level_bits(0b1100, level));
        }
        // Contiguous: D8.7.1.
        let group = match (p.granule, level) {
            (12, 1..=3) => 4,
            (14, 3) => 7,
            (14, 2) | (16, 2 | 3) => 5,
            _ => 0,
        };
        let is_group = p.contiguous && bit(word, 52) && group < high - low + 1;
        let size = if is_group { low + group } else { low };
        return Ok((address | field(input, low - 1, 0), size));
    }
}

/// A fault of both stages: whether it is stage 2's, whether it hit a table of stage 1, its status.
pub type BothFault = (bool, bool, u8);

/// What both stages make of an address: stage 1 through stage 2, its recording, the final access.
/// Each stage comes with its root.
pub fn both(
    (p1, root1): (&Params, u64),
    (p2, root2): (&Params, u64),
    va: u64,
    access: Access,
    load: impl Fn(u64) -> Option<u64>,
) -> Result<(u64, u32), BothFault> {
    let second = |ipa: u64, access| walk(p2, root2, ipa, access, &load);
    let failed = Cell::new(None);
    let last = Cell::new((0, 0));
    let through = |ipa: u64| match second(ipa, Access::READ) {
        Ok((pa, _)) => {
            let word = load(pa)?;
            last.set((ipa, word));
            Some(word)
        }
        Err(status) => {
            failed.set(Some(status));
            None
        }
    };
    let first = walk(p1, root1, va, access, through);
    if let Some(status) = failed.get() {
        return Err((true, true, status));
    }
    let (ipa, size1) = first.map_err(|status| (false, false, status))?;
    let (entry, word) = last.get();
    let dirties = access.kind == AccessKind::Write && p1.hd && bit(word, 51) && bit(word, 7);
    if !bit(word, 10) || dirties {
        second(entry, Access::WRITE).map_err(|status| (true, true, status))?;
    }
    let (pa, size2) = second(ipa, access).map_err(|status| (true, false, status))?;
    Ok((pa, size1.min(size2)))
}

/// Stage 1's rights (D8.4.1), as two tables of rights.
pub fn first(p: &Params, word: u64, limits: u64, access: Access) -> bool {
    let (pxn_table, uxn_table) = (bit(limits, 0), bit(limits, 1));
    let (no_el0, read_only) = (bit(limits, 2), bit(limits, 3));
    let mut ap = field(word, 7, 6);
    if p.ha && p.hd && bit(word, 51) {
        ap &= 1;
    }
    if p.el2 {
        let w = ap & 2 == 0 && !read_only;
        let never = bit(word, 54) || uxn_table || p.wxn && w;
        return match access.kind {
            AccessKind::Read => true,
            AccessKind::Write => w,
            AccessKind::Fetch => !never,
        };
    }
    let (mut pr, mut pw, mut ur, mut uw) = match ap {
        0 => (true, true, false, false),
        1 => (true, true, true, true),
        2 => (true, false, false, false),
        _ => (true, false, true, false),
    };
    if no_el0 {
        (ur, uw) = (false, false);
    }
    if read_only {
        (pw, uw) = (false, false);
    }
    let mut ux = !bit(word, 54) && !uxn_table;
    let mut px = !bit(word, 53) && !pxn_table && !uw;
    if p.pan && (ur || uw || p.epan && ux) && access.kind != AccessKind::Fetch {
        (pr, pw) = (false, false);
    }
    if p.wxn {
        ux &= !uw;
        px &= !pw;
    }
    match (access.privilege, access.kind) {
        (Privilege::User, AccessKind::Read) => ur,
        (Privilege::User, AccessKind::Write) => uw,
        (Privilege::User, AccessKind::Fetch) => ux,
        (Privilege::Supervisor, AccessKind::Read) => pr,
        (Privilege::Supervisor, AccessKind::Write) => pw,
        (Privilege::Supervisor, AccessKind::Fetch) => px,
    }
}

/// Stage 2's rights (D8.4.2).
pub fn second(p: &Params, word: u64, access: Access) -> bool {
    let (px, ux) = match (field(word, 54, 53), p.xnx) {
        (0, _) => (true, true),
        (1, true) => (false, true),
        (3, true) => (true, false),
        (1, false) => (true, true),
        _ => (false, false),
    };
    match access.kind {
        AccessKind::Read => bit(word, 6),
        AccessKind::Write => bit(word, 7) || p.ha && p.hd && bit(word, 51),
        AccessKind::Fetch if access.privilege == Privilege::User => ux,
        AccessKind::Fetch => px,
    }
}
