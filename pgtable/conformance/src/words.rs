//! The codec, word by word: what is decoded can be encoded again and says the same, shortcuts say
//! what the codec says, records are told from everything else.

use pgtable::format::{
    Bits, Entry, Format, Groups, Input, MAX_GROUP, MAX_LEVELS, Output, Record, TableWord as _,
};
use pgtable::{Access, Address, Attributes, Cause, Level, Position, Prot};
use proptest::prelude::{Just, Strategy, any, prop_oneof};

/// Every access.
pub const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];

/// Every place where `format`'s trees have entries.
pub fn places<F: Format>(format: &F) -> Vec<Position> {
    let geometry = format.geometry();
    let leaves = geometry.leaf_shifts().into_iter().filter_map(|shift| {
        let (level, _) = geometry.leaf(shift)?;
        Some(Position { level, shift })
    });
    let tables = (0..geometry.levels()).map(Level);
    let tables = tables.map(|level| Position { level, shift: geometry.shift(level) });
    let mut places: Vec<_> = leaves.chain(tables).collect();
    places.sort_unstable_by_key(|at| (at.level, at.shift));
    places.dedup();
    places
}

/// Whether an entry at `at` may map a page.
fn may_be_leaf<F: Format>(format: &F, at: Position) -> bool {
    format.geometry().leaf(at.shift).is_some_and(|(level, _)| level == at.level)
}

/// Checks one word at every place of `format`, and at a place that it may not have; and the
/// shortcuts, with words that differ from it in what they compare.
///
/// # Panics
/// Where the format breaks a rule. Each message names the word and the place.
pub fn word<F: Format>(format: &F, word: u64, elsewhere: Position) {
    let word = word & F::Word::MASK;
    for at in places(format) {
        entry(format, word, at);
    }
    anywhere(format, word, elsewhere);
    shortcuts(format, word);
}

/// Nothing makes a format panic, at impossible places either.
pub fn anywhere<F: Format>(format: &F, word: u64, at: Position) {
    let _ = format.decode(word, at);
    let _ = (format.bits(at), format.restrict(F::Path::default(), word, at));
    let _ = format.table(Output::<F>::new(word), at.shift & 63, at);
    let _ = format.leaves(Output::<F>::new(word), F::Attributes::from(Prot::RWX), at);
    let group = format.group(word, at);
    let _ = format.group_leaves(Output::<F>::new(word), F::Attributes::from(Prot::RWX), at, group);
    for access in ACCESSES {
        let _ = format.check(word, at, F::Path::default(), access);
        for cause in
            [Cause::Address, Cause::NotPresent, Cause::Malformed, Cause::TableAccess, Cause::Denied]
        {
            let _ = format.fault(cause, access, Some(at), word);
            let _ = format.fault(cause, access, None, 0);
        }
    }
}

/// `word` at `at`, one of the format's places.
pub fn entry<F: Format>(format: &F, word: u64, at: Position) {
    let case = || format!("{word:#018x} at {at:?} of {format:?}");
    let bits = format.bits(at);
    let entry = format.decode(word, at);
    if word & bits.present == 0 {
        assert_eq!(entry, Entry::Absent, "no bit says that it is present: {}", case());
    }
    match entry {
        Entry::Absent | Entry::Malformed => {}
        Entry::Table { table, width } => {
            assert!(at.level.0 > 0, "a table below the last level: {}", case());
            assert!((1..=20).contains(&width) && width < at.shift, "{entry:?}: {}", case());
            let Ok(made) = format.table(table, width, at) else {
                panic!("{entry:?} has no encoding: {}", case())
            };
            fits::<F>(made);
            assert_eq!(format.decode(made, at), entry, "encoded as {made:#018x}: {}", case());
            record(format, bits.table, word, at);
        }
        Entry::Leaf { output, attributes } => {
            let prot = attributes.prot();
            assert_eq!(F::Attributes::from(prot).prot(), prot, "{attributes:?}: {}", case());
            // Rights that `Prot` cannot tell apart stay too.
            assert_eq!(attributes.with_prot(prot), attributes, "the same rights: {}", case());
            for of in [bits.accessed, bits.dirty] {
                record(format, of, word, at);
            }
            if group(format, word, (output, attributes), at) {
                return;
            }
            let made = format.leaves(output, attributes, at);
            if !may_be_leaf(format, at) {
                assert!(made.is_err(), "a leaf where the geometry has none: {}", case());
                return;
            }
            let Ok(made) = made else { panic!("{entry:?} has no encoding: {}", case()) };
            for of in [bits.accessed, bits.dirty] {
                assert_eq!(of.is_in(made.first), of.is_in(word), "{of:?} is lost: {}", case());
            }
            leaves(format, output, attributes, at);
        }
    }
}

