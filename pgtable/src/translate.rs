//! Translation of one access: by shortcuts, and by decoding what they do not recognise.

use crate::access::{Access, Prot};
use crate::address::Address;
use crate::descent::{Node, Reading, Stop, decode, descend};
use crate::fault::{Cause, Fault};
use crate::format::{Entry, Format, Input, Output};
use crate::geometry::{Level, Position};
use crate::group::translation_by;
use crate::quick::{Last, Unusual, descend_quickly};
use crate::space::Translation;
use crate::walk::{Leaf, TranslationOf};

/// Translates one access by the tree under `root`: a page of the base size through usual tables by
/// the format's shortcuts, everything else by decoding.
#[inline(always)]
pub(crate) fn translate<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<TranslationOf<F>, Fault<F>> {
    match translate_quickly(format, memory, root, input, Some(access)) {
        Ok(translation) => Ok(translation),
        Err(unusual) => translate_slowly(format, memory, root, (input, access), unusual),
    }
}

/// What a quick walk does not translate: larger leaves, and by decoding everything else. The
/// compiler knows that it is the rare case: the loop around a translation then keeps its values in
/// registers.
#[cold]
#[inline(never)]
pub(crate) fn translate_slowly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    (input, access): (Input<F>, Access),
    unusual: Unusual,
) -> Result<TranslationOf<F>, Fault<F>> {
    match read_large(format, unusual, input, Some(access)) {
        Some(translation) => Ok(translation),
        None => translate_by_decoding(format, memory, root, input, access),
    }
}

/// By shortcuts: the page at `input`, if it allows `access`, or whatever it allows.
#[inline(always)]
pub(crate) fn translate_quickly<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Option<Access>,
) -> Result<TranslationOf<F>, Unusual> {
    let Some(shortcuts) = format.shortcuts(access) else { return Err(Unusual::NONE) };
    let Some(offset) = format.offset(input) else { return Err(Unusual::NONE) };
    let last = descend_quickly::<F, R>(&shortcuts, memory, root, offset)?;
    read_quickly(format, &last, offset).ok_or(Unusual::NONE)
}

/// The translation of `input` by the entry at which a quick descent for `access` ended, if that is
/// a larger leaf that certainly allows it: the usual tables above it restrict nothing of what the
/// access needs.
#[inline(always)]
pub(crate) fn read_large<F: Format>(
    format: &F,
    unusual: Unusual,
    input: Input<F>,
    access: Option<Access>,
) -> Option<TranslationOf<F>> {
    let Unusual { level, shift, word } = unusual;
    if level == 0 {
        return None;
    }
    let at = Position { level: Level(level), shift };
    let offset = format.offset(input)?;
    let Entry::Leaf { output, attributes } = format.decode(word, at) else { return None };
    let path = F::Path::default();
    let allowed = access.is_none_or(|access| format.check(word, at, path, access).is_ok());
    allowed.then(|| translation_by(format, word, at, (output, attributes), offset))
}

/// The translation of `offset` by the last-level entry to which a quick descent for an access came.
#[inline(always)]
pub(crate) fn read_quickly<F: Format, S>(
    format: &F,
    last: &Last<S>,
    offset: u64,
) -> Option<TranslationOf<F>> {
    let output = last.step.address(last.word)?;
    let at = Position { level: Level(0), shift: last.step.shift_of::<F>() };
    // What passes a shortcut is a leaf. If the other case left the walk, every caller would pay for
    // decoding, also if it does not use the attributes.
    let attributes = match format.decode(last.word, at) {
        Entry::Leaf { attributes, .. } => attributes,
        _ => F::Attributes::from(Prot::new()),
    };
    Some(translation(<Output<F> as Address>::new(output), offset, at, attributes))
}

/// The slow path: larger leaves, tables of another shape than the geometry's, rights that several
/// entries decide together, and all faults.
#[inline(never)]
fn translate_by_decoding<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<TranslationOf<F>, Fault<F>> {
    let (leaf, offset) = find(format, memory, root, input, access)?;
    Ok(leaf.translation(format, offset))
}

/// The leaf of the tree under `root` that translates `input`, which allows `access`, and the offset
/// of `input` in the tree.
pub(crate) fn find<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    input: Input<F>,
    access: Access,
) -> Result<(Leaf<F>, u64), Fault<F>> {
    let judge = |word, at, path| format.check(word, at, path, access);
    find_if(format, memory, root, (input, access), judge)
}

/// The same, if `judge` allows the leaf.
pub(crate) fn find_if<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    (input, access): (Input<F>, Access),
    judge: impl Fn(u64, Position, F::Path) -> Result<(), F::Fault>,
) -> Result<(Leaf<F>, u64), Fault<F>> {
    let fault = |cause, place: Option<(Node, u64)>, word| {
        let at = place.map(|(node, _)| node.position());
        let entry =
            place.map(|(node, offset)| <Output<F> as Address>::new(node.entry::<F>(offset)));
        let arch = format.fault(cause, access, at, word);
        Fault { address: input, access, cause, at, entry, arch }
    };
    let Some(offset) = format.offset(input) else { return Err(fault(Cause::Address, None, 0)) };
    let root = Node::root(format, root);
    let Stop { node, word, path, .. } = match descend(format, memory, root, offset, 0, |_, _| ()) {
        Ok(stop) => stop,
        Err(lost) => return Err(fault(Cause::TableAccess, Some((lost.node, offset)), 0)),
    };
    let at = node.position();
    let cause = match decode(format, word, at) {
        Entry::Leaf { output, attributes } => match judge(word, at, path) {
            Ok(()) => {
                return Ok((Leaf { word, at, path, output: output.get(), attributes }, offset));
            }
            Err(arch) => {
                let fault = fault(Cause::Denied, Some((node, offset)), word);
                return Err(Fault { arch, ..fault });
            }
        },
        Entry::Absent => Cause::NotPresent,
        Entry::Malformed | Entry::Table { .. } => Cause::Malformed,
    };
    Err(fault(cause, Some((node, offset)), word))
}

/// The translation of `offset` by a leaf at `at`, an ordinary one.
#[inline(always)]
pub(crate) fn translation<A: Address, T>(
    output: A,
    offset: u64,
    at: Position,
    attributes: T,
) -> Translation<A, T> {
    // A leaf covers less than 2^64 bytes.
    let within = offset & !(u64::MAX << (at.shift & 63));
    Translation { output: A::new(output.get().wrapping_add(within)), shift: at.shift, attributes }
}