/// The leaf `word` at `at` if it is one of a group, which is decoded as a leaf with `output` and
/// `attributes`; whether it is.
fn group<F: Format>(
    format: &F,
    word: u64,
    (output, attributes): (Output<F>, F::Attributes),
    at: Position,
) -> bool {
    let case = || format!("{word:#018x} at {at:?} of {format:?}");
    let group = format.group(word, at);
    if group == 0 {
        return false;
    }
    assert_ne!(F::GROUPS, Groups::None, "a group of no kind: {}", case());
    let sizes = format.geometry().groups(at.level);
    assert!(group <= MAX_GROUP && sizes & 1 << group != 0, "not in the geometry: {}", case());
    let size = at.size() << group;
    if F::GROUPS == Groups::Alike {
        assert_eq!(output.get() & (size - 1), 0, "the whole group's address: {}", case());
    }
    let output = Output::<F>::new(output.get() & !(size - 1));
    groups(format, output, attributes, at, group);
    true
}

/// Groups of `2^group` entries at `at` from `output` on with `attributes`: each entry is decoded as
/// it was said, and belongs to such a group.
pub fn groups<F: Format>(
    format: &F,
    output: Output<F>,
    attributes: F::Attributes,
    at: Position,
    group: u8,
) {
    let case = || format!("2^{group} for {output}, {attributes:?} at {at:?} of {format:?}");
    let Ok(words) = format.group_leaves(output, attributes, at, group) else {
        assert!(format.leaves(output, attributes, at).is_err(), "no such group: {}", case());
        return;
    };
    assert_eq!(output.get() & ((at.size() << group) - 1), 0, "misaligned: {}", case());
    let (shift, whole) = match F::GROUPS {
        Groups::None => panic!("a group of no kind: {}", case()),
        Groups::Apart => (at.shift, 1 << group),
        Groups::Alike => (at.shift + group, 1),
    };
    assert!(words.count > 0 && words.count % whole == 0, "{words:x?}: {}", case());
    for n in [0, 1, whole - 1, whole, 511, words.count / 2, words.count - 1] {
        if n >= words.count {
            continue;
        }
        let Some(output) = output.checked_add(n << shift) else {
            panic!("the {n}th wraps: {}", case())
        };
        let word = words.skip(n).first;
        fits::<F>(word);
        let want = Entry::Leaf { output, attributes };
        assert_eq!(format.decode(word, at), want, "the {n}th, {word:#018x}: {}", case());
        assert_eq!(format.group(word, at), group, "the {n}th, {word:#018x}: {}", case());
    }
}

/// The leaves at `at` from `output` on with `attributes`, if they have an encoding: each is decoded
/// as it was said, as far as the format says that the words go on alike.
pub fn leaves<F: Format>(format: &F, output: Output<F>, attributes: F::Attributes, at: Position) {
    let Ok(words) = format.leaves(output, attributes, at) else { return };
    let case = || format!("{words:x?} for {output}, {attributes:?} at {at:?} of {format:?}");
    assert!(words.count > 0, "no leaf: {}", case());
    assert!(may_be_leaf(format, at), "a leaf where the geometry has none: {}", case());
    assert_eq!(output.get() & (at.size() - 1), 0, "misaligned: {}", case());
    for n in [0, 1, 2, 511, words.count / 2, words.count - 1] {
        if n >= words.count {
            continue;
        }
        let Some(output) = output.checked_add(n << at.shift) else {
            panic!("the {n}th leaf wraps: {}", case())
        };
        let word = words.skip(n).first;
        fits::<F>(word);
        let want = Entry::Leaf { output, attributes };
        assert_eq!(format.decode(word, at), want, "the {n}th leaf, {word:#018x}: {}", case());
        assert_eq!(format.group(word, at), 0, "the {n}th leaf, {word:#018x}: {}", case());
    }
}

/// A word has no more bits than the format's words in memory.
fn fits<F: Format>(word: u64) {
    assert_eq!(word & !F::Word::MASK, 0, "{word:#018x} is wider than the format's words");
}

/// A record can be made in `word` and taken back, and changes nothing else.
fn record<F: Format>(format: &F, record: Record, word: u64, at: Position) {
    for mark in [record.hardware, record.software] {
        assert!(
            mark.recorded == 0 || mark.recorded == mark.mask,
            "a record is made by setting bits or by clearing them: {record:?} of {format:?}"
        );
        assert!(
            mark.mask & !format.bits(at).in_place == 0,
            "a record changes in place: {record:?} of {format:?}"
        );
    }
    assert!(
        !record.hardware.is_kept_in(word) || !record.software.is_kept_in(word),
        "{record:?} is kept twice in {word:#018x}: {format:?}"
    );
    let (made, cleared) = (record.made(word), record.cleared_from(word));
    if !record.is_kept_in(word) {
        assert_eq!((made, cleared), (word, word), "{record:?} in {word:#018x}");
        return;
    }
    let case = || format!("{record:?} in {word:#018x} at {at:?} of {format:?}");
    assert!(record.is_in(made) && !record.is_in(cleared), "{}", case());
    assert!(record.is_kept_in(made) && record.is_kept_in(cleared), "{}", case());
    let place = |word| match format.decode(word, at) {
        Entry::Leaf { output, .. } => Some((output, None)),
        Entry::Table { table, width } => Some((table, Some(width))),
        Entry::Absent | Entry::Malformed => None,
    };
    assert!(place(made).is_some(), "made in nothing: {}", case());
    assert_eq!(place(made), place(cleared), "it moves the address: {}", case());
}

/// Whatever passes a shortcut is decoded and judged alike by the codec. `word` is what the words
/// hold apart from what shortcuts compare.
pub fn shortcuts<F: Format>(format: &F, word: u64) {
    shortcut(format, None, word);
    for access in ACCESSES {
        shortcut(format, Some(access), word);
    }
}

fn shortcut<F: Format>(format: &F, access: Option<Access>, word: u64) {
    let Some(shortcuts) = format.shortcuts(access) else { return };
    let geometry = format.geometry();
    assert!((1..=MAX_LEVELS as u8).contains(&geometry.levels()));
    assert_eq!(shortcuts.root(), geometry.root().0, "{format:?}");
    let mut path = F::Path::default();
    for level in (0..geometry.levels()).rev() {
        let step = shortcuts.step(level);
        let at = Position { level: Level(level), shift: geometry.shift(Level(level)) };
        let case = || format!("{access:?} at {at:?} of {format:?}");
        assert_eq!(
            (step.shift(), step.width(), step.entry_shift()),
            (at.shift, geometry.width(at.level), F::Word::SHIFT),
            "{}",
            case()
        );
        let usual = step.usual();
        assert_eq!(usual.value & !usual.compared, 0, "no word fits: {}", case());
        for word in [word, !word, word ^ 1 << level] {
            assert_eq!(step.address(word).is_some(), usual.fits(word), "{word:#x}: {}", case());
        }
        assert!(!usual.fits(0), "an absent entry passes: {}", case());
        assert!(usual.value & format.bits(at).present != 0, "an absent entry passes: {}", case());
        // Below the root, other bits than above it.
        let word = word.rotate_left(u32::from(level) * 13) & F::Word::MASK;
        let word = word & !usual.compared | usual.value;
        let Some(address) = step.address(word) else { panic!("{word:#018x}: {}", case()) };
        let entry = format.decode(word, at);
        if level > 0 {
            let table = Output::<F>::new(address);
            let width = geometry.width(Level(level - 1));
            assert_eq!(entry, Entry::Table { table, width }, "{word:#018x}: {}", case());
            path = format.restrict(path, word, at);
            continue;
        }
        let Entry::Leaf { output, attributes } = entry else {
            panic!("{word:#018x} is {entry:?}: {}", case())
        };
        assert_eq!(output.get(), address, "{word:#018x}: {}", case());
        assert_eq!(format.group(word, at), 0, "a group passes, {word:#018x}: {}", case());
        match access {
            Some(access) => {
                let judged = format.check(word, at, path, access);
                assert_eq!(judged, Ok(()), "{word:#018x} by {path:?}: {}", case());
            }
            None => edited_alike(format, word, (output, attributes), at),
        }
    }
}

/// Usual leaves that differ in their address only are changed alike by a change of attributes.
fn edited_alike<F: Format>(
    format: &F,
    word: u64,
    (output, attributes): (Output<F>, F::Attributes),
    at: Position,
) {
    let Some(step) = format.shortcuts(None).map(|all| all.step(0)) else { return };
    let same_attributes = !(step.field().mask & !step.usual().compared);
    for other in [word, !word, word.rotate_left(7)] {
        let other = (word & same_attributes | other & !same_attributes) & F::Word::MASK;
        let Entry::Leaf { output: elsewhere, attributes: same } = format.decode(other, at) else {
            panic!("{other:#018x} differs from {word:#018x} in its address only: {format:?}")
        };
        assert_eq!(same, attributes, "{other:#018x} and {word:#018x} at {at:?} of {format:?}");
        for prot in (0..16).map(Prot::from_bits) {
            let edited = F::Attributes::from(prot);
            let change = |output| {
                let here = format.leaves(output, edited, at).ok()?;
                Some(here.first ^ format.leaves(output, attributes, at).ok()?.first)
            };
            assert_eq!(change(output), change(elsewhere), "{word:#018x} {prot:?}: {format:?}");
        }
    }
}

/// Addresses of the space and offsets into the tree are inverses of each other.
pub fn offsets<F: Format>(format: &F, address: u64) {
    let mask = format.geometry().address_mask();
    let inside = address & mask;
    assert_eq!(format.offset(format.address(inside)), Some(inside), "{format:?}");
    if let Some(offset) = format.offset(Input::<F>::new(address)) {
        assert_eq!(offset & !mask, 0, "{address:#x} of {format:?}");
        assert_eq!(format.offset(format.address(offset)), Some(offset), "{address:#x}");
    }
}

/// Rights of pages that may be written, and an access by which they are read, of a format of any
/// kind.
#[must_use]
pub fn usable<F: Format>(format: &F) -> Option<(Prot, Access)> {
    let at = Position { level: Level(0), shift: format.geometry().page_shift() };
    let prots = [Prot::RW, Prot::RW.for_user(), Prot::RWX, Prot::RWX.for_user()];
    let accesses = [Access::READ, Access::READ.by_user()];
    prots.into_iter().flat_map(|prot| accesses.map(|access| (prot, access))).find(
        |&(prot, access)| {
            let words = format.leaves(Output::<F>::new(0), prot.into(), at);
            words.is_ok_and(|words| {
                format.check(words.first, at, F::Path::default(), access).is_ok()
            })
        },
    )
}

/// What a format keeps is what it says everywhere: the bits of one place.
#[must_use]
pub fn bits<F: Format>(format: &F) -> Bits {
    let shift = format.geometry().page_shift();
    format.bits(Position { level: Level(0), shift })
}

/// Leaves with the rights of `prot` at every place, from `output` on (aligned to the leaf, and also
/// shortly below each power of two).
pub fn leaves_of<F: Format>(format: &F, output: u64, prot: u8) {
    let attributes = F::Attributes::from(Prot::from_bits(prot & 15));
    for at in places(format) {
        let below = (0..64).map(|bit| (1u64 << bit).wrapping_sub(at.size() * 3));
        for output in below.chain([output, output >> 12, output >> 24, 0]) {
            leaves(format, Output::<F>::new(output & !(at.size() - 1)), attributes, at);
            // Misaligned ones have no encoding.
            let misaligned = format.leaves(Output::<F>::new(output | 8), attributes, at);
            assert!(misaligned.is_err(), "{output:#x} at {at:?} of {format:?}");
            let sizes = format.geometry().groups(at.level);
            for group in (1..=MAX_GROUP).filter(|group| sizes & 1 << group != 0) {
                let size = at.size() << group;
                let output = Output::<F>::new(output & !(size - 1));
                groups(format, output, attributes, at, group);
                let output = Output::<F>::new(output.get() | (size / 2));
                let misaligned = format.group_leaves(output, attributes, at, group);
                assert!(misaligned.is_err(), "2^{group} at {output}, {at:?} of {format:?}");
            }
        }
    }
}

/// Words as somebody may write them: any, sparse, dense, and with few bits changed from those.
pub fn any_word() -> impl Strategy<Value = u64> {
    let base = prop_oneof![
        any::<u64>(),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b),
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a | b),
        Just(0),
        Just(u64::MAX),
    ];
    let ends = [0u64, 1, 2, 3, 1 << 63, 3 << 62];
    (base, 0..ends.len(), 0..64u32, any::<bool>())
        .prop_map(move |(word, end, bit, flip)| (word | ends[end]) ^ (u64::from(flip) << bit))
}

/// The number of random values that each property is tried on.
const CASES: u32 = 2048;

/// [`word`] on words of any content, at places of any kind.
pub fn random_words<F: Format>(format: &F) {
    let strategy = (any_word(), any::<u8>(), 0u8..64).boxed();
    crate::cases::run(CASES, &strategy, &|&(content, level, shift)| {
        word(format, content, Position { level: Level(level), shift });
    });
}

/// [`leaves_of`] from any output on.
pub fn random_leaves<F: Format>(format: &F) {
    let strategy = (any::<u64>(), 0u8..16).boxed();
    crate::cases::run(CASES, &strategy, &|&(output, prot)| leaves_of(format, output, prot));
}

/// [`offsets`] of any address.
pub fn random_offsets<F: Format>(format: &F) {
    crate::cases::run(CASES, &any::<u64>().boxed(), &|&address| offsets(format, address));
}
